//! A hook that is a program: facts on standard input and in the environment, the answer is the
//! exit status.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::limits::{LINE_BYTES_MAX, LINES_PER_CALL_MAX};
use super::lines;
use super::news::{Call, Reporter};
use super::program::Program;
use crate::engine::{HookAnswer, Level};
use crate::shells::launch::Circumstances;

/// The exit status that means no.
const NO: i32 = 1;

/// Runs one to its end.
pub(super) async fn run(
    words: &[String],
    context: &Value,
    around: &Circumstances,
    call: &Call,
    reporter: &Reporter,
) -> HookAnswer {
    let Some((program, arguments)) = words.split_first() else {
        return HookAnswer::Failed("the command is empty".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&around.environment)
        .envs(super::context::variables(context))
        .current_dir(&around.working_directory);
    let mut running = match Program::start(&mut command) {
        Ok(running) => running,
        Err(error) => return HookAnswer::Failed(format!("{program}: {error}")),
    };
    let facts = format!("{context}\n");
    let stdin = running.child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read closes the pipe, which is its right.
            let _ = stdin.write_all(facts.as_bytes()).await;
        }
    };
    let out = copy(running.child.stdout.take(), call, reporter);
    let err = copy(running.child.stderr.take(), call, reporter);
    // What it leaves running may keep the pipes, so only the program itself is waited for.
    let status = {
        let talk = async { tokio::join!(feed, out, err) };
        tokio::pin!(talk);
        tokio::select! {
            biased;
            _ = &mut talk => running.child.wait().await,
            status = running.child.wait() => {
                // What it wrote is in the pipes by now.
                let _ = tokio::time::timeout(super::limits::LAST_WORDS, &mut talk).await;
                status
            }
        }
    };
    running.is_over();
    match status {
        Ok(status) => match status.code() {
            Some(0) => HookAnswer::Yes,
            Some(NO) => HookAnswer::No,
            Some(code) => HookAnswer::Failed(format!("{program} exited with status {code}")),
            None => HookAnswer::Failed(format!("{program} was ended: {status}")),
        },
        Err(error) => HookAnswer::Failed(format!("{program}: {error}")),
    }
}

/// Copies what a program writes into the manager's log.
async fn copy(pipe: Option<impl AsyncRead + Unpin>, call: &Call, reporter: &Reporter) {
    let Some(pipe) = pipe else { return };
    let mut reader = BufReader::new(pipe);
    let mut count = 0;
    while let Some((line, _)) = lines::next(&mut reader, LINE_BYTES_MAX).await {
        count += 1;
        if count <= LINES_PER_CALL_MAX {
            let text = String::from_utf8_lossy(&line);
            reporter.log(Level::Info, format!("{call}: {text}")).await;
        }
    }
    if count > LINES_PER_CALL_MAX {
        let dropped = count - LINES_PER_CALL_MAX;
        reporter
            .log(Level::Warning, format!("{call}: {dropped} more lines"))
            .await;
    }
}

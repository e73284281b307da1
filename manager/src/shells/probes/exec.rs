//! Looks by running a command: as the watcher's user, in its directory, with its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::limits::{LAST_WORDS, OUTPUT_BYTES_MAX, OUTPUT_CHARACTERS_MAX};
use crate::config::launch::ResolvedIds;
use crate::config::words;
use crate::engine::ProbeRequest;
use crate::shells::hooks::program::Program;
use crate::shells::launch::Circumstances;

/// What will be run.
pub(super) struct Command {
    program: String,
    command: tokio::process::Command,
}

impl Command {
    pub(super) fn new(
        text: &str,
        mut environment: BTreeMap<String, String>,
        directory: PathBuf,
        ids: Option<ResolvedIds>,
        around: &Circumstances,
        request: &ProbeRequest,
    ) -> Result<Self, String> {
        let words = words::split(text).map_err(|error| error.to_string())?;
        let Some((program, arguments)) = words.split_first() else {
            return Err("the command is empty".to_owned());
        };
        // Most children have no PATH at all, and their programs are found nevertheless.
        if !environment.contains_key("PATH")
            && let Some(path) = around.environment.get("PATH")
        {
            environment.insert("PATH".to_owned(), path.clone());
        }
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .env("KINGPOLE_PID", request.pid.to_string())
            .env("KINGPOLE_WORKER", request.worker.to_string())
            .env("KINGPOLE_WATCHER", request.watcher.as_str())
            .current_dir(directory);
        if let Some(ids) = ids {
            command.uid(ids.uid).gid(ids.gid);
        }
        Ok(Self {
            program: program.clone(),
            command,
        })
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self) -> Result<(), String> {
        let program = &self.program;
        let mut running =
            Program::start(&mut self.command).map_err(|error| format!("{program}: {error}"))?;
        drop(running.child.stdin.take());
        let mut out = Tail::default();
        let mut err = Tail::default();
        let (stdout, stderr) = (running.child.stdout.take(), running.child.stderr.take());
        // What it leaves running may keep the pipes, so only the program itself is waited for.
        let status = {
            let talk = async { tokio::join!(out.fill(stdout), err.fill(stderr)) };
            tokio::pin!(talk);
            tokio::select! {
                biased;
                _ = &mut talk => running.child.wait().await,
                status = running.child.wait() => {
                    // What it wrote is in the pipes by now.
                    let _ = tokio::time::timeout(LAST_WORDS, &mut talk).await;
                    status
                }
            }
        };
        running.is_over();
        let status = status.map_err(|error| format!("{program}: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let how = match status.code() {
            Some(code) => format!("{program} exited with status {code}"),
            None => format!("{program} was ended: {status}"),
        };
        let said = err.text().or_else(|| out.text());
        Err(match said {
            Some(said) => format!("{how}: {said}"),
            None => how,
        })
    }
}

/// The end of what a program writes.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    async fn fill(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut piece = [0; OUTPUT_BYTES_MAX];
        while let Ok(count @ 1..) = pipe.read(&mut piece).await {
            self.bytes
                .extend_from_slice(piece.get(..count).unwrap_or_default());
            let surplus = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
            self.bytes.drain(..surplus);
        }
    }

    /// The last line with something on it.
    fn text(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().take(OUTPUT_CHARACTERS_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Probe;
    use crate::engine::{Pid, ProbeId, ProcessId, WatcherKey, WorkerId};
    use std::time::Duration;

    async fn run(text: &str) -> Result<(), String> {
        let around = Circumstances::read();
        let request = ProbeRequest {
            id: ProbeId(1),
            watcher: WatcherKey::of("web"),
            worker: WorkerId(2),
            process: ProcessId(3),
            pid: Pid(4),
            siblings: Vec::new(),
            probe: Probe::Exec(text.to_owned()),
            limit: Duration::from_secs(5),
        };
        let environment = [("COLOUR".to_owned(), "red".to_owned())].into();
        let directory = PathBuf::from("/");
        Command::new(text, environment, directory, None, &around, &request)?
            .run()
            .await
    }

    #[tokio::test]
    async fn the_exit_status_is_the_answer_and_the_last_line_the_reason() {
        assert_eq!(run("true").await, Ok(()));
        let script = "echo first; echo \"$COLOUR $KINGPOLE_WORKER in $PWD\" >&2; exit 3";
        let why = run(&format!("sh -c '{script}'")).await.unwrap_err();
        assert_eq!(why, "sh exited with status 3: red 2 in /");
        let why = run("sh -c 'echo only; exit 1'").await.unwrap_err();
        assert_eq!(why, "sh exited with status 1: only");
        let why = run("/nowhere/at-all").await.unwrap_err();
        assert!(why.starts_with("/nowhere/at-all: "), "{why}");
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_is_not_waited_for() {
        assert_eq!(run("sh -c 'sleep 2 &'").await, Ok(()));
    }
}

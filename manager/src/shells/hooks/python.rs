//! The Python host of one watcher: started by its first call, ended when it has had nothing to do
//! for a while, and replaced by the next call when it died.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::limits::{
    ANSWER_BYTES_MAX, CALLS_WAITING_MAX, HOST_IDLE_MAX, LAST_WORDS, LINE_BYTES_MAX,
};
use super::lines::{self, Cut};
use super::news::{Call, Reporter};
use super::program::Program;
use crate::engine::{HookAnswer, HookId, Level};
use crate::shells::launch::Circumstances;

/// The program that the host runs.
const SOURCE: &str = include_str!("host.py");

/// What a host is started with. Another one needs another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostSettings {
    pub(super) python: PathBuf,
    /// `PYTHONPATH`, if there is any.
    pub(super) path: Option<String>,
}

/// A call for the host.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) call: Call,
    pub(super) request: Value,
    pub(super) done: Done,
}

/// Who waits for the answer.
#[derive(Debug)]
pub(super) enum Done {
    /// The engine.
    Engine(HookId),
    /// Whoever gathers statistics; the changed ones, or why there are none.
    Statistics(oneshot::Sender<Result<Value, String>>),
}

/// A running host, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) settings: HostSettings,
    jobs: mpsc::Sender<Job>,
    task: AbortHandle,
}

impl Host {
    pub(super) fn start(
        settings: HostSettings,
        around: &Circumstances,
        reporter: &Reporter,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        let mut command = Command::new(&settings.python);
        command
            .args(["-u", "-c", SOURCE])
            .env_clear()
            .envs(&around.environment)
            .current_dir(&around.working_directory);
        if let Some(path) = &settings.path {
            command.env("PYTHONPATH", path);
        }
        let task = tokio::spawn(serve(command, waiting, reporter.clone())).abort_handle();
        Self {
            settings,
            jobs,
            task,
        }
    }

    /// Whether it can be given a call.
    pub(super) fn is_open(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Gives it a call. Gives the call back if it cannot take it.
    pub(super) fn give(&self, job: Job) -> Result<(), Job> {
        self.jobs
            .try_send(job)
            .map_err(mpsc::error::TrySendError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the host writes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Message {
    Log {
        log: String,
        text: String,
    },
    Returned {
        result: bool,
        #[serde(default)]
        stats: Option<Value>,
    },
    Raised {
        error: String,
    },
}

async fn serve(mut command: Command, mut jobs: mpsc::Receiver<Job>, reporter: Reporter) {
    let mut program = match Program::start(&mut command) {
        Ok(program) => program,
        Err(error) => {
            let python = command
                .as_std()
                .get_program()
                .to_string_lossy()
                .into_owned();
            let why = format!("Python hooks need {python}: {error}");
            return refuse_all(&mut jobs, &why, &reporter).await;
        }
    };
    let pipes = (
        program.child.stdin.take(),
        program.child.stdout.take(),
        program.child.stderr.take(),
    );
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return refuse_all(&mut jobs, "the Python host has no pipes", &reporter).await;
    };
    let mut readers = JoinSet::new();
    let noise = reporter.clone();
    readers.spawn(async move {
        let mut reader = BufReader::new(stderr);
        while let Some((line, _)) = lines::next(&mut reader, LINE_BYTES_MAX).await {
            let text = String::from_utf8_lossy(&line);
            noise
                .log(Level::Info, format!("Python hooks: {text}"))
                .await;
        }
    });
    let (sender, mut answers) = mpsc::channel(1);
    readers.spawn(read_answers(stdout, sender));
    let why = converse(stdin, &mut answers, &mut jobs, &reporter).await;
    let Some(why) = why else { return };
    // What Python says about its own end is on standard error.
    let status = timeout(LAST_WORDS, program.child.wait()).await;
    let why = match status {
        Ok(Ok(status)) => {
            program.is_over();
            format!("{}: {status}", why.text)
        }
        Ok(Err(_)) | Err(_) => why.text.to_owned(),
    };
    refuse_all(&mut jobs, &why, &reporter).await;
}

/// Lines of the host's answers, until one is too long or there are no more.
async fn read_answers(stdout: ChildStdout, sender: mpsc::Sender<Vec<u8>>) {
    let mut reader = BufReader::new(stdout);
    while let Some((line, cut)) = lines::next(&mut reader, ANSWER_BYTES_MAX).await {
        if cut == Cut::Yes || sender.send(line).await.is_err() {
            return;
        }
    }
}

/// Why a conversation ended early.
struct Broken {
    text: &'static str,
}

const DIED: Broken = Broken {
    text: "the Python host ended",
};
const NONSENSE: Broken = Broken {
    text: "the Python host wrote what is no answer",
};

/// One call after the other. Ends without a reason when there were none for a while.
async fn converse(
    mut stdin: ChildStdin,
    answers: &mut mpsc::Receiver<Vec<u8>>,
    jobs: &mut mpsc::Receiver<Job>,
    reporter: &Reporter,
) -> Option<Broken> {
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job?,
            line = answers.recv() => {
                // Nobody asked, so it can only be a line for the log, or the end.
                match line.map(|line| serde_json::from_slice(&line)) {
                    Some(Ok(Message::Log { text, .. })) => {
                        reporter.log(Level::Info, format!("Python hooks: {text}")).await;
                        continue;
                    }
                    Some(_) => return Some(NONSENSE),
                    None => return Some(DIED),
                }
            }
            () = sleep(HOST_IDLE_MAX) => {
                // One that was sent at this very moment is still served.
                jobs.close();
                jobs.recv().await?
            }
        };
        let line = format!("{}\n", job.request);
        let sent = stdin.write_all(line.as_bytes()).await.is_ok() && stdin.flush().await.is_ok();
        let outcome = if sent {
            answer_of(&job, answers, reporter).await
        } else {
            Err(DIED)
        };
        match outcome {
            Ok((answer, stats)) => finish(job, answer, stats, reporter).await,
            Err(broken) => {
                // The next call is for another host.
                jobs.close();
                let answer = HookAnswer::Failed(broken.text.to_owned());
                finish(job, answer, None, reporter).await;
                return Some(broken);
            }
        }
    }
}

async fn answer_of(
    job: &Job,
    answers: &mut mpsc::Receiver<Vec<u8>>,
    reporter: &Reporter,
) -> Result<(HookAnswer, Option<Value>), Broken> {
    loop {
        let line = answers.recv().await.ok_or(DIED)?;
        match serde_json::from_slice(&line).map_err(|_| NONSENSE)? {
            Message::Log { log, text } => {
                let level = match log.as_str() {
                    "error" => Level::Error,
                    "warning" => Level::Warning,
                    "debug" => Level::Debug,
                    _ => Level::Info,
                };
                reporter.log(level, format!("{}: {text}", job.call)).await;
            }
            Message::Returned { result, stats } => {
                let answer = if result {
                    HookAnswer::Yes
                } else {
                    HookAnswer::No
                };
                return Ok((answer, stats));
            }
            Message::Raised { error } => return Ok((HookAnswer::Failed(error), None)),
        }
    }
}

async fn finish(job: Job, answer: HookAnswer, stats: Option<Value>, reporter: &Reporter) {
    match job.done {
        Done::Engine(hook) => reporter.answer(hook, answer).await,
        Done::Statistics(reply) => {
            let result = match (answer, stats) {
                (HookAnswer::Failed(error), _) => Err(error),
                (HookAnswer::Yes | HookAnswer::No, Some(stats)) => Ok(stats),
                (HookAnswer::Yes | HookAnswer::No, None) => Err("gave no statistics".to_owned()),
            };
            // Whoever asked may have gone.
            let _ = reply.send(result);
        }
    }
}

/// Fails what waits; from then on calls are given to another host.
async fn refuse_all(jobs: &mut mpsc::Receiver<Job>, why: &str, reporter: &Reporter) {
    jobs.close();
    while let Some(job) = jobs.recv().await {
        let answer = HookAnswer::Failed(why.to_owned());
        finish(job, answer, None, reporter).await;
    }
}

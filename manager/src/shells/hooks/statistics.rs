//! Lets the hooks `extended_stats` add to statistics. Their hosts are not those of other hooks, so that
//! somebody who looks at numbers never keeps a decision waiting.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::HookRunner;
use crate::config::model::Configuration;
use crate::engine::{HookProcess, Level, WatcherKey};
use crate::shells::launch::Circumstances;
use crate::shells::log::Log;

/// Processes whose statistics wait for a hook; who asks for more waits to be heard.
const EXTENSIONS_WAITING_MAX: usize = 32;

/// The statistics of one process on their way to a hook.
#[derive(Debug)]
struct Extension {
    watcher: String,
    processes: Vec<HookProcess>,
    pid: u32,
    stats: Value,
    reply: oneshot::Sender<Result<Value, String>>,
}

/// Where statistics are extended.
#[derive(Clone, Debug)]
pub struct Extender(mpsc::Sender<Extension>);

impl Extender {
    /// One that calls the hooks of a configuration for as long as anybody has it.
    pub fn start(
        configuration: watch::Receiver<Arc<Configuration>>,
        around: Circumstances,
        log: Log,
    ) -> Self {
        let (extensions, waiting) = mpsc::channel(EXTENSIONS_WAITING_MAX);
        tokio::spawn(serve(HookRunner::new(around), waiting, configuration, log));
        Self(extensions)
    }

    /// What the hook of a watcher made of the statistics of one of its processes; nothing where
    /// there is no hook, or it failed, which is in the log.
    pub async fn extend(
        &self,
        watcher: &str,
        processes: Vec<HookProcess>,
        pid: u32,
        stats: Value,
    ) -> Option<Value> {
        let (reply, answer) = oneshot::channel();
        let extension = Extension {
            watcher: watcher.to_owned(),
            processes,
            pid,
            stats,
            reply,
        };
        self.0.send(extension).await.ok()?;
        answer.await.ok()?.ok()
    }
}

async fn serve(
    mut runner: HookRunner,
    mut waiting: mpsc::Receiver<Extension>,
    configuration: watch::Receiver<Arc<Configuration>>,
    log: Log,
) {
    // Those that wait for their hooks; each says whose hook did not answer in time.
    let mut calls: JoinSet<Option<String>> = JoinSet::new();
    loop {
        tokio::select! {
            extension = waiting.recv(), if calls.len() < EXTENSIONS_WAITING_MAX => {
                let Some(extension) = extension else { return };
                let configuration = Arc::clone(&configuration.borrow());
                if let Some(call) = begin(&mut runner, extension, &configuration, &log) {
                    calls.spawn(call);
                }
            }
            Some(late) = calls.join_next() => {
                if let Ok(Some(watcher)) = late {
                    runner.end_host(&WatcherKey::of(&watcher));
                }
            }
            news = runner.next() => {
                if let super::HookNews::Log(level, text) = news {
                    log.write(level, &text);
                }
            }
        }
    }
}

/// Calls the hook, if there is one.
fn begin(
    runner: &mut HookRunner,
    extension: Extension,
    configuration: &Configuration,
    log: &Log,
) -> Option<impl Future<Output = Option<String>> + use<>> {
    let Extension {
        watcher,
        processes,
        pid,
        stats,
        reply,
    } = extension;
    let config = configuration.watcher(&watcher)?;
    let answer = runner.extend(config, configuration, &processes, pid, &stats)?;
    let limit = config.hook_timeout;
    let log = log.clone();
    Some(async move {
        let (result, late) = match timeout(limit, answer).await {
            Ok(Ok(result)) => (result, None),
            Ok(Err(_)) => (Err("the Python host is gone".to_owned()), None),
            Err(_) => {
                let why = format!("no answer within {} s", limit.as_secs_f64());
                (Err(why), Some(watcher.clone()))
            }
        };
        if let Err(why) = &result {
            let text = format!("watcher {watcher:?}: hook extended_stats: {why}");
            log.write(Level::Warning, &text);
        }
        // Whoever asked may have gone.
        let _ = reply.send(result);
        late
    })
}

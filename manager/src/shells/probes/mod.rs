//! Looks whether processes are as they should be: connects, fetches, runs a command. Decides
//! nothing; the engine says when, counts the time, and says when an outcome is not wanted any more.

mod exec;
mod limits;
mod network;
mod taker;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use self::limits::PROBES_AT_A_TIME;
use self::taker::Watched;
use super::launch::{Circumstances, resolve_ids};
use crate::config::command_line::{SpawnVariables, expand_text};
use crate::config::launch::{ResolvedIds, environment};
use crate::config::model::{Configuration, Probe};
use crate::engine::{ProbeId, ProbeOutcome, ProbeRequest};

/// See the module.
#[derive(Debug)]
pub struct ProbeRunner {
    around: Circumstances,
    running: BTreeMap<ProbeId, AbortHandle>,
    tasks: JoinSet<(ProbeId, ProbeOutcome)>,
    /// So that ten thousand processes are not looked at at the same time.
    room: Arc<Semaphore>,
}

/// A look, with nothing left to be replaced in it.
enum Look {
    Tcp(String, Watched),
    Http(String, Watched),
    Exec(Box<exec::Command>),
}

impl ProbeRunner {
    /// One that looks at nothing yet.
    #[must_use]
    pub fn new(around: Circumstances) -> Self {
        Self {
            around,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            room: Arc::new(Semaphore::new(PROBES_AT_A_TIME)),
        }
    }

    /// Begins to look. What it comes to is told by [`ProbeRunner::next`].
    pub fn begin(&mut self, request: &ProbeRequest, configuration: &Configuration) {
        let probe = request.id;
        let look = self.prepare(request, configuration);
        let room = Arc::clone(&self.room);
        let task = self.tasks.spawn(async move {
            let outcome = match look {
                Err(why) => Err(why),
                Ok(look) => {
                    // Never closed.
                    let _place = room.acquire().await;
                    take(look).await
                }
            };
            let outcome = match outcome {
                Ok(()) => ProbeOutcome::Passed,
                Err(why) => ProbeOutcome::Failed(why),
            };
            (probe, outcome)
        });
        self.running.insert(probe, task);
    }

    /// Ends a look. Nothing will be told of it.
    pub fn cancel(&mut self, probe: ProbeId) {
        if let Some(task) = self.running.remove(&probe) {
            task.abort();
        }
    }

    /// The next outcome; waits for ever while nothing is looked at.
    pub async fn next(&mut self) -> (ProbeId, ProbeOutcome) {
        loop {
            match self.tasks.join_next().await {
                None => return pending().await,
                // One that was cancelled is not told.
                Some(Ok((probe, outcome))) if self.running.remove(&probe).is_some() => {
                    return (probe, outcome);
                }
                Some(_) => {}
            }
        }
    }

    fn prepare(
        &self,
        request: &ProbeRequest,
        configuration: &Configuration,
    ) -> Result<Look, String> {
        let watcher = configuration.watcher(request.watcher.as_str());
        let watcher = watcher.ok_or("the watcher is not configured any more")?;
        let ids = resolve_ids(watcher).map_err(|error| error.to_string())?;
        let environment = environment(watcher, &self.around.environment);
        let directory = match &watcher.working_dir {
            Some(directory) => self.around.working_directory.join(directory),
            None => self.around.working_directory.clone(),
        };
        let spawn = SpawnVariables {
            worker_id: request.worker.0,
            environment: &environment,
            working_directory: &directory,
            ids: ids.as_ref(),
            socket: &|_| None,
        };
        let expand = |text: &str| expand_text(watcher, &spawn, text);
        match &request.probe {
            Probe::Tcp(address) => Ok(Look::Tcp(expand(address), Watched::of(request))),
            Probe::Http(url) => Ok(Look::Http(expand(url), Watched::of(request))),
            Probe::Exec(command) => {
                let command = expand(command);
                let ids: Option<ResolvedIds> = ids;
                exec::Command::new(&command, environment, directory, ids, &self.around, request)
                    .map(|command| Look::Exec(Box::new(command)))
            }
            Probe::Uptime(_) | Probe::Notify | Probe::Log(_) => {
                Err("there is nothing to look at".to_owned())
            }
        }
    }
}

async fn take(look: Look) -> Result<(), String> {
    match look {
        Look::Tcp(address, watched) => network::reach(&address, &watched).await,
        Look::Http(url, watched) => network::fetch(&url, &watched).await,
        Look::Exec(command) => command.run().await,
    }
}

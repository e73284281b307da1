//! How everybody who serves clients asks the manager: one question, one answer. What the engine
//! cannot know, because only the system does, is added here: resources of processes, addresses and
//! descriptors of sockets. A signal to a grandchild of ours is sent here too: nobody has to decide
//! anything for it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::places::Address;
use kingpole_protocol::spec::{SocketAddress, SocketSpec};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::circus::statistics_for_hooks;
use super::hooks::statistics::Extender;
use super::known::{Changing, Known};
use super::processes::{self, Sampler};
use crate::command::{
    Answer, Command, ManagerStatistics, Refusal, RefusalKind, Response, SignalRequest,
    SocketDetail, WatcherStatistics,
};
use crate::engine::{HookProcess, Pid};

/// How long the kernel may take to list its sockets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A command on its way to the engine.
#[derive(Debug)]
pub struct CommandRequest {
    /// What is asked.
    pub command: Command,
    /// Who waits for the answer. Dropped without one when the manager ends first.
    pub reply: oneshot::Sender<Response>,
    /// Dropped once the engine has the command, if that may change anything.
    pub changing: Option<Changing>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Asker {
    commands: mpsc::Sender<CommandRequest>,
    kernel_socket: PathBuf,
    sampler: Arc<Mutex<Sampler>>,
    extender: Option<Extender>,
    known: Known,
}

impl Asker {
    /// Sends commands there, and asks this kernel for what it alone knows.
    #[must_use]
    pub fn new(commands: mpsc::Sender<CommandRequest>, kernel_socket: PathBuf) -> Self {
        Self {
            commands,
            kernel_socket,
            sampler: Arc::default(),
            extender: None,
            known: Known::default(),
        }
    }

    /// What can be answered without asking. Whoever gives the engine its inputs has to tell it.
    #[must_use]
    pub const fn known(&self) -> &Known {
        &self.known
    }

    /// Lets the hooks `extended_stats` add to statistics.
    #[must_use]
    pub fn with_extender(mut self, extender: Extender) -> Self {
        self.extender = Some(extender);
        self
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the manager refuses, and that it leaves before it could answer.
    pub async fn ask(&self, command: Command) -> Response {
        match command {
            Command::Signal(request) if request.child_pid.is_some() => {
                self.signal_child(request).await
            }
            command => {
                let extended = matches!(&command, Command::Stats(request) if request.extended);
                let answer = self.ask_engine(command).await?;
                let mut answer = self.complete(answer).await?;
                if let (true, Answer::Stats { watchers }) = (extended, &mut answer) {
                    self.extend(watchers).await;
                }
                Ok(answer)
            }
        }
    }

    async fn ask_engine(&self, command: Command) -> Response {
        let (reply, answer) = oneshot::channel();
        let only_looks = matches!(command, Command::States(_));
        let request = CommandRequest {
            command,
            reply,
            changing: (!only_looks).then(|| self.known.changing()),
        };
        self.commands.send(request).await.map_err(|_| leaving())?;
        answer.await.map_err(|_| leaving())?
    }

    async fn complete(&self, answer: Answer) -> Response {
        match answer {
            Answer::Stats { watchers } => {
                let watchers = self.blocking(move |it| it.measure(watchers)).await?;
                Ok(Answer::Stats { watchers })
            }
            Answer::Dstats { manager: _ } => {
                let manager = self.blocking(Self::measure_manager).await?;
                Ok(Answer::Dstats { manager })
            }
            Answer::Sockets { sockets } => {
                let sockets = self.blocking(move |it| it.locate(sockets)).await?;
                Ok(Answer::Sockets { sockets })
            }
            other => Ok(other),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let asker = self.clone();
        spawn_blocking(move || work(&asker))
            .await
            .map_err(|_| leaving())
    }

    fn measure(&self, mut watchers: Vec<WatcherStatistics>) -> Vec<WatcherStatistics> {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        for process in watchers.iter_mut().flat_map(|it| &mut it.processes) {
            process.info = sampler.info_with_children(process.pid.0);
        }
        sampler.forget_old();
        watchers
    }

    /// Asks the hooks of the watchers what they have to add.
    async fn extend(&self, watchers: &mut [WatcherStatistics]) {
        let Some(extender) = &self.extender else {
            return;
        };
        for watcher in watchers {
            let all = watcher.processes.iter().map(|process| HookProcess {
                pid: process.pid,
                worker: process.worker,
                started: process.started,
            });
            let all: Vec<HookProcess> = all.collect();
            for process in &mut watcher.processes {
                let Some(known) = statistics_for_hooks(process) else {
                    continue;
                };
                let stats = Value::Object(known.clone());
                let told = extender.extend(&watcher.watcher, all.clone(), process.pid.0, stats);
                let Some(Value::Object(told)) = told.await else {
                    // Without a hook, or with a broken one, there is nothing to hear of the others.
                    break;
                };
                let news = told.into_iter();
                process.extended = news
                    .filter(|(key, value)| known.get(key) != Some(value))
                    .collect();
            }
        }
    }

    fn measure_manager(&self) -> Option<ManagerStatistics> {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        let info = sampler.info(std::process::id())?;
        Some(ManagerStatistics { info })
    }

    /// Adds what the kernel knows; without it, what the configuration says stays.
    fn locate(&self, mut sockets: Vec<SocketDetail>) -> Vec<SocketDetail> {
        let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"));
        let held = held_sockets(&self.kernel_socket, client).unwrap_or_default();
        for socket in &mut sockets {
            let Some((spec, fileno)) = held
                .iter()
                .find(|(spec, _)| spec.name == socket.kernel_name)
            else {
                continue;
            };
            socket.fd = *fileno;
            match &spec.address {
                SocketAddress::Unix { path, .. } => {
                    socket.path = Some(path.to_text().into_owned());
                }
                // Circus's own clients connect to what they are told here.
                SocketAddress::Inet { host, port } => {
                    socket.host = Some(numeric(host, "127.0.0.1"));
                    socket.port = Some(*port);
                }
                SocketAddress::Inet6 { host, port } => {
                    socket.host = Some(numeric(host, "::1"));
                    socket.port = Some(*port);
                }
            }
        }
        sockets.sort_by(|a, b| (a.fd, &a.name).cmp(&(b.fd, &b.name)));
        sockets
    }

    /// Signals a direct child of one of our processes.
    async fn signal_child(&self, request: SignalRequest) -> Response {
        let (Some(pid), Some(child)) = (request.pid, request.child_pid) else {
            return Err(refused(
                RefusalKind::Invalid,
                "child_pid needs the pid of its parent",
            ));
        };
        let of = Command::ListPids(request.selection.clone());
        let Answer::Pids { watchers } = self.ask_engine(of).await? else {
            return Err(refused(
                RefusalKind::Invalid,
                "the processes cannot be listed",
            ));
        };
        if !watchers.iter().any(|it| it.pids.contains(&Pid(pid))) {
            return Err(refused(
                RefusalKind::UnknownProcess,
                &format!("pid {pid} is not a live process of the watchers named"),
            ));
        }
        let signal = request.signal;
        let sent = spawn_blocking(move || processes::signal_child(pid, child, signal)).await;
        match sent {
            Ok(Ok(())) => Ok(Answer::Signaled {
                pids: vec![Pid(child)],
            }),
            Ok(Err(reason)) => Err(refused(RefusalKind::UnknownProcess, &reason)),
            Err(_) => Err(leaving()),
        }
    }
}

fn numeric(host: &str, loopback: &str) -> String {
    if host == "localhost" { loopback } else { host }.to_owned()
}

fn held_sockets(socket: &Path, client: &str) -> Option<Vec<(SocketSpec, Option<i32>)>> {
    let address = Address::Unix(socket.to_owned());
    let mut client = Client::connect(&address, client, Some(ANSWER_TIMEOUT)).ok()?;
    let sockets = client.sockets().ok()?;
    Some(
        sockets
            .into_iter()
            .map(|held| (held.spec, held.fileno))
            .collect(),
    )
}

fn refused(kind: RefusalKind, reason: &str) -> Refusal {
    Refusal {
        kind,
        reason: reason.to_owned(),
    }
}

/// The manager ended before it could answer.
pub(super) fn leaving() -> Refusal {
    refused(RefusalKind::Leaving, "the manager is leaving")
}

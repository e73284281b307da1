//! The sockets of the configuration: asked for on each connection (the kernel answers with the
//! one it holds already), tried again when they fail, and waited for by the watchers that use
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::action::{Action, Level};
use super::context::Context;
use super::ids::Moment;
use super::limits::{SOCKET_RETRY_MAX, SOCKET_RETRY_MIN};
use crate::command::{SocketDetail, SocketState, SocketStatus};
use crate::config::model::{Configuration, SocketAddress, SocketConfig, WatcherConfig};

/// All sockets of the configuration, by name.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    config: SocketConfig,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Pending,
    Ready,
    Failed {
        error: String,
        retry_at: Moment,
        wait: Duration,
    },
}

impl Sockets {
    /// Takes a configuration over. Returns the kernel names of sockets that it does not have any
    /// more, or not like this.
    pub(super) fn configure(&mut self, configuration: &Configuration) -> Vec<String> {
        let mut previous = std::mem::take(&mut self.entries);
        let mut closed = Vec::new();
        for config in &configuration.sockets {
            let progress = match previous.remove(&config.name) {
                Some(entry) if same(&entry.config, config) => entry.progress,
                Some(_) => {
                    closed.push(config.kernel_socket_name());
                    Progress::Failed {
                        error: "its options were changed".to_owned(),
                        retry_at: Moment::default(),
                        wait: Duration::ZERO,
                    }
                }
                None => Progress::Failed {
                    error: "it was not asked for yet".to_owned(),
                    retry_at: Moment::default(),
                    wait: Duration::ZERO,
                },
            };
            self.entries.insert(
                config.name.clone(),
                Entry {
                    config: config.clone(),
                    progress,
                },
            );
        }
        closed.extend(
            previous
                .into_values()
                .map(|entry| entry.config.kernel_socket_name()),
        );
        closed
    }

    /// After a connection: asks for all of them.
    pub(super) fn start_over(&mut self) {
        for entry in self.entries.values_mut() {
            entry.progress = Progress::Failed {
                error: "it was not asked for yet".to_owned(),
                retry_at: Moment::default(),
                wait: Duration::ZERO,
            };
        }
    }

    /// Asks for those whose time has come.
    pub(super) fn ask(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        for (name, entry) in &mut self.entries {
            match entry.progress {
                Progress::Failed { retry_at, .. } if retry_at <= now => {
                    entry.progress = Progress::Pending;
                    actions.push(Action::MakeSocket {
                        socket: name.clone(),
                    });
                }
                Progress::Failed { .. } | Progress::Pending | Progress::Ready => {}
            }
        }
        actions
    }

    pub(super) fn handle_ready(&mut self, socket: &str) {
        if let Some(entry) = self.entries.get_mut(socket) {
            entry.progress = Progress::Ready;
        }
    }

    /// One could not be made. `held` tells whether the kernel has one of that name, which then is
    /// used as it is: its options differ, but connections wait in it.
    pub(super) fn handle_failed(
        &mut self,
        socket: &str,
        error: &str,
        held: &BTreeSet<String>,
        now: Moment,
        wait_before: Duration,
    ) -> Option<(Level, String)> {
        let entry = self.entries.get_mut(socket)?;
        if held.contains(&entry.config.kernel_socket_name()) {
            entry.progress = Progress::Ready;
            return Some((
                Level::Warning,
                format!("socket {socket:?} is used as the process kernel holds it: {error}"),
            ));
        }
        let wait = (wait_before * 2).clamp(SOCKET_RETRY_MIN, SOCKET_RETRY_MAX);
        entry.progress = Progress::Failed {
            error: error.to_owned(),
            retry_at: now + wait,
            wait,
        };
        Some((
            Level::Error,
            format!(
                "socket {socket:?} could not be made, next attempt in {} s: {error}",
                wait.as_secs()
            ),
        ))
    }

    /// The pause after the last failure of a socket.
    pub(super) fn wait_of(&self, socket: &str) -> Duration {
        match self.entries.get(socket).map(|entry| &entry.progress) {
            Some(Progress::Failed { wait, .. }) => *wait,
            Some(Progress::Pending | Progress::Ready) | None => Duration::ZERO,
        }
    }

    /// Why a watcher that uses these sockets cannot start processes yet.
    pub(super) fn obstacle(&self, uses: &SocketUse) -> Option<Obstacle> {
        self.entries
            .iter()
            .filter(|(name, _)| uses.includes(name))
            .find_map(|(name, entry)| match &entry.progress {
                Progress::Ready => None,
                Progress::Pending => Some(Obstacle::Pending(format!("waits for socket {name:?}"))),
                Progress::Failed { error, .. } => Some(Obstacle::Failed(format!(
                    "waits for socket {name:?}: {error}"
                ))),
            })
    }

    /// Those of a watcher that are there; all of them for one that names none.
    pub(super) fn ready_for(&self, uses: &SocketUse) -> BTreeSet<String> {
        let named = self.entries.keys().any(|name| uses.includes(name));
        self.entries
            .iter()
            .filter(|(name, _)| !named || uses.includes(name))
            .filter(|(_, entry)| matches!(entry.progress, Progress::Ready))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// When to ask again.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.entries
            .values()
            .filter_map(|entry| match entry.progress {
                Progress::Failed { retry_at, .. } => Some(retry_at),
                Progress::Pending | Progress::Ready => None,
            })
            .min()
    }

    /// Kernel names of sockets that `keep` does not want.
    pub(super) fn closable(&self, keep: impl Fn(&SocketConfig) -> bool) -> Vec<String> {
        self.entries
            .values()
            .filter(|entry| !keep(&entry.config))
            .map(|entry| entry.config.kernel_socket_name())
            .collect()
    }

    /// What is known here of their addresses; a shell adds what only the kernel knows.
    pub(super) fn details(&self) -> Vec<SocketDetail> {
        let detail = |entry: &Entry| {
            let config = &entry.config;
            let (host, port, path) = match &config.address {
                SocketAddress::Unix { path, .. } => {
                    (None, None, Some(path.to_string_lossy().into_owned()))
                }
                SocketAddress::Inet { host, port, .. } => (Some(host.clone()), Some(*port), None),
            };
            SocketDetail {
                name: config.name.clone(),
                kernel_name: config.kernel_socket_name(),
                state: match &entry.progress {
                    Progress::Pending => SocketState::Pending,
                    Progress::Ready => SocketState::Ready,
                    Progress::Failed { .. } => SocketState::Failed,
                },
                backlog: config.backlog,
                fd: None,
                host,
                port,
                path,
            }
        };
        self.entries.values().map(detail).collect()
    }

    pub(super) fn status(&self) -> Vec<SocketStatus> {
        self.entries
            .iter()
            .map(|(name, entry)| {
                let (state, reason) = match &entry.progress {
                    Progress::Pending => (SocketState::Pending, None),
                    Progress::Ready => (SocketState::Ready, None),
                    Progress::Failed { error, .. } => (SocketState::Failed, Some(error.clone())),
                };
                SocketStatus {
                    name: name.clone(),
                    state,
                    reason,
                }
            })
            .collect()
    }
}

/// Equal but for its place in the file.
fn same(left: &SocketConfig, right: &SocketConfig) -> bool {
    SocketConfig {
        origin: right.origin.clone(),
        ..left.clone()
    } == *right
}

/// Why a watcher cannot start processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The answer is on its way.
    Pending(String),
    /// It failed and will be tried again.
    Failed(String),
}

/// Which sockets a watcher's processes need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SocketUse {
    /// All of them (`use_sockets`).
    all: bool,
    names: BTreeSet<String>,
}

impl SocketUse {
    /// Reads it from a watcher's options. A name that is a prefix of another one's may be found
    /// where it is not meant; the watcher then waits for one socket too many.
    pub(super) fn of(config: &WatcherConfig, configuration: &Configuration) -> Self {
        let mut texts = vec![config.cmd.to_lowercase(), config.args.to_lowercase()];
        texts.extend(config.shell_args.iter().map(|text| text.to_lowercase()));
        texts.extend(config.environment.values().map(|text| text.to_lowercase()));
        let names = configuration
            .sockets
            .iter()
            .map(|socket| &socket.name)
            .filter(|name| {
                let reference = format!("circus.sockets.{name}");
                config.stdin_socket.as_ref() == Some(*name)
                    || texts.iter().any(|text| text.contains(&reference))
            })
            .cloned()
            .collect();
        Self {
            all: config.use_sockets,
            names,
        }
    }

    pub(super) fn includes(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

impl Context {
    /// Asks for the sockets whose time has come.
    pub(super) fn ask_for_sockets(&mut self) {
        if self.connected() {
            for action in self.sockets.ask(self.now) {
                self.push(action);
            }
        }
    }
}

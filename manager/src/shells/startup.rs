//! Puts a manager together from a checked configuration, runs it, and takes it apart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kingpole_protocol::places::{Address, KERNEL_SOCKET, MANAGER_SOCKET};
use nix::sys::stat::{Mode, umask};
use tokio::sync::{mpsc, oneshot, watch};

use super::asking::Asker;
use super::circus::endpoints as circus;
use super::console::{Color, Console, Renderer};
use super::control::{
    self, About, COMMANDS_WAITING_MAX, Control, NextManager, Scrapes, Stay, Upgrades,
};
use super::events::Events;
use super::greeting::Greeting;
use super::history::History;
use super::hooks::statistics::Extender;
use super::launch::Circumstances;
use super::link::{KernelLink, LinkSettings};
use super::listeners::{HeldListener, ListenError, Listeners};
use super::log::Log;
use super::manager::{Ended, Inboxes, Manager, OnInterrupt};
use super::place::{ManagerLock, Pidfile, PlaceTaken};
use super::plugins;
use super::signals::Signals;
use super::streams::{ConsoleLines, StreamsSettings};
use super::upgrade::{self, Resumed};
use super::zmtp::Carry;
use crate::config::model::Configuration;
use crate::engine::{Engine, Settings};

/// Marks our children among all that a kernel holds, and names our lease. One runtime directory has
/// one manager, so there is nothing to choose yet.
pub const NAMESPACE: &str = "manager";

/// What the socket of the control server is called among [`Listeners`].
const CONTROL_LISTENER: &str = "control";

/// A thread that looks up a host or asks the kernel ends soon after.
const HELPER_THREAD_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long clients may take to read their last answers when the manager leaves.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_millis(500);

/// We have the runtime directory to ourselves, so a lease that is held belongs to a manager that is
/// dying, or to one of another directory that will not die.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);

/// Why a manager did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its places are taken or not usable.
    #[error(transparent)]
    Place(#[from] PlaceTaken),
    /// Clients cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refuses something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

/// Whether the children's output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// With names, times and colours, as `kingpole run` does.
    Decorated,
    /// Only as far as the configuration says so.
    AsConfigured,
}

/// What a manager is made from.
#[derive(Debug)]
pub struct Setup {
    /// Checked.
    pub configuration: Configuration,
    /// Where its places are.
    pub runtime_dir: PathBuf,
    /// Where it says what happens.
    pub log: Log,
    /// What becomes of output.
    pub show: Show,
    /// What Ctrl-C means.
    pub on_interrupt: OnInterrupt,
    /// When the program began, for what it says of itself.
    pub since: Instant,
    /// What the program before in this process has left.
    pub resumed: Option<Resumed>,
}

/// Runs a manager until it ends. `lock` is that of its runtime directory.
///
/// # Errors
/// When it could not even begin; nothing has been started then.
pub fn run(mut setup: Setup, lock: ManagerLock) -> Result<Ended, StartError> {
    let pidfile = setup
        .configuration
        .global
        .pidfile
        .as_deref()
        .map(Pidfile::write)
        .transpose()?;
    let runtime_dir = absolute(&setup.runtime_dir);
    let listeners = Listeners::new(&runtime_dir.join(KERNEL_SOCKET), setup.log.clone());
    let address = Address::Unix(runtime_dir.join(MANAGER_SOCKET));
    let control = listeners.open(CONTROL_LISTENER, &address)?;
    let around = Circumstances::read();
    if let Some(mask) = setup.configuration.global.umask {
        // For log files; children are told theirs one by one.
        umask(Mode::from_bits_truncate(mask));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(HELPER_THREAD_KEEP_ALIVE)
        .build()
        .map_err(system("the event loop cannot be made"))?;
    let log = setup.log.clone();
    let arrived = setup
        .resumed
        .as_mut()
        .map(|resumed| std::mem::take(&mut resumed.connections));
    let carry = Carry::new(arrived.unwrap_or_default());
    let arrived = setup
        .resumed
        .as_mut()
        .map(|resumed| std::mem::take(&mut resumed.visitors));
    let next = NextManager::new(arrived.unwrap_or_default());
    let ended = runtime.block_on(serve(
        setup,
        listeners.clone(),
        control,
        around,
        carry.clone(),
        next.clone(),
    ));
    runtime.shutdown_background();
    listeners.leave();
    if let Ok(Ended::Upgrading(plan)) = &ended {
        // Does not come back, unless neither program can be executed.
        let reason = upgrade::replace::go(plan, &lock, carry.take(), &next.take());
        log.error(format!("upgrade: {reason}"));
        return Ok(Ended::Failed("this process cannot become another program"));
    }
    drop((pidfile, lock));
    ended
}

async fn serve(
    setup: Setup,
    listeners: Listeners,
    listener: HeldListener,
    around: Circumstances,
    carry: Carry,
    next: NextManager,
) -> Result<Ended, StartError> {
    let Setup {
        configuration,
        runtime_dir,
        log,
        show,
        on_interrupt,
        since,
        resumed,
    } = setup;
    let signals = Signals::listen().map_err(system("signals cannot be listened to"))?;
    upgrade::replace::let_signals_come();
    let socket = runtime_dir.join(KERNEL_SOCKET);
    let engine = Engine::new(
        Settings {
            namespace: NAMESPACE.to_owned(),
            seed: seed(),
        },
        configuration.clone(),
    );
    let link = KernelLink::new(LinkSettings {
        socket: socket.clone(),
        client: concat!("kingpole-manager/", env!("CARGO_PKG_VERSION")).to_owned(),
        lease: NAMESPACE.to_owned(),
        values_prefix: engine.values_prefix(),
        lease_patience: LEASE_PATIENCE,
        resume: resumed.as_ref().and_then(|resumed| resumed.lease),
    });
    let history = History::default();
    let console = match show {
        Show::AsConfigured => None,
        Show::Decorated => {
            let renderer = Renderer::new(Color::for_stdout(), name_width(&configuration));
            let console = Console::start(history.clone(), renderer)
                .map_err(system("the console cannot be started"))?;
            Some(console)
        }
    };
    let output = super::streams::start(StreamsSettings {
        socket: socket.clone(),
        runtime_dir: runtime_dir.clone(),
        console: match show {
            Show::Decorated => ConsoleLines::Shown,
            Show::AsConfigured => ConsoleLines::Written,
        },
        history: history.clone(),
    })
    .map_err(system("the thread that writes log files cannot be made"))?;
    let about = Arc::new(About {
        configuration: absolute(&configuration.path),
        runtime_dir,
        kernel_socket: socket,
        since,
    });
    let file = about.configuration.clone();
    let (configuration, current) = watch::channel(Arc::new(configuration));
    let events = Events::default();
    let (commands, inbox) = mpsc::channel(COMMANDS_WAITING_MAX);
    let (asked_upgrades, upgrades) = mpsc::channel(1);
    let (stay, staying) = watch::channel(Stay::Yes);
    let extender = Extender::start(current.clone(), around.clone(), log.clone());
    let asker = Asker::new(commands, about.kernel_socket.clone()).with_extender(extender);
    let known = asker.known().clone();
    let control = Control {
        asker,
        history,
        events: events.clone(),
        configuration: current,
        stay: staying,
        about,
        upgrades: Upgrades::new(asked_upgrades),
        scrapes: Scrapes::default(),
        next: next.clone(),
    };
    let (all_served, served) = oneshot::channel();
    // Both servers have one; it is told when neither has any more.
    let all_served: Arc<oneshot::Sender<()>> = Arc::new(all_served);
    let circus = circus::Setup {
        configuration: control.configuration.clone(),
        asker: control.asker.clone(),
        events: events.clone(),
        listeners: listeners.clone(),
        kernel_socket: control.about.kernel_socket.clone(),
        working_directory: around.working_directory.clone(),
        carry,
        all_answered: Some(Arc::clone(&all_served)),
        stay: control.stay.clone(),
        log: log.clone(),
    };
    // On probation clients wait: for us, or for the program before.
    let (healthy, is_healthy) = watch::channel(resumed.is_none());
    {
        let global = control.configuration.borrow().global.clone();
        let (control, listeners, log) = (control.clone(), listeners.clone(), log.clone());
        let mut is_healthy = is_healthy.clone();
        // Nobody waits for their last answers: a scraper asks again, and so do people.
        tokio::spawn(async move {
            if is_healthy.wait_for(|healthy| *healthy).await.is_err() {
                return;
            }
            let (address, admin) = (global.metrics_endpoint, global.admin);
            let tools = (listeners.clone(), control.clone(), log.clone());
            tokio::join!(
                control::metrics_port::serve(address, tools.0, tools.1, tools.2),
                control::admin::serve(admin, listeners, control, log),
            );
        });
    }
    let server = tokio::spawn({
        let log = log.clone();
        let mut is_healthy = is_healthy.clone();
        async move {
            let _all_served = all_served;
            if is_healthy.wait_for(|healthy| *healthy).await.is_err() {
                return;
            }
            if let Some(resumed) = resumed {
                let report = resumed.finished();
                log.info(report.describe());
                control.upgrades.tell(report);
            }
            if let Err(error) = control::serve(listener, control, log.clone()).await {
                log.error(format!(
                    "control: manager.sock is not served any more: {error}"
                ));
            }
        }
    });
    let tools = plugins::Tools {
        asker: circus.asker.clone(),
        events: events.clone(),
        log: log.clone(),
    };
    let circus = tokio::spawn(async move {
        let mut is_healthy = is_healthy;
        if is_healthy.wait_for(|healthy| *healthy).await.is_ok() {
            tokio::spawn(plugins::run(circus.configuration.clone(), tools));
            circus::serve(circus).await;
        }
    });
    let greeting = Greeting::new(NAMESPACE, since);
    let manager = Manager {
        known,
        engine,
        link,
        output,
        log,
        around,
        file,
        configuration,
        events,
        namespace: NAMESPACE.to_owned(),
        on_interrupt,
        greeting,
        listeners,
        stay: stay.clone(),
        next,
        healthy: Some(healthy),
    };
    let inboxes = Inboxes {
        commands: inbox,
        upgrades,
        served,
    };
    let ended = manager.run(inboxes, signals).await;
    stay.send_replace(Stay::Over);
    // Nobody who does not read keeps us here.
    let _ = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, async {
        let _ = tokio::join!(server, circus);
    })
    .await;
    if let Some(console) = console {
        console.finish();
    }
    Ok(ended)
}

/// As wide as the longest name that the configuration can bring.
fn name_width(configuration: &Configuration) -> usize {
    let width = |watcher: &crate::config::model::WatcherConfig| {
        let digits = watcher.numprocesses.max(1).ilog10() as usize + 1;
        watcher.name.chars().count() + 1 + digits
    };
    // A very long name shall not push everybody's output out of sight.
    configuration
        .watchers
        .iter()
        .map(width)
        .max()
        .unwrap_or(0)
        .min(32)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// For the engine's random choices, which only spread work in time.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library keys its hashers with randomness of the system.
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

//! Opens the endpoints that the configuration names, and serves them until the manager leaves.
//!
//! An endpoint that cannot be opened is said in the log and costs nothing else: whatever the manager
//! runs is worth more than the clients of one door.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kingpole_protocol::peer::Guests;
use kingpole_protocol::places::Address;
use nix::unistd::{Uid, User, geteuid};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};

use super::discovery;
use super::events;
use super::feed;
use super::service::CircusService;
use super::sockets::{self, SocketReads};
use crate::config::endpoint::{Endpoint, Reach};
use crate::config::model::{
    Configuration, DEFAULT_ENDPOINT, DEFAULT_PUBSUB_ENDPOINT, DEFAULT_STATS_ENDPOINT,
    GlobalSettings,
};
use crate::shells::asking::Asker;
use crate::shells::control::Stay;
use crate::shells::events::Events;
use crate::shells::listeners::{HeldListener, Listeners};
use crate::shells::log::Log;
use crate::shells::zmtp::{Admission, Carry, Listener, Publisher, router};

/// Set to `off`, endpoints that no file names are not opened: for several managers on one machine, of
/// which only one can have Circus's usual ports.
pub const DEFAULTS_VARIABLE: &str = "KINGPOLE_DEFAULT_ENDPOINTS";

/// What endpoints are served with.
#[derive(Debug)]
pub struct Setup {
    /// Which endpoints, and for whom.
    pub configuration: watch::Receiver<Arc<Configuration>>,
    /// Whom requests are put to.
    pub asker: Asker,
    /// What happens.
    pub events: Events,
    /// Who listens, so that clients wait while no manager is there.
    pub listeners: Listeners,
    /// Who hands out descriptors of managed sockets.
    pub kernel_socket: PathBuf,
    /// What relative paths are relative to.
    pub working_directory: PathBuf,
    /// Connections that go on when the manager becomes another program.
    pub carry: Carry,
    /// Dropped when everybody who asked is answered, after `stay` said that the manager leaves.
    pub all_answered: Arc<oneshot::Sender<()>>,
    /// Whether the manager goes on.
    pub stay: watch::Receiver<Stay>,
    /// Where is said what happens.
    pub log: Log,
}

/// One endpoint to be opened.
struct Wanted {
    /// Its key in `[circus]`, and its name among the listeners.
    key: &'static str,
    endpoint: Endpoint,
    /// Whether the configuration names it.
    written: bool,
}

impl Wanted {
    fn new(key: &'static str, written: Option<&str>, default: &str) -> Self {
        let off = std::env::var_os(DEFAULTS_VARIABLE).is_some_and(|value| value == "off");
        let endpoint = match written {
            Some(text) => Endpoint::parse(text),
            None if off => None,
            None => Endpoint::parse(default),
        };
        Self {
            key,
            endpoint: endpoint.unwrap_or(Endpoint::Off),
            written: written.is_some(),
        }
    }
}

/// Serves until the manager leaves and last messages are on their way.
pub async fn serve(setup: Setup) {
    let global = setup.configuration.borrow().global.clone();
    let mut tasks = JoinSet::new();
    let control = Wanted::new("endpoint", global.endpoint.as_deref(), DEFAULT_ENDPOINT);
    let mut found_at = None;
    if let Some(listener) = open(&setup, &global, control).await {
        found_at = Some(as_endpoint(listener.address()));
        let service = CircusService {
            asker: setup.asker.clone(),
            configuration: setup.configuration.clone(),
        };
        let (stay, log) = (setup.stay.clone(), setup.log.clone());
        let all_answered = Arc::clone(&setup.all_answered);
        tasks.spawn(async move {
            let _all_answered = all_answered;
            router::serve(listener, service, stay, log).await;
        });
    }
    let pubsub = Wanted::new(
        "pubsub_endpoint",
        global.pubsub_endpoint.as_deref(),
        DEFAULT_PUBSUB_ENDPOINT,
    );
    // Before the endpoint is there, so that nothing is missed by its first subscribers.
    let happening = setup.events.subscribe();
    if let Some(listener) = open(&setup, &global, pubsub).await {
        let publisher = Publisher::default();
        let log = setup.log.clone();
        tokio::spawn(events::publish(happening, publisher.clone(), log.clone()));
        tasks.spawn(publisher.serve(listener, setup.stay.clone(), log));
    }
    if global.statsd {
        let stats = Wanted::new(
            "stats_endpoint",
            global.stats_endpoint.as_deref(),
            DEFAULT_STATS_ENDPOINT,
        );
        if let Some(listener) = open(&setup, &global, stats).await {
            let publisher = Publisher::default();
            let reads = SocketReads::default();
            tokio::spawn(feed::publish(
                setup.asker.clone(),
                publisher.clone(),
                reads.clone(),
            ));
            tokio::spawn(sockets::watch(
                setup.asker.clone(),
                publisher.clone(),
                reads,
                setup.kernel_socket.clone(),
            ));
            let log = setup.log.clone();
            tasks.spawn(publisher.serve(listener, setup.stay.clone(), log));
        }
    }
    if let Some(text) = &global.multicast_endpoint {
        match found_at {
            Some(control) => discover(text, control, &setup.log),
            None => setup.log.warning(format!(
                "multicast_endpoint {text}: there is no endpoint to be found"
            )),
        }
    }
    // Of endpoints that are not served any more.
    drop(setup.carry.take());
    drop(setup);
    while tasks.join_next().await.is_some() {}
}

/// Where something listens, as ZeroMQ writes it.
fn as_endpoint(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("ipc://{}", path.display()),
        Address::Tcp(address) => format!("tcp://{address}"),
    }
}

fn discover(text: &str, control_endpoint: String, log: &Log) {
    let joined = discovery::parse(text)
        .ok_or_else(|| "is not udp://GROUP:PORT with a multicast group".to_owned())
        .and_then(|group| discovery::join(group).map_err(|error| error.to_string()));
    match joined {
        Ok(socket) => {
            // Nobody waits for its last answer: it ends with the event loop.
            tokio::spawn(discovery::serve(socket, control_endpoint));
        }
        Err(reason) => log.warning(format!(
            "multicast_endpoint {text}: {reason}; nobody can discover this manager"
        )),
    }
}

async fn open(setup: &Setup, global: &GlobalSettings, wanted: Wanted) -> Option<Listener> {
    let Wanted {
        key,
        endpoint,
        written,
    } = wanted;
    if endpoint == Endpoint::Off {
        return None;
    }
    let admission = match (endpoint.reach(), global.allow_remote) {
        (Reach::Machine, _) => admission(global),
        // Its warning was in the check of the configuration.
        (Reach::Network, false) => return None,
        (Reach::Network, true) => Ok(Admission::Anyone),
    };
    let opened = match admission {
        Err(reason) => Err(reason),
        Ok(admission) => listen(setup, global, key, &endpoint)
            .await
            .map(|held| Listener::new(held, admission, key, &setup.carry)),
    };
    match opened {
        Ok(listener) => {
            let address = listener.address();
            setup
                .log
                .info(format!("{key}: Circus's clients are served at {address}"));
            Some(listener)
        }
        Err(reason) if written => {
            setup.log.error(format!(
                "{key} {endpoint}: {reason}; Circus's clients cannot connect there"
            ));
            None
        }
        Err(reason) => {
            setup.log.info(format!(
                "{key}: Circus's usual {endpoint} is not served: {reason}; write {key} in [circus] \
                 to choose another, or {key} = off"
            ));
            None
        }
    }
}

fn admission(global: &GlobalSettings) -> Result<Admission, String> {
    let mut users = global.allow_users.clone();
    users.extend(global.endpoint_owner.clone());
    let guests = Guests::new(geteuid().as_raw(), &users)?;
    Ok(Admission::Users(Arc::new(guests)))
}

/// Waits for the kernel and for name services, on a helper thread.
async fn listen(
    setup: &Setup,
    global: &GlobalSettings,
    key: &'static str,
    endpoint: &Endpoint,
) -> Result<HeldListener, String> {
    let listeners = setup.listeners.clone();
    let endpoint = endpoint.clone();
    let directory = setup.working_directory.clone();
    let owner = global.endpoint_owner.clone();
    let opened = spawn_blocking(move || {
        let address = locate(&endpoint, &directory)?;
        let held = listeners
            .open(key, &address)
            .map_err(|error| error.to_string())?;
        if let Address::Unix(path) = &address {
            match owner {
                Some(owner) => give_to(path, &owner)?,
                None => take_back(path)?,
            }
        }
        Ok(held)
    });
    opened
        .await
        .unwrap_or_else(|_| Err("the helper thread has ended".to_owned()))
}

fn locate(endpoint: &Endpoint, directory: &Path) -> Result<Address, String> {
    match endpoint {
        Endpoint::Off => Err("it is off".to_owned()),
        Endpoint::Ipc(path) => Ok(Address::Unix(directory.join(path))),
        Endpoint::Tcp { host, port } => {
            let ip = match host.as_str() {
                "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
                host => match host.parse() {
                    Ok(ip) => ip,
                    Err(_) => find(host)?,
                },
            };
            Ok(Address::Tcp(SocketAddr::new(ip, *port)))
        }
    }
}

fn find(host: &str) -> Result<IpAddr, String> {
    let mut found = (host, 0_u16)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?;
    let first = found.next();
    first
        .map(|address| address.ip())
        .ok_or_else(|| format!("{host} has no address"))
}

/// Gives a socket file to `endpoint_owner`; its group stays.
fn give_to(path: &Path, owner: &str) -> Result<(), String> {
    let found = match owner.parse() {
        Ok(number) => Ok(Some(Uid::from_raw(number))),
        Err(_) => User::from_name(owner).map(|user| user.map(|user| user.uid)),
    };
    let uid = match found {
        Ok(Some(uid)) => uid,
        Ok(None) => return Err(format!("endpoint_owner {owner} is no user of this machine")),
        Err(error) => return Err(format!("endpoint_owner {owner}: {error}")),
    };
    chown(path, Some(uid.as_raw()), None)
        .map_err(|error| format!("it cannot be given to endpoint_owner {owner}: {error}"))
}

/// Takes a socket file from whom an earlier configuration gave it to.
fn take_back(path: &Path) -> Result<(), String> {
    let own = geteuid().as_raw();
    let data = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if data.uid() == own {
        return Ok(());
    }
    chown(path, Some(own), None)
        .map_err(|error| format!("it belongs to user {} and stays so: {error}", data.uid()))
}

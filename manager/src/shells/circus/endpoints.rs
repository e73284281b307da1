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
use crate::config::endpoint::{Endpoint, Reach, multicast_group};
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
    pub all_answered: Option<Arc<oneshot::Sender<()>>>,
    /// Whether the manager goes on.
    pub stay: watch::Receiver<Stay>,
    /// Where is said what happens.
    pub log: Log,
}

/// What decides how an endpoint is served. When it changes, the endpoint is opened anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// Its key in `[circus]`, and its name among the listeners.
    key: &'static str,
    endpoint: Endpoint,
    /// Whether the configuration names it.
    written: bool,
    allow_remote: bool,
    allow_users: Vec<String>,
    owner: Option<String>,
}

impl Wanted {
    fn new(
        global: &GlobalSettings,
        key: &'static str,
        written: Option<&str>,
        default: &str,
    ) -> Self {
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
            allow_remote: global.allow_remote,
            allow_users: global.allow_users.clone(),
            owner: global.endpoint_owner.clone(),
        }
    }

    /// What a configuration asks for.
    fn of(global: &GlobalSettings) -> [Self; 3] {
        let endpoint = global.endpoint.as_deref();
        let pubsub = global.pubsub_endpoint.as_deref();
        let stats = match global.statsd {
            true => global.stats_endpoint.as_deref(),
            false => Some("off"),
        };
        [
            Self::new(global, CONTROL, endpoint, DEFAULT_ENDPOINT),
            Self::new(global, EVENTS, pubsub, DEFAULT_PUBSUB_ENDPOINT),
            Self::new(global, STATISTICS, stats, DEFAULT_STATS_ENDPOINT),
        ]
    }
}

const CONTROL: &str = "endpoint";
const EVENTS: &str = "pubsub_endpoint";
const STATISTICS: &str = "stats_endpoint";

/// An endpoint as it was opened, or could not be.
struct Door {
    wanted: Wanted,
    /// Where it is.
    address: Option<Address>,
    /// Whether it goes on.
    stay: watch::Sender<Stay>,
    carry: Carry,
    /// Whoever serves it.
    tasks: JoinSet<()>,
}

impl Door {
    /// Ends for good while the manager goes on: who waits for an answer gets it, then connections are closed.
    fn close(self, leaving: &mut JoinSet<()>) {
        self.carry.close();
        self.stay.send_replace(Stay::Over);
        let mut tasks = self.tasks;
        leaving.spawn(async move { while tasks.join_next().await.is_some() {} });
    }
}

/// Serves what the configuration names, and what it names after it has changed, until the manager leaves and last
/// messages are on their way.
pub async fn serve(mut setup: Setup) {
    let mut configuration = setup.configuration.clone();
    let mut stay = setup.stay.clone();
    let mut leaving = JoinSet::new();
    let mut doors: Vec<Door> = Vec::new();
    let mut discovered: Option<(Option<String>, Option<String>)> = None;
    let mut discovery = JoinSet::new();
    loop {
        let global = configuration.borrow_and_update().global.clone();
        for wanted in Wanted::of(&global) {
            let before = doors.iter().position(|door| door.wanted.key == wanted.key);
            if let Some(before) = before {
                if doors[before].wanted == wanted {
                    continue;
                }
                let door = doors.swap_remove(before);
                setup
                    .log
                    .info(format!("{}: its settings have changed", wanted.key));
                door.close(&mut leaving);
            }
            doors.push(open(&setup, wanted).await);
        }
        // Of endpoints that are not served any more.
        drop(setup.carry.take());
        let control = doors.iter().find(|door| door.wanted.key == CONTROL);
        let control = control.and_then(|door| door.address.as_ref().map(as_endpoint));
        let wanted = Some((global.multicast_endpoint.clone(), control));
        if wanted != discovered {
            discovery.abort_all();
            if let Some((Some(text), control)) = &wanted {
                discover(text, control.clone(), &setup.log, &mut discovery);
            }
            discovered = wanted;
        }
        tokio::select! {
            changed = configuration.changed() => if changed.is_err() {
                break;
            },
            _ = stay.wait_for(|stay| *stay != Stay::Yes) => break,
        }
    }
    // Only those who still answer somebody keep it now.
    setup.all_answered = None;
    let mut last = *stay.borrow();
    loop {
        for door in &doors {
            door.stay.send_replace(last);
        }
        // Gone without a word is gone too.
        if last == Stay::Over || stay.changed().await.is_err() {
            break;
        }
        last = *stay.borrow_and_update();
    }
    for door in &mut doors {
        door.stay.send_replace(Stay::Over);
        while door.tasks.join_next().await.is_some() {}
    }
    while leaving.join_next().await.is_some() {}
}

async fn open(setup: &Setup, wanted: Wanted) -> Door {
    let (stay, staying) = watch::channel(Stay::Yes);
    let carry = setup.carry.of_listener();
    // Before the endpoint is there, so that nothing is missed by its first subscribers.
    let happening = setup.events.subscribe();
    let listener = listen(setup, &wanted, &carry).await;
    let mut door = Door {
        address: listener.as_ref().map(|it| it.address().clone()),
        wanted,
        stay,
        carry,
        tasks: JoinSet::new(),
    };
    let Some(listener) = listener else {
        // Nobody shall wait in a socket that an earlier configuration had.
        let (listeners, key) = (setup.listeners.clone(), door.wanted.key);
        let off = door.wanted.endpoint == Endpoint::Off;
        let _ = spawn_blocking(move || {
            listeners.close(key);
            if off {
                listeners.forget(key);
            }
        })
        .await;
        return door;
    };
    let log = setup.log.clone();
    if door.wanted.key == CONTROL {
        let service = CircusService {
            asker: setup.asker.clone(),
            configuration: setup.configuration.clone(),
        };
        let all_answered = setup.all_answered.clone();
        door.tasks.spawn(async move {
            let _all_answered = all_answered;
            router::serve(listener, service, staying, log).await;
        });
        return door;
    }
    let publisher = Publisher::default();
    // These end when the connections have.
    let mut feeders = JoinSet::new();
    if door.wanted.key == EVENTS {
        feeders.spawn(events::publish(happening, publisher.clone(), log.clone()));
    } else {
        let reads = SocketReads::default();
        let asker = setup.asker.clone();
        feeders.spawn(feed::publish(asker, publisher.clone(), reads.clone()));
        let (asker, kernel) = (setup.asker.clone(), setup.kernel_socket.clone());
        feeders.spawn(sockets::watch(asker, publisher.clone(), reads, kernel));
    }
    door.tasks.spawn(async move {
        let _feeders = feeders;
        publisher.serve(listener, staying, log).await;
    });
    door
}

/// Where something listens, as ZeroMQ writes it.
fn as_endpoint(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("ipc://{}", path.display()),
        Address::Tcp(address) => format!("tcp://{address}"),
    }
}

fn discover(text: &str, control: Option<String>, log: &Log, tasks: &mut JoinSet<()>) {
    let Some(control) = control else {
        log.warning(format!(
            "multicast_endpoint {text}: there is no endpoint to be found"
        ));
        return;
    };
    let joined = multicast_group(text)
        .ok_or_else(|| "is not udp://GROUP:PORT with a multicast group".to_owned())
        .and_then(|group| discovery::join(group).map_err(|error| error.to_string()));
    match joined {
        Ok(socket) => {
            // Nobody waits for its last answer.
            tasks.spawn(discovery::serve(socket, control));
        }
        Err(reason) => log.warning(format!(
            "multicast_endpoint {text}: {reason}; nobody can discover this manager"
        )),
    }
}

async fn listen(setup: &Setup, wanted: &Wanted, carry: &Carry) -> Option<Listener> {
    let Wanted {
        key,
        endpoint,
        written,
        ..
    } = wanted;
    if *endpoint == Endpoint::Off {
        return None;
    }
    let admission = match (endpoint.reach(), wanted.allow_remote) {
        (Reach::Machine, _) => admission(wanted),
        // Its warning was in the check of the configuration.
        (Reach::Network, false) => return None,
        (Reach::Network, true) => Ok(Admission::Anyone),
    };
    let opened = match admission {
        Err(reason) => Err(reason),
        Ok(admission) => hold(setup, wanted)
            .await
            .map(|held| Listener::new(held, admission, key, carry)),
    };
    match opened {
        Ok(listener) => {
            let address = listener.address();
            setup
                .log
                .info(format!("{key}: Circus's clients are served at {address}"));
            Some(listener)
        }
        Err(reason) if *written => {
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

fn admission(wanted: &Wanted) -> Result<Admission, String> {
    let mut users = wanted.allow_users.clone();
    users.extend(wanted.owner.clone());
    let guests = Guests::new(geteuid().as_raw(), &users)?;
    Ok(Admission::Users(Arc::new(guests)))
}

/// Waits for the kernel and for name services, on a helper thread.
async fn hold(setup: &Setup, wanted: &Wanted) -> Result<HeldListener, String> {
    let listeners = setup.listeners.clone();
    let (key, endpoint) = (wanted.key, wanted.endpoint.clone());
    let directory = setup.working_directory.clone();
    let owner = wanted.owner.clone();
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

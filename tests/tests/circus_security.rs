//! Promise: over the endpoints of Circus's clients nobody is served who was not meant to be (P9), and who asks while
//! the manager becomes another program is answered.

use kingpole_tests::manager::{describe, kingpole};
use kingpole_tests::sys::become_user;
use kingpole_tests::zeromq::{Kind, Peer};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The user `nobody` of every Linux.
const NOBODY: u32 = 65534;

const SLEEPER: &str = "[watcher:sleeper]\ncmd = /bin/sleep 100000\n";
const QUESTION: &str = r#"{"command": "numwatchers", "id": 1}"#;

struct Served {
    manager: Manager,
    scratch: Rc<Scratch>,
    file: PathBuf,
    _kernel: Kernel,
}

impl Served {
    /// With these lines in `[circus]`, where `DIR` is a directory that everybody may enter.
    fn start(global: &str) -> Self {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let file = write(&scratch, global);
        let manager = Manager::start(&scratch, &file);
        Self {
            manager,
            scratch,
            file,
            _kernel: kernel,
        }
    }

    /// Where an endpoint of this key really is, once it is.
    fn endpoint(&self, key: &str) -> String {
        let said = format!("] {key}: Circus's clients are served at ");
        wait::until("the endpoint is open", || {
            let log = self.manager.log();
            let line = log.lines().rev().find_map(|line| line.split_once(&said));
            let address = line.map(|(_, address)| address.trim().to_owned());
            address.ok_or(log)
        })
        .replace("unix:", "ipc://")
        .replace("tcp:", "tcp://")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }
}

fn write(scratch: &Scratch, global: &str) -> PathBuf {
    let directory = scratch.path().display().to_string();
    let global = global.replace("DIR", &directory);
    scratch.write("circus.ini", format!("[circus]\n{global}\n{SLEEPER}"))
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: acting as another user needs root");
        assert!(std::env::var_os("CI").is_none(), "skipped with CI set");
    }
    root
}

/// What a user is answered to a question; of a thread of its own, which alone becomes that user.
fn ask_as(user: u32, endpoint: &str) -> io::Result<Value> {
    let endpoint = endpoint.to_owned();
    let thread = std::thread::spawn(move || {
        become_user(user).expect("root may be anybody");
        Peer::connect(&endpoint, Kind::Dealer)?.ask(QUESTION)
    });
    thread.join().expect("it does not panic")
}

#[track_caller]
fn assert_served(answer: &io::Result<Value>) {
    match answer {
        Ok(answer) => assert_eq!(answer["numwatchers"], 1, "{answer}"),
        Err(error) => panic!("not served: {error}"),
    }
}

/// Let go before anything was said to it.
#[track_caller]
fn assert_turned_away(answer: &io::Result<Value>) {
    let kinds = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
    ];
    match answer {
        Err(error) if kinds.contains(&error.kind()) => {}
        other => panic!("not turned away: {other:?}"),
    }
}

fn mode_and_owner(path: &Path) -> (u32, u32) {
    let data = std::fs::metadata(path).expect("the socket is there");
    (data.permissions().mode() & 0o777, data.uid())
}

#[test]
fn a_second_user_is_turned_away_over_tcp_and_ipc_unless_allow_users_names_it() {
    if !is_root() {
        return;
    }
    for allowed in [false, true] {
        let users = if allowed { "allow_users = nobody" } else { "" };
        let served = Served::start(&format!(
            "endpoint = tcp://127.0.0.1:0\npubsub_endpoint = ipc://DIR/events.sock\n{users}"
        ));
        let control = served.endpoint("endpoint");
        let events = served.path("events.sock");
        served.endpoint("pubsub_endpoint");
        let stranger = ask_as(NOBODY, &control);
        match allowed {
            true => assert_served(&stranger),
            false => {
                assert_turned_away(&stranger);
                wait::until("the log says who came", || {
                    let log = served.manager.log();
                    match log.contains("endpoint: somebody is turned away") {
                        true => Ok(()),
                        false => Err(log),
                    }
                });
            }
        }
        assert_served(&ask_as(0, &control));
        // The mode keeps strangers out before the manager has to; wider open, the manager does.
        let subscribe = |endpoint: String| {
            let thread = std::thread::spawn(move || {
                become_user(NOBODY).expect("root may be anybody");
                Peer::connect(&endpoint, Kind::Subscriber).map(drop)
            });
            thread.join().expect("it does not panic")
        };
        let endpoint = format!("ipc://{}", events.display());
        assert_eq!(mode_and_owner(&events), (0o600, 0));
        let refused = subscribe(endpoint.clone()).expect_err("nobody may open it");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        std::fs::set_permissions(&events, PermissionsExt::from_mode(0o777)).expect("ours");
        match allowed {
            true => subscribe(endpoint).expect("named users are served"),
            false => assert_turned_away(&subscribe(endpoint).map(|()| Value::Null)),
        }
    }
}

#[test]
fn endpoint_owner_gets_the_socket_files_and_may_start_programs_as_itself_only() {
    if !is_root() {
        return;
    }
    let mut served = Served::start(
        "endpoint = ipc://DIR/control.sock\npubsub_endpoint = ipc://DIR/events.sock\n\
         endpoint_owner = nobody\n",
    );
    let endpoint = served.endpoint("endpoint");
    served.endpoint("pubsub_endpoint");
    for name in ["control.sock", "events.sock"] {
        assert_eq!(
            mode_and_owner(&served.path(name)),
            (0o600, NOBODY),
            "{name}"
        );
    }
    assert_served(&ask_as(NOBODY, &endpoint));
    assert_served(&ask_as(0, &endpoint));
    let refused = ask_as(1, &endpoint).expect_err("user 1 may not open it");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let mut peer = Peer::connect(&endpoint, Kind::Dealer).expect("root may");
    for (uid, wanted) in [("root", "error"), ("nobody", "ok")] {
        let add = json!({"command": "add", "properties": {
            "name": format!("as-{uid}"), "cmd": "/bin/sleep 100000", "options": {"uid": uid}}});
        let answer = peer.ask(&add.to_string()).expect("answered");
        assert_eq!(answer["status"], wanted, "{answer}");
    }
    // Whom the file does not name any more has no way in that an earlier manager left.
    write(&served.scratch, "endpoint = ipc://DIR/control.sock");
    let before = served.manager.log().matches("served at").count();
    served.manager.replace();
    served.manager.wait_ready();
    wait::until_true("the endpoint is open again", || {
        served.manager.log().matches("served at").count() > before
    });
    assert_eq!(mode_and_owner(&served.path("control.sock")), (0o600, 0));
    let refused = ask_as(NOBODY, &endpoint).expect_err("nobody may not open it");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn an_address_that_other_machines_reach_is_served_only_with_allow_remote() {
    let endpoints = "endpoint = tcp://0.0.0.0:0\npubsub_endpoint = ipc://DIR/events.sock\n";
    let served = Served::start(endpoints);
    // Opened after the control endpoint would have been.
    served.endpoint("pubsub_endpoint");
    let log = served.manager.log();
    assert!(!log.contains("] endpoint: "), "{log}");
    let checked = kingpole(&served.scratch, &["check", "circus.ini"]);
    let said = describe(&checked);
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("circus.ini:2"), "{said}");
    assert!(
        said.contains("allow_remote = true if that is meant"),
        "{said}"
    );
    let held = served
        ._kernel
        .client()
        .sockets()
        .expect("the kernel answers");
    let names: Vec<&str> = held.iter().map(|it| it.spec.name.as_str()).collect();
    assert!(!names.contains(&"kingpole.endpoint"), "{names:?}");
    drop(served);

    let served = Served::start(&format!("{endpoints}allow_remote = true\n"));
    let endpoint = served.endpoint("endpoint");
    let port = endpoint.rsplit_once(':').expect("a port").1;
    let local = format!("tcp://127.0.0.1:{port}");
    assert_served(&Peer::connect(&local, Kind::Dealer).and_then(|mut peer| peer.ask(QUESTION)));
    if is_root() {
        assert_served(&ask_as(NOBODY, &local));
    }
    let checked = describe(&kingpole(&served.scratch, &["check", "circus.ini"]));
    assert!(
        checked.contains("whoever reaches it can run any program"),
        "{checked}"
    );
    assert!(served.file.exists());
}

const GROUP: Ipv4Addr = Ipv4Addr::new(237, 219, 251, 97);

/// A port that nobody else gets while this is held, and that a manager can bind beside it.
fn reserve_port() -> (UdpSocket, u16) {
    let kind = (AddressFamily::Inet, SockType::Datagram);
    let socket = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("an option");
    setsockopt(&socket, sockopt::ReusePort, &true).expect("an option");
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any)).expect("a port");
    let socket = UdpSocket::from(socket);
    let port = socket.local_addr().expect("bound").port();
    (socket, port)
}

/// Asks the group by the interface that every machine has: that of the sender's address.
fn discover(port: u16) -> io::Result<Value> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(std::time::Duration::from_millis(500)))?;
    // The content does not matter; Circus's own sends an empty JSON text.
    socket.send_to(b"\"\"", (GROUP, port))?;
    let mut answer = [0; 1024];
    let (length, _) = socket.recv_from(&mut answer)?;
    serde_json::from_slice(&answer[..length]).map_err(io::Error::from)
}

#[test]
fn who_looks_for_a_manager_by_multicast_is_answered_only_where_that_is_set() {
    let (reserved, port) = reserve_port();
    if let Err(error) = reserved.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST) {
        return eprintln!("SKIPPED: this machine has no multicast: {error}");
    }
    let group = format!("multicast_endpoint = udp://{GROUP}:{port}\n");
    let endpoint = "endpoint = tcp://127.0.0.1:0\n";
    let served = Served::start(&format!("{endpoint}{group}"));
    let control = served.endpoint("endpoint");
    let answer = wait::until("it is found", || {
        discover(port).map_err(|error| format!("{error}; {}", served.manager.log()))
    });
    // Where it really is, so that whoever finds it can connect.
    assert_eq!(answer, json!({ "endpoint": control }));
    drop(served);

    let served = Served::start(endpoint);
    served.endpoint("endpoint");
    discover(port).expect_err("nobody asked for that");
}

#[test]
fn changed_endpoints_are_applied_by_reloadconfig_and_what_is_not_is_said() {
    let served = Served::start("endpoint = ipc://DIR/before.sock\npubsub_endpoint = off\n");
    let before = served.endpoint("endpoint");
    let mut asking = Peer::connect(&before, Kind::Dealer).expect("it serves");
    write(
        &served.scratch,
        "endpoint = ipc://DIR/after.sock\npubsub_endpoint = ipc://DIR/events.sock\nloglevel = debug\n",
    );
    let plan = kingpole(&served.scratch, &["reloadconfig", "--dry-run"]);
    let said = describe(&plan);
    assert!(
        said.contains("[circus]: endpoint, pubsub_endpoint changed"),
        "{said}"
    );
    let later = "[circus]: loglevel changed, which takes effect when the manager is started";
    assert!(said.contains(later), "{said}");
    // Asked for over the endpoint that goes away: it is answered before that closes.
    let answer =
        asking.ask(r#"{"command": "reloadconfig", "id": 7, "properties": {"waiting": true}}"#);
    let answer = answer.expect("answered");
    assert_eq!(
        (&answer["status"], &answer["id"]),
        (&json!("ok"), &json!(7)),
        "{answer}"
    );
    let after = format!("ipc://{}", served.path("after.sock").display());
    wait::until("the new endpoint is served", || {
        Peer::connect(&after, Kind::Dealer)?.ask(QUESTION).map(drop)
    });
    wait::until("the events have an endpoint", || {
        let events = format!("ipc://{}", served.path("events.sock").display());
        Peer::connect(&events, Kind::Subscriber).map(drop)
    });
    asking.answer().expect_err("the old connection is closed");
    assert!(!served.path("before.sock").exists(), "the old one is gone");
    // Off means that nobody waits in a socket of former times.
    write(
        &served.scratch,
        "endpoint = off\npubsub_endpoint = ipc://DIR/events.sock\n",
    );
    let done = kingpole(&served.scratch, &["reloadconfig", "--wait"]);
    assert!(done.status.success(), "{}", describe(&done));
    wait::until("it is closed", || {
        match Peer::connect(&after, Kind::Dealer) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

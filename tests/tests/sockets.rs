//! Promise: the kernel holds every kind of socket, and each reaches a child by number, as
//! `LISTEN_FDS`, or as its stdin, with its queue of connections intact while children come and go.

use kingpole_protocol::ErrorCode;
use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::record::Stream;
use kingpole_protocol::request::SignalTarget;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec, StdinSpec};
use kingpole_protocol::status::SocketInfo;
use kingpole_tests::kernel::refused;
use kingpole_tests::output::{Acknowledge, Follower};
use kingpole_tests::puppet::{self, Puppet};
use kingpole_tests::{Kernel, wait};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

fn inet(name: &str) -> SocketSpec {
    SocketSpec {
        name: name.to_owned(),
        address: SocketAddress::Inet {
            host: "127.0.0.1".into(),
            port: 0,
        },
        kind: SocketKind::Stream,
        backlog: 128,
        interface: None,
        reuseport: false,
    }
}

fn unix(name: &str, path: &Path) -> SocketSpec {
    SocketSpec {
        address: SocketAddress::Unix {
            path: puppet::bytes(path),
            umask: None,
        },
        ..inet(name)
    }
}

fn port(info: &SocketInfo) -> u16 {
    match info.spec.address {
        SocketAddress::Inet { port, .. } | SocketAddress::Inet6 { port, .. } => port,
        SocketAddress::Unix { .. } => panic!("no port: {info:?}"),
    }
}

/// Starts a puppet that serves the descriptor that its argument names.
fn server(kernel: &Kernel, client: &mut Client, name: &str, fd: &str) -> Puppet {
    Puppet::spawn(kernel, client, name, |spec| {
        spec.arguments.insert(1, format!("serve {fd}").into());
    })
}

#[track_caller]
fn pid_over(mut connection: impl Read) -> i32 {
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("no pid: {text:?}"))
}

#[test]
fn children_share_a_listening_socket_by_number_and_outlive_each_other() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let info = client.make_socket(inet("web")).unwrap().socket;
    let at = ("127.0.0.1", port(&info));
    let mut servers: Vec<Puppet> = (1..=3)
        .map(|n| {
            server(
                &kernel,
                &mut client,
                &format!("web {n}"),
                "$(socket.web.fileno)",
            )
        })
        .collect();
    let pids: BTreeSet<i32> = servers.iter().map(|p| p.info.pid).collect();
    for _ in 0..50 {
        let pid = pid_over(TcpStream::connect(at).unwrap());
        assert!(pids.contains(&pid), "{pid} is none of {pids:?}");
    }
    let shown = servers[0].info.arguments[1].to_text().into_owned();
    assert_eq!(
        shown,
        format!("serve {}", info.fileno.unwrap()),
        "listings tell the same number"
    );

    for server in servers.drain(..) {
        client
            .signal(server.process(), libc::SIGKILL, SignalTarget::Process)
            .unwrap();
    }
    wait::until("all have ended", || {
        let all = client.processes().unwrap();
        if all.iter().all(|p| p.end.is_some()) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
    // Nobody serves, and still nobody is turned away: the connection waits in the kernel's socket.
    let waiting = TcpStream::connect(at).unwrap();
    let next = server(&kernel, &mut client, "web 4", "$(socket.web.fileno)");
    assert_eq!(pid_over(waiting), next.info.pid);
}

#[test]
fn only_the_sockets_that_are_named_are_passed() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let a = client.make_socket(inet("a")).unwrap().socket;
    let b = client.make_socket(inet("b")).unwrap().socket;
    client.make_socket(inet("c")).unwrap();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "two", |spec| {
        let words =
            "text err $(socket.a.fileno)-$(socket.b.fileno)-$(socket.a.port)-$(socket.b.port)";
        spec.arguments.insert(1, words.into());
    });
    let report = puppet.report();
    let descriptors = report["descriptors"].as_object().unwrap();
    let (a_fd, b_fd) = (a.fileno.unwrap(), b.fileno.unwrap());
    let expected: BTreeSet<String> = ["0", "1", "2"]
        .map(str::to_owned)
        .into_iter()
        .chain([a_fd, b_fd].map(|n| n.to_string()))
        .collect();
    assert_eq!(
        descriptors.keys().cloned().collect::<BTreeSet<_>>(),
        expected
    );
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Each);
    let line = format!("{a_fd}-{b_fd}-{}-{}\n", port(&a), port(&b));
    follower.read_until("its words", |f| f.of(Stream::Stderr) == line.as_bytes());
}

#[test]
fn listen_fds_begin_at_three_in_order_and_have_names() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let first = client.make_socket(inet("first")).unwrap().socket;
    let second = client.make_socket(inet("second")).unwrap().socket;
    let mut puppet = Puppet::spawn(&kernel, &mut client, "activated", |spec| {
        spec.listen = vec!["second".into(), "first".into()];
        spec.environment = vec![("OTHER".into(), "1".into())];
    });
    let report = puppet.report();
    assert_eq!(
        report["environment"],
        json!({
            "OTHER": "1",
            "LISTEN_FDS": "2",
            "LISTEN_PID": puppet.info.pid.to_string(),
            "LISTEN_FDNAMES": "second:first",
        })
    );
    let numbers: Vec<&String> = report["descriptors"].as_object().unwrap().keys().collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4"]);
    puppet.ask("serve 3");
    let pid = pid_over(TcpStream::connect(("127.0.0.1", port(&second))).unwrap());
    assert_eq!(pid, puppet.info.pid);
    puppet.ask("serve 4");
    let pid = pid_over(TcpStream::connect(("127.0.0.1", port(&first))).unwrap());
    assert_eq!(pid, puppet.info.pid);
}

#[test]
fn a_socket_can_be_stdin() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let info = client.make_socket(inet("fastcgi")).unwrap().socket;
    let mut puppet = Puppet::spawn(&kernel, &mut client, "fastcgi", |spec| {
        spec.stdin = StdinSpec::Socket("fastcgi".into());
        spec.arguments.insert(1, "serve 0".into());
    });
    let pid = pid_over(TcpStream::connect(("127.0.0.1", port(&info))).unwrap());
    assert_eq!(pid, puppet.info.pid);
    let numbers = puppet.report()["descriptors"].as_object().unwrap().len();
    assert_eq!(numbers, 3);
}

#[test]
fn unix_stream_sockets_have_their_mode_and_replace_what_was_left() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let path = kernel.scratch().join("stream.sock");
    std::fs::write(&path, "left by somebody").unwrap();
    let mut spec = unix("stream", &path);
    spec.address = SocketAddress::Unix {
        path: puppet::bytes(&path),
        umask: Some(0o117),
    };
    client.make_socket(spec).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let server = server(&kernel, &mut client, "server", "$(socket.stream.fileno)");
    assert_eq!(
        pid_over(UnixStream::connect(&path).unwrap()),
        server.info.pid
    );

    client.close_socket("stream").unwrap();
    assert!(!path.exists(), "the path goes with the socket");
    assert_eq!(client.sockets().unwrap(), []);
    let error = refused(client.close_socket("stream"));
    assert_eq!(error.code, ErrorCode::NOT_FOUND, "{error:?}");
}

#[test]
fn a_child_keeps_a_socket_that_the_kernel_has_closed() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let info = client.make_socket(inet("kept")).unwrap().socket;
    let server = server(&kernel, &mut client, "server", "$(socket.kept.fileno)");
    client.close_socket("kept").unwrap();
    let pid = pid_over(TcpStream::connect(("127.0.0.1", port(&info))).unwrap());
    assert_eq!(pid, server.info.pid);
}

#[test]
fn datagram_sockets_reach_a_child() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let udp = SocketSpec {
        kind: SocketKind::Datagram,
        ..inet("udp")
    };
    let info = client.make_socket(udp).unwrap().socket;
    let udp_server = server(&kernel, &mut client, "udp", "$(socket.udp.fileno)");
    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    asker.send_to(b"?", ("127.0.0.1", port(&info))).unwrap();
    let mut buffer = [0; 32];
    let count = asker.recv(&mut buffer).unwrap();
    assert_eq!(pid_over(&buffer[..count]), udp_server.info.pid);

    let path = kernel.scratch().join("dgram.sock");
    let dgram = SocketSpec {
        kind: SocketKind::Datagram,
        ..unix("dgram", &path)
    };
    client.make_socket(dgram).unwrap();
    let dgram_server = server(&kernel, &mut client, "dgram", "$(socket.dgram.fileno)");
    let asker = UnixDatagram::bind(kernel.scratch().join("asker.sock")).unwrap();
    asker.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    asker.send_to(b"?", &path).unwrap();
    let count = asker.recv(&mut buffer).unwrap();
    assert_eq!(pid_over(&buffer[..count]), dgram_server.info.pid);
}

#[test]
fn sequenced_packet_sockets_reach_a_child() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let path = kernel.scratch().join("seq.sock");
    let spec = SocketSpec {
        kind: SocketKind::SeqPacket,
        ..unix("seq", &path)
    };
    client.make_socket(spec).unwrap();
    let server = server(&kernel, &mut client, "seq", "$(socket.seq.fileno)");
    let asker = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    connect(asker.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let mut buffer = [0; 32];
    let count = recv(asker.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    assert_eq!(pid_over(&buffer[..count]), server.info.pid);
    // The server may have gone on to the next connection.
    let _ = send(asker.as_raw_fd(), b"bye", MsgFlags::MSG_NOSIGNAL);
}

#[test]
fn inet6_works_where_the_machine_has_it() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let address = SocketAddress::Inet6 {
        host: "::1".into(),
        port: 0,
    };
    let info = client
        .make_socket(SocketSpec {
            address,
            ..inet("six")
        })
        .unwrap()
        .socket;
    let server = server(&kernel, &mut client, "six", "$(socket.six.fileno)");
    let pid = pid_over(TcpStream::connect(("::1", port(&info))).unwrap());
    assert_eq!(pid, server.info.pid);
}

#[test]
fn with_reuseport_every_child_gets_a_socket_of_its_own() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    // A port that is free now, of an address that nobody else uses; the kernel keeps none open that
    // would tell us one.
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = format!("127.{high}.{low}.9");
    let free = TcpListener::bind((host.as_str(), 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let spec = SocketSpec {
        address: SocketAddress::Inet {
            host: host.clone(),
            port: free,
        },
        reuseport: true,
        ..inet("shared")
    };
    // A neighbour that is just being started may have a copy of the listener until its exec.
    let info = wait::until("the socket", || client.make_socket(spec.clone())).socket;
    assert_eq!(info.fileno, None);
    let mut one = server(&kernel, &mut client, "one", "$(socket.shared.fileno)");
    let mut two = server(&kernel, &mut client, "two", "$(socket.shared.fileno)");
    let sockets = |puppet: &mut Puppet| -> Vec<String> {
        let report = puppet.report();
        let all = report["descriptors"].as_object().unwrap().values();
        all.filter_map(|v| v.as_str())
            .filter(|t| t.starts_with("socket:"))
            .map(str::to_owned)
            .collect()
    };
    let (one_has, two_has) = (sockets(&mut one), sockets(&mut two));
    assert_eq!((one_has.len(), two_has.len()), (1, 1));
    assert_ne!(one_has, two_has, "each has its own");
    let mut seen = BTreeSet::new();
    wait::until("Linux has chosen each of them", || {
        let connection = TcpStream::connect((host.as_str(), free)).map_err(|e| e.to_string())?;
        seen.insert(pid_over(connection));
        if seen.len() == 2 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
    assert_eq!(seen, BTreeSet::from([one.info.pid, two.info.pid]));
}

#[test]
fn the_same_socket_again_is_found_and_a_different_one_refused() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let first = client.make_socket(inet("web")).unwrap();
    assert!(!first.existed);
    let again = client.make_socket(inet("web")).unwrap();
    assert!(again.existed);
    assert_eq!(again.socket, first.socket, "port 0 equals any port");
    let other = SocketSpec {
        backlog: 7,
        ..inet("web")
    };
    let error = refused(client.make_socket(other));
    assert_eq!(error.code, ErrorCode::ALREADY_EXISTS, "{error:?}");
    assert_eq!(client.sockets().unwrap(), [first.socket]);
}

#[test]
fn a_socket_that_cannot_be_made_says_why_and_leaves_nothing() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let before = client.status().unwrap().descriptors;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let at = |host: &str, port| SocketSpec {
        address: SocketAddress::Inet {
            host: host.into(),
            port,
        },
        ..inet("n")
    };
    let failed = ErrorCode::SOCKET_FAILED;
    let cases = [
        ("port in use", at("127.0.0.1", taken_port), libc::EADDRINUSE),
        ("not our address", at("192.0.2.1", 0), libc::EADDRNOTAVAIL),
        ("a host name", at("example.invalid", 0), 0),
        (
            "no such interface",
            SocketSpec {
                interface: Some("nowhere0".into()),
                ..inet("n")
            },
            libc::ENODEV,
        ),
        (
            "no such directory",
            unix("n", Path::new("/nowhere/at/all.sock")),
            libc::ENOENT,
        ),
        ("a relative path", unix("n", Path::new("here.sock")), 0),
        (
            "inet seqpacket",
            SocketSpec {
                kind: SocketKind::SeqPacket,
                ..inet("n")
            },
            0,
        ),
        ("a name with a newline", inet("a\nb"), 0),
    ];
    for (what, spec, errno) in cases {
        let error = refused(client.make_socket(spec));
        assert_eq!(error.errno, errno, "{what}: {error:?}");
        // What Linux was never asked may be told as either.
        let invalid = errno == 0 && error.code == ErrorCode::INVALID;
        assert!(error.code == failed || invalid, "{what}: {error:?}");
        assert!(!error.message.is_empty(), "{what}");
    }
    let error = refused(client.make_socket(at("127.0.0.1", taken_port)));
    assert!(
        error.message.contains(&format!("127.0.0.1:{taken_port}")),
        "{error:?}"
    );
    assert_eq!(client.sockets().unwrap(), []);
    assert_eq!(client.status().unwrap().descriptors, before);
}

#[test]
fn a_socket_can_be_bound_to_an_interface() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        eprintln!("skipped: binding to an interface needs root");
        return;
    }
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let spec = SocketSpec {
        interface: Some("lo".into()),
        ..inet("lo")
    };
    let info = client.make_socket(spec).unwrap().socket;
    assert_eq!(info.spec.interface.as_deref(), Some("lo"));
    let server = server(&kernel, &mut client, "lo", "$(socket.lo.fileno)");
    let connection = TcpStream::connect(("127.0.0.1", port(&info))).unwrap();
    assert_eq!(pid_over(connection), server.info.pid);
}

#[test]
fn a_client_accepts_beside_the_kernel_and_what_waits_outlives_both() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let path = kernel.scratch().join("held.sock");
    client.make_socket(unix("held", &path)).unwrap();
    let fetch = |client: &mut Client| {
        let (passed, descriptor) = client.fetch_socket("held").unwrap();
        assert!(passed.reachable, "{passed:?}");
        std::os::unix::net::UnixListener::from(descriptor)
    };
    let listener = fetch(&mut client);
    let flags = nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, nix::fcntl::FdFlag::FD_CLOEXEC.bits());
    let connection = UnixStream::connect(&path).unwrap();
    drop(listener.accept().unwrap());
    drop((connection, listener));
    let mut waiting = UnixStream::connect(&path).unwrap();
    let before = kernel.serving();
    before.signal(libc::SIGKILL).unwrap();
    let mut client = wait::until("the next kernel serves", || {
        let client = kernel
            .try_client("kingpole-tests/0")
            .map_err(|e| e.to_string())?;
        match client.welcome().pid == before.pid() {
            true => Err("still the old one".to_owned()),
            false => Ok(client),
        }
    });
    let (mut accepted, _) = fetch(&mut client).accept().unwrap();
    std::io::Write::write_all(&mut accepted, b"served").unwrap();
    drop(accepted);
    let mut text = String::new();
    waiting.read_to_string(&mut text).unwrap();
    assert_eq!(text, "served");
    std::fs::remove_file(&path).unwrap();
    let (passed, _) = client.fetch_socket("held").unwrap();
    assert!(!passed.reachable, "its file is gone: {passed:?}");
}

#[test]
fn a_descriptor_that_cannot_travel_is_refused_with_what_to_do() {
    let scratch = std::rc::Rc::new(kingpole_tests::Scratch::new());
    let kernel = Kernel::start_in(scratch, &["--listen", "tcp:127.0.0.1:0"]);
    let mut client = kernel.client();
    client.make_socket(inet("held")).unwrap();
    let mut shared = inet("shared");
    shared.reuseport = true;
    client.make_socket(shared).unwrap();
    let error = refused(client.fetch_socket("shared"));
    assert_eq!(error.code, ErrorCode::INVALID, "{error}");
    let error = refused(client.fetch_socket("nobody"));
    assert_eq!(error.code, ErrorCode::NOT_FOUND, "{error}");
    assert!(client.passes_descriptors());
    let log = kernel.log();
    let address = log
        .split_whitespace()
        .find_map(|word| word.trim_matches([',', ';']).strip_prefix("tcp:"))
        .unwrap_or_else(|| panic!("no TCP address in {log}"));
    let address = kingpole_protocol::places::Address::Tcp(address.parse().unwrap());
    let mut far = Client::connect(&address, "kingpole-tests/0", Some(wait::PATIENCE)).unwrap();
    assert!(!far.passes_descriptors());
    let error = refused(far.fetch_socket("held"));
    assert_eq!(error.code, ErrorCode::UNSUPPORTED, "{error}");
    assert!(
        error.message.contains("listen without the kernel"),
        "{error}"
    );
    far.status().unwrap();
}

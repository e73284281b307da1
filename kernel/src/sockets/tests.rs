//! Real sockets on loopback and in temporary directories.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};

use super::*;

fn inet(host: Option<&str>, port: u16) -> SocketPlan {
    SocketPlan {
        kind: SocketKind::Stream,
        backlog: 5,
        place: SocketPlace::Inet {
            family: IpFamily::Inet,
            host: host.map(str::to_owned),
            port,
            interface: None,
            reuse_port: ReusePort::No,
        },
    }
}

fn unix(path: &Path, kind: SocketKind) -> SocketPlan {
    let place = SocketPlace::Unix {
        path: path.to_owned(),
        umask: None,
    };
    SocketPlan {
        kind,
        backlog: 5,
        place,
    }
}

fn address(socket: &BoundSocket) -> SocketAddr {
    match &socket.at {
        BoundAt::Inet(address) => *address,
        BoundAt::Unix(_) => panic!("a unix socket"),
    }
}

fn file(socket: &BoundSocket) -> UnixFile {
    match &socket.at {
        BoundAt::Unix(file) => file.clone(),
        BoundAt::Inet(_) => panic!("an inet socket"),
    }
}

#[test]
fn a_tcp_socket_listens_on_the_port_that_linux_picked() {
    let socket = inet(None, 0).make().unwrap();
    let address = address(&socket);
    assert!(address.ip() == Ipv4Addr::LOCALHOST && address.port() != 0);
    let mut client = TcpStream::connect(address).unwrap();
    let listener = TcpListener::from(socket.fd);
    let mut server = listener.accept().unwrap().0;
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn hosts_are_numeric_or_localhost() {
    let mut plan = inet(Some("localhost"), 0);
    assert_eq!(address(&plan.make().unwrap()).ip(), Ipv4Addr::LOCALHOST);
    if let SocketPlace::Inet { family, .. } = &mut plan.place {
        *family = IpFamily::Inet6;
    }
    match plan.make() {
        Ok(socket) => assert_eq!(address(&socket).ip(), Ipv6Addr::LOCALHOST),
        Err(error) => {
            assert!(!Path::new("/proc/net/if_inet6").exists(), "{error}");
            eprintln!("SKIPPED the part that needs IPv6: {error}");
        }
    }
    let error = inet(Some("example.org"), 0).make().unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"example.org\" is not a numeric inet address (or \"localhost\")"
    );
}

#[test]
fn a_port_in_use_is_named_with_its_cause() {
    let first = inet(None, 0).make().unwrap();
    let port = address(&first).port();
    let error = inet(None, port).make().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Bind failed on 127.0.0.1:{port}: Address already in use")
    );
}

#[test]
fn reuseport_is_set_before_binding_so_two_sockets_share_a_port() {
    let mut plan = inet(None, 0);
    let set = |plan: &mut SocketPlan, to| {
        if let SocketPlace::Inet {
            port, reuse_port, ..
        } = &mut plan.place
        {
            (*port, *reuse_port) = (to, ReusePort::Yes);
        }
    };
    set(&mut plan, 0);
    let first = plan.make().unwrap();
    let port = address(&first).port();
    set(&mut plan, port);
    let second = plan.make().unwrap();
    assert_eq!(address(&second).port(), port);
    assert!(
        inet(None, port).make().is_err(),
        "who does not ask for sharing does not get it"
    );
}

#[test]
fn datagram_sockets_do_not_listen() {
    let mut plan = inet(None, 0);
    plan.kind = SocketKind::Datagram;
    let socket = plan.make().unwrap();
    let address = address(&socket);
    let server = UdpSocket::from(socket.fd);
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(b"one", address)
        .unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap(), 3);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dgram");
    let socket = unix(&path, SocketKind::Datagram).make().unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"four", &path).unwrap();
    assert_eq!(UnixDatagram::from(socket.fd).recv(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn a_seqpacket_socket_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seq");
    let server = unix(&path, SocketKind::SeqPacket).make().unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    nix::sys::socket::connect(client.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let accepted = nix::sys::socket::accept(server.fd.as_raw_fd()).unwrap();
    nix::unistd::close(accepted).unwrap();
    let mut plan = inet(None, 0);
    plan.kind = SocketKind::SeqPacket;
    assert!(
        matches!(plan.make(), Err(SocketError::Make { .. })),
        "not on inet"
    );
}

#[test]
fn a_unix_socket_replaces_what_is_there_and_removes_only_its_own_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    fs::write(&path, "stale").unwrap();
    let socket = unix(&path, SocketKind::Stream).make().unwrap();
    UnixStream::connect(&path).unwrap();
    let old = file(&socket);
    let newer = unix(&path, SocketKind::Stream).make().unwrap();
    unlink_if_ours(&old).unwrap();
    UnixStream::connect(&path).expect("the newer socket's file is not ours to remove");
    unlink_if_ours(&file(&newer)).unwrap();
    assert!(!path.exists());
    unlink_if_ours(&file(&newer)).unwrap();
}

#[test]
fn bad_unix_paths_are_refused_with_the_reason() {
    let refused = |path: &Path| {
        unix(path, SocketKind::Stream)
            .make()
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(Path::new("x.sock")),
        "Absolute path required for Unix sockets"
    );
    let gone = refused(Path::new("/no/such/directory/x.sock"));
    assert_eq!(
        gone,
        "Bind failed on /no/such/directory/x.sock: No such file or directory"
    );
    let directory = tempfile::tempdir().unwrap();
    assert!(refused(directory.path()).contains("Is a directory"));
    assert!(refused(Path::new(&format!("/{}", "x".repeat(200)))).contains("File name too long"));
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let mut plan = inet(None, 0);
    if let SocketPlace::Inet { interface, .. } = &mut plan.place {
        *interface = Some("nosuch0".to_owned());
    }
    let error = plan.make().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot bind to the interface nosuch0: "),
        "{error}"
    );
    if let SocketPlace::Inet { interface, .. } = &mut plan.place {
        *interface = Some("lo".to_owned());
    }
    match plan.make() {
        Ok(socket) => assert_eq!(address(&socket).ip(), Ipv4Addr::UNSPECIFIED),
        Err(SocketError::Interface {
            cause: Errno::EPERM,
            ..
        }) => {
            eprintln!("SKIPPED the part that needs the right to bind to an interface");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn kinds_have_papas_names_and_the_useless_ones_are_refused() {
    assert_eq!(SocketKind::from_name("dgram"), Ok(SocketKind::Datagram));
    for name in ["raw", "rdm"] {
        let reason = SocketKind::from_name(name).unwrap_err();
        assert!(
            reason.contains(name) && reason.contains("not supported"),
            "{reason}"
        );
    }
    assert!(SocketKind::from_name("tcp").is_err());
}

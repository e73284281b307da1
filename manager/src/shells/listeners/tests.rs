//! Listening without a kernel; with one it takes real processes (`tests/tests/held_sockets.rs`).

use super::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::engine::Level;
use crate::shells::log::Decoration;

fn listeners(dir: &Path) -> Listeners {
    let log = Log::stderr(Level::Error, Decoration::Full);
    Listeners::new(&dir.join("kernel.sock"), log)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn without_a_kernel_the_manager_listens_and_cleans_up_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    drop(UnixListener::bind(&path).unwrap());
    let listeners = listeners(dir.path());
    let address = Address::Unix(path.clone());
    let mut held = listeners.open("x", &address).unwrap();
    assert_eq!(held.address(), &address);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let connected = UnixStream::connect(&path).unwrap();
    let accepted = runtime().block_on(held.accept()).unwrap();
    assert!(matches!(accepted, Connection::Unix(_)));
    drop((connected, held));
    listeners.leave();
    assert!(!path.exists());
}

#[test]
fn what_is_not_a_dead_managers_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let listeners = listeners(dir.path());
    let path = dir.path().join("x.sock");
    let address = Address::Unix(path.clone());
    fs::write(&path, "mine").unwrap();
    let error = listeners.open("x", &address).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let error = listeners.open("x", &address).unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    drop(UnixStream::connect(&path).unwrap());
    other.accept().unwrap();
}

#[test]
fn port_zero_becomes_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let address = "tcp:127.0.0.1:0".parse().unwrap();
    let mut held = listeners(dir.path()).open("x", &address).unwrap();
    let Address::Tcp(at) = held.address().clone() else {
        panic!("{held:?}")
    };
    let connected = std::net::TcpStream::connect(at).unwrap();
    let accepted = runtime().block_on(held.accept()).unwrap();
    assert!(matches!(accepted, Connection::Tcp(_)));
    drop(connected);
}

#[test]
fn who_waits_in_a_replaced_listener_is_served_before_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    let listen = || {
        let _ = fs::remove_file(&path);
        UnixListener::bind(&path).unwrap()
    };
    let connect = |word: &str| {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(word.as_bytes()).unwrap();
        client
    };
    let (successors, incoming) = mpsc::unbounded_channel();
    let old = StdListener::Unix(listen());
    let mut held = HeldListener::new(old, Address::Unix(path.clone()), incoming);
    let mut clients = vec![connect("1"), connect("2")];
    successors.send(StdListener::Unix(listen())).unwrap();
    clients.push(connect("3"));
    let mut seen = String::new();
    runtime().block_on(async {
        use tokio::io::AsyncReadExt;
        for _ in 0..3 {
            let Connection::Unix(mut stream) = held.accept().await.unwrap() else {
                panic!("TCP")
            };
            seen.push(char::from(stream.read_u8().await.unwrap()));
        }
    });
    assert_eq!(seen, "123");
}

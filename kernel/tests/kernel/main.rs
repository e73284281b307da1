//! The kernel from outside, over a real socket: what a manager relies on.

mod children;
mod clients;
mod harness;
mod life;
mod output;

use harness::until;
use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::error::ErrorReply;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};
use kingpole_protocol::status::EndStatus;

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorReply {
    match result {
        Err(ClientError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn end_of(client: &mut Client, process: ProcessId) -> EndStatus {
    until("end of a process", || {
        let all = client.processes().unwrap();
        let found = all.iter().find(|info| info.process == process).unwrap();
        found.end.map(|end| end.status).ok_or(format!("{found:?}"))
    })
}

fn inet(name: &str) -> SocketSpec {
    SocketSpec {
        name: name.into(),
        address: SocketAddress::Inet {
            host: "127.0.0.1".into(),
            port: 0,
        },
        kind: SocketKind::Stream,
        backlog: 5,
        interface: None,
        reuseport: false,
    }
}

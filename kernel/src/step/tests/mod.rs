//! The decision core against a simulated world, by subject.

mod followers;
mod processes;
mod random;
mod sessions;
mod text;

use super::simulation::{World, end, spec, stream};
use crate::input::{Input, Termination};
use crate::memory::cursor::Sequence;
use crate::state::{Phase, SessionId};
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::Event;
use kingpole_protocol::hello::Hello;
use kingpole_protocol::ids::{Fence, ProcessId};
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::*;
use kingpole_protocol::spec::{SocketAddress, SocketSpec};
use std::collections::BTreeMap;

fn error_of(reply: Option<Reply>) -> ErrorCode {
    match reply {
        Some(Reply::ErrorReply(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

//! Commands of the protocol and whole messages, as bytes.

use super::frame::{FrameKind, write_frame};

/// The parts of a message.
pub type Parts = Vec<Vec<u8>>;

/// Appends a message.
pub fn write_message<Part: AsRef<[u8]>>(parts: &[Part], to: &mut Vec<u8>) {
    if let Some((last, others)) = parts.split_last() {
        for part in others {
            write_frame(FrameKind::Part, part.as_ref(), to);
        }
        write_frame(FrameKind::Last, last.as_ref(), to);
    }
}

/// Appends a command: a name with its length, then data.
pub(super) fn write_command(name: &str, data: &[u8], to: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(1 + name.len() + data.len());
    body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    write_frame(FrameKind::Command, &body, to);
}

/// Appends a property of READY.
pub(super) fn write_property(name: &str, value: &[u8], to: &mut Vec<u8>) {
    to.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
    to.extend_from_slice(value);
}

/// Name and data of a command.
pub(super) fn split_command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// What READY says about a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) socket_type: String,
    pub(super) identity: Vec<u8>,
}

/// Reads the properties of READY; nothing when they are malformed.
pub(super) fn read_properties(mut data: &[u8]) -> Option<Properties> {
    let mut properties = Properties::default();
    while let Some((&length, rest)) = data.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(length))?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        data = rest;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            properties.socket_type = String::from_utf8_lossy(value).into_owned();
        } else if name.eq_ignore_ascii_case(b"Identity") {
            properties.identity = value.to_vec();
        }
    }
    Some(properties)
}

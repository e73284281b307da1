//! Whatever bytes a ZeroMQ peer sends, in whatever pieces: the connection gives messages within their
//! bounds or says that it is over. The first byte says which socket it is and how the rest is cut.
#![no_main]

use kingpole_manager::shells::zmtp::limits::{PARTS_MAX, REQUEST_BYTES_MAX};
use kingpole_manager::shells::zmtp::{Connection, Event, Role};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else {
        return;
    };
    let role = if how & 1 == 0 {
        Role::Router
    } else {
        Role::Publisher
    };
    let mut connection = Connection::new(role);
    let before = connection.output.len();
    for piece in bytes.chunks(usize::from(how >> 1) + 1) {
        if connection.handle_bytes(piece).is_err() {
            break;
        }
        while let Ok(Some(event)) = connection.poll_event() {
            if let Event::Message(parts) = event {
                assert!(!parts.is_empty() && parts.len() <= PARTS_MAX);
                let length: usize = parts.iter().map(Vec::len).sum();
                assert!(length <= REQUEST_BYTES_MAX);
            }
        }
    }
    // Our greeting and READY, and at most a PONG for each of somebody's PINGs.
    assert!(connection.output.len() <= before + 128 + bytes.len() * 2);
});

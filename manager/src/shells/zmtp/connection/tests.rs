use super::*;
use crate::shells::zmtp::message::write_message;
use proptest::prelude::*;

/// What a libzmq of version 3.`minor` sends until its handshake is over.
fn peer(socket_type: &str, identity: &[u8], minor: u8) -> Vec<u8> {
    let mut bytes = greeting::OPENING.to_vec();
    let mut rest = greeting::rest_for_version_3();
    rest[0] = minor;
    bytes.extend(rest);
    let mut data = Vec::new();
    write_property("Socket-Type", socket_type.as_bytes(), &mut data);
    write_property("Identity", identity, &mut data);
    write_command("READY", &data, &mut bytes);
    bytes
}

/// The same of ZMTP 2.0.
fn old_peer(number: u8, identity: &[u8]) -> Vec<u8> {
    let mut bytes = greeting::OPENING.to_vec();
    bytes[10] = 1;
    bytes.push(number);
    write_frame(FrameKind::Last, identity, &mut bytes);
    bytes
}

fn events(connection: &mut Connection) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = connection.poll_event().unwrap() {
        events.push(event);
    }
    events
}

fn opened(role: Role, socket_type: &str) -> Connection {
    let mut connection = Connection::new(role);
    connection.handle_bytes(&peer(socket_type, b"", 0)).unwrap();
    let ready = Event::Ready { identity: vec![] };
    assert_eq!(events(&mut connection), [ready]);
    connection.output.clear();
    connection
}

#[test]
fn the_handshake_works_byte_by_byte_with_every_version() {
    for (role, bytes) in [
        (Role::Router, peer("DEALER", b"me", 0)),
        (Role::Router, peer("REQ", b"me", 1)),
        (Role::Publisher, peer("SUB", b"me", 1)),
        (Role::Router, old_peer(5, b"me")),
        (Role::Publisher, old_peer(2, b"me")),
    ] {
        let mut connection = Connection::new(role);
        assert_eq!(connection.output, greeting::OPENING);
        let mut seen = Vec::new();
        for byte in &bytes {
            connection.handle_bytes(&[*byte]).unwrap();
            seen.extend(events(&mut connection));
        }
        let identity = b"me".to_vec();
        assert_eq!(seen, [Event::Ready { identity }]);
        assert!(connection.is_open());
    }
}

#[test]
fn a_peer_of_version_2_is_told_our_type_and_an_empty_identity() {
    let mut connection = Connection::new(Role::Router);
    connection.handle_bytes(&old_peer(3, b"")).unwrap();
    assert_eq!(connection.output[greeting::OPENING.len()..], [6, 0, 0]);
}

#[test]
fn sockets_that_do_not_fit_are_told_so() {
    for (role, theirs) in [
        (Role::Router, "SUB"),
        (Role::Router, "PUSH"),
        (Role::Publisher, "DEALER"),
        (Role::Publisher, "nonsense nonsense nonsense"),
    ] {
        let mut connection = Connection::new(role);
        connection.handle_bytes(&peer(theirs, b"", 0)).unwrap();
        let violation = connection.poll_event().unwrap_err();
        assert!(matches!(violation, Violation::SocketType { .. }));
        assert!(connection.output.ends_with(b"\x13Invalid socket type"));
        assert_eq!(connection.poll_event(), Ok(None));
    }
    let mut connection = Connection::new(Role::Router);
    assert!(connection.handle_bytes(&old_peer(8, b"")).is_err());
}

#[test]
fn parts_become_messages_and_commands_may_stand_between_them() {
    let mut connection = opened(Role::Router, "DEALER");
    let mut bytes = Vec::new();
    write_frame(FrameKind::Part, b"a", &mut bytes);
    write_command("PING", b"\0\x01context", &mut bytes);
    write_frame(FrameKind::Last, b"b", &mut bytes);
    write_command("FUTURE", b"", &mut bytes);
    write_message(&[b"c"], &mut bytes);
    connection.handle_bytes(&bytes).unwrap();
    let messages = [
        Event::Message(vec![b"a".to_vec(), b"b".to_vec()]),
        Event::Message(vec![b"c".to_vec()]),
    ];
    assert_eq!(events(&mut connection), messages);
    assert_eq!(connection.output, b"\x04\x0c\x04PONGcontext");
}

#[test]
fn subscriptions_are_understood_in_both_forms() {
    let mut connection = opened(Role::Publisher, "SUB");
    let mut bytes = Vec::new();
    write_message(&[b"\x01stat."], &mut bytes);
    write_command("SUBSCRIBE", b"watcher.", &mut bytes);
    write_message(&[b"\0stat."], &mut bytes);
    write_command("CANCEL", b"watcher.", &mut bytes);
    write_message(&[b"\x07what"], &mut bytes);
    write_message(&[b"\x01two".as_slice(), b"parts"], &mut bytes);
    write_message(&[b""], &mut bytes);
    connection.handle_bytes(&bytes).unwrap();
    let wanted = [
        Event::Subscribe(b"stat.".to_vec()),
        Event::Subscribe(b"watcher.".to_vec()),
        Event::Cancel(b"stat.".to_vec()),
        Event::Cancel(b"watcher.".to_vec()),
    ];
    assert_eq!(events(&mut connection), wanted);
}

#[test]
fn bounds_hold() {
    let mut connection = opened(Role::Router, "DEALER");
    let mut bytes = Vec::new();
    write_message(&[b"x"; PARTS_MAX + 1], &mut bytes);
    connection.handle_bytes(&bytes).unwrap();
    assert_eq!(connection.poll_event(), Err(Violation::MessageTooLong));
    assert_eq!(connection.poll_event(), Ok(None));

    let mut connection = opened(Role::Router, "DEALER");
    let half = vec![0; REQUEST_BYTES_MAX / 2 + 1];
    let mut bytes = Vec::new();
    write_message(&[&half, &half], &mut bytes);
    connection.handle_bytes(&bytes).unwrap();
    assert_eq!(connection.poll_event(), Err(Violation::MessageTooLong));

    let mut connection = opened(Role::Publisher, "SUB");
    let mut bytes = Vec::new();
    write_message(&[vec![1; SUBSCRIBER_FRAME_BYTES_MAX + 1]], &mut bytes);
    connection.handle_bytes(&bytes).unwrap();
    assert!(matches!(connection.poll_event(), Err(Violation::Frame(_))));

    let mut connection = opened(Role::Router, "DEALER");
    let mut bytes = Vec::new();
    write_command("FUTURE", &vec![0; COMMAND_BYTES_MAX], &mut bytes);
    connection.handle_bytes(&bytes).unwrap();
    assert!(matches!(connection.poll_event(), Err(Violation::Frame(_))));
}

#[test]
fn what_is_out_of_place_ends_the_connection() {
    let mut message_first = peer("DEALER", b"", 0);
    message_first.truncate(64);
    write_message(&[b"early"], &mut message_first);
    let mut twice = peer("DEALER", b"", 0);
    write_command("READY", b"", &mut twice);
    let mut error = peer("DEALER", b"", 0);
    write_command("ERROR", b"\x02no", &mut error);
    let mut nameless = peer("DEALER", b"", 0);
    write_frame(FrameKind::Command, b"\x09short", &mut nameless);
    let mut old = old_peer(5, b"");
    write_command("PING", b"\0\0", &mut old);
    let long_name = peer("DEALER", &[7; 256], 0);
    for bytes in [message_first, twice, error, nameless, old, long_name] {
        let mut connection = Connection::new(Role::Router);
        connection.handle_bytes(&bytes).unwrap();
        let outcome = loop {
            match connection.poll_event() {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(
            matches!(outcome, Err(Violation::OutOfPlace(_))),
            "{outcome:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_after_a_handshake_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        cut in 1_usize..200,
        publisher in any::<bool>(),
    ) {
        let (role, theirs) = if publisher {
            (Role::Publisher, "SUB")
        } else {
            (Role::Router, "DEALER")
        };
        let mut connection = opened(role, theirs);
        'all: for piece in bytes.chunks(cut) {
            if connection.handle_bytes(piece).is_err() {
                break;
            }
            loop {
                match connection.poll_event() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
        }
        // A PONG for each PING of two bytes and a name is the most that can be provoked.
        prop_assert!(connection.output.len() <= 64 + bytes.len() * 4);
    }

    #[test]
    fn any_bytes_instead_of_a_greeting_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut connection = Connection::new(Role::Router);
        if connection.handle_bytes(&bytes).is_ok() {
            while let Ok(Some(_)) = connection.poll_event() {}
        }
    }
}

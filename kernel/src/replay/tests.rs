use super::*;
use crate::entry::{self, SocketClosed, ValuesChanged};
use crate::memory::StateMemory;
use crate::memory::journal::Purpose;
use kingpole_protocol::ids::Fence;
use kingpole_protocol::request::ValueChange;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};

fn value(key: &str, value: Option<&str>) -> Entry {
    let change = ValueChange {
        key: key.to_owned(),
        value: value.map(ByteString::from),
    };
    Entry::ValuesChanged(ValuesChanged {
        changes: vec![change],
    })
}

fn journal(memory: &StateMemory, entries: &[Entry]) -> Journal {
    let mut journal = Journal::create(memory).unwrap();
    for entry in entries {
        let kind = RecordKind::must_understand(entry.kind());
        let bytes = entry.encode().unwrap();
        journal.append(kind, &bytes, Purpose::Growth).unwrap();
    }
    journal
}

fn origin() -> Entry {
    Entry::Origin(entry::Origin {
        instance: 77,
        started_ns: 5,
        newest_fence: Fence(3),
        newest_socket: 2,
    })
}

fn socket(number: u64, name: &str) -> Entry {
    Entry::SocketMade(SocketMade {
        number,
        fileno: 64,
        spec: SocketSpec {
            name: name.to_owned(),
            kind: SocketKind::Stream,
            address: SocketAddress::Inet {
                host: String::new(),
                port: 1,
            },
            interface: None,
            backlog: 5,
            reuseport: false,
        },
        asked_port: 0,
    })
}

#[test]
fn an_empty_journal_is_a_first_start() {
    let memory = StateMemory::create().unwrap();
    let remembered = remember(&journal(&memory, &[])).unwrap();
    assert_eq!(remembered, Remembered::default());
}

#[test]
fn numbers_that_were_given_out_are_never_given_again() {
    let memory = StateMemory::create().unwrap();
    let lease = |name: &str, fence| {
        Entry::LeaseTaken(LeaseTaken {
            name: name.to_owned(),
            fence: Fence(fence),
            client: "manager".to_owned(),
            taken_ns: 1,
        })
    };
    let released = Entry::LeaseReleased(entry::LeaseReleased {
        name: "b".to_owned(),
    });
    let closed = Entry::SocketClosed(SocketClosed {
        name: "web".to_owned(),
    });
    let entries = [
        origin(),
        lease("a", 4),
        lease("b", 5),
        released,
        socket(9, "web"),
        closed,
    ];
    let remembered = remember(&journal(&memory, &entries)).unwrap();
    let origin = remembered.origin.unwrap();
    assert_eq!((origin.newest_fence, origin.newest_socket), (Fence(5), 9));
    assert_eq!(origin.instance, 77);
    assert_eq!(remembered.leases.keys().collect::<Vec<_>>(), ["a"]);
    assert!(remembered.sockets.is_empty());
}

#[test]
fn the_last_word_about_a_value_counts() {
    let memory = StateMemory::create().unwrap();
    let entries = [
        origin(),
        value("kept", Some("1")),
        value("gone", Some("x")),
        value("kept", Some("2")),
        value("gone", None),
    ];
    let remembered = remember(&journal(&memory, &entries)).unwrap();
    assert_eq!(
        remembered.values,
        BTreeMap::from([("kept".to_owned(), ByteString::from("2"))])
    );
}

#[test]
fn what_a_later_kernel_wrote_is_carried_along_or_refused() {
    let memory = StateMemory::create().unwrap();
    let mut journal = journal(&memory, &[origin()]);
    let optional = RecordKind::optional(900);
    journal.append(optional, b"later", Purpose::Growth).unwrap();
    let remembered = remember(&journal).unwrap();
    assert_eq!(remembered.carried, [(optional, b"later".to_vec())]);
    let must = RecordKind::must_understand(901);
    journal.append(must, b"later", Purpose::Growth).unwrap();
    let error = remember(&journal).unwrap_err().to_string();
    assert!(error.contains("kind 901"), "{error}");
}

#[test]
fn a_record_with_other_bytes_than_its_kind_is_refused_by_number() {
    let memory = StateMemory::create().unwrap();
    let mut journal = journal(&memory, &[origin()]);
    let kind = RecordKind::must_understand(2);
    journal
        .append(kind, b"\xff\xff\xff", Purpose::Growth)
        .unwrap();
    let error = remember(&journal).unwrap_err().to_string();
    assert!(error.contains("kind 2 makes no sense"), "{error}");
}

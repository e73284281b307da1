//! Promise: values outlive everybody, and a commit of values and acknowledgements happens as a
//! whole or not at all.

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::limits::{VALUE_BYTES_MAX, VALUE_KEY_BYTES_MAX};
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{
    Commit, GetValue, ListValues, OutputAcknowledgement, ValueChange,
};
use kingpole_protocol::{ByteString, ErrorCode, ProcessId, Sequence};
use kingpole_tests::kernel::refused;
use kingpole_tests::puppet::{self, Puppet};
use kingpole_tests::{Kernel, wait};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

fn set(key: &str, value: impl Into<ByteString>) -> ValueChange {
    ValueChange {
        key: key.to_owned(),
        value: Some(value.into()),
    }
}

fn values(changes: Vec<ValueChange>) -> Commit {
    Commit {
        values: changes,
        ..Commit::default()
    }
}

fn all(client: &mut Client, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let values = client.values(prefix).unwrap();
    values.into_iter().map(|v| (v.key, v.value.0)).collect()
}

fn get(client: &mut Client, key: &str) -> Option<Vec<u8>> {
    match client
        .call(GetValue {
            key: key.to_owned(),
        })
        .unwrap()
    {
        Reply::Value(value) => value.value.map(|v| v.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_outlive_the_client_that_set_them() {
    let kernel = Kernel::start();
    kernel
        .client()
        .commit(values(vec![
            set("a", "1"),
            set("b", vec![0, 255, b'\n']),
            set("empty", ""),
        ]))
        .unwrap();
    let mut client = kernel.client();
    assert_eq!(get(&mut client, "a").as_deref(), Some(b"1".as_slice()));
    assert_eq!(get(&mut client, "b"), Some(vec![0, 255, b'\n']));
    assert_eq!(get(&mut client, "empty"), Some(Vec::new()));
    assert_eq!(get(&mut client, "nowhere"), None);
    client
        .commit(values(vec![ValueChange {
            key: "a".into(),
            value: None,
        }]))
        .unwrap();
    assert_eq!(get(&mut kernel.client(), "a"), None);
    assert_eq!(client.status().unwrap().values, 2);
}

#[test]
fn listings_go_by_prefix_and_page_by_page() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    for hundred in 0..13 {
        let changes = (0..100)
            .map(|n| set(&format!("many/{:04}", hundred * 100 + n), format!("{n}")))
            .collect();
        client.commit(values(changes)).unwrap();
    }
    client
        .commit(values(vec![
            set("many", "x"),
            set("mano", "x"),
            set("z", "x"),
        ]))
        .unwrap();
    let found = all(&mut client, "many/");
    let expected: Vec<String> = (0..1300).map(|n| format!("many/{n:04}")).collect();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), expected);
    let request = ListValues {
        prefix: "many/".into(),
        after: "many/0009".into(),
        limit: 3,
    };
    let Reply::Values(page) = client.call(request).unwrap() else {
        panic!("no values")
    };
    let keys: Vec<&str> = page.items.iter().map(|v| v.key.as_str()).collect();
    assert_eq!(keys, ["many/0010", "many/0011", "many/0012"]);
    assert!(page.more);
    // Large values make small pages, and still all come.
    let large = vec![7_u8; 100_000];
    for n in 0..30 {
        client
            .commit(values(vec![set(&format!("large/{n:02}"), large.clone())]))
            .unwrap();
    }
    let found = all(&mut client, "large/");
    assert_eq!(found.len(), 30);
    assert!(found.values().all(|v| *v == large));
}

#[test]
fn bounds_are_refused_and_change_nothing() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    client
        .commit(values(vec![set("largest", vec![1; VALUE_BYTES_MAX])]))
        .unwrap();
    client
        .commit(values(vec![set(&"k".repeat(VALUE_KEY_BYTES_MAX), "x")]))
        .unwrap();
    let before = all(&mut client, "");
    for (what, change, code) in [
        (
            "value",
            set("v", vec![1; VALUE_BYTES_MAX + 1]),
            ErrorCode::LIMIT,
        ),
        (
            "key",
            set(&"k".repeat(VALUE_KEY_BYTES_MAX + 1), "x"),
            ErrorCode::INVALID,
        ),
        ("no key", set("", "x"), ErrorCode::INVALID),
        ("newline", set("a\nb", "x"), ErrorCode::INVALID),
    ] {
        let error = refused(client.commit(values(vec![set("good", "1"), change])));
        assert_eq!(error.code, code, "{what}: {error:?}");
        assert_eq!(all(&mut client, ""), before, "{what}");
    }
}

#[test]
fn all_values_together_are_bounded() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let value = vec![3_u8; VALUE_BYTES_MAX];
    let mut stored = 0;
    let error = loop {
        match client.commit(values(vec![set(
            &format!("fill/{stored:04}"),
            value.clone(),
        )])) {
            Ok(()) => stored += 1,
            Err(kingpole_protocol::client::blocking::ClientError::Refused(error)) => break error,
            Err(other) => panic!("{other}"),
        }
        assert!(stored < 1000, "{stored} values of 256 KiB were taken");
    };
    assert_eq!(error.code, ErrorCode::LIMIT, "{error:?}");
    assert!(stored >= 16, "only {stored} were taken");
    // Making room works at the bound.
    let remove = ValueChange {
        key: "fill/0000".into(),
        value: None,
    };
    client
        .commit(values(vec![remove, set("fill/new", value)]))
        .unwrap();
    assert_eq!(client.status().unwrap().values, stored);
}

#[test]
fn a_commit_with_one_bad_part_changes_nothing() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "writer", |_| {});
    puppet.ask("text out something");
    wait::until("it is read", || {
        let output = client.processes().unwrap().remove(0).output;
        if output.next == Sequence(2) {
            Ok(())
        } else {
            Err(output.next)
        }
    });
    let ack = |through| OutputAcknowledgement {
        process: puppet.process(),
        through,
    };
    let error = refused(client.commit(Commit {
        values: vec![set("position", "1")],
        outputs: vec![ack(Sequence(1)), ack(Sequence(2))],
        ends: vec![],
    }));
    assert_eq!(error.code, ErrorCode::INVALID, "{error:?}");
    assert_eq!(get(&mut client, "position"), None);
    assert_eq!(
        client.processes().unwrap()[0].output.oldest,
        Sequence(1),
        "nothing is acknowledged"
    );
    // A process that is not there any more is passed over: its part has been done before.
    client
        .commit(Commit {
            values: vec![set("position", "1")],
            outputs: vec![
                OutputAcknowledgement {
                    process: ProcessId(4711),
                    through: Sequence(9),
                },
                ack(Sequence(1)),
            ],
            ends: vec![ProcessId(4711)],
        })
        .unwrap();
    assert_eq!(
        get(&mut client, "position").as_deref(),
        Some(b"1".as_slice())
    );
    assert_eq!(client.processes().unwrap()[0].output.oldest, Sequence(2));
    puppet.tell("exit 0");
}

#[test]
fn readers_never_see_half_a_commit() {
    let kernel = Kernel::start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let mut client = kernel.client();
                let done = &done;
                scope.spawn(move || {
                    let mut round = 0_u32;
                    while !done.load(Ordering::Relaxed) {
                        round += 1;
                        let text = format!("{round} of {}", client.welcome().session);
                        let changes = ["x/1", "x/2", "x/3"]
                            .map(|key| set(key, text.clone()))
                            .into();
                        client.commit(values(changes)).unwrap();
                    }
                })
            })
            .collect();
        let mut reader = kernel.client();
        let mut seen = std::collections::BTreeSet::new();
        let begun = Instant::now();
        let mut reads = 0;
        while reads < 500 || seen.len() <= 10 {
            assert!(begun.elapsed() < wait::PATIENCE, "{} seen", seen.len());
            reads += 1;
            let found: Vec<Vec<u8>> = all(&mut reader, "x/").into_values().collect();
            assert!(found.iter().all(|v| *v == found[0]), "{found:?}");
            seen.extend(found.into_iter().next());
        }
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_client_that_dies_within_a_commit_leaves_all_of_it_or_nothing() {
    let kernel = Kernel::start();
    let commit = values(
        (0..20)
            .map(|n| set(&format!("cut/{n}"), vec![b'x'; 1000]))
            .collect(),
    );
    let body = kingpole_protocol::request::Request::from(commit)
        .encode(
            kingpole_protocol::RequestId(2),
            kingpole_protocol::Fence::NONE,
        )
        .unwrap();
    let hello = kingpole_protocol::request::Request::from(kingpole_protocol::hello::Hello {
        version_min: 1,
        version_max: 1,
        capabilities: 0,
        client: "cut/1".into(),
    })
    .encode(
        kingpole_protocol::RequestId(1),
        kingpole_protocol::Fence::NONE,
    )
    .unwrap();
    let mut client = kernel.client();
    for cut in [1, 31, 32, 33, body.len() / 2, body.len() - 1] {
        let mut connection = UnixStream::connect(kernel.socket()).unwrap();
        connection.write_all(b"attach 1\n").unwrap();
        connection.write_all(&hello).unwrap();
        connection.write_all(&body[..cut]).unwrap();
        drop(connection);
        assert_eq!(
            all(&mut client, "cut/").len(),
            0,
            "cut after {cut} of {}",
            body.len()
        );
    }
    // Whole, but with nobody left to hear the answer.
    let mut connection = UnixStream::connect(kernel.socket()).unwrap();
    connection.write_all(b"attach 1\n").unwrap();
    connection.write_all(&hello).unwrap();
    connection.write_all(&body).unwrap();
    drop(connection);
    wait::until("its session has gone", || {
        match client.status().unwrap().sessions {
            1 => Ok(()),
            sessions => Err(sessions),
        }
    });
    let stored = all(&mut client, "cut/").len();
    assert!(matches!(stored, 0 | 20), "{stored} of 20 values");
}

#[test]
fn values_are_not_touched_by_the_ends_of_processes() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    client.commit(values(vec![set("kept", "1")])).unwrap();
    let spec = puppet::program("short", &["/bin/true"]);
    let process = client.spawn("short", spec).unwrap().process.process;
    wait::until("it ends", || {
        client.processes().unwrap()[0].end.ok_or("it runs")
    });
    client
        .commit(Commit {
            values: vec![set("other", "2")],
            ends: vec![process],
            outputs: vec![],
        })
        .unwrap();
    wait::until("it is forgotten", || {
        let left = client.processes().unwrap();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    assert_eq!(all(&mut client, "").len(), 2);
}

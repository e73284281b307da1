//! Output and ends: kept until acknowledged, dropped only as a gap, made to wait where that was asked.

use crate::end_of;
use crate::harness::{Kernel, PATIENCE, follow_to_the_end, script, until};
use kingpole_protocol::client::blocking::Notice;
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::Sequence;
use kingpole_protocol::request::{Commit, Follow, OutputAcknowledgement, Request};
use kingpole_protocol::spec::{OutputSpec, Overflow};
use kingpole_protocol::status::EndStatus;

#[test]
fn output_and_end_stay_until_acknowledged_by_whoever_comes() {
    let kernel = Kernel::start();
    let mut first = kernel.connect();
    let text = "echo out; echo err >&2; exit 7";
    let process = first.spawn("k", script("a", text)).unwrap().process.process;
    drop(first);
    let mut client = kernel.connect();
    let seen = follow_to_the_end(&mut client, process);
    assert_eq!(
        (&seen.stdout[..], &seen.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert!(seen.gaps.is_empty());
    assert_eq!(end_of(&mut client, process), EndStatus::Exited(7));
    let again = follow_to_the_end(&mut kernel.connect(), process);
    assert_eq!(again.stdout, seen.stdout, "nobody has acknowledged it");
    let outputs = vec![OutputAcknowledgement {
        process,
        through: seen.last,
    }];
    client
        .commit(Commit {
            outputs,
            ends: vec![process],
            values: Vec::new(),
        })
        .unwrap();
    assert!(client.processes().unwrap().is_empty());
    assert_eq!(client.status().unwrap().output_bytes, 0);
}

#[test]
fn a_flood_drops_whole_records_and_says_exactly_what_is_missing() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let text = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let mut spec = script("flood", text);
    spec.buffer_bytes = 16384;
    let process = client.spawn("k", spec).unwrap().process.process;
    end_of(&mut client, process);
    until("streams to end", || {
        let info = &client.processes().unwrap()[0].output;
        (info.stdout_ended && info.stderr_ended)
            .then_some(())
            .ok_or(format!("{info:?}"))
    });
    let info = client.processes().unwrap().remove(0).output;
    assert!(info.dropped_records > 0 && info.used_bytes <= 16384);
    assert_eq!(info.dropped_records, info.oldest.0 - 1);
    client.follow(process, Sequence(1), 1 << 40).unwrap();
    let (mut bytes, mut gap) = (0, None);
    loop {
        match client.next_notice(Some(PATIENCE)).unwrap().unwrap() {
            Notice::Event(Event::Gap(found)) => {
                assert_eq!((found.from, found.to), (Sequence(1), info.oldest));
                assert_eq!(found.stdout_offset, info.dropped_bytes);
                gap = Some(found);
            }
            Notice::Output { header, data, .. } => {
                assert_eq!(header.stream_offset, gap.unwrap().stdout_offset + bytes);
                bytes += data.len() as u64;
            }
            Notice::Event(Event::StreamEnded(end)) if end.bytes > 0 => {
                assert_eq!(end.bytes, info.dropped_bytes + bytes);
                break;
            }
            Notice::Event(_) => {}
        }
    }
}

#[test]
fn a_child_that_may_wait_loses_nothing() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let text = "i=0; while [ $i -lt 3000 ]; do echo 0123456789 $i; i=$((i+1)); done";
    let mut spec = script("patient", text);
    spec.buffer_bytes = 8192;
    spec.overflow = Overflow::Block;
    let process = client.spawn("k", spec).unwrap().process.process;
    client.follow(process, Sequence(0), 1 << 40).unwrap();
    let mut all = Vec::new();
    let mut ended = 0;
    while ended < 2 {
        match client.next_notice(Some(PATIENCE)).unwrap().unwrap() {
            Notice::Output { header, data, .. } => {
                all.extend(data);
                let through = header.sequence;
                let outputs = vec![OutputAcknowledgement { process, through }];
                client
                    .commit(Commit {
                        outputs,
                        ..Commit::default()
                    })
                    .unwrap();
            }
            Notice::Event(Event::StreamEnded(_)) => ended += 1,
            Notice::Event(other) => panic!("{other:?}"),
        }
    }
    let expected = (0..3000)
        .map(|i| format!("0123456789 {i}\n"))
        .collect::<String>();
    assert_eq!(String::from_utf8(all).unwrap(), expected);
}

#[test]
fn uncaptured_streams_have_ended_and_stderr_can_go_where_stdout_goes() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let mut spec = script("a", "echo out; echo err >&2");
    spec.stderr = OutputSpec::SameAsStdout;
    let process = client.spawn("k1", spec).unwrap().process.process;
    assert_eq!(
        follow_to_the_end(&mut client, process).stdout,
        b"out\nerr\n"
    );
    let mut spec = script("b", "echo out; echo err >&2");
    spec.stdout = OutputSpec::Null;
    spec.stderr = OutputSpec::Null;
    let info = client.spawn("k2", spec).unwrap().process;
    assert!(info.output.stdout_ended && info.output.stderr_ended);
    assert_eq!(info.output.capacity_bytes, 0);
    end_of(&mut client, info.process);
    client
        .commit(Commit {
            ends: vec![info.process],
            ..Commit::default()
        })
        .unwrap();
    assert_eq!(client.processes().unwrap().len(), 1);
}

#[test]
fn credit_is_used_up_record_by_record() {
    let kernel = Kernel::start();
    let mut client = kernel.connect();
    let gate = kernel.directory.path().join("gate").display().to_string();
    let text = format!(
        "for i in 1 2 3 4 5 6; do echo $i; until [ -e {gate}$i ]; do sleep 0.01; done; done"
    );
    let process = client
        .spawn("k", script("a", &text))
        .unwrap()
        .process
        .process;
    // A record for each line.
    for line in 1..=6 {
        until("the line to be read", || {
            let next = client.processes().unwrap()[0].output.next;
            if next == Sequence(line + 1) {
                Ok(())
            } else {
                Err(next.to_string())
            }
        });
        std::fs::write(format!("{gate}{line}"), "").unwrap();
    }
    end_of(&mut client, process);
    let follow = Follow {
        process,
        from: Sequence(1),
        credit_bytes: 65,
    };
    client.call(Request::from(follow)).unwrap();
    let mut taken = 0;
    while let Some(Notice::Output { header, .. }) = client.try_notice().unwrap() {
        taken += header.credit_bytes();
    }
    client.status().unwrap();
    while let Some(Notice::Output { header, .. }) = client.try_notice().unwrap() {
        taken += header.credit_bytes();
    }
    assert!(
        (65..65 + 64).contains(&taken),
        "overdrawn by one record at most: {taken}"
    );
    client.grant(process, 1 << 20).unwrap();
    let mut ended = 0;
    while ended < 2 {
        if let Notice::Event(Event::StreamEnded(_)) =
            client.next_notice(Some(PATIENCE)).unwrap().unwrap()
        {
            ended += 1;
        }
    }
}

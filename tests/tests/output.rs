//! Promise: output is never lost silently, and memory is bounded. Every byte has a sequence number
//! and a time, stays until acknowledged, and what had to be dropped is told to the byte.

use kingpole_protocol::Sequence;
use kingpole_protocol::client::blocking::Notice;
use kingpole_protocol::event::Event;
use kingpole_protocol::limits::OUTPUT_BUFFER_BYTES_DEFAULT;
use kingpole_protocol::record::{RecordHeader, Stream};
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Commit, ListSessions, OutputAcknowledgement, Ping};
use kingpole_protocol::spec::Overflow;
use kingpole_protocol::status::OutputInfo;
use kingpole_tests::output::{Acknowledge, Follower};
use kingpole_tests::puppet::{self, Puppet};
use kingpole_tests::{Kernel, lines, pattern, process, wait};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

fn output_of(kernel: &Kernel, puppet: &Puppet) -> OutputInfo {
    let all = kernel.client().processes().unwrap();
    all.into_iter()
        .find(|p| p.process == puppet.process())
        .expect("it is listed")
        .output
}

/// Waits until everything that was written has been read by the kernel.
#[track_caller]
fn wait_read(kernel: &Kernel, puppet: &Puppet, stdout_bytes: u64, stderr_bytes: u64) -> OutputInfo {
    wait::until("the kernel has read all output", || {
        let output = output_of(kernel, puppet);
        let all = (output.stdout_bytes, output.stderr_bytes) == (stdout_bytes, stderr_bytes);
        if all {
            Ok(output)
        } else {
            Err(format!("{output:?}"))
        }
    })
}

#[test]
fn both_streams_arrive_whole_whatever_the_sizes_of_the_writes() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "writer", |_| {});
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Each);
    let mut written = 0_u64;
    for (block, bytes) in [
        (1, 300),
        (7, 3_000),
        (100, 50_000),
        (4095, 400_000),
        (4096, 400_000),
        (65_536, 1_000_000),
        (200_000, 1_000_000),
    ] {
        puppet.ask(&format!("background flood err {written} {bytes} {block}"));
        puppet.ask(&format!("flood out {written} {bytes} {block}"));
        written += bytes;
        let whole = usize::try_from(written).unwrap();
        follower.read_until("this round", |f| {
            f.of(Stream::Stdout).len() == whole && f.of(Stream::Stderr).len() == whole
        });
    }
    puppet.tell("exit 0");
    follower.read_to_end();
    assert_eq!(follower.gaps, []);
    for stream in Stream::ALL {
        assert_eq!(follower.of(stream).len() as u64, written);
        assert_eq!(
            pattern::first_difference(follower.of(stream), 0),
            None,
            "{stream:?}"
        );
    }
}

#[test]
fn records_are_numbered_from_one_and_timed_when_they_were_read() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let begun = client.status().unwrap().now_ns;
    let mut puppet = Puppet::spawn(&kernel, &mut client, "timed", |_| {});
    for n in 0..20 {
        let to = if n % 3 == 0 { "err" } else { "out" };
        puppet.ask(&format!("text {to} number {n}"));
        wait::until("it is read", || {
            let next = output_of(&kernel, &puppet).next;
            if next == Sequence(n + 2) {
                Ok(())
            } else {
                Err(next)
            }
        });
    }
    puppet.tell("exit 0");
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Never);
    follower.read_to_end();
    let done = client.status().unwrap().now_ns;
    let numbers: Vec<u64> = follower.headers.iter().map(|h| h.sequence.0).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let mut last = begun;
    for header in &follower.headers {
        assert!(header.time_ns >= last, "{header:?} is older than {last}");
        last = header.time_ns;
    }
    assert!(last <= done);
}

#[test]
fn output_waits_for_a_reader_and_goes_with_its_acknowledgement() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "patient", |_| {});
    for n in 0..10 {
        puppet.ask(&format!("text out {n}"));
        let bytes = 2 * (n + 1);
        wait_read(&kernel, &puppet, bytes, 0);
    }
    drop(client);
    // Read twice without an acknowledgement: the same both times.
    for _ in 0..2 {
        let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Never);
        follower.read_until("all ten", |f| {
            f.of(Stream::Stdout) == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
        });
    }
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Never);
    follower.acknowledge_through(Sequence(4));
    let output = output_of(&kernel, &puppet);
    assert_eq!((output.oldest, output.next), (Sequence(5), Sequence(11)));
    assert_eq!((output.dropped_records, output.dropped_bytes), (0, 0));
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Never);
    follower.read_until("the other six", |f| {
        f.of(Stream::Stdout) == b"4\n5\n6\n7\n8\n9\n"
    });
    follower.acknowledge_through(Sequence(10));
    let output = output_of(&kernel, &puppet);
    assert_eq!((output.oldest, output.used_bytes), (Sequence(11), 0));
    puppet.tell("exit 0");
}

#[test]
fn output_of_a_child_that_lived_while_nobody_was_there_is_complete() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let script = ["lines out o 0 3000 0", "lines err e 0 3000 0", "exit 7"];
    let process = client
        .spawn("alone", puppet::spec("alone", &script))
        .unwrap()
        .process;
    drop(client);
    if let Ok(handle) = process::Handle::open(process.pid) {
        handle.wait_ended("the child");
    }
    let mut follower = Follower::new(kernel.client(), process.process, Acknowledge::Each);
    follower.read_to_end();
    assert_eq!(lines::check("o", follower.of(Stream::Stdout), 0), Ok(3000));
    assert_eq!(lines::check("e", follower.of(Stream::Stderr), 0), Ok(3000));
}

#[test]
fn past_the_cap_the_oldest_go_and_the_gap_is_exact() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "gap", |spec| {
        spec.buffer_bytes = 65_536
    });
    // Uneven numbers of odd sizes, so that the two streams lose different amounts.
    let (mut out, mut err) = (0_u64, 0_u64);
    for round in 0..60_u64 {
        puppet.ask(&format!("flood out {out} {} 1777", 1777 + round * 31));
        out += 1777 + round * 31;
        if round % 4 == 0 {
            puppet.ask(&format!("flood err {err} 5000 555"));
            err += 5000;
        }
    }
    let output = wait_read(&kernel, &puppet, out, err);
    assert!(output.used_bytes <= output.capacity_bytes, "{output:?}");
    assert_eq!(output.capacity_bytes, 65_536);
    assert!(output.dropped_records > 0);

    let mut follower = Follower::from(
        kernel.client(),
        puppet.process(),
        Sequence(1),
        Acknowledge::Never,
    );
    puppet.tell("exit 0");
    follower.read_to_end();
    let [gap] = follower.gaps.as_slice() else {
        panic!("one gap: {:?}", follower.gaps)
    };
    assert_eq!((gap.from, gap.to), (Sequence(1), output.oldest));
    assert_eq!(output.dropped_records, gap.to.0 - 1);
    assert_eq!(output.dropped_bytes, gap.stdout_offset + gap.stderr_offset);
    for (stream, offset, bytes) in [
        (Stream::Stdout, gap.stdout_offset, out),
        (Stream::Stderr, gap.stderr_offset, err),
    ] {
        let kept = follower.of(stream);
        assert_eq!(offset + kept.len() as u64, bytes, "{stream:?} adds up");
        assert_eq!(pattern::first_difference(kept, offset), None, "{stream:?}");
    }
    // Only what had to go went: the next older record would not have fitted.
    let kept: u64 = follower
        .headers
        .iter()
        .map(RecordHeader::credit_bytes)
        .sum();
    let largest = follower
        .headers
        .iter()
        .map(RecordHeader::credit_bytes)
        .max()
        .unwrap();
    assert!(
        kept + 2 * largest.max(16_384) >= 65_536,
        "kept only {kept} of 65536"
    );
}

#[test]
fn a_reader_that_is_overtaken_hears_of_each_gap_and_stays_exact() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "fast", |spec| {
        spec.buffer_bytes = 32_768
    });
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Never);
    let mut written = 0_u64;
    for round in 0..5 {
        // More than the buffer and everything in between can hold, while the follower is away.
        puppet.ask(&format!("flood out {written} 6000000 3000"));
        written += 6_000_000;
        follower.read_until("the newest bytes", |f| {
            let newest = f.headers.last();
            newest.is_some_and(|h| h.stream_offset + u64::from(h.length) == written)
        });
        assert!(
            !follower.gaps.is_empty(),
            "round {round} lost nothing of 6 MB in 32 KB"
        );
    }
    puppet.tell("exit 0");
    follower.read_to_end();
    // The follower has checked numbers and offsets; here are the bytes.
    let mut at = 0;
    for header in &follower.headers {
        let length = header.length as usize;
        let data = &follower.of(Stream::Stdout)[at..at + length];
        assert_eq!(
            pattern::first_difference(data, header.stream_offset),
            None,
            "{header:?}"
        );
        at += length;
    }
}

#[test]
fn two_megabytes_are_kept_by_default() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "default", |_| {});
    puppet.ask("flood out 0 10000000 65536");
    let output = wait_read(&kernel, &puppet, 10_000_000, 0);
    assert_eq!(output.capacity_bytes, OUTPUT_BUFFER_BYTES_DEFAULT);
    assert!(output.used_bytes <= output.capacity_bytes);
    let kept = 10_000_000 - output.dropped_bytes;
    assert!(
        kept > OUTPUT_BUFFER_BYTES_DEFAULT - 3 * 65_536,
        "only {kept} bytes are kept"
    );
    puppet.tell("exit 0");
}

#[test]
fn a_child_that_closes_one_stream_keeps_the_other() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    for (close, other, closed, open) in [
        (1, "err", Stream::Stdout, Stream::Stderr),
        (2, "out", Stream::Stderr, Stream::Stdout),
    ] {
        let name = format!("closes {close}");
        let mut puppet = Puppet::spawn(&kernel, &mut client, &name, |_| {});
        let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Each);
        puppet.ask("text out one");
        puppet.ask("text err one");
        puppet.ask(&format!("close {close}"));
        follower.read_until("its end", |f| f.ended.iter().any(|e| e.stream == closed));
        assert_eq!(follower.of(closed), b"one\n");
        puppet.ask(&format!("text {other} still here"));
        follower.read_until("the other stream", |f| f.of(open) == b"one\nstill here\n");
        assert_eq!(follower.end, None, "it runs");
        puppet.tell("exit 0");
        follower.read_to_end();
        follower.read_until("its end", |f| f.end.is_some());
    }
}

#[test]
fn a_grandchild_that_holds_the_pipe_is_heard_after_its_parents_end() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "parent", |_| {});
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Each);
    let stage = puppet::Stage::new(kernel.scratch());
    puppet.ask(&format!("fork {}", stage.command()));
    let mut grandchild = stage.accept().unwrap();
    puppet.tell("exit 3");
    follower.read_until("the parent's end", |f| f.end.is_some());
    assert_eq!(follower.ended, [], "the pipes are still held");
    grandchild.ask("text out from the grave");
    follower.read_until("the grandchild", |f| {
        f.of(Stream::Stdout) == b"from the grave\n"
    });
    grandchild.tell("exit 0");
    follower.read_to_end();
}

#[test]
fn with_block_the_child_waits_and_nothing_is_dropped() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "blocked", |spec| {
        spec.buffer_bytes = 65_536;
        spec.overflow = Overflow::Block;
    });
    puppet.ask("background flood out 0 2000000 10000");
    wait::until("the buffer is full", || {
        let before = output_of(&kernel, &puppet);
        std::thread::sleep(Duration::from_millis(20));
        let after = output_of(&kernel, &puppet);
        let stands = before.stdout_bytes == after.stdout_bytes && after.stdout_bytes > 30_000;
        if stands {
            Ok(())
        } else {
            Err(format!("{after:?}"))
        }
    });
    let output = output_of(&kernel, &puppet);
    assert!(
        output.used_bytes <= 65_536 && output.dropped_bytes == 0,
        "{output:?}"
    );
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Each);
    follower.read_until("everything", |f| f.of(Stream::Stdout).len() == 2_000_000);
    assert_eq!(follower.gaps, []);
    assert_eq!(
        pattern::first_difference(follower.of(Stream::Stdout), 0),
        None
    );
    puppet.tell("exit 0");
    follower.read_to_end();
}

#[test]
fn many_followers_each_see_everything() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "popular", |_| {});
    let mut followers: Vec<Follower> = (0..20)
        .map(|_| Follower::new(kernel.client(), puppet.process(), Acknowledge::Never))
        .collect();
    puppet.ask("flood out 0 1000000 3333");
    puppet.tell("exit 0");
    for follower in &mut followers {
        follower.read_to_end();
        assert_eq!(follower.gaps, []);
        assert_eq!(follower.of(Stream::Stdout).len(), 1_000_000);
        assert_eq!(
            pattern::first_difference(follower.of(Stream::Stdout), 0),
            None
        );
    }
}

#[test]
fn an_acknowledgement_releases_for_all_and_a_slower_follower_hears_of_it() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "shared", |_| {});
    for n in 1..=50_u64 {
        puppet.ask(&format!("text out {}", "x".repeat(999)));
        wait_read(&kernel, &puppet, n * 1000, 0);
    }
    // This one has credit for the first records only.
    let mut slow = kernel.client();
    slow.follow(puppet.process(), Sequence(0), 2000).unwrap();
    let Some(Notice::Output { header, .. }) = slow.next_notice(Some(wait::PATIENCE)).unwrap()
    else {
        panic!("no first record")
    };
    assert_eq!(header.sequence, Sequence(1));
    let outputs = vec![OutputAcknowledgement {
        process: puppet.process(),
        through: Sequence(40),
    }];
    client
        .commit(Commit {
            outputs,
            ..Commit::default()
        })
        .unwrap();
    slow.grant(puppet.process(), 1 << 20).unwrap();
    let mut expected = Sequence(2);
    let gap = loop {
        match slow
            .next_notice(Some(wait::PATIENCE))
            .unwrap()
            .expect("a gap or a record")
        {
            Notice::Output { header, .. } => {
                assert_eq!(header.sequence, expected);
                expected = header.sequence.next();
            }
            Notice::Event(Event::Gap(gap)) => break gap,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (gap.from, gap.to, gap.stdout_offset),
        (expected, Sequence(41), 40_000)
    );
    let Some(Notice::Output { header, .. }) = slow.next_notice(Some(wait::PATIENCE)).unwrap()
    else {
        panic!("no record after the gap")
    };
    assert_eq!(header.sequence, Sequence(41));
    puppet.tell("exit 0");
}

#[test]
fn credit_bounds_what_a_follower_is_sent() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "credit", |_| {});
    for n in 1..=20_u64 {
        puppet.ask(&format!("text out {}", "y".repeat(999)));
        wait_read(&kernel, &puppet, n * 1000, 0);
    }
    let record = RecordHeader::padded_bytes(1000) as u64;
    let mut follower = kernel.client();
    follower
        .follow(puppet.process(), Sequence(0), 2 * record + 1)
        .unwrap();
    let seen = |follower: &mut kingpole_protocol::client::blocking::Client| {
        // The answer to a ping comes after whatever the credit allowed.
        follower.call(Ping {}).unwrap();
        let mut records = 0;
        while let Some(notice) = follower.try_notice().unwrap() {
            assert!(matches!(notice, Notice::Output { .. }), "{notice:?}");
            records += 1;
        }
        records
    };
    let mut total = 0;
    // Sent on the turn after the follow; a second ping makes sure of it.
    for _ in 0..3 {
        total += seen(&mut follower);
    }
    assert_eq!(total, 3, "two records, and the one that overdraws");
    follower.grant(puppet.process(), record).unwrap();
    for _ in 0..3 {
        total += seen(&mut follower);
    }
    assert_eq!(total, 4, "the overdraft was paid first");
    follower.unfollow(puppet.process()).unwrap();
    puppet.ask("text out more");
    for _ in 0..3 {
        assert_eq!(seen(&mut follower), 0, "nothing after unfollow");
    }
    puppet.tell("exit 0");
}

#[test]
fn a_follower_that_never_reads_costs_little_and_disturbs_nobody() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut puppet = Puppet::spawn(&kernel, &mut client, "flood", |_| {});
    let before = client.status().unwrap();
    let mut deaf: Vec<_> = (0..10).map(|_| kernel.client()).collect();
    for one in &mut deaf {
        one.follow(puppet.process(), Sequence(0), u64::MAX / 2)
            .unwrap();
    }
    let mut follower = Follower::new(kernel.client(), puppet.process(), Acknowledge::Each);
    puppet.ask("background flood out 0 100000000 65536");
    follower.read_until("the last byte", |f| {
        f.headers
            .last()
            .is_some_and(|h| h.stream_offset + u64::from(h.length) == 100_000_000)
    });
    let Reply::Sessions(sessions) = client
        .call(ListSessions {
            after: 0,
            limit: u32::MAX,
        })
        .unwrap()
    else {
        panic!("no sessions")
    };
    for session in sessions.items {
        assert!(session.queued_bytes <= 2 << 20, "{session:?}");
    }
    let after = client.status().unwrap();
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    // Ten queues and one ring of 2 MB.
    assert!(grown < 16 << 10, "the kernel has grown by {grown} KiB");
    puppet.tell("exit 0");
}

#[test]
fn a_flood_does_not_keep_others_waiting() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let mut floods: Vec<Puppet> = (0..3)
        .map(|n| Puppet::spawn(&kernel, &mut client, &format!("flood {n}"), |_| {}))
        .collect();
    for flood in &mut floods {
        flood.ask("background flood out 0 100000000000 65536");
    }
    let mut times = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        client.call(Ping {}).unwrap();
        times.push(begun.elapsed());
    }
    // Three floods, this test and whatever else runs share the machine, perhaps one core of it: a
    // single answer may be late, most of them must not.
    times.sort();
    let median = times[times.len() / 2];
    assert!(median < Duration::from_secs(1), "a ping takes {median:?}");
    for flood in &mut floods {
        flood.tell("exit 0");
    }
}

#[test]
fn memory_of_a_drained_buffer_is_given_back() {
    let kernel = Kernel::start();
    let mut client = kernel.client();
    let pid = client.welcome().pid;
    let mut puppet = Puppet::spawn(&kernel, &mut client, "drained", |_| {});
    let idle = shared_bytes(pid);
    puppet.ask("flood out 0 1900000 65536");
    let output = wait_read(&kernel, &puppet, 1_900_000, 0);
    assert!(
        shared_bytes(pid) >= idle + 1_800_000,
        "output is in shared memory"
    );
    let outputs = vec![OutputAcknowledgement {
        process: puppet.process(),
        through: Sequence(output.next.0 - 1),
    }];
    client
        .commit(Commit {
            outputs,
            ..Commit::default()
        })
        .unwrap();
    wait::until("the memory is given back", || {
        let now = shared_bytes(pid);
        if now <= idle + 100_000 {
            Ok(())
        } else {
            Err(format!("{now} bytes, {idle} when idle"))
        }
    });
    puppet.tell("exit 0");
}

/// Memory behind the memfds of a process.
fn shared_bytes(pid: i32) -> u64 {
    let descriptors = process::descriptors(pid).unwrap();
    let memfds = descriptors
        .iter()
        .filter(|(_, target)| target.starts_with("/memfd:"));
    memfds
        .filter_map(|(fd, _)| std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok())
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

//! Promise: who reads a child's output in place, from the ring itself, gets the same as who has it sent: every
//! byte once, or an exact gap, whatever is killed, replaced or overwritten meanwhile (P2, P4, P5, P7).

use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::client::{Copied, MappedRing, MappedRingError};
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::{Event, MappedOutput};
use kingpole_protocol::hello::capability;
use kingpole_protocol::places::Address;
use kingpole_protocol::record::{Records, Stream};
use kingpole_protocol::request::{FollowMapped, Remove};
use kingpole_protocol::spec::Overflow;
use kingpole_protocol::{ProcessId, Sequence};
use kingpole_tests::kernel::refused;
use kingpole_tests::output::{Acknowledge, Follower};
use kingpole_tests::puppet::Puppet;
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Kernel, Scratch, binaries, pattern, wait};
use std::rc::Rc;

const CREDIT: u64 = 1 << 20;

fn waiting_puppet(kernel: &Kernel, buffer_bytes: u64) -> Puppet {
    let mut client = kernel.client();
    Puppet::spawn(kernel, &mut client, "writer", |spec| {
        spec.buffer_bytes = buffer_bytes;
        spec.overflow = Overflow::Block;
    })
}

/// One that never waits: what does not fit is dropped.
fn dropping_puppet(kernel: &Kernel, buffer_bytes: u64) -> Puppet {
    let mut client = kernel.client();
    Puppet::spawn(kernel, &mut client, "writer", |spec| {
        spec.buffer_bytes = buffer_bytes;
    })
}

/// Waits until the kernel has read so much of the child's standard output.
#[track_caller]
fn wait_read(client: &mut Client, process: ProcessId, stdout_bytes: u64) {
    wait::until("the kernel has read it", || {
        let all = client.processes().map_err(|error| error.to_string())?;
        let one = all.iter().find(|one| one.process == process);
        let read = one.map(|one| one.output.stdout_bytes);
        if read == Some(stdout_bytes) {
            Ok(())
        } else {
            Err(format!("{read:?}"))
        }
    });
}

/// The ring of a process and the first place that is announced in it.
#[track_caller]
fn first_announced(client: &mut Client) -> (MappedRing, MappedOutput) {
    let mut ring = None;
    loop {
        let notice = client.next_notice(Some(wait::PATIENCE)).unwrap();
        match notice.expect("an announcement") {
            Notice::Event(Event::RingPassed(passed)) => {
                ring = Some(client.take_ring(&passed).unwrap());
            }
            Notice::Event(Event::MappedOutput(output)) => {
                return (ring.expect("its ring comes first"), output);
            }
            _ => {}
        }
    }
}

/// Reads all that the follower can get of `total` bytes of standard output; what it got is what was written.
#[track_caller]
fn check_stdout(follower: &Follower, total: u64) {
    let mut lost = 0;
    let mut at = 0;
    let bytes = follower.of(Stream::Stdout);
    let mut gaps = follower.gaps.iter().peekable();
    let mut from = 0;
    for header in &follower.headers {
        while let Some(gap) = gaps.next_if(|gap| gap.to <= header.sequence) {
            lost += gap.stdout_offset - at;
            at = gap.stdout_offset;
        }
        assert_eq!(header.stream_offset, at);
        let length = header.length as usize;
        assert_eq!(
            pattern::first_difference(&bytes[from..from + length], at),
            None
        );
        at += u64::from(header.length);
        from += length;
    }
    for gap in gaps {
        lost += gap.stdout_offset - at;
        at = gap.stdout_offset;
    }
    assert_eq!((at, bytes.len() as u64 + lost), (total, total));
}

#[test]
fn a_flood_is_read_in_place_and_every_byte_of_it_is_right() {
    let kernel = Kernel::start();
    let mut puppet = waiting_puppet(&kernel, 1 << 20);
    let process = puppet.process();
    let mut follower = Follower::in_place(kernel.client(), process, Acknowledge::Each);
    let mut written = 0;
    for (block, bytes) in [(100, 3000), (200_000, 20 << 20), (1, 50), (65_536, 8 << 20)] {
        puppet.ask("flood err 0 1000 10");
        puppet.ask(&format!("background flood out {written} {bytes} {block}"));
        written += bytes;
        follower.read_until("this round", |f| {
            f.of(Stream::Stdout).len() as u64 == written
        });
    }
    puppet.tell("exit 0");
    follower.read_to_end();
    assert_eq!(follower.gaps, []);
    check_stderr_length(&follower, 4000);
    let bytes = follower.of(Stream::Stdout);
    assert_eq!(bytes.len() as u64, written);
    assert_eq!(pattern::first_difference(bytes, 0), None);
    let in_place = follower.read_in_place.iter().map(|one| one.bytes);
    let share = in_place.sum::<u64>();
    assert!(share > written / 2, "{share} of {written} bytes in place");
}

#[track_caller]
fn check_stderr_length(follower: &Follower, length: usize) {
    assert_eq!(follower.of(Stream::Stderr).len(), length);
}

#[test]
fn whoever_was_overtaken_is_told_an_exact_gap() {
    let kernel = Kernel::start();
    let mut puppet = dropping_puppet(&kernel, 256 << 10);
    let process = puppet.process();
    let mut client = kernel.client();
    client.follow_mapped(process, Sequence(0), CREDIT).unwrap();
    puppet.ask("flood out 0 131072 65536");
    let (ring, announced) = first_announced(&mut client);
    // Ten times over what was announced and not read.
    puppet.ask("flood out 131072 2621440 65536");
    wait_read(&mut client, process, 131_072 + 2_621_440);
    let mut bytes = Vec::new();
    let copied = ring.copy(client.descriptor(), &announced, &mut bytes);
    assert_eq!(copied.unwrap(), Copied::Overtaken);
    assert!(bytes.is_empty());

    let from = announced.from;
    client.follow_mapped(process, from, CREDIT).unwrap();
    let (mut ring, mut gap) = (ring, None);
    let header = loop {
        let notice = client.next_notice(Some(wait::PATIENCE)).unwrap();
        match notice.expect("a gap, and what comes behind it") {
            Notice::Event(Event::RingPassed(passed)) => ring = client.take_ring(&passed).unwrap(),
            Notice::Event(Event::Gap(told)) => gap = Some(told),
            Notice::Event(Event::MappedOutput(output)) => {
                let copied = ring.copy(client.descriptor(), &output, &mut bytes);
                assert_eq!(copied.unwrap(), Copied::Whole, "nobody writes any more");
                break Records::new(&bytes).next().expect("a record").header;
            }
            Notice::Output { header, .. } => break header,
            Notice::Event(_) => {}
        }
    };
    let gap = gap.expect("a gap comes first");
    assert_eq!((gap.from, gap.to), (from, header.sequence));
    let offset = match header.stream {
        Stream::Stdout => gap.stdout_offset,
        Stream::Stderr => gap.stderr_offset,
    };
    assert_eq!(offset, header.stream_offset);
}

#[test]
fn a_reader_that_races_with_an_overwriting_kernel_gets_no_wrong_byte() {
    let kernel = Kernel::start();
    let mut puppet = dropping_puppet(&kernel, 300 << 10);
    let process = puppet.process();
    let mut client = kernel.client();
    let mut written = 0;
    let mut bytes = Vec::new();
    for _ in 0..10 {
        puppet.ask(&format!("flood out {written} 131072 65536"));
        wait_read(&mut client, process, written + 131_072);
        client.follow_mapped(process, Sequence(0), CREDIT).unwrap();
        let (ring, announced) = first_announced(&mut client);
        // Reads the same over and over while it is being overwritten.
        puppet.ask(&format!(
            "background flood out {} 2097152 65536",
            written + 131_072
        ));
        while ring
            .copy(client.descriptor(), &announced, &mut bytes)
            .unwrap()
            == Copied::Whole
        {
            for record in Records::new(&bytes) {
                let offset = record.header.stream_offset;
                assert_eq!(pattern::first_difference(record.data, offset), None);
            }
        }
        written += 131_072 + 2_097_152;
        wait_read(&mut client, process, written);
    }
}

#[test]
fn what_a_reader_gets_who_acknowledges_nothing_and_its_gaps_are_all_there_was() {
    let kernel = Kernel::start();
    // Little more than what is announced at once, so that reader and writer meet all the time.
    let mut puppet = dropping_puppet(&kernel, 300 << 10);
    let process = puppet.process();
    let mut follower = Follower::in_place(kernel.client(), process, Acknowledge::Never);
    let total: u64 = 32 << 20;
    puppet.ask(&format!("background flood out 0 {total} 65536"));
    follower.read_until("it has got through all of it", |f| {
        let record = f.headers.last();
        let read = record.map_or(0, |one| one.stream_offset + u64::from(one.length));
        let lost = f.gaps.last().map_or(0, |gap| gap.stdout_offset);
        read.max(lost) == total
    });
    puppet.tell("exit 0");
    follower.read_to_end();
    check_stdout(&follower, total);
}

#[test]
fn a_killed_kernel_takes_its_announcements_along_and_nothing_is_lost_or_doubled() {
    let kernel = Kernel::start();
    let mut puppet = waiting_puppet(&kernel, 1 << 20);
    let process = puppet.process();
    let mut client = kernel.client();
    client.follow_mapped(process, Sequence(0), CREDIT).unwrap();
    puppet.ask("flood out 0 300000 100000");
    let (ring, announced) = first_announced(&mut client);
    let mut bytes = Vec::new();
    let mut copy = |client: &Client| ring.copy(client.descriptor(), &announced, &mut bytes);
    assert_eq!(copy(&client).unwrap(), Copied::Whole);
    let killed = kernel.serving();
    killed.signal(libc::SIGKILL).unwrap();
    let mut next = wait::until("another kernel serves", || {
        let next = kernel.try_client("next").map_err(|e| e.to_string())?;
        if next.welcome().pid == killed.pid() {
            return Err("still the killed one".to_owned());
        }
        Ok(next)
    });
    // It is all there, but whoever announced it is not.
    let error = copy(&client).unwrap_err();
    assert!(matches!(error, MappedRingError::SessionOver), "{error}");
    next.follow_mapped(process, announced.next, CREDIT).unwrap();
    drop(next);
    let mut follower = Follower::in_place(kernel.client(), process, Acknowledge::Each);
    puppet.ask("background flood out 300000 2000000 100000");
    follower.read_until("all of it", |f| f.of(Stream::Stdout).len() == 2_300_000);
    puppet.tell("exit 0");
    follower.read_to_end();
    assert_eq!(follower.gaps, []);
    check_stdout(&follower, 2_300_000);
}

#[test]
fn an_upgrade_closes_what_was_announced_and_following_anew_brings_it() {
    let kernel = Kernel::start();
    let mut puppet = waiting_puppet(&kernel, 1 << 20);
    let process = puppet.process();
    let mut client = kernel.client();
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    let mut written = 0;
    let mut next = Sequence(0);
    for _ in 0..2 {
        client.follow_mapped(process, next, CREDIT).unwrap();
        puppet.ask(&format!("flood out {written} 200000 100000"));
        let (ring, announced) = first_announced(&mut client);
        let mut bytes = Vec::new();
        let copied = ring.copy(client.descriptor(), &announced, &mut bytes);
        assert_eq!(copied.unwrap(), Copied::Whole);
        let first = Records::new(&bytes).next().unwrap();
        let offset = first.header.stream_offset;
        assert_eq!(pattern::first_difference(first.data, offset), None);
        let answer = text.ask(&format!("upgrade {}", binaries::kernel().display()));
        assert!(answer.contains(" carried in "), "{answer}");
        let copied = ring.copy(client.descriptor(), &announced, &mut bytes);
        assert_eq!(copied.unwrap(), Copied::Overtaken, "the session lives on");
        written += 200_000;
        next = announced.from;
    }
    let mut follower = Follower::in_place(kernel.client(), process, Acknowledge::Each);
    puppet.tell("exit 0");
    follower.read_to_end();
    assert_eq!(follower.gaps, []);
    check_stdout(&follower, written);
}

#[test]
fn an_upgrade_that_fails_opens_the_rings_again() {
    let kernel = Kernel::start();
    let mut puppet = waiting_puppet(&kernel, 1 << 20);
    let process = puppet.process();
    let mut client = kernel.client();
    client.follow_mapped(process, Sequence(0), CREDIT).unwrap();
    puppet.ask("flood out 0 200000 100000");
    let (ring, announced) = first_announced(&mut client);
    let mut text = TextSession::open(&Place::Unix(kernel.socket()));
    let answer = text.ask("upgrade /bin/true");
    assert!(answer.contains("nothing has happened"), "{answer}");
    let mut bytes = Vec::new();
    let copied = ring.copy(client.descriptor(), &announced, &mut bytes);
    assert_eq!(copied.unwrap(), Copied::Whole);
}

#[test]
fn over_tcp_nothing_is_read_in_place() {
    let scratch = Rc::new(Scratch::new());
    let kernel = Kernel::start_in(scratch, &["--listen", "tcp:127.0.0.1:0"]);
    let puppet = waiting_puppet(&kernel, 1 << 20);
    let log = kernel.log();
    let words = log.split_whitespace();
    let tcp = words
        .map(|word| word.trim_matches([',', ';']))
        .find(|word| word.starts_with("tcp:"))
        .expect("where it listens");
    let address: Address = tcp.parse().unwrap();
    let mut client = Client::connect(&address, "tests/1", Some(wait::PATIENCE)).unwrap();
    assert_eq!(client.welcome().capabilities & capability::MAPPED_OUTPUT, 0);
    let follow = FollowMapped {
        process: puppet.process(),
        from: Sequence(0),
        credit_bytes: CREDIT,
    };
    let error = refused(client.call(follow));
    assert_eq!(error.code, ErrorCode::UNSUPPORTED);
    let offered = kernel.client().welcome().capabilities;
    assert_ne!(offered & capability::MAPPED_OUTPUT, 0);
}

#[test]
fn a_ring_that_somebody_keeps_open_says_nothing_once_its_process_is_forgotten() {
    let kernel = Kernel::start();
    let mut puppet = waiting_puppet(&kernel, 1 << 20);
    let process = puppet.process();
    let mut client = kernel.client();
    client.follow_mapped(process, Sequence(0), CREDIT).unwrap();
    puppet.ask("flood out 0 200000 100000");
    let (ring, announced) = first_announced(&mut client);
    puppet.tell("exit 0");
    wait::until("it has ended", || {
        let all = client.processes().map_err(|e| e.to_string())?;
        match all.iter().all(|one| one.end.is_some()) {
            true => Ok(()),
            false => Err("it runs".to_owned()),
        }
    });
    client.call(Remove { process }).unwrap();
    let mut bytes = Vec::new();
    let copied = ring.copy(client.descriptor(), &announced, &mut bytes);
    assert_eq!(copied.unwrap(), Copied::Overtaken);
}

//! How fast output gets from a child's pipe through the kernel's ring to a consumer on a unix
//! session, against reading the same pipe and throwing the bytes away.
//!
//! The child waits when the ring is full, so that nothing is dropped, and the consumer acknowledges:
//! what is measured is whole delivery.

use kingpole_protocol::client::connection::{Connection, Incoming};
use kingpole_protocol::event::Event;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{Commit, Follow, Grant, OutputAcknowledgement, Spawn};
use kingpole_protocol::spec::Overflow;
use kingpole_protocol::{ProcessId, Sequence};
use kingpole_tests::measure::{Comparison, Effort};
use kingpole_tests::{Kernel, binaries, puppet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Credit in flight; an acknowledgement and a grant go out for each half of it.
const CREDIT: u64 = 1 << 20;

fn main() {
    let effort = Effort::asked_for();
    let kernel = Kernel::start();
    println!("pipe -> ring -> unix session, against read and discard");
    for (name, block, full) in [
        ("output/100 B", 100_usize, 100_u64 << 20),
        ("output/1000 B", 1000, 400 << 20),
        ("output/4 KiB", 4096, 1 << 30),
        ("output/64 KiB", 65_536, 2 << 30),
    ] {
        let bytes = effort.pick(full, full / 64);
        let mut round = 0;
        let comparison = Comparison::measure(
            name,
            "MB/s",
            effort.pick(7, 3),
            || rate(bytes, || read_and_discard(bytes, block)),
            || {
                round += 1;
                let key = format!("{name} {round}");
                rate(bytes, || through_the_kernel(&kernel, &key, bytes, block))
            },
        );
        comparison.print(0.7);
    }
}

fn rate(bytes: u64, run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

fn read_and_discard(bytes: u64, block: usize) {
    let mut child = Command::new(binaries::puppet())
        .arg(format!("same out {bytes} {block}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a puppet");
    let mut pipe = child.stdout.take().expect("its pipe");
    let mut buffer = vec![0; 65_536];
    let mut seen = 0;
    loop {
        match pipe.read(&mut buffer).expect("read") {
            0 => break,
            count => seen += count as u64,
        }
    }
    assert_eq!(seen, bytes);
    child.wait().expect("its end");
}

struct Consumer {
    socket: UnixStream,
    connection: Connection,
}

impl Consumer {
    fn send(&mut self, request: impl Into<kingpole_protocol::request::Request>) {
        self.connection.send(&request.into()).expect("a request");
        let bytes = self.connection.take_outgoing();
        self.socket.write_all(&bytes).expect("the session holds");
    }
}

fn through_the_kernel(kernel: &Kernel, key: &str, bytes: u64, block: usize) {
    let mut consumer = Consumer {
        socket: UnixStream::connect(kernel.socket()).expect("a session"),
        connection: Connection::new("bench/1", 0).expect("a hello"),
    };
    let mut spec = puppet::spec(key, &[&format!("same out {bytes} {block}")]);
    spec.overflow = Overflow::Block;
    consumer.send(Spawn {
        key: key.to_owned(),
        spec,
    });
    let mut process = ProcessId(0);
    let (mut seen, mut since, mut last) = (0, 0, Sequence(0));
    let mut open = 2;
    while open > 0 {
        let count = consumer
            .socket
            .read(consumer.connection.space())
            .expect("read");
        assert!(count > 0, "the kernel closed the session");
        consumer.connection.advance(count);
        let mut follow = false;
        while let Some(incoming) = consumer.connection.poll_incoming().expect("sound frames") {
            match incoming {
                Incoming::Output(output) => {
                    since += output.credit_bytes() as u64;
                    for record in output.records() {
                        seen += record.data.len() as u64;
                        last = record.header.sequence;
                    }
                }
                Incoming::Reply { result, .. } => {
                    if let Reply::Spawned(spawned) = result.expect("no refusal") {
                        process = spawned.process.process;
                        follow = true;
                    }
                }
                Incoming::Event(Event::StreamEnded(_)) => open -= 1,
                Incoming::Event(Event::Gap(gap)) => panic!("{gap:?}"),
                Incoming::Event(_) | Incoming::Welcome(_) => {}
            }
        }
        if follow {
            consumer.send(Follow {
                process,
                from: Sequence(0),
                credit_bytes: CREDIT,
            });
        }
        if since >= CREDIT / 2 {
            let outputs = vec![OutputAcknowledgement {
                process,
                through: last,
            }];
            consumer.send(Commit {
                outputs,
                ..Commit::default()
            });
            consumer.send(Grant {
                process,
                credit_bytes: since,
            });
            since = 0;
        }
    }
    assert_eq!(seen, bytes, "bytes delivered");
}

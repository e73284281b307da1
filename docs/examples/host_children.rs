//! Hosts a child of this program in the process kernel: start it, end, start again, and the child
//! and its output are still there. Run a kernel, then
//! `cargo run -p kingpole-protocol --example host_children`.

use kingpole_protocol::client::blocking::{Client, ClientError, Notice};
use kingpole_protocol::event::Event;
use kingpole_protocol::places::{Address, runtime_dir};
use kingpole_protocol::request::{Commit, OutputAcknowledgement};
use kingpole_protocol::spec::ProcessSpec;
use std::io::Write;
use std::time::Duration;

fn main() -> Result<(), ClientError> {
    let address = Address::kernel_in(&runtime_dir(None));
    let mut kernel = Client::connect(&address, "host_children/1", Some(Duration::from_secs(5)))?;
    let spec = ProcessSpec {
        name: "example.counter".into(),
        arguments: [
            "/bin/sh",
            "-c",
            "for i in 1 2 3 4 5; do echo line $i; sleep 1; done",
        ]
        .map(Into::into)
        .to_vec(),
        ..ProcessSpec::default()
    };
    // The key makes this harmless to repeat: a second run of this program finds the same child.
    let child = kernel.spawn("example.counter/1", spec)?;
    println!(
        "pid {}, {}",
        child.process.pid,
        if child.existed { "found" } else { "started" }
    );

    let process = child.process.process;
    kernel.subscribe()?;
    kernel.follow(process, Default::default(), 1 << 20)?;
    // It may have ended before anybody was told.
    let all = kernel.processes()?;
    let mut ended = all
        .iter()
        .any(|one| one.process == process && one.end.is_some());
    let mut streams_open = 2;
    while streams_open > 0 || !ended {
        match kernel.next_notice(None)? {
            Some(Notice::Output { header, data, .. }) => {
                std::io::stdout().write_all(&data)?;
                let through = OutputAcknowledgement {
                    process,
                    through: header.sequence,
                };
                kernel.commit(Commit {
                    outputs: vec![through],
                    ..Commit::default()
                })?;
                kernel.grant(process, header.credit_bytes())?;
            }
            Some(Notice::Event(Event::StreamEnded(_))) => streams_open -= 1,
            Some(Notice::Event(Event::ProcessEnded(one))) => ended |= one.process == process,
            Some(Notice::Event(_)) | None => {}
        }
    }
    println!("the child has written its last line");
    kernel.commit(Commit {
        ends: vec![process],
        ..Commit::default()
    })
}

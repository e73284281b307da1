//! Ourselves: a kernel with its guard, and a manager.

use super::rival::{Ask, Job, Rival, Running, log_dir};
use kingpole_tests::zeromq::{Kind, Peer};
use kingpole_tests::{Kernel, Manager, Scratch, wait};
use std::fmt::Write;
use std::path::PathBuf;
use std::rc::Rc;

/// See the module.
pub(super) struct Kingpole;

impl Rival for Kingpole {
    fn name(&self) -> &'static str {
        "kingpole"
    }

    fn find(&mut self) -> Result<(), String> {
        let _built = kingpole_tests::binaries::manager();
        Ok(())
    }

    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running {
        start_with(jobs, scratch, "")
    }

    fn processes_max(&self) -> u32 {
        10_000
    }
}

/// Starts kernel and manager on jobs with more options for the last of them.
pub(super) fn start_with(jobs: &[Job], scratch: Rc<Scratch>, options: &str) -> Running {
    let kernel = Kernel::start_in(Rc::clone(&scratch), &[] as &[&str]);
    let file = configuration(jobs, &scratch, options);
    let manager = Manager::launch(&scratch, &file);
    let guard = kernel.process().handle().pid();
    let log = scratch.join("manager.log");
    Running {
        programs: vec![guard, manager.process().handle().pid()],
        connect: Some(Box::new(move || {
            let endpoint = wait::until("the endpoint is open", || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let said = text
                    .lines()
                    .find_map(|line| line.split_once("] endpoint: "));
                said.and_then(|(_, said)| said.split_once(" at tcp:"))
                    .map(|(_, address)| format!("tcp://{}", address.trim()))
                    .ok_or(text)
            });
            ask_by_zeromq(&endpoint)
        })),
        keep: Box::new((manager, kernel)),
        scratch,
    }
}

/// `status` as Circus's clients ask for it.
pub(super) fn ask_by_zeromq(endpoint: &str) -> Ask {
    let mut peer = wait::until("the endpoint answers", || {
        Peer::connect(endpoint, Kind::Dealer)
    });
    Box::new(move || {
        let request = br#"{"command": "status", "id": "x", "properties": {}}"#;
        peer.send(request).expect("sent");
        peer.receive().expect("answered");
    })
}

/// What its manager reads.
pub(super) fn configuration(jobs: &[Job], scratch: &Scratch, options: &str) -> PathBuf {
    let mut text = "[circus]\nendpoint = tcp://127.0.0.1:0\npubsub_endpoint = off\n".to_owned();
    for job in jobs {
        let (name, command) = (&job.name, job.command.join(" "));
        let _ = write!(
            text,
            "[watcher:{name}]\ncmd = {command}\nnumprocesses = {}\n",
            job.processes
        );
        if job.logged {
            let file = log_dir(scratch, name).join("out.log");
            // Whoever drops nothing may make its child wait; this is the setting that does.
            let _ = write!(
                text,
                "buffer_full = wait\nstdout_stream.class = FileStream\nstdout_stream.filename = {}\n",
                file.display()
            );
        }
    }
    text.push_str(options);
    scratch.write("jobs.ini", text)
}

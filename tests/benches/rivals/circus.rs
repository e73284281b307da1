//! circusd, alone and with Papa holding its processes, from PyPI.

use super::kingpole::ask_by_zeromq;
use super::rival::{Job, Rival, Running, log_dir};
use kingpole_tests::process::Guarded;
use kingpole_tests::text::{Place, TextSession};
use kingpole_tests::{Scratch, python, wait};
use std::fmt::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

/// circusd alone.
#[derive(Default)]
pub(super) struct Circus(PathBuf);

impl Rival for Circus {
    fn name(&self) -> &'static str {
        "Circus"
    }

    fn find(&mut self) -> Result<(), String> {
        self.0 = python::environment()?;
        Ok(())
    }

    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running {
        // It chooses no port itself; somebody else may take one of these, and then this run fails.
        let free = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let ports = [free(), free()].map(|it| it.local_addr().expect("bound").port());
        let [control, events] = ports.map(|port| format!("tcp://127.0.0.1:{port}"));
        let mut text =
            format!("[circus]\nendpoint = {control}\npubsub_endpoint = {events}\nstatsd = False\n");
        for job in jobs {
            let (name, command) = (&job.name, job.command.join(" "));
            let count = job.processes;
            let _ = write!(
                text,
                "[watcher:{name}]\ncmd = {command}\nnumprocesses = {count}\n"
            );
            if job.logged {
                let file = log_dir(&scratch, name).join("out.log");
                let file = file.display();
                let _ = write!(
                    text,
                    "stdout_stream.class = FileStream\nstdout_stream.filename = {file}\n"
                );
            }
        }
        let file = scratch.write("circus.ini", text);
        let mut command = Command::new(&self.0);
        command
            .args(["-c", "from circus.circusd import main; main()"])
            .arg(file);
        let program = Guarded::start("circusd", command, scratch.join("circusd.log"));
        let mut running = Running::of(program, scratch);
        running.connect = Some(Box::new(move || ask_by_zeromq(&control)));
        running
    }
}

/// Papa's daemon: holds processes and their output for whoever asks, and writes no files.
#[derive(Default)]
pub(super) struct Papa(PathBuf);

impl Rival for Papa {
    fn name(&self) -> &'static str {
        "Papa"
    }

    fn find(&mut self) -> Result<(), String> {
        self.0 = python::environment()?;
        Ok(())
    }

    fn keeps_running(&self) -> bool {
        false
    }

    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running {
        let socket = scratch.join("papa.sock");
        let mut command = Command::new(&self.0);
        command
            .arg(python::scripts().join("original_papa.py"))
            .arg("-u")
            .arg(&socket);
        let program = Guarded::start("papa", command, scratch.join("papa.log"));
        let place = Place::Unix(socket);
        let mut session = wait::until("Papa listens", || TextSession::try_connect(&place));
        session.expect(kingpole_tests::text::GREETING);
        for job in jobs {
            for number in 0..job.processes {
                let command = job.command.join(" ");
                session.ask(&format!("make process {}.{number} {command}", job.name));
            }
        }
        let mut running = Running::of(program, scratch);
        running.connect = Some(Box::new(move || {
            let mut session = TextSession::open(&place);
            Box::new(move || drop(session.ask("list processes")))
        }));
        running
    }
}

//! supervisord, from PyPI, in an environment of the benchmark's own.

use super::rival::{Ask, Job, Rival, Running, log_dir};
use kingpole_tests::process::Guarded;
use kingpole_tests::{Scratch, python, wait};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// See the module.
#[derive(Default)]
pub(super) struct Supervisor(PathBuf);

impl Rival for Supervisor {
    fn name(&self) -> &'static str {
        "Supervisor"
    }

    fn find(&mut self) -> Result<(), String> {
        let requirements = python::scripts().join("requirements-rivals.txt");
        self.0 = python::environment_of(&requirements, "rivals-python")?;
        Ok(())
    }

    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running {
        let socket = scratch.join("supervisor.sock");
        let own = |name: &str| scratch.join(name).display().to_string();
        let mut text = format!(
            "[supervisord]\nnodaemon = true\nuser = root\nlogfile = {}\npidfile = {}\nchildlogdir = {}\nminfds = 10000\n\
             [unix_http_server]\nfile = {}\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
            own("supervisord.log"),
            own("supervisord.pid"),
            scratch.path().display(),
            socket.display(),
        );
        for job in jobs {
            let (name, command) = (&job.name, job.command.join(" "));
            let log = match job.logged {
                true => log_dir(&scratch, name)
                    .join("out.log")
                    .display()
                    .to_string(),
                false => "NONE".to_owned(),
            };
            let _ = write!(
                text,
                "[program:{name}]\ncommand = {command}\nnumprocs = {}\nprocess_name = %(program_name)s_%(process_num)05d\n\
                 startsecs = 0\nautorestart = true\nredirect_stderr = true\nstdout_logfile = {log}\nstdout_logfile_maxbytes = 0\n",
                job.processes,
            );
        }
        let file = scratch.write("supervisord.conf", text);
        let mut command = Command::new(&self.0);
        command
            .args(["-m", "supervisor.supervisord", "-c"])
            .arg(file);
        let program = Guarded::start("supervisord", command, scratch.join("output.log"));
        let mut running = Running::of(program, scratch);
        running.connect = Some(Box::new(move || ask(&socket)));
        running
    }
}

/// Everything about all processes, by XML-RPC on a connection that stays open.
fn ask(socket: &Path) -> Ask {
    let stream = wait::until("supervisord listens", || UnixStream::connect(socket));
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut stream = stream;
    let body = "<?xml version='1.0'?><methodCall><methodName>supervisor.getAllProcessInfo\
                </methodName><params></params></methodCall>";
    let request = format!(
        "POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Box::new(move || {
        stream.write_all(request.as_bytes()).expect("sent");
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a header");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
    })
}

//! Starts a kernel of this build in a directory of its own, and ends it.

use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::event::Event;
use kingpole_protocol::ids::{ProcessId, Sequence};
use kingpole_protocol::places::Address;
use kingpole_protocol::record::Stream;
use kingpole_protocol::spec::ProcessSpec;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes so long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Kernel {
    pub(crate) directory: TempDir,
    pub(crate) process: Child,
}

impl Kernel {
    /// Waits for READY, as systemd would.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let notify = directory.path().join("notify");
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_kingpole-kernel"))
            .arg("--runtime-dir")
            .arg(directory.path())
            .arg("--listen")
            .arg(format!(
                "unix:{}",
                directory.path().join("other.sock").display()
            ))
            .args(arguments)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let kernel = Self { directory, process };
        let mut message = [0; 64];
        let length = ready.recv(&mut message).unwrap_or_else(|error| {
            panic!(
                "the kernel did not say READY: {error}; its log: {}",
                kernel.log()
            )
        });
        assert_eq!(&message[..length], b"READY=1");
        kernel
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("kernel.sock")
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&Address::Unix(self.socket()), "test/1", Some(PATIENCE)).unwrap()
    }

    pub(crate) fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The kernel's, not the guard's.
    pub(crate) fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.directory.path().join("kernel.pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// One line of `/proc/PID/status`, as a number.
    pub(crate) fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap();
        line.trim_start_matches(':')
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The guard is stopped, so that it starts no other kernel; then all below both go.
        let guard = self.process.id().cast_signed();
        let signal = |pid: i32, signal| {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        };
        signal(guard, nix::sys::signal::Signal::SIGSTOP);
        for pid in children(guard) {
            for child in children(pid) {
                signal(child, nix::sys::signal::Signal::SIGKILL);
            }
            signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("log of the kernel:\n{}", self.log());
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// A shell script as a child.
pub(crate) fn script(name: &str, text: &str) -> ProcessSpec {
    ProcessSpec {
        name: name.into(),
        arguments: ["/bin/sh", "-c", text].map(Into::into).to_vec(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        ..ProcessSpec::default()
    }
}

/// What a follower saw of one process.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) last: Sequence,
    pub(crate) gaps: Vec<kingpole_protocol::event::Gap>,
    pub(crate) ended: Vec<Stream>,
}

/// Follows a process from its oldest record until both streams have ended.
pub(crate) fn follow_to_the_end(client: &mut Client, process: ProcessId) -> Seen {
    client.follow(process, Sequence(0), 1 << 40).unwrap();
    let mut seen = Seen::default();
    while seen.ended.len() < 2 {
        match client.next_notice(Some(PATIENCE)).unwrap() {
            Some(Notice::Output {
                process: whose,
                header,
                data,
            }) => {
                assert_eq!(whose, process);
                assert!(header.sequence > seen.last, "records are in order");
                seen.last = header.sequence;
                match header.stream {
                    Stream::Stdout => seen.stdout.extend(data),
                    Stream::Stderr => seen.stderr.extend(data),
                }
            }
            Some(Notice::Event(Event::Gap(gap))) => seen.gaps.push(gap),
            Some(Notice::Event(Event::StreamEnded(end))) => seen.ended.push(end.stream),
            Some(Notice::Event(_)) => {}
            None => panic!("no news of process {process} for {PATIENCE:?}: {seen:?}"),
        }
    }
    seen
}

/// Waits until `done` says so.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match done() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => panic!("{what}: still {seen}"),
            // Asking without a pause would take the processors from those who are waited for.
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

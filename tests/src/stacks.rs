//! What the tests with other people's programs share: what has to be there, ports for programs that
//! open theirs themselves, and load generators.

use crate::process::Guarded;
use crate::python::{environment_of, scripts};
use crate::{Scratch, wait};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where the example with every program is.
#[must_use]
pub fn example() -> PathBuf {
    crate::binaries::workspace().join("docs/examples/stack")
}

/// Whether stacks are to be tried; says so if not.
///
/// # Panics
/// When they are, and one of these programs is missing.
#[must_use]
#[track_caller]
pub fn are_wanted(programs: &[&str]) -> bool {
    if std::env::var_os("KINGPOLE_STACKS").is_none() {
        eprintln!("SKIPPED: set KINGPOLE_STACKS=1 to try the stacks");
        return false;
    }
    for program in programs {
        let found = Command::new("which").arg(program).output().expect("which");
        assert!(
            found.status.success(),
            "{program} is missing: docs/testing.md says which packages the stacks need"
        );
    }
    true
}

/// The directory with the programs that come from PyPI.
///
/// # Panics
/// When they cannot be had.
#[must_use]
#[track_caller]
pub fn python_programs() -> PathBuf {
    let requirements = scripts().join("stacks/requirements.txt");
    let python = environment_of(&requirements, "stacks-python");
    let python = python.expect("an environment with what the stacks need");
    python.parent().expect("bin").to_owned()
}

/// A port of the loopback address that nobody listens on. It is none of those that Linux gives to
/// whoever asks for any, so that nobody has it a moment later.
///
/// # Panics
/// When there is none.
#[must_use]
#[track_caller]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of several processes begin in different places.
    let start = u16::try_from(std::process::id() % 4000).expect("a small number") * 3;
    for _ in 0..u16::MAX {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port below 32000 is free");
}

/// Copies a directory of plain files into a scratch directory, with words replaced in all of them.
///
/// # Panics
/// When that is not possible.
#[track_caller]
pub fn copy_with(scratch: &Scratch, directory: &Path, replaced: &[(&str, String)]) {
    for entry in fs::read_dir(directory).expect("the example") {
        let path = entry.expect("an entry").path();
        if !path.is_file() {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let mut text = fs::read_to_string(&path).expect("text");
        for (old, new) in replaced {
            text = text.replace(old, new);
        }
        scratch.write(name.expect("a name"), text);
    }
}

/// A load generator that runs until it is told to stop.
pub struct Generator {
    process: Guarded,
    read: fn(&str) -> Result<u64, String>,
}

impl Generator {
    /// `ApacheBench`: a connection for each request; the first that breaks ends it.
    #[must_use]
    #[track_caller]
    pub fn ab(scratch: &Scratch, clients: usize, url: &str) -> Self {
        let mut command = Command::new("ab");
        // Answers may differ in length (-l); more requests than can be made (-n) in this time (-t).
        command.args(["-q", "-l", "-s", "90", "-t", "3600", "-n", "5000000", "-c"]);
        command.arg(clients.to_string()).arg(url);
        Self {
            process: Guarded::start("ab", command, scratch.fresh("ab")),
            read: read_ab,
        }
    }

    /// `wrk`: for servers that say when they close a connection.
    #[must_use]
    #[track_caller]
    pub fn wrk(scratch: &Scratch, clients: usize, url: &str) -> Self {
        let mut command = Command::new("wrk");
        command.args(["--threads", "1", "--timeout", "90", "--duration", "3600"]);
        command.args(["--connections", &clients.to_string(), url]);
        Self {
            process: Guarded::start("wrk", command, scratch.fresh("wrk")),
            read: read_wrk,
        }
    }

    /// Says so if it has given up.
    ///
    /// # Panics
    /// When it has.
    #[track_caller]
    pub fn check(&mut self, after: &str) {
        if let Some(status) = self.process.try_wait() {
            panic!("{after}: {status}: {}", self.process.log());
        }
    }

    /// Ends it; answers how many requests were answered.
    ///
    /// # Panics
    /// When one has failed.
    #[must_use]
    #[track_caller]
    pub fn end(mut self) -> u64 {
        self.check("before its end");
        let handle = self.process.handle();
        handle.signal(libc::SIGINT).expect("it is ours");
        let _ = self.process.wait();
        let said = self.process.log();
        (self.read)(&said).unwrap_or_else(|why| panic!("{why}:\n{said}"))
    }
}

/// The number that stands behind a name.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(name))?;
    rest.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn read_ab(said: &str) -> Result<u64, String> {
    if number(said, "Failed requests") != Some(0) || said.contains("Non-2xx") {
        return Err("requests failed".to_owned());
    }
    number(said, "Complete requests").ok_or_else(|| "no report".to_owned())
}

fn read_wrk(said: &str) -> Result<u64, String> {
    if said.contains("Socket errors") || said.contains("Non-2xx") {
        return Err("requests failed".to_owned());
    }
    let line = said.lines().find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| "no report".to_owned())
}

/// Waits until a server answers.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn wait_answer(port: u16, path: &str) -> String {
    let server = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("the server answers", || {
        match crate::http::get(server, path) {
            Ok((200, body)) => Ok(body.trim().to_owned()),
            other => Err(format!("{path}: {other:?}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_is_noticed() {
        let good = "Complete requests:      41146\nFailed requests:        0\n";
        assert_eq!(read_ab(good), Ok(41146));
        assert!(read_ab("Complete requests: 4\nFailed requests:        1\n").is_err());
        assert!(read_ab(&format!("{good}Non-2xx responses:      3\n")).is_err());
        assert!(read_ab("").is_err());
        let good = "  6201 requests in 2.00s, 1.05MB read\n";
        assert_eq!(read_wrk(good), Ok(6201));
        let bad = "  Socket errors: connect 0, read 1, write 0, timeout 0\n";
        assert!(read_wrk(&format!("{good}{bad}")).is_err());
        assert!(read_wrk("").is_err());
    }
}

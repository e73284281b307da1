//! Running the candidate beside us, and understanding what it says.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::standby::{READY_PREFIX, Ready};
use crate::shells::link::describe;

/// How long it may take. It connects to the kernel and lists what that holds.
const REHEARSAL_TIMEOUT: Duration = Duration::from_secs(20);

/// What is read of its words.
const WORDS_BYTES_MAX: u64 = 64 << 10;

/// Arguments of ours that only concern one start.
const RESUME: [&str; 2] = ["--resume", "--resume-reason"];

/// The program of this process as it is installed now.
///
/// # Errors
/// When Linux does not tell.
pub fn installed_program() -> Result<PathBuf, String> {
    let path = std::fs::read_link("/proc/self/exe")
        .map_err(|error| format!("cannot find out what this program is: {}", describe(&error)))?;
    // What proc_pid_exe(5) adds when the file was replaced.
    let text = path.to_string_lossy().into_owned();
    Ok(text
        .strip_suffix(" (deleted)")
        .map_or(path, |text| PathBuf::from(text.to_owned())))
}

/// The arguments with which this process was started, whatever it has become since.
pub(super) fn own_arguments() -> Vec<OsString> {
    strip(std::env::args_os().skip(1))
}

fn strip(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if RESUME.iter().any(|name| argument == *name) {
            arguments.next();
        } else {
            kept.push(argument);
        }
    }
    kept
}

/// Lets `program` rehearse. Waits for it.
///
/// # Errors
/// Why it is no candidate.
pub fn rehearse(program: &Path) -> Result<Ready, String> {
    let shown = program.display();
    let failed =
        |what: &str, error: std::io::Error| format!("{shown}: {what}: {}", describe(&error));
    let (mut words, theirs) = std::io::pipe().map_err(|error| failed("no pipe", error))?;
    let also = theirs
        .try_clone()
        .map_err(|error| failed("no pipe", error))?;
    let mut command = Command::new(program);
    command
        .args(own_arguments())
        .arg("--standby")
        .stdin(Stdio::null())
        .stdout(theirs)
        .stderr(also);
    let mut child = command
        .spawn()
        .map_err(|error| failed("cannot be executed", error))?;
    // Our copies of the pipe's end.
    drop(command);
    let deadline = Instant::now() + REHEARSAL_TIMEOUT;
    let said = listen(&mut words, deadline);
    let ended = said.is_some() && ends(&mut child, deadline);
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!(
            "{shown}: did not finish its rehearsal within {} s",
            REHEARSAL_TIMEOUT.as_secs()
        ));
    }
    let status = child.wait().map_err(|error| failed("is lost", error))?;
    verdict(&said.unwrap_or_default(), status.success()).map_err(|reason| {
        let called = own_arguments().join(" ".as_ref());
        let called = called.display();
        format!("{shown}: {reason} ({status}; called like this manager, with: {called})")
    })
}

/// All that it says; nothing when it goes on saying for too long.
fn listen(words: &mut std::io::PipeReader, deadline: Instant) -> Option<String> {
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let ready = {
            let mut fds = [PollFd::new(words.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, timeout)
        };
        match ready {
            Ok(0) => return None,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return None,
            Ok(_) => {}
        }
        let mut part = [0; 4096];
        let count = words.read(&mut part).ok()?;
        if count == 0 {
            return Some(String::from_utf8_lossy(&said).into_owned());
        }
        said.extend_from_slice(&part[..count]);
        if said.len() as u64 > WORDS_BYTES_MAX {
            return None;
        }
    }
}

/// Whether it ends in time. It has closed its output, so it is about to.
fn ends(child: &mut Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return true,
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => return false,
        }
    }
}

fn verdict(said: &str, success: bool) -> Result<Ready, String> {
    let ready = said
        .lines()
        .find_map(|line| line.strip_prefix(READY_PREFIX));
    match ready {
        Some(ready) if success => {
            serde_json::from_str(ready).map_err(|error| format!("is not understood: {error}"))
        }
        _ => {
            let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
            let said = match lines.collect::<Vec<_>>() {
                lines if lines.is_empty() => "it says nothing".to_owned(),
                lines => lines.join("; "),
            };
            Err(format!("is not ready to be the manager: {said}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_says_so_and_ends_well_is_ready() {
        let line = r#"ready 1 {"release":"9.9","watchers":2,"processes":3}"#;
        let ready = verdict(&format!("a warning\n{line}\n"), true).unwrap();
        assert_eq!((ready.release.as_str(), ready.processes), ("9.9", 3));
        verdict(line, false).unwrap_err();
        let error = verdict("ready 2 {}", true).unwrap_err();
        assert!(error.contains("not ready"), "{error}");
        let error = verdict("error: no such option\n\nUsage: other [FILE]\n", false).unwrap_err();
        assert!(
            error.ends_with(": error: no such option; Usage: other [FILE]"),
            "{error}"
        );
        assert!(verdict("", false).unwrap_err().contains("says nothing"));
    }

    #[test]
    fn what_concerns_one_start_does_not_reach_the_next() {
        let arguments = [
            "run",
            "--resume",
            "7",
            "x.ini",
            "--resume-reason",
            "it hung",
        ];
        let stripped = strip(arguments.into_iter().map(OsString::from));
        assert_eq!(stripped, ["run", "x.ini"]);
    }
}

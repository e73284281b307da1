//! A program of ours that can be started again: its file, its arguments, its environment.

use super::role::Role;
use crate::sys::exec::{Inherit, Orphaned, fork_exec, inherit_numbers, set_inherited};
#[cfg(test)]
use crate::sys::simulated;
use crate::upgrade::rehearse::Script;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::execveat;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The options of a process that one of us started; always the first ones, each with a value.
const ROLE_OPTION: &str = "--role";
const ORIGIN_OPTION: &str = "--started-in";

/// What to start.
#[derive(Debug)]
pub struct Image {
    /// The program. A descriptor, because its path may by then lead to another one, or nowhere.
    pub binary: OwnedFd,
    /// Its own name, for `ps`.
    name: CString,
    /// Where the user was: relative paths are taken from there.
    origin: CString,
    /// What the user asked for, without roles.
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    /// The program that runs, as it was started. Collect it before the title is taken over.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn of_this_process(origin: &Path) -> Result<Self, Errno> {
        let binary = open(
            "/proc/self/exe",
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let mut arguments = arguments.peekable();
        for option in [ROLE_OPTION, ORIGIN_OPTION] {
            if arguments.next_if(|first| first == option).is_some() {
                arguments.next();
            }
        }
        let arguments = arguments.collect();
        let environment = std::env::vars_os().map(|(key, value)| {
            let mut pair = key;
            pair.push("=");
            pair.push(value);
            pair
        });
        Ok(Self {
            binary,
            name: CString::new(name.into_vec()).unwrap_or_default(),
            origin: CString::new(origin.as_os_str().as_bytes()).unwrap_or_default(),
            arguments: strings(arguments),
            environment: strings(environment.collect()),
        })
    }

    /// The same with another program.
    #[must_use]
    pub fn with_binary(&self, binary: OwnedFd) -> Self {
        Self {
            binary,
            name: self.name.clone(),
            origin: self.origin.clone(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
        }
    }

    /// Where relative paths are taken from.
    #[must_use]
    pub fn origin(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.origin.as_bytes()))
    }

    /// Starts it as a child in `role`, with exactly `kept` open (and 0 to 2). Gives its pid.
    ///
    /// # Errors
    /// No process can be made. A program that cannot be started ends with code 71 instead.
    pub fn start(&self, role: &Role, kept: &[BorrowedFd<'_>]) -> Result<i32, Errno> {
        #[cfg(test)]
        if let Some(started) = simulated::start(self.binary.as_fd(), role, kept) {
            return started;
        }
        let arguments = self.command_line(role);
        let environment = &self.environment;
        let binary = self.binary.as_fd();
        fork_exec(binary, &arguments, environment, kept, Orphaned::Lives)
    }

    /// Starts it for a rehearsal, with exactly `kept` open; it dies with this process. Gives its pid.
    ///
    /// # Errors
    /// As [`Image::start`].
    pub fn start_rehearsal(&self, script: &Script, kept: &[BorrowedFd<'_>]) -> Result<i32, Errno> {
        #[cfg(test)]
        if let Some(pid) = simulated::rehearse(self.binary.as_fd(), kept, |inherited| {
            let _ = crate::upgrade::rehearse::perform(script, inherited);
        }) {
            return Ok(pid);
        }
        let words = ["--rehearse".to_owned(), script.to_string()];
        let words = words.map(|text| CString::new(text).unwrap_or_default());
        let mut arguments = vec![self.name.clone()];
        arguments.extend(words);
        let environment = &self.environment;
        let binary = self.binary.as_fd();
        fork_exec(binary, &arguments, environment, kept, Orphaned::Dies)
    }

    /// Becomes it, in `role`, with exactly `kept` open. Returns only if that failed: then nothing has
    /// changed.
    #[must_use]
    pub fn become_it(&self, role: &Role, kept: &[BorrowedFd<'_>]) -> Errno {
        #[cfg(test)]
        simulated::become_it(self.binary.as_fd(), role, kept);
        let arguments = self.command_line(role);
        let mut result = set_inherited(kept, Inherit::Yes);
        if result.is_ok() {
            let binary = self.binary.as_fd();
            let flags = AtFlags::AT_EMPTY_PATH;
            let failed = execveat(binary, c"", &arguments, &self.environment, flags);
            result = failed.map(|never| match never {});
        }
        // Children must not get them.
        let _ = set_inherited(kept, Inherit::No);
        result.err().unwrap_or(Errno::UnknownErrno)
    }

    /// Becomes it, in `role`, with what is open under `numbers`: for a process that has failed and has
    /// nothing to go on with. Returns only if that failed too.
    #[must_use]
    pub fn become_it_with_numbers(&self, role: &Role, numbers: &[i32]) -> Errno {
        inherit_numbers(numbers);
        self.become_it(role, &[])
    }

    /// What [`Image::become_it`] would start it with: arguments and environment.
    #[must_use]
    pub fn words(&self, role: &Role) -> (Vec<CString>, Vec<CString>) {
        (self.command_line(role), self.environment.clone())
    }

    fn command_line(&self, role: &Role) -> Vec<CString> {
        let role = [ROLE_OPTION, &role.to_string(), ORIGIN_OPTION];
        let role = role.map(|text| CString::new(text).unwrap_or_default());
        let mut line = vec![self.name.clone()];
        line.extend(role);
        line.push(self.origin.clone());
        line.extend(self.arguments.iter().cloned());
        line
    }
}

/// Strings from Linux have no NUL inside.
fn strings(all: Vec<OsString>) -> Vec<CString> {
    all.into_iter()
        .filter_map(|one| CString::new(one.into_vec()).ok())
        .collect()
}

//! The commanding side of the puppet: a child of a kernel that does what it is told.
//!
//! What it can be told stands in `src/bin/puppet.rs`.

use crate::{Kernel, Scratch, binaries, wait};
use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::spec::ProcessSpec;
use kingpole_protocol::status::ProcessInfo;
use kingpole_protocol::{ByteString, ProcessId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// The wire to a puppet.
pub struct Strings {
    connection: BufReader<UnixStream>,
}

/// A puppet that a test has started itself.
pub struct Puppet {
    strings: Strings,
    /// What the kernel said about it when it was started.
    pub info: ProcessInfo,
}

/// Where a puppet that is about to be started will report.
pub struct Stage {
    listener: UnixListener,
    command: String,
}

impl Stage {
    /// Prepares one.
    ///
    /// # Panics
    /// When there is no room for its socket.
    #[must_use]
    #[track_caller]
    pub fn new(scratch: &Scratch) -> Self {
        let path = scratch.fresh("control");
        let listener = UnixListener::bind(&path).expect("a control socket");
        let everyone = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&path, everyone).expect("mode of the control socket");
        Self {
            listener,
            command: format!("control {}", path.display()),
        }
    }

    /// The puppet's argument that makes it report here.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Waits for it.
    ///
    /// # Errors
    /// When it does not come.
    pub fn accept(&self) -> Result<Strings, String> {
        let timeout = PollTimeout::try_from(wait::PATIENCE).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, timeout) {
            Ok(count) if count > 0 => {}
            other => return Err(format!("the puppet does not report: {other:?}")),
        }
        let (connection, _) = self.listener.accept().map_err(|e| e.to_string())?;
        connection
            .set_read_timeout(Some(wait::PATIENCE))
            .map_err(|e| e.to_string())?;
        Ok(Strings {
            connection: BufReader::new(connection),
        })
    }
}

/// What starts the puppet with `script`, one command for each argument.
#[must_use]
pub fn spec(name: &str, script: &[&str]) -> ProcessSpec {
    let program = ByteString::from(binaries::puppet().as_os_str());
    let script = script.iter().map(|&command| ByteString::from(command));
    ProcessSpec {
        name: name.to_owned(),
        arguments: std::iter::once(program).chain(script).collect(),
        ..ProcessSpec::default()
    }
}

/// What starts any program.
#[must_use]
pub fn program(name: &str, arguments: &[&str]) -> ProcessSpec {
    ProcessSpec {
        name: name.to_owned(),
        arguments: arguments.iter().map(|&a| ByteString::from(a)).collect(),
        ..ProcessSpec::default()
    }
}

/// A copy of the puppet where every user may execute it.
///
/// # Panics
/// When it cannot be copied.
#[must_use]
pub fn for_everyone(scratch: &Scratch) -> ByteString {
    let path = scratch.copy_program("puppet", binaries::puppet());
    ByteString::from(path.as_os_str())
}

impl Puppet {
    /// Lets a kernel start one and waits until it reports.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    #[track_caller]
    pub fn spawn(
        kernel: &Kernel,
        client: &mut Client,
        name: &str,
        adjust: impl FnOnce(&mut ProcessSpec),
    ) -> Self {
        let stage = Stage::new(kernel.scratch());
        let mut wanted = spec(name, &[stage.command()]);
        adjust(&mut wanted);
        let spawned = match client.spawn(name, wanted) {
            Ok(spawned) => spawned,
            Err(error) => panic!("puppet {name:?} was not started: {error}"),
        };
        let strings = match stage.accept() {
            Ok(strings) => strings,
            Err(error) => panic!("{error}; the kernel's log:\n{}", kernel.log()),
        };
        Self {
            strings,
            info: spawned.process,
        }
    }

    /// Its number in the kernel.
    #[must_use]
    pub const fn process(&self) -> ProcessId {
        self.info.process
    }
}

impl Strings {
    /// Sends a command that ends it, or whose answer is not awaited.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        let mut connection = self.connection.get_ref();
        writeln!(connection, "{command}").unwrap_or_else(|e| panic!("puppet, {command:?}: {e}"));
    }

    /// Sends a command and waits for what it answers.
    ///
    /// # Panics
    /// When it fails, or the puppet is gone.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> Value {
        self.tell(command);
        let mut line = String::new();
        match self.connection.read_line(&mut line) {
            Ok(count) if count > 0 => {}
            other => panic!("puppet, {command:?}: no answer ({other:?})"),
        }
        let answer: Value = serde_json::from_str(&line).expect("the puppet answers in JSON");
        match answer.get("error") {
            Some(error) => panic!("puppet, {command:?}: {error}"),
            None => answer["ok"].clone(),
        }
    }

    /// What it sees of itself.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn report(&mut self) -> Value {
        self.ask("report")
    }
}

impl Deref for Puppet {
    type Target = Strings;
    fn deref(&self) -> &Strings {
        &self.strings
    }
}

impl DerefMut for Puppet {
    fn deref_mut(&mut self) -> &mut Strings {
        &mut self.strings
    }
}

/// The bytes of a path, for a specification.
#[must_use]
pub fn bytes(path: &Path) -> ByteString {
    ByteString(path.as_os_str().as_bytes().to_vec())
}

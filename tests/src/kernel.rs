//! A process kernel of a test's own.

use crate::process::{self, Guarded, Handle};
use crate::{Scratch, binaries, wait};
use kingpole_protocol::ErrorReply;
use kingpole_protocol::client::blocking::{Client, ClientError};
use kingpole_protocol::places::{Address, KERNEL_SOCKET};
use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::rc::Rc;

/// How often a port that was free a moment ago may be taken by somebody else.
const PORTS_TRIED_MAX: u32 = 20;

/// A running kernel in a scratch directory; it and its children end with it.
pub struct Kernel {
    // Before the scratch directory, so that its log is still there when it is shown.
    process: Guarded,
    scratch: Rc<Scratch>,
}

impl Kernel {
    /// Starts one and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::start_in(Rc::new(Scratch::new()), &[] as &[&str])
    }

    /// Starts one in a directory that is there, with further arguments.
    ///
    /// # Panics
    /// When it does not serve.
    #[must_use]
    #[track_caller]
    pub fn start_in(scratch: Rc<Scratch>, arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Self::command(&scratch);
        command.args(arguments);
        Self::start_command(scratch, command)
    }

    /// Starts one that has a TCP port as well, by Papa's `-p`, with further arguments; answers the
    /// port.
    ///
    /// # Panics
    /// When it does not serve.
    #[must_use]
    #[track_caller]
    pub fn start_with_port(arguments: &[&str]) -> (Self, u16) {
        for _ in 0..PORTS_TRIED_MAX {
            let probe = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = probe.local_addr().expect("its number").port();
            drop(probe);
            let scratch = Rc::new(Scratch::new());
            let mut command = Self::command(&scratch);
            command.arg("-p").arg(port.to_string()).args(arguments);
            let process = Guarded::start("kingpole-kernel", command, scratch.join("kernel.log"));
            let mut kernel = Self { process, scratch };
            if kernel.wait_serving().is_ok() {
                return (kernel, port);
            }
            // Somebody has taken the port since it was found free.
            assert!(kernel.log().contains("in use"), "{}", kernel.log());
        }
        panic!("no port stays free for a moment");
    }

    /// Starts one by a command made from [`Kernel::command`].
    ///
    /// # Panics
    /// When it does not serve.
    #[must_use]
    #[track_caller]
    pub fn start_command(scratch: Rc<Scratch>, command: Command) -> Self {
        let process = Guarded::start("kingpole-kernel", command, scratch.join("kernel.log"));
        let mut kernel = Self { process, scratch };
        if let Err(status) = kernel.wait_serving() {
            let log = kernel.log();
            panic!("the kernel ended at once: {status}; its log:\n{log}");
        }
        kernel
    }

    /// Waits until it serves, or has ended.
    #[track_caller]
    fn wait_serving(&mut self) -> Result<(), ExitStatus> {
        wait::until("the kernel serves its socket", || {
            match self.process.try_wait() {
                Some(status) => Ok(Err(status)),
                None => self
                    .try_client("kingpole-tests/start")
                    .map(|_client| Ok(())),
            }
        })
    }

    /// The command that starts a kernel in `scratch`. It opens no TCP port: `-u` replaces the
    /// default addresses.
    #[must_use]
    pub fn command(scratch: &Scratch) -> Command {
        Self::command_of(binaries::kernel(), scratch)
    }

    /// The same with another program.
    #[must_use]
    pub fn command_of(program: &Path, scratch: &Scratch) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir(scratch.path())
            .arg("--runtime-dir")
            .arg(scratch.runtime_dir())
            .arg("-u")
            .arg(scratch.join("text.sock"));
        command
    }

    /// A new session.
    ///
    /// # Panics
    /// When none can be had.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        match self.try_client("kingpole-tests/0") {
            Ok(client) => client,
            Err(error) => panic!(
                "no session with the kernel: {error}; its log:\n{}",
                self.log()
            ),
        }
    }

    /// A new session under a name.
    ///
    /// # Errors
    /// When none can be had.
    pub fn try_client(&self, name: &str) -> Result<Client, ClientError> {
        Client::connect(&Address::Unix(self.socket()), name, Some(wait::PATIENCE))
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.scratch.runtime_dir().join(KERNEL_SOCKET)
    }

    /// The directory that it lives in.
    #[must_use]
    pub fn scratch(&self) -> &Rc<Scratch> {
        &self.scratch
    }

    /// The process that was started (the guard, where there is one).
    #[must_use]
    pub const fn process(&self) -> &Guarded {
        &self.process
    }

    /// The same, to kill or to wait for.
    pub fn process_mut(&mut self) -> &mut Guarded {
        &mut self.process
    }

    /// The process that serves and is the children's parent.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn serving(&self) -> Handle {
        let pid = self.client().welcome().pid;
        Handle::open(pid).unwrap_or_else(|e| panic!("the kernel says it is {pid}: {e}"))
    }

    /// What a file in the runtime directory says who somebody is.
    #[must_use]
    pub fn pid_in(&self, name: &str) -> Option<i32> {
        pid_in(&self.scratch.runtime_dir(), name)
    }

    /// Children that are nobody's descendants any more: the guard that had got them from a killed
    /// kernel was killed itself.
    fn adrift(&self) -> Vec<Handle> {
        let address = Address::Unix(self.socket());
        let patience = Some(std::time::Duration::from_secs(2));
        let all = Client::connect(&address, "kingpole-tests/end", patience)
            .and_then(|mut client| client.processes())
            .unwrap_or_default();
        let running = all.into_iter().filter(|process| process.end.is_none());
        running
            .filter_map(|process| Handle::open(process.pid).ok())
            .collect()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// What a file in a runtime directory says who somebody is.
#[must_use]
pub fn pid_in(runtime_dir: &Path, name: &str) -> Option<i32> {
    let text = std::fs::read_to_string(runtime_dir.join(name)).ok()?;
    text.trim().parse().ok()
}

impl Drop for Kernel {
    /// Where guard and kernel were killed, others have taken their places: they end too.
    fn drop(&mut self) {
        let adrift = self.adrift();
        let lock = self.scratch.runtime_dir().join("kernel.lock");
        for _ in 0..200 {
            if self.process.try_wait().is_none() {
                process::end_tree(self.process.handle());
            }
            for pid in ["guard.pid", "kernel.pid"].map(|name| self.pid_in(name)) {
                let Some(handle) = pid.and_then(|pid| Handle::open(pid).ok()) else {
                    continue;
                };
                // The number may have changed hands; only ours have the lock open.
                let open = process::descriptors(handle.pid()).unwrap_or_default();
                if open.values().any(|target| Path::new(target) == lock) {
                    process::end_tree(&handle);
                }
            }
            let Ok(file) = std::fs::File::open(&lock) else {
                return;
            };
            if file.try_lock().is_ok() {
                adrift.iter().for_each(process::end_tree);
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        eprintln!("somebody still holds {}", lock.display());
    }
}

/// The refusal that a call is expected to be answered with.
///
/// # Panics
/// When it was not refused, or failed otherwise.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorReply {
    match result {
        Err(ClientError::Refused(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

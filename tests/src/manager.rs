//! A manager of a test's own, and the command line that speaks with it.

use crate::process::Guarded;
use crate::{Kernel, Scratch, binaries, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use kingpole_protocol::places::RUNTIME_DIR_VARIABLE;

/// Only one manager of a machine can have Circus's usual ports, and tests run side by side.
const DEFAULT_ENDPOINTS_VARIABLE: &str = "KINGPOLE_DEFAULT_ENDPOINTS";

/// A running manager; killing it leaves its children running, and so does dropping it.
pub struct Manager {
    process: Guarded,
    scratch: Rc<Scratch>,
    configuration: PathBuf,
}

impl Manager {
    /// Starts a kernel, and a manager on a configuration of these words, and waits until these
    /// watchers have all their processes.
    ///
    /// # Panics
    /// When they do not get them.
    #[must_use]
    #[track_caller]
    pub fn with_kernel(configuration: &str, watchers: &[&str]) -> (Kernel, Rc<Scratch>, Self) {
        let kernel = Kernel::start();
        let scratch = Rc::clone(kernel.scratch());
        let configuration = scratch.write("stack.ini", configuration);
        let manager = Self::start(&scratch, &configuration);
        wait::until("all watchers are active", || {
            watchers
                .iter()
                .try_for_each(|name| manager.pids(name).map(drop))
        });
        (kernel, scratch, manager)
    }

    /// Starts one on a configuration file and the kernel of `scratch`, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(scratch: &Rc<Scratch>, configuration: &Path) -> Self {
        let mut manager = Self::launch(scratch, configuration);
        manager.wait_ready();
        manager
    }

    /// Starts one and does not wait.
    ///
    /// # Panics
    /// When there is no such binary.
    #[must_use]
    #[track_caller]
    pub fn launch(scratch: &Rc<Scratch>, configuration: &Path) -> Self {
        let command = Self::command(scratch, configuration);
        let process = Guarded::start("kingpole-manager", command, scratch.join("manager.log"));
        Self {
            process,
            scratch: Rc::clone(scratch),
            configuration: configuration.to_owned(),
        }
    }

    /// Starts another program as one, with more environment, and does not wait. Those that
    /// [`Self::replace`] it are ordinary managers.
    ///
    /// # Panics
    /// When there is no such binary.
    #[must_use]
    #[track_caller]
    pub fn launch_with(
        scratch: &Rc<Scratch>,
        configuration: &Path,
        program: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let usual = Self::command(scratch, configuration);
        let mut command = Command::new(program);
        command
            .args(usual.get_args())
            .env(RUNTIME_DIR_VARIABLE, scratch.runtime_dir())
            .envs(environment.iter().copied())
            .current_dir(scratch.path());
        let process = Guarded::start("kingpole-manager", command, scratch.join("manager.log"));
        Self {
            process,
            scratch: Rc::clone(scratch),
            configuration: configuration.to_owned(),
        }
    }

    /// The command that starts a manager.
    #[must_use]
    pub fn command(scratch: &Scratch, configuration: &Path) -> Command {
        let mut command = Command::new(binaries::manager());
        command
            .env(RUNTIME_DIR_VARIABLE, scratch.runtime_dir())
            .env(DEFAULT_ENDPOINTS_VARIABLE, "off")
            .current_dir(scratch.path())
            .arg(configuration);
        command
    }

    /// Waits until it answers on its socket.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        wait::until("the manager answers", || {
            if let Some(status) = self.process.try_wait() {
                panic!("the manager ended: {status}; its log:\n{}", self.log());
            }
            let answer = kingpole(&self.scratch, &["list"]);
            if answer.status.success() {
                Ok(())
            } else {
                Err(describe(&answer))
            }
        });
    }

    /// Kills it as `kill -9` does and starts the next one, without waiting for that to answer.
    #[track_caller]
    pub fn replace(&mut self) {
        self.kill();
        let command = Self::command(&self.scratch, &self.configuration);
        self.process = Guarded::start(
            "kingpole-manager",
            command,
            self.scratch.join("manager.log"),
        );
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its process.
    #[must_use]
    pub const fn process(&self) -> &Guarded {
        &self.process
    }

    /// The same, to wait for.
    pub fn process_mut(&mut self) -> &mut Guarded {
        &mut self.process
    }

    /// What it and its predecessors have logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `kingpole status --json`, read.
    ///
    /// # Errors
    /// When it fails or is no JSON.
    pub fn status(&self) -> Result<Value, String> {
        json(&self.scratch, &["status", "--json"])
    }

    /// The pids of a watcher by worker id, once all that it shall have run.
    ///
    /// # Errors
    /// What the watcher looks like instead.
    pub fn pids(&self, watcher: &str) -> Result<Vec<i64>, String> {
        pids(&self.status()?, watcher)
    }
}

/// The pids of a watcher in a status report, once it is active and has all its processes.
///
/// # Errors
/// What the watcher looks like instead.
pub fn pids(status: &Value, watcher: &str) -> Result<Vec<i64>, String> {
    let watchers = status["watchers"]
        .as_array()
        .ok_or_else(|| format!("no watchers: {status}"))?;
    let found = watchers
        .iter()
        .find(|w| w["name"] == watcher)
        .ok_or_else(|| format!("no watcher {watcher:?} in {status}"))?;
    let processes = found["processes"]
        .as_array()
        .ok_or_else(|| found.to_string())?;
    let pids: Vec<i64> = processes.iter().filter_map(|p| p["pid"].as_i64()).collect();
    let whole = found["numprocesses"].as_u64() == Some(pids.len() as u64);
    if found["state"] == "active" && whole {
        Ok(pids)
    } else {
        Err(found.to_string())
    }
}

/// Runs `kingpole` with the runtime directory of `scratch`.
///
/// # Panics
/// When there is no such binary.
#[must_use]
#[track_caller]
pub fn kingpole(scratch: &Scratch, arguments: &[&str]) -> Output {
    kingpole_command(scratch, arguments)
        .output()
        .unwrap_or_else(|e| panic!("cannot run kingpole {arguments:?}: {e}"))
}

/// The command line, not yet run.
#[must_use]
pub fn kingpole_command(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::kingpole());
    command
        .env(RUNTIME_DIR_VARIABLE, scratch.runtime_dir())
        .env(DEFAULT_ENDPOINTS_VARIABLE, "off")
        .env("NO_COLOR", "1")
        .current_dir(scratch.path())
        .args(arguments);
    command
}

/// Runs `kingpole` for its JSON.
///
/// # Errors
/// When it fails or prints something else.
pub fn json(scratch: &Scratch, arguments: &[&str]) -> Result<Value, String> {
    let output = kingpole(scratch, arguments);
    if !output.status.success() {
        return Err(describe(&output));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{e} in {}", describe(&output)))
}

/// What a command did, for messages.
#[must_use]
pub fn describe(output: &Output) -> String {
    format!(
        "{}; stdout: {}; stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout).trim_end(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )
}

//! From a watcher's configuration to everything that is decided about one of its processes before
//! it starts.
//!
//! Neutral to the kernel's protocol, which a shell translates to; user names, files and sockets
//! are not looked up here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use super::command_line::{self, SpawnVariables};
use super::ini::quoted;
use super::model::{
    BufferFull, EnvironmentBase, LimitValue, Resource, SocketConfig, WatcherConfig,
};
use super::words::WordsError;

/// One process, decided.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaunchSpec {
    /// Name in the kernel: `circus.<watcher, lower-cased>.<worker id>`.
    pub name: String,
    /// Arguments, the program's own name first. `$(socket.NAME.fileno)` in them stands for the
    /// number of a socket that the kernel shall pass on.
    pub arguments: Vec<String>,
    /// What to execute when it is not the first argument.
    pub program: Option<String>,
    /// Directories, separated by `:`, where a program without a slash is looked up; empty when
    /// neither the child nor the manager has a PATH.
    pub search_path: String,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Where it starts; absolute if the manager's working directory is.
    pub working_directory: PathBuf,
    /// Its file mode mask.
    pub umask: Option<u32>,
    /// Who it runs as; the kernel's own user when absent.
    pub ids: Option<ResolvedIds>,
    /// Its resource limits, soft and hard alike.
    pub limits: BTreeMap<Resource, LimitValue>,
    /// Its standard input.
    pub stdin: LaunchInput,
    /// Its standard output.
    pub stdout: LaunchOutput,
    /// Its standard error.
    pub stderr: LaunchOutput,
    /// Kernel names of the sockets to pass as `LISTEN_FDS`, in this order.
    pub listen: Vec<String>,
    /// Unread output the kernel keeps.
    pub buffer_bytes: u64,
    /// What happens when it is full.
    pub buffer_full: BufferFull,
}

/// A user, looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedIds {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What a process reads from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchInput {
    /// `/dev/null`.
    Null,
    /// A socket, by its name in the kernel.
    Socket(String),
}

/// Where output of a process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchOutput {
    /// To the kernel's buffer, for the manager.
    Captured,
    /// To `/dev/null`.
    Discarded,
}

/// The manager's own circumstances, which a process may inherit.
#[derive(Clone, Copy, Debug)]
pub struct LaunchContext<'a> {
    /// Its environment: for `copy_env`, and its PATH for looking up programs.
    pub environment: &'a BTreeMap<String, String>,
    /// Its working directory, absolute.
    pub working_directory: &'a Path,
    /// `[circus] umask`, else its own.
    pub umask: Option<u32>,
    /// The managed sockets.
    pub sockets: &'a [SocketConfig],
}

/// Why a process cannot be started, found before anything is asked of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// A quotation mark or backslash without its end.
    #[error("watcher {}: {key} cannot be split into words: {source}; quote what variables bring in", quoted(.watcher))]
    Words {
        /// Whose.
        watcher: String,
        /// Which option.
        key: &'static str,
        /// What is wrong.
        source: WordsError,
    },
    /// Nothing to execute.
    #[error("watcher {}: cmd is empty", quoted(.watcher))]
    NoCommand {
        /// Whose.
        watcher: String,
    },
    /// The socket for standard input does not exist.
    #[error("watcher {}: stdin_socket names a socket that does not exist: {}", quoted(.watcher), quoted(.socket))]
    NoSocket {
        /// Whose.
        watcher: String,
        /// The socket as named.
        socket: String,
    },
    /// A NUL character, which no process can be given.
    #[error("watcher {}: {what} contains a NUL character", quoted(.watcher))]
    Nul {
        /// Whose.
        watcher: String,
        /// Where it is.
        what: String,
    },
}

impl LaunchError {
    /// The watcher's option that it is about, where it is one.
    #[must_use]
    pub const fn option(&self) -> Option<&'static str> {
        match self {
            Self::Words { key, .. } => Some(key),
            Self::NoCommand { .. } => Some("cmd"),
            Self::NoSocket { .. } => Some("stdin_socket"),
            Self::Nul { .. } => None,
        }
    }
}

/// Decides everything about process `worker_id` of a watcher. `ids` are those of the watcher's
/// `uid` and `gid`, looked up.
///
/// # Errors
/// See [`LaunchError`].
pub fn launch_spec(
    watcher: &WatcherConfig,
    worker_id: u32,
    ids: Option<ResolvedIds>,
    context: LaunchContext<'_>,
) -> Result<LaunchSpec, LaunchError> {
    let environment = environment(watcher, context.environment);
    let working_directory = match &watcher.working_dir {
        Some(directory) => context.working_directory.join(directory),
        None => context.working_directory.to_owned(),
    };
    let find = |name: &str| context.sockets.iter().find(|socket| socket.name == name);
    let spawn = SpawnVariables {
        worker_id,
        environment: &environment,
        working_directory: &working_directory,
        ids: ids.as_ref(),
        socket: &|name| {
            Some(format!(
                "$(socket.{}.fileno)",
                find(name)?.kernel_socket_name()
            ))
        },
    };
    let arguments = command_line::expand_command(watcher, &spawn)?;
    let stdin = match watcher.stdin_socket.as_deref() {
        None => LaunchInput::Null,
        Some(name) => match find(name) {
            Some(socket) => LaunchInput::Socket(socket.kernel_socket_name()),
            None => {
                let (watcher, socket) = (watcher.name.clone(), name.to_owned());
                return Err(LaunchError::NoSocket { watcher, socket });
            }
        },
    };
    let output = |discarded| match discarded {
        true => LaunchOutput::Discarded,
        false => LaunchOutput::Captured,
    };
    let spec = LaunchSpec {
        name: watcher.kernel_process_name(worker_id),
        arguments,
        program: watcher.executable.clone(),
        search_path: search_path(&environment, context.environment),
        working_directory,
        umask: context.umask,
        limits: watcher.rlimits.clone(),
        stdin,
        stdout: output(watcher.close_child_stdout),
        stderr: output(watcher.close_child_stderr),
        listen: listen(watcher, context.sockets),
        buffer_bytes: watcher.buffer_bytes,
        buffer_full: watcher.buffer_full,
        environment,
        ids,
    };
    check_nul(watcher, &spec)?;
    Ok(spec)
}

/// The whole environment of a watcher's processes.
#[must_use]
pub fn environment(
    watcher: &WatcherConfig,
    of_manager: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut environment = match watcher.environment_base {
        EnvironmentBase::Empty => BTreeMap::new(),
        EnvironmentBase::Manager => of_manager.clone(),
    };
    environment.extend(watcher.environment.clone());
    if watcher.copy_path
        && let Some(path) = of_manager.get("PYTHONPATH")
    {
        environment.insert("PYTHONPATH".to_owned(), path.clone());
    }
    if let Some(virtualenv) = &watcher.virtualenv {
        let mut put_first = |name: &str, path: PathBuf| {
            let path = path.to_string_lossy().into_owned();
            let value = match environment.get(name).filter(|rest| !rest.is_empty()) {
                Some(rest) => format!("{path}:{rest}"),
                None => path,
            };
            environment.insert(name.to_owned(), value);
        };
        put_first("PATH", virtualenv.join("bin"));
        if let Some(version) = &watcher.virtualenv_py_ver {
            let packages = format!("lib/python{version}/site-packages");
            put_first("PYTHONPATH", virtualenv.join(packages));
        }
    }
    environment
}

/// Programs are looked up where the child would look, then where the manager would: most
/// children have no PATH at all, and Circus finds their programs nevertheless.
fn search_path(
    of_child: &BTreeMap<String, String>,
    of_manager: &BTreeMap<String, String>,
) -> String {
    let mut paths: Vec<&str> = Vec::new();
    for path in [of_child.get("PATH"), of_manager.get("PATH")]
        .into_iter()
        .flatten()
    {
        if !path.is_empty() && !paths.contains(&path.as_str()) {
            paths.push(path);
        }
    }
    paths.join(":")
}

/// With `use_sockets` and no socket in the command line, all sockets are passed by
/// `LISTEN_FDS`. A command line that names one knows what it wants, and servers that find
/// `LISTEN_FDS` prefer it to their arguments.
fn listen(watcher: &WatcherConfig, sockets: &[SocketConfig]) -> Vec<String> {
    if !watcher.use_sockets || !command_line::sockets_in_command(watcher).is_empty() {
        return Vec::new();
    }
    let others = sockets
        .iter()
        .filter(|s| watcher.stdin_socket.as_ref() != Some(&s.name));
    others.map(SocketConfig::kernel_socket_name).collect()
}

fn check_nul(watcher: &WatcherConfig, spec: &LaunchSpec) -> Result<(), LaunchError> {
    let in_command = spec
        .arguments
        .iter()
        .chain(&spec.program)
        .any(|word| word.contains('\0'));
    let in_variable = spec
        .environment
        .iter()
        .find(|(k, v)| k.contains('\0') || v.contains('\0'));
    let what = if in_command {
        "the command line".to_owned()
    } else if let Some((name, _)) = in_variable {
        format!("environment variable {}", quoted(name))
    } else if spec.working_directory.to_string_lossy().contains('\0') {
        "working_dir".to_owned()
    } else {
        return Ok(());
    };
    Err(LaunchError::Nul {
        watcher: watcher.name.clone(),
        what,
    })
}

#[cfg(test)]
mod tests;

//! Where things are: the runtime directory and the addresses in it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// Environment variable that names the runtime directory.
pub const RUNTIME_DIR_VARIABLE: &str = "KINGPOLE_RUNTIME_DIR";

/// The kernel's socket within the runtime directory.
pub const KERNEL_SOCKET: &str = "kernel.sock";

/// The manager's socket within the runtime directory.
pub const MANAGER_SOCKET: &str = "manager.sock";

/// Papa's TCP address, which the kernel serves too.
pub const PAPA_PORT: u16 = 20202;

/// What is wrong with a place.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// The runtime directory cannot be made or looked at.
    #[error("runtime directory {path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else owns it, so nothing in it can be trusted.
    #[error(
        "runtime directory {path} belongs to user {owner}, not to {expected}; choose another with \
         --runtime-dir", path = .path.display()
    )]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// Others may write to it.
    #[error(
        "runtime directory {path} can be written by others (mode {mode:o}); run chmod 700 on it",
        path = .path.display()
    )]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not an address.
    #[error("{0:?} is no address; write unix:/PATH or tcp:HOST:PORT with a numeric host")]
    Address(String),
}

/// The effective user id of this process, read from the owner of `/proc/self`.
#[must_use]
pub fn own_uid() -> u32 {
    std::fs::metadata("/proc/self")
        .map(|m| m.uid())
        .unwrap_or(u32::MAX)
}

/// The runtime directory: `explicit`, else `$KINGPOLE_RUNTIME_DIR`, else `/run/kingpole` for root,
/// else `$XDG_RUNTIME_DIR/kingpole`, else `/tmp/kingpole-UID`. Does not touch the disk.
#[must_use]
pub fn runtime_dir(explicit: Option<&Path>) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(path) = explicit {
        return path.to_owned();
    }
    if let Some(path) = variable(RUNTIME_DIR_VARIABLE) {
        return path.into();
    }
    let uid = own_uid();
    if uid == 0 {
        return "/run/kingpole".into();
    }
    match variable("XDG_RUNTIME_DIR") {
        Some(path) => Path::new(&path).join("kingpole"),
        None => format!("/tmp/kingpole-{uid}").into(),
    }
}

/// Makes the runtime directory with mode 0700 unless it is there, and checks that it is ours and
/// that nobody else may write to it.
///
/// # Errors
/// See [`PlaceError`].
pub fn prepare_runtime_dir(path: &Path) -> Result<(), PlaceError> {
    let io = |source| PlaceError::Io {
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io)?;
    let metadata = std::fs::metadata(path).map_err(io)?;
    let expected = own_uid();
    if metadata.uid() != expected {
        return Err(PlaceError::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            expected,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(PlaceError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Where a kernel listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl Address {
    /// `kernel.sock` in a runtime directory.
    #[must_use]
    pub fn kernel_in(runtime_dir: &Path) -> Self {
        Self::Unix(runtime_dir.join(KERNEL_SOCKET))
    }
}

impl FromStr for Address {
    type Err = PlaceError;
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let bad = || PlaceError::Address(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(bad())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let Some((host, port)) = text.strip_prefix("tcp:").and_then(|t| t.rsplit_once(':')) else {
            return Err(bad());
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host: IpAddr = match host {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            numeric => numeric.parse().map_err(|_| bad())?,
        };
        Ok(Self::Tcp(SocketAddr::new(
            host,
            port.parse().map_err(|_| bad())?,
        )))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["unix:/run/k.sock", "tcp:127.0.0.1:20202", "tcp:[::1]:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "unix:",
            "tcp:",
            "tcp:host:1",
            "tcp:127.0.0.1",
            "http://x",
            "tcp:::1:70000",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}

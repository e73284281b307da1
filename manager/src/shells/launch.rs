//! From the configuration's processes and sockets to what the kernel is asked to make: looks up
//! users and hosts, and translates.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use kingpole_protocol::ByteString;
use kingpole_protocol::spec::{self, LimitSpec, OutputSpec, ProcessSpec, StdinSpec, UserSpec};
use nix::sys::resource::Resource::RLIMIT_NOFILE;
use nix::sys::resource::getrlimit;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};

use crate::config::launch::{
    LaunchContext, LaunchError, LaunchInput, LaunchOutput, LaunchSpec, ResolvedIds, launch_spec,
};
use crate::config::model::{
    BufferFull, Configuration, IpVersion, LimitValue, Resource, SocketAddress, SocketConfig,
    SocketKind, WatcherConfig,
};

/// Why something cannot be described to the kernel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The configuration does not allow it.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// There is no such user or group, or it cannot be found out.
    #[error("watcher {watcher:?}: {what} {name:?} {reason}")]
    Identity {
        /// Whose.
        watcher: String,
        /// `uid` or `gid`.
        what: &'static str,
        /// As written.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A kind of socket that the kernel does not make.
    #[error("socket {socket:?}: sockets of kind {kind} cannot be held by the kernel")]
    SocketKind {
        /// Which.
        socket: String,
        /// Its kind.
        kind: &'static str,
    },
    /// The host has no address of the wanted kind.
    #[error("socket {socket:?}: host {host:?}: {reason}")]
    Host {
        /// Which.
        socket: String,
        /// As written.
        host: String,
        /// What is wrong.
        reason: String,
    },
}

impl PrepareError {
    /// The watcher's option that it is about.
    #[must_use]
    pub fn option(&self) -> Option<&'static str> {
        match self {
            Self::Launch(error) => error.option(),
            Self::Identity { what, .. } => Some(what),
            Self::SocketKind { .. } | Self::Host { .. } => None,
        }
    }
}

/// The manager's circumstances that its children inherit, as they were when it began.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Its working directory.
    pub working_directory: PathBuf,
    /// Its file mode mask.
    pub umask: u32,
}

impl Circumstances {
    /// Of this process, now.
    #[must_use]
    pub fn read() -> Self {
        Self {
            environment: crate::config::disk::process_environment(),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            umask: read_umask(),
        }
    }
}

/// `Umask` of proc_pid_status(5): the system call could only tell it by changing it.
fn read_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let text = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    text.and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o022)
}

/// Describes one process of a watcher to the kernel.
///
/// # Errors
/// See [`PrepareError`].
pub fn process_spec(
    watcher: &WatcherConfig,
    worker: u32,
    labels: BTreeMap<String, String>,
    configuration: &Configuration,
    around: &Circumstances,
) -> Result<ProcessSpec, PrepareError> {
    let ids = resolve_ids(watcher)?;
    let context = LaunchContext {
        environment: &around.environment,
        working_directory: &around.working_directory,
        umask: Some(configuration.global.umask.unwrap_or(around.umask)),
        sockets: &configuration.sockets,
    };
    let launch = launch_spec(watcher, worker, ids, context)?;
    Ok(translate(launch, labels))
}

fn translate(launch: LaunchSpec, labels: BTreeMap<String, String>) -> ProcessSpec {
    let output = |output| match output {
        LaunchOutput::Captured => OutputSpec::Capture,
        LaunchOutput::Discarded => OutputSpec::Null,
    };
    ProcessSpec {
        name: launch.name,
        arguments: launch.arguments.into_iter().map(Into::into).collect(),
        program: launch.program.map(Into::into),
        search_path: launch.search_path.into(),
        environment: launch
            .environment
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        working_directory: bytes(&launch.working_directory),
        umask: launch.umask,
        user: launch.ids.map(|ids| UserSpec {
            uid: ids.uid,
            gid: ids.gid,
            groups: ids.groups,
        }),
        limits: launch.limits.into_iter().map(limit).collect(),
        stdin: match launch.stdin {
            LaunchInput::Null => StdinSpec::Null,
            LaunchInput::Socket(name) => StdinSpec::Socket(name),
        },
        stdout: output(launch.stdout),
        stderr: output(launch.stderr),
        buffer_bytes: launch.buffer_bytes,
        overflow: match launch.buffer_full {
            BufferFull::Drop => spec::Overflow::DropOldest,
            BufferFull::Wait => spec::Overflow::Block,
        },
        listen: launch.listen,
        labels,
    }
}

fn bytes(path: &Path) -> ByteString {
    path.as_os_str().into()
}

fn limit((resource, value): (Resource, LimitValue)) -> LimitSpec {
    let value = match (value, resource) {
        (LimitValue::Limit(value), _) => value,
        // Linux lets nobody have this one without a limit; as in Circus it is the highest allowed.
        (LimitValue::Infinity, Resource::Nofile) => {
            getrlimit(RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard)
        }
        (LimitValue::Infinity, _) => u64::MAX,
    };
    LimitSpec {
        resource: resource_number(resource),
        soft: value,
        hard: value,
    }
}

/// Linux's numbers (setrlimit(2)).
const fn resource_number(resource: Resource) -> u32 {
    match resource {
        Resource::As => libc::RLIMIT_AS,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Locks => libc::RLIMIT_LOCKS,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Resource::Nice => libc::RLIMIT_NICE,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Rss => libc::RLIMIT_RSS,
        Resource::Rtprio => libc::RLIMIT_RTPRIO,
        Resource::Rttime => libc::RLIMIT_RTTIME,
        Resource::Sigpending => libc::RLIMIT_SIGPENDING,
        Resource::Stack => libc::RLIMIT_STACK,
    }
}

/// Looks up `uid` and `gid` of a watcher. Nothing when it runs as we do.
pub(super) fn resolve_ids(watcher: &WatcherConfig) -> Result<Option<ResolvedIds>, PrepareError> {
    if watcher.uid.is_none() && watcher.gid.is_none() {
        return Ok(None);
    }
    let fail = |what, name: &str, reason: String| PrepareError::Identity {
        watcher: watcher.name.clone(),
        what,
        name: name.to_owned(),
        reason,
    };
    let (uid, user) = match &watcher.uid {
        None => (geteuid(), User::from_uid(geteuid()).ok().flatten()),
        Some(name) => {
            let found = match name.parse::<u32>() {
                Ok(number) => User::from_uid(Uid::from_raw(number)),
                Err(_) => User::from_name(name),
            };
            let user = found.map_err(|error| fail("uid", name, error.desc().to_owned()))?;
            match (&user, name.parse::<u32>()) {
                (Some(found), _) => (found.uid, user),
                // A number needs no entry in the user database.
                (None, Ok(number)) => (Uid::from_raw(number), None),
                (None, Err(_)) => {
                    return Err(fail("uid", name, "is no user of this machine".to_owned()));
                }
            }
        }
    };
    let gid = match &watcher.gid {
        Some(name) => match name.parse::<u32>() {
            Ok(number) => Gid::from_raw(number),
            Err(_) => {
                Group::from_name(name)
                    .map_err(|error| fail("gid", name, error.desc().to_owned()))?
                    .ok_or_else(|| fail("gid", name, "is no group of this machine".to_owned()))?
                    .gid
            }
        },
        None => match &user {
            Some(user) => user.gid,
            None => {
                let name = watcher.uid.as_deref().unwrap_or_default();
                let reason = "is in no user database, so gid must be written too".to_owned();
                return Err(fail("uid", name, reason));
            }
        },
    };
    // Somebody who is not root can only be who they are, and asking for it would be refused.
    if !geteuid().is_root() && uid == geteuid() && gid == nix::unistd::getegid() {
        return Ok(None);
    }
    let groups = match &user {
        Some(user) => CString::new(user.name.as_str())
            .ok()
            .and_then(|name| getgrouplist(&name, gid).ok())
            .unwrap_or_else(|| vec![gid]),
        None => vec![gid],
    };
    Ok(Some(ResolvedIds {
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    }))
}

/// Describes a socket to the kernel. Looks hosts up, which may take its time for a name other than
/// `localhost`; see [`needs_lookup`].
///
/// # Errors
/// See [`PrepareError`].
pub fn socket_spec(
    socket: &SocketConfig,
    working_directory: &Path,
) -> Result<spec::SocketSpec, PrepareError> {
    let kind = match socket.kind {
        SocketKind::Stream => spec::SocketKind::Stream,
        SocketKind::Dgram => spec::SocketKind::Datagram,
        SocketKind::Seqpacket => spec::SocketKind::SeqPacket,
        SocketKind::Raw => return Err(unsupported(socket, "raw")),
        SocketKind::Rdm => return Err(unsupported(socket, "rdm")),
    };
    let address = match &socket.address {
        SocketAddress::Unix { path, umask, .. } => spec::SocketAddress::Unix {
            path: bytes(&working_directory.join(path)),
            umask: Some(*umask),
        },
        SocketAddress::Inet {
            host,
            port,
            version,
        } => {
            let host = find_host(socket, host, *version)?;
            match version {
                IpVersion::V4 => spec::SocketAddress::Inet { host, port: *port },
                IpVersion::V6 => spec::SocketAddress::Inet6 { host, port: *port },
            }
        }
    };
    Ok(spec::SocketSpec {
        name: socket.kernel_socket_name(),
        address,
        kind,
        backlog: socket.backlog,
        interface: socket.interface.clone(),
        reuseport: socket.so_reuseport,
    })
}

/// Whether describing this socket asks a name service, which may block.
#[must_use]
pub fn needs_lookup(socket: &SocketConfig) -> bool {
    match &socket.address {
        SocketAddress::Unix { .. } => false,
        SocketAddress::Inet { host, version, .. } => known_host(host, *version).is_none(),
    }
}

fn unsupported(socket: &SocketConfig, kind: &'static str) -> PrepareError {
    PrepareError::SocketKind {
        socket: socket.name.clone(),
        kind,
    }
}

/// What needs no name service: numbers, `localhost`, and "everywhere".
fn known_host(host: &str, version: IpVersion) -> Option<String> {
    match (host, version) {
        ("" | "*", IpVersion::V4) => Some("0.0.0.0".to_owned()),
        ("" | "*", IpVersion::V6) => Some("::".to_owned()),
        ("localhost", _) => Some(host.to_owned()),
        _ => match (host.parse::<IpAddr>(), version) {
            (Ok(IpAddr::V4(ip)), IpVersion::V4) => Some(ip.to_string()),
            (Ok(IpAddr::V6(ip)), IpVersion::V6) => Some(ip.to_string()),
            _ => None,
        },
    }
}

fn find_host(socket: &SocketConfig, host: &str, wanted: IpVersion) -> Result<String, PrepareError> {
    if let Some(known) = known_host(host, wanted) {
        return Ok(known);
    }
    let fail = |reason: String| PrepareError::Host {
        socket: socket.name.clone(),
        host: host.to_owned(),
        reason,
    };
    let addresses = (host, 0_u16)
        .to_socket_addrs()
        .map_err(|error| fail(error.to_string()))?;
    addresses
        .map(|address| address.ip())
        .find(|ip| match wanted {
            IpVersion::V4 => ip.is_ipv4(),
            IpVersion::V6 => ip.is_ipv6(),
        })
        .map(|ip| ip.to_string())
        .ok_or_else(|| {
            let family = match wanted {
                IpVersion::V4 => "IPv4",
                IpVersion::V6 => "IPv6",
            };
            fail(format!("has no {family} address"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Location;

    fn watcher(uid: Option<&str>, gid: Option<&str>) -> WatcherConfig {
        let mut config = WatcherConfig::with_defaults("web", Location::new("x.ini", 1, 1));
        config.uid = uid.map(str::to_owned);
        config.gid = gid.map(str::to_owned);
        config
    }

    #[test]
    fn a_user_that_does_not_exist_is_named_with_its_watcher() {
        let error = resolve_ids(&watcher(Some("nobody-here"), None)).unwrap_err();
        let text = error.to_string();
        assert_eq!(
            text,
            r#"watcher "web": uid "nobody-here" is no user of this machine"#
        );
        let error = resolve_ids(&watcher(None, Some("no-such-group"))).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(r#"gid "no-such-group" is no group"#),
            "{error}"
        );
        // No database has this number.
        let error = resolve_ids(&watcher(Some("3999999999"), None)).unwrap_err();
        assert!(
            error.to_string().contains("gid must be written too"),
            "{error}"
        );
    }

    #[test]
    fn numbers_need_no_database_and_names_bring_their_groups() {
        let ids = resolve_ids(&watcher(Some("3999999999"), Some("77")))
            .unwrap()
            .unwrap();
        assert_eq!(
            ids,
            ResolvedIds {
                uid: 3_999_999_999,
                gid: 77,
                groups: vec![77]
            }
        );
        assert_eq!(resolve_ids(&watcher(None, None)).unwrap(), None);
        if let Some(ids) = resolve_ids(&watcher(Some("root"), None)).unwrap() {
            assert_eq!((ids.uid, ids.gid), (0, 0));
            assert!(ids.groups.contains(&0));
        }
    }

    #[test]
    fn as_many_files_as_possible_are_no_more_than_linux_allows() {
        let files = limit((Resource::Nofile, LimitValue::Infinity));
        assert!(
            files.hard < u64::MAX && files.soft == files.hard,
            "{files:?}"
        );
        assert_eq!(limit((Resource::Core, LimitValue::Infinity)).hard, u64::MAX);
        assert_eq!(limit((Resource::Nofile, LimitValue::Limit(7))).soft, 7);
    }

    #[test]
    fn hosts_that_are_numbers_need_no_name_service() {
        let mut socket = SocketConfig::with_defaults("web", Location::new("x.ini", 1, 1));
        for (host, version, numeric) in [
            ("127.0.0.1", IpVersion::V4, Some("127.0.0.1")),
            ("", IpVersion::V4, Some("0.0.0.0")),
            ("::1", IpVersion::V6, Some("::1")),
            ("localhost", IpVersion::V6, Some("localhost")),
            ("example.test", IpVersion::V4, None),
        ] {
            socket.address = SocketAddress::Inet {
                host: host.into(),
                port: 1,
                version,
            };
            assert_eq!(needs_lookup(&socket), numeric.is_none(), "{host}");
            if let Some(numeric) = numeric {
                let made = socket_spec(&socket, Path::new("/")).unwrap();
                let (spec::SocketAddress::Inet { host, .. }
                | spec::SocketAddress::Inet6 { host, .. }) = made.address
                else {
                    panic!("no inet address")
                };
                assert_eq!(host, numeric);
            }
        }
    }

    #[test]
    fn a_relative_socket_path_lies_below_the_working_directory() {
        let mut socket = SocketConfig::with_defaults("web", Location::new("x.ini", 1, 1));
        let path = PathBuf::from("run/web.sock");
        socket.address = SocketAddress::Unix {
            path,
            umask: 7,
            replace: false,
        };
        let made = socket_spec(&socket, Path::new("/srv")).unwrap();
        assert_eq!(made.name, "circus.web");
        let umask = Some(7);
        let path = "/srv/run/web.sock".into();
        assert_eq!(made.address, spec::SocketAddress::Unix { path, umask });
        socket.kind = SocketKind::Raw;
        socket_spec(&socket, Path::new("/srv")).unwrap_err();
    }
}

//! Sections `[socket:NAME]` (reference, section 11).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::coerce;
use super::defaults;
use super::document::Section;
use super::ini::quoted;
use super::keys;
use super::model::{Blocking, IpVersion, SocketAddress, SocketConfig, SocketKind};
use super::section::{Findings, Reader};
use super::variables::EnvironmentVariables;

enum Family {
    Inet(IpVersion),
    Unix,
}

/// Reads one section whose header names the socket `name`.
pub(super) fn read(
    name: &str,
    section: &Section,
    variables: &EnvironmentVariables,
    findings: &mut Findings,
) -> SocketConfig {
    let title = format!("socket {}", quoted(name));
    let mut reader = Reader::new(title, section, keys::SOCKET, variables, findings);
    let base = SocketConfig::with_defaults(name, reader.origin());
    let address = address(&mut reader);
    let is_unix = matches!(address, SocketAddress::Unix { .. });
    let kind = reader
        .parsed(
            "type",
            "one of SOCK_STREAM SOCK_DGRAM SOCK_SEQPACKET SOCK_RAW SOCK_RDM",
            kind,
        )
        .unwrap_or(base.kind);
    if let Some(written) = reader.written("type") {
        match kind {
            SocketKind::Raw | SocketKind::Rdm => {
                reader.error(
                    written.entry,
                    "is not supported: sockets are STREAM, DGRAM or SEQPACKET",
                );
            }
            SocketKind::Seqpacket if !is_unix => {
                reader.error(
                    written.entry,
                    "SOCK_SEQPACKET needs a path: it exists for unix sockets",
                );
            }
            _ => {}
        }
    }
    let backlog = reader
        .integer("backlog", 0..=i64::from(i32::MAX))
        .and_then(|length| u32::try_from(length).ok())
        .unwrap_or(base.backlog);
    let so_reuseport = reader.boolean("so_reuseport", false);
    let interface = reader.some_text("interface");
    for (key, wanted) in [
        ("so_reuseport", so_reuseport),
        ("interface", interface.is_some()),
    ] {
        if is_unix
            && wanted
            && let Some(written) = reader.written(key)
        {
            reader.warn(written.entry, "has no effect on a unix socket");
        }
    }
    let mut socket = SocketConfig {
        address,
        kind,
        proto: proto(&mut reader, kind, is_unix),
        backlog,
        interface,
        so_reuseport,
        blocking: blocking(&mut reader, so_reuseport && !is_unix),
        use_papa: reader.boolean("use_papa", false),
        other: BTreeMap::new(),
        ..base
    };
    reader.warn_unsupported(|_| false);
    socket.other = reader.unknown(|_| false);
    socket
}

/// Kernels make the usual protocol of a kind, and this is what nearly every file asks for that has this key.
fn proto(reader: &mut Reader<'_>, kind: SocketKind, is_unix: bool) -> Option<String> {
    let name = reader.some_text("proto")?;
    let usual = match (is_unix, kind) {
        (true, _) => None,
        (false, SocketKind::Dgram) => Some("udp"),
        (false, _) => Some("tcp"),
    };
    // Protocol 0, which stands for the usual one everywhere.
    if name.eq_ignore_ascii_case("ip") || usual.is_some_and(|it| name.eq_ignore_ascii_case(it)) {
        return Some(name);
    }
    let problem = match usual {
        Some(usual) => format!(
            "is {usual} for this type: {}; leave it out, or change type",
            quoted(&name)
        ),
        None => "means nothing on a unix socket: leave it out".to_owned(),
    };
    if let Some(written) = reader.written("proto") {
        reader.error(written.entry, &problem);
    }
    None
}

fn blocking(reader: &mut Reader<'_>, is_fresh: bool) -> Option<Blocking> {
    let written = reader.written("blocking")?;
    let blocking = match reader.boolean("blocking", true) {
        true => Blocking::Yes,
        false => Blocking::No,
    };
    if is_fresh && blocking == Blocking::No {
        reader.warn(
            written.entry,
            "has no effect beside so_reuseport: the socket that each process gets is blocking",
        );
    }
    Some(blocking)
}

fn address(reader: &mut Reader<'_>) -> SocketAddress {
    let family = reader.parsed("family", "one of AF_INET AF_INET6 AF_UNIX", family);
    let path = reader.some_text("path");
    let umask = umask(reader);
    let replace = reader.boolean("replace", false);
    let port = reader
        .integer("port", 0..=i64::from(u16::MAX))
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(8080);
    match (path, family) {
        (Some(path), _) => {
            for key in ["host", "port"] {
                if let Some(written) = reader.written(key) {
                    reader.warn(written.entry, "has no effect beside a path");
                }
            }
            SocketAddress::Unix {
                path: PathBuf::from(path),
                umask,
                replace,
            }
        }
        (None, Some(Family::Unix)) => {
            reader.section_error("AF_UNIX needs a path");
            SocketAddress::Unix {
                path: PathBuf::new(),
                umask,
                replace,
            }
        }
        (None, family) => {
            for key in ["umask", "replace"] {
                if let Some(written) = reader.written(key) {
                    reader.warn(written.entry, "has no effect without a path");
                }
            }
            let host = reader
                .some_text("host")
                .unwrap_or_else(|| "localhost".to_owned());
            let version = match family {
                Some(Family::Inet(version)) => version,
                _ => IpVersion::V4,
            };
            SocketAddress::Inet {
                host,
                port,
                version,
            }
        }
    }
}

/// Circus reads the mask as a decimal number, which hardly anybody means who writes `077`.
fn umask(reader: &mut Reader<'_>) -> u32 {
    let Some(mask) = reader.integer("umask", 0..=0o777) else {
        return defaults::SOCKET_UMASK;
    };
    let mask = u32::try_from(mask).unwrap_or(defaults::SOCKET_UMASK);
    if let Some(written) = reader.written("umask") {
        let text = &written.value;
        let octal = coerce::octal(text);
        if octal.is_some_and(|octal| octal != mask) {
            let (octal, meant) = (octal.unwrap_or_default(), mask);
            let problem = format!(
                "is decimal, as in Circus: {text} is the mask {meant:03o}; for the mask {octal:03o} \
                 write {octal}"
            );
            reader.warn(written.entry, &problem);
        }
    }
    mask
}

fn family(text: &str) -> Option<Family> {
    match text.to_uppercase().as_str() {
        "AF_INET" => Some(Family::Inet(IpVersion::V4)),
        "AF_INET6" => Some(Family::Inet(IpVersion::V6)),
        "AF_UNIX" => Some(Family::Unix),
        _ => None,
    }
}

fn kind(text: &str) -> Option<SocketKind> {
    match text.to_uppercase().as_str() {
        "SOCK_STREAM" => Some(SocketKind::Stream),
        "SOCK_DGRAM" => Some(SocketKind::Dgram),
        "SOCK_SEQPACKET" => Some(SocketKind::Seqpacket),
        "SOCK_RAW" => Some(SocketKind::Raw),
        "SOCK_RDM" => Some(SocketKind::Rdm),
        _ => None,
    }
}

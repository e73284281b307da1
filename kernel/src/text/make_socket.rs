//! `make socket NAME [option=value ...]`.

use crate::text::error::TextError;
use crate::text::options::split_options;
use crate::text::words::{Word, name_of};
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::names::check_name;
use kingpole_protocol::spec::{SocketAddress, SocketKind, SocketSpec};

/// Connections that may wait where the command does not say; Papa's number.
const BACKLOG_DEFAULT: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Unix,
    Inet,
    Inet6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TypeWord {
    Kind(SocketKind),
    Raw,
    Rdm,
}

/// Reads the words after `make socket`. The host is as given: it may still have to be looked up.
///
/// # Errors
/// The name or an option is missing, unknown or wrong.
pub fn parse_make_socket(words: &[Word]) -> Result<SocketSpec, TextError> {
    let (name, words) = words.split_first().ok_or(TextError::SocketName)?;
    let name = name_of(name)?.to_owned();
    check_name("socket", &name)?;
    let (options, rest) = split_options(words)?;
    if let Some(word) = rest.first() {
        let word = word.to_text().into_owned();
        return Err(TextError::Surplus {
            command: "make socket",
            word,
        });
    }
    let mut family = None;
    let mut kind = TypeWord::Kind(SocketKind::Stream);
    let mut backlog = BACKLOG_DEFAULT;
    let mut path = ByteString::default();
    let mut umask = None;
    let mut host = None;
    let mut port = 0;
    let mut interface = None;
    let mut reuseport = false;
    for option in &options {
        match option.name.as_str() {
            "family" => {
                family = Some(match &*option.value {
                    b"unix" => Family::Unix,
                    b"inet" => Family::Inet,
                    b"inet6" => Family::Inet6,
                    _ => return Err(option.bad("unix, inet or inet6")),
                });
            }
            "type" => {
                kind = match &*option.value {
                    b"stream" => TypeWord::Kind(SocketKind::Stream),
                    b"dgram" => TypeWord::Kind(SocketKind::Datagram),
                    b"seqpacket" => TypeWord::Kind(SocketKind::SeqPacket),
                    b"raw" => TypeWord::Raw,
                    b"rdm" => TypeWord::Rdm,
                    _ => return Err(option.bad("stream, dgram, raw, rdm or seqpacket")),
                };
            }
            "backlog" => backlog = option.number("an integer from 0 to 4294967295")?,
            "path" => path = option.value.clone(),
            "umask" => umask = Some(option.number::<u16>("a decimal integer")?.into()),
            "host" => host = Some(option.text()?.to_owned()).filter(|host| !host.is_empty()),
            "port" => port = option.number("an integer from 0 to 65535")?,
            "interface" => {
                interface = Some(option.text()?.to_owned()).filter(|name| !name.is_empty());
            }
            "reuseport" => reuseport = option.switch()?,
            _ => {
                let option = option.name.clone();
                return Err(TextError::UnknownOption {
                    of: "socket",
                    option,
                });
            }
        }
    }
    let family = family.unwrap_or(if path.is_empty() {
        Family::Inet
    } else {
        Family::Unix
    });
    let kind = listenable(family, kind)?;
    let everywhere = interface.is_some();
    let address = match family {
        Family::Unix if path.first() == Some(&b'/') => {
            interface = None;
            reuseport = false;
            SocketAddress::Unix { path, umask }
        }
        Family::Unix => return Err(TextError::RelativePath),
        Family::Inet => {
            let any = if everywhere { "0.0.0.0" } else { "127.0.0.1" };
            SocketAddress::Inet {
                host: host.unwrap_or_else(|| any.to_owned()),
                port,
            }
        }
        Family::Inet6 => {
            let any = if everywhere { "::" } else { "::1" };
            SocketAddress::Inet6 {
                host: host.unwrap_or_else(|| any.to_owned()),
                port,
            }
        }
    };
    Ok(SocketSpec {
        name,
        address,
        kind,
        backlog,
        interface,
        reuseport,
    })
}

/// What Linux says of the types that Papa lists and that nothing can listen on.
fn listenable(family: Family, kind: TypeWord) -> Result<SocketKind, TextError> {
    let (errno, reason) = match (kind, family) {
        (TypeWord::Kind(SocketKind::SeqPacket), Family::Inet | Family::Inet6)
        | (TypeWord::Rdm, _) => (libc::ESOCKTNOSUPPORT, "Socket type not supported"),
        (TypeWord::Raw, Family::Unix) => (libc::EOPNOTSUPP, "Operation not supported"),
        (TypeWord::Raw, _) => (libc::EPROTONOSUPPORT, "Protocol not supported"),
        (TypeWord::Kind(kind), _) => return Ok(kind),
    };
    Err(TextError::SocketType { errno, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::words::split_words;

    fn parse(line: &str) -> Result<SocketSpec, TextError> {
        parse_make_socket(&split_words(line.as_bytes(), 100).unwrap())
    }

    fn address(line: &str) -> SocketAddress {
        parse(line).unwrap().address
    }

    #[test]
    fn defaults_are_papas() {
        let spec = parse("web").unwrap();
        let address = SocketAddress::Inet {
            host: "127.0.0.1".into(),
            port: 0,
        };
        let want = SocketSpec {
            name: "web".into(),
            address,
            kind: SocketKind::Stream,
            backlog: 5,
            interface: None,
            reuseport: false,
        };
        assert_eq!(spec, want);
    }

    #[test]
    fn host_defaults_by_family_and_interface() {
        let inet6 = |host: &str| SocketAddress::Inet6 {
            host: host.into(),
            port: 80,
        };
        assert_eq!(address("w family=inet6 port=80"), inet6("::1"));
        assert_eq!(
            address("w family=inet6 port=80 interface=eth0"),
            inet6("::")
        );
        let any = SocketAddress::Inet {
            host: "0.0.0.0".into(),
            port: 0,
        };
        assert_eq!(address("w interface=eth0 host="), any);
        let path = SocketAddress::Unix {
            path: "/a b".into(),
            umask: Some(63),
        };
        assert_eq!(address("w path=/a\\ b umask=63 interface=eth0"), path);
    }

    #[test]
    fn nonsense_is_refused_with_the_word() {
        let text = |line: &str| parse(line).unwrap_err().to_string();
        assert_eq!(parse(""), Err(TextError::SocketName));
        assert_eq!(text("w path=x"), "Absolute path required for Unix sockets");
        assert_eq!(
            text("w family=unix"),
            "Absolute path required for Unix sockets"
        );
        assert_eq!(text("w bogus=1"), "Unknown socket option \"bogus\"");
        assert_eq!(
            text("w port=99999"),
            "The value of \"port\" must be an integer from 0 to 65535, not \"99999\""
        );
        assert_eq!(text("w backlog=-1 port=1").split(' ').next(), Some("The"));
        assert_eq!(text("w type=raw"), "[Errno 93] Protocol not supported");
        assert_eq!(
            text("w type=raw path=/x"),
            "[Errno 95] Operation not supported"
        );
        assert_eq!(text("w type=rdm"), "[Errno 94] Socket type not supported");
        assert_eq!(
            text("w x"),
            "\"make socket\" does not understand \"x\"; type \"help make socket\""
        );
    }
}

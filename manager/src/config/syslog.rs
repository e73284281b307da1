//! `logoutput = syslog:...`: which syslog the manager's own log goes to, in Circus's spellings
//! `syslog://HOST[:PORT]?FACILITY` and `syslog:///PATH?FACILITY`.

use std::path::PathBuf;

use super::stream::facility;

/// Where daemons take messages over UDP (RFC 5426).
const PORT: u16 = 514;

/// What Circus writes to without a word about it.
const FACILITY: &str = "user";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogOutput {
    /// Where messages go.
    pub receiver: SyslogReceiver,
    /// Number of the facility.
    pub facility: u8,
}

/// A daemon that takes messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogReceiver {
    /// At a datagram socket of this machine.
    Local(PathBuf),
    /// Over UDP.
    Udp {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
    },
}

impl SyslogOutput {
    /// Reads it; nothing for what is a path or another word.
    ///
    /// # Errors
    /// What is wrong with it, behind the name of the option.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let rest = text.strip_prefix("syslog:")?;
        Some(read(rest).ok_or_else(|| {
            "is none of syslog://HOST[:PORT]?FACILITY and syslog:///PATH?FACILITY".to_owned()
        }))
    }
}

fn read(rest: &str) -> Option<SyslogOutput> {
    let rest = rest.strip_prefix("//")?;
    let (place, name) = rest.split_once('?').unwrap_or((rest, FACILITY));
    let facility = facility(if name.is_empty() { FACILITY } else { name })?;
    let receiver = match place {
        "" => return None,
        path if path.starts_with('/') => SyslogReceiver::Local(path.into()),
        place => {
            let (host, port) = match place.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (place, PORT),
            };
            let host = host.trim_matches(['[', ']']).to_owned();
            if host.is_empty() {
                return None;
            }
            SyslogReceiver::Udp { host, port }
        }
    };
    Some(SyslogOutput { receiver, facility })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circuss_spellings_are_read() {
        let udp = |host: &str, port| SyslogReceiver::Udp {
            host: host.to_owned(),
            port,
        };
        for (text, receiver, facility) in [
            ("syslog://loghost", udp("loghost", 514), 1),
            ("syslog://loghost:1514?local3", udp("loghost", 1514), 19),
            ("syslog://[::1]:1514", udp("::1", 1514), 1),
            (
                "syslog:///dev/log?daemon",
                SyslogReceiver::Local("/dev/log".into()),
                3,
            ),
        ] {
            let expected = SyslogOutput { receiver, facility };
            assert_eq!(SyslogOutput::parse(text), Some(Ok(expected)), "{text}");
        }
        assert_eq!(SyslogOutput::parse("/var/log/syslog:x"), None);
        for text in [
            "syslog:udp",
            "syslog://",
            "syslog:///dev/log?nobody",
            "syslog://h:port",
        ] {
            assert!(SyslogOutput::parse(text).unwrap().is_err(), "{text}");
        }
    }
}

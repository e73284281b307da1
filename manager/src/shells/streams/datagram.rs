//! Lines as messages to the system's log or the journal, one datagram each.
//!
//! Both are waited for when they do not take more, and connected to again when they have gone.

use crate::streams::compose::Zone;
use crate::streams::format::{Format, Stamper, Style};
use crate::streams::position::Joint;
use crate::streams::render::Labelled;
use crate::streams::target::{JournalAddress, SyslogAddress};
use kingpole_protocol::record::Stream;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::zone::LocalZone;

/// Messages that are sent before somebody else has a turn.
const MESSAGES_AT_ONCE: usize = 1000;

/// Where the receiver takes no message as long as a line, it gets pieces of so many bytes: what
/// syslog daemons take by default.
const PIECE_BYTES: usize = 8 << 10;

/// A connected socket, and how messages look.
#[derive(Debug)]
pub(super) struct Messages {
    socket: UnixDatagram,
    dress: Dress,
    message: Vec<u8>,
}

/// The two protocols.
#[derive(Debug)]
enum Dress {
    Syslog {
        address: SyslogAddress,
        zone: LocalZone,
        stamper: Stamper,
    },
    Journal(JournalAddress),
}

impl Messages {
    /// To the system's log (RFC 3164, as `/dev/log` takes it).
    pub(super) fn to_syslog(address: &SyslogAddress) -> io::Result<Self> {
        let stamper = Stamper::new(Format::new(Style::Prefixed("%b %e %H:%M:%S".to_owned())));
        let dress = Dress::Syslog {
            address: address.clone(),
            zone: LocalZone::system(),
            stamper,
        };
        Self::connect(&address.socket, dress)
    }

    /// To the journal (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
    pub(super) fn to_journal(address: &JournalAddress) -> io::Result<Self> {
        Self::connect(&address.socket, Dress::Journal(address.clone()))
    }

    fn connect(path: &Path, dress: Dress) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            dress,
            message: Vec::new(),
        })
    }

    /// Sends whole lines, as many as are taken at once; how many bytes they had.
    pub(super) fn send(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', lines).take(MESSAGES_AT_ONCE) {
            let line = lines.get(from..end).unwrap_or_default();
            if let Err(error) = self.send_line(line) {
                return if from > 0 { Ok(from) } else { Err(error) };
            }
            from = end + 1;
        }
        Ok(from)
    }

    fn send_line(&mut self, line: &[u8]) -> io::Result<()> {
        let labelled = Labelled::parse(line).unwrap_or(Labelled {
            stream: Stream::Stdout,
            pid: 0,
            time_us: 0,
            joint: Joint::Fresh,
            text: line,
        });
        match self.send_text(&labelled) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                for text in labelled.text.chunks(PIECE_BYTES) {
                    self.send_text(&Labelled { text, ..labelled })?;
                }
                Ok(())
            }
            result => result,
        }
    }

    fn send_text(&mut self, line: &Labelled<'_>) -> io::Result<()> {
        self.message.clear();
        self.dress.message(&mut self.message, line);
        loop {
            match self.socket.send(&self.message) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The receiver's queue is full.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Err(ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Dress {
    fn message(&mut self, out: &mut Vec<u8>, line: &Labelled<'_>) {
        // Informational, and error.
        let severity = match line.stream {
            Stream::Stdout => 6,
            Stream::Stderr => 3,
        };
        let pid = line.pid;
        // Writing to memory cannot fail.
        let _ = match self {
            Self::Syslog {
                address,
                zone,
                stamper,
            } => {
                let (offset, name) = zone.at(line.time_us / 1_000_000);
                if stamper.format().offset_seconds != offset {
                    stamper.set_zone(offset, name);
                }
                let time = stamper.time(line.time_us.saturating_mul(1000));
                let priority = u32::from(address.facility) * 8 + severity;
                write!(out, "<{priority}>{time} {}[{pid}]: ", address.ident)
            }
            Self::Journal(address) => write!(
                out,
                "PRIORITY={severity}\nSYSLOG_IDENTIFIER={}\nSYSLOG_PID={pid}\n\
                 KINGPOLE_STREAM={}\nKINGPOLE_TIME_US={}\nMESSAGE=",
                address.ident,
                line.stream.name(),
                line.time_us
            ),
        };
        out.extend_from_slice(line.text);
        if matches!(self, Self::Journal(_)) {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"1 1621 1795228350123456 |one\n2 7 1795228350123456 +two [+]\n";

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn the_system_log_gets_priority_time_and_sender() {
        let directory = tempfile::tempdir().expect("made");
        let socket = directory.path().join("log");
        let log = UnixDatagram::bind(&socket).expect("bound");
        let ident = "web".to_owned();
        let address = SyslogAddress {
            socket,
            facility: 16,
            ident,
        };
        let mut messages = Messages::to_syslog(&address).expect("connected");
        assert_eq!(messages.send(LINES).expect("sent"), LINES.len());
        let first = receive(&log);
        assert!(first.starts_with("<134>Nov 2"), "{first}");
        assert!(first.ends_with(" web[1621]: one"), "{first}");
        let second = receive(&log);
        assert!(
            second.starts_with("<131>Nov 2") && second.ends_with("[7]: two [+]"),
            "{second}"
        );
    }

    #[test]
    fn the_journal_gets_fields() {
        let directory = tempfile::tempdir().expect("made");
        let socket = directory.path().join("journal");
        let journal = UnixDatagram::bind(&socket).expect("bound");
        let address = JournalAddress {
            socket,
            ident: "web".to_owned(),
        };
        let mut messages = Messages::to_journal(&address).expect("connected");
        assert_eq!(messages.send(LINES).expect("sent"), LINES.len());
        assert_eq!(
            receive(&journal),
            "PRIORITY=6\nSYSLOG_IDENTIFIER=web\nSYSLOG_PID=1621\nKINGPOLE_STREAM=stdout\n\
             KINGPOLE_TIME_US=1795228350123456\nMESSAGE=one\n"
        );
        assert!(receive(&journal).ends_with("MESSAGE=two [+]\n"));
    }

    #[test]
    fn a_receiver_that_takes_no_more_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("made");
        let socket = directory.path().join("log");
        let log = UnixDatagram::bind(&socket).expect("bound");
        let address = SyslogAddress {
            socket,
            facility: 1,
            ident: "x".to_owned(),
        };
        let mut messages = Messages::to_syslog(&address).expect("connected");
        let line = b"1 1 1 |text\n";
        let mut sent = 0;
        let busy = loop {
            match messages.send(line) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(busy.kind(), ErrorKind::WouldBlock);
        for _ in 0..sent {
            receive(&log);
        }
        assert_eq!(messages.send(line).expect("room again"), line.len());
        drop(log);
        assert_ne!(
            messages.send(line).expect_err("gone").kind(),
            ErrorKind::WouldBlock
        );
    }
}

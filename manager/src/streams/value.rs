//! What the kernel keeps for each sink, as bytes. Never a derive on live types: a value outlives the
//! manager that wrote it.
//!
//! A version byte, then sections: tag (u8), length (u32), content; all numbers little-endian. A
//! later manager may add sections, which an older one leaves out, and fields at the end of one. The
//! version changes only when an older manager must not try.

use super::compose::{Forced, Lead};
use super::disk::{FileId, Target};
use super::feed::Gap;
use super::format::{Format, Style};
use super::notice::{Notice, NoticeKind};
use super::position::{Child, Joint, Position, Source};
use super::target::{CommandLine, JournalAddress, SyslogAddress};
use kingpole_protocol::record::Stream;
use kingpole_protocol::{ProcessId, Sequence};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// Keys of sinks' values begin with this.
pub const KEY_PREFIX: &str = "log/1/";

const VERSION: u8 = 1;

/// The value cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ValueError {
    /// A later manager wrote it in a way that this one must not guess at.
    #[error("its version is {0}, this manager knows {VERSION}")]
    Version(u8),
    /// It ends early or holds what cannot be.
    #[error("it is damaged")]
    Damaged,
}

/// One source's share of an intended batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Whose.
    pub source: Source,
    /// The child's process id, which is in its prefixes.
    pub pid: u32,
    /// What the child is called, if the sink's style says so; else empty.
    pub name: Arc<str>,
    /// Before the batch.
    pub from: Position,
    /// Loss that the batch announces, and the time in that line.
    pub gap: Option<(Gap, u64)>,
    /// After the batch.
    pub to: Position,
    /// Why the last line is unfinished, if it is.
    pub forced: Option<Forced>,
}

/// A batch that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intention {
    /// Bytes in it.
    pub length: u64,
    /// xxh3 (64 bit, seed 0) of them.
    pub hash: u64,
    /// When the file had last been written.
    pub mtime_ns: u64,
    /// The disk's bytes that were set aside for the file while it was empty; 0 if it was not.
    pub room_bytes: u64,
    /// Whether it begins with a line end.
    pub lead: Lead,
    /// How many of the sink's notices are at its front.
    pub notices: u16,
    /// How far it takes each source, ordered by source.
    pub moves: Vec<Move>,
    /// How its lines look.
    pub format: Format,
}

/// Everything remembered about one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkValue {
    /// Where it writes.
    pub target: Target,
    /// The file that was written last.
    pub file: FileId,
    /// Its length then.
    pub length: u64,
    /// Its last bytes then.
    pub anchor: Vec<u8>,
    /// Where sources stand. A source that is not named stands behind what is acknowledged.
    pub positions: Vec<(Source, Position)>,
    /// Decided, not yet written.
    pub notices: Vec<Notice>,
    /// Next rotation by time, nanoseconds since 1970.
    pub deadline_ns: Option<i64>,
    /// A batch that may be in the file, or partly.
    pub intention: Option<Intention>,
}

/// The key of a sink's value: paths may be longer than a key.
#[must_use]
pub fn key(target: &Target) -> String {
    match target {
        Target::Console => format!("{KEY_PREFIX}console"),
        Target::ErrorConsole => format!("{KEY_PREFIX}console-error"),
        Target::File(path) => {
            format!(
                "{KEY_PREFIX}{:032x}",
                xxhash_rust::xxh3::xxh3_128(path.as_os_str().as_bytes())
            )
        }
        Target::StyledConsole(_) | Target::Command(_) | Target::Syslog(_) | Target::Journal(_) => {
            let mut out = Out(Vec::new());
            encode_target(&mut out, target);
            let hash = xxhash_rust::xxh3::xxh3_128(&out.0);
            format!("{KEY_PREFIX}to-{hash:032x}")
        }
    }
}

/// The hash of a batch.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

mod tag {
    pub(super) const TARGET: u8 = 1;
    pub(super) const FILE: u8 = 2;
    pub(super) const POSITIONS: u8 = 3;
    pub(super) const NOTICES: u8 = 4;
    pub(super) const DEADLINE: u8 = 5;
    pub(super) const INTENTION: u8 = 6;
    pub(super) const NAMES: u8 = 7;
    pub(super) const ROOM: u8 = 8;
}

/// Writes a value.
#[must_use]
pub fn encode(value: &SinkValue) -> Vec<u8> {
    let mut out = Out(vec![VERSION]);
    out.section(tag::TARGET, |out| encode_target(out, &value.target));
    out.section(tag::FILE, |out| {
        out.u64(value.file.device);
        out.u64(value.file.inode);
        out.u64(value.file.born_ns.cast_unsigned());
        out.u64(value.length);
        out.bytes(&value.anchor);
    });
    out.section(tag::POSITIONS, |out| {
        out.count(value.positions.len());
        for (source, position) in &value.positions {
            out.source(*source);
            out.position(position);
        }
    });
    out.section(tag::NOTICES, |out| {
        out.count(value.notices.len());
        for notice in &value.notices {
            match &notice.kind {
                NoticeKind::Torn => out.u8(1),
                NoticeKind::MayRepeat(path) => {
                    out.u8(2);
                    out.bytes(path.as_os_str().as_bytes());
                }
            }
            out.source(notice.source);
            out.u32(notice.pid);
            out.u64(notice.time_ns);
            out.u64(notice.from_at);
            out.u64(notice.to_at);
        }
    });
    if let Some(deadline) = value.deadline_ns {
        out.section(tag::DEADLINE, |out| out.u64(deadline.cast_unsigned()));
    }
    if let Some(intention) = &value.intention {
        out.section(tag::INTENTION, |out| encode_intention(out, intention));
        if intention.room_bytes > 0 {
            out.section(tag::ROOM, |out| out.u64(intention.room_bytes));
        }
        if intention.moves.iter().any(|step| !step.name.is_empty()) {
            out.section(tag::NAMES, |out| {
                out.count(intention.moves.len());
                for step in &intention.moves {
                    out.bytes(step.name.as_bytes());
                }
            });
        }
    }
    out.0
}

fn encode_target(out: &mut Out, target: &Target) {
    match target {
        Target::Console => out.u8(0),
        Target::ErrorConsole => out.u8(2),
        Target::File(path) => {
            out.u8(1);
            out.bytes(path.as_os_str().as_bytes());
        }
        Target::StyledConsole(style) => {
            out.u8(3);
            encode_style(out, style);
        }
        Target::Command(line) => {
            out.u8(4);
            out.bytes(line.command.as_bytes());
            encode_style(out, &line.style);
        }
        Target::Syslog(address) => {
            out.u8(5);
            out.bytes(address.socket.as_os_str().as_bytes());
            out.u8(address.facility);
            out.bytes(address.ident.as_bytes());
        }
        Target::Journal(address) => {
            out.u8(6);
            out.bytes(address.socket.as_os_str().as_bytes());
            out.bytes(address.ident.as_bytes());
        }
    }
}

/// Kind, then text, in which a colour stands before the pattern.
fn encode_style(out: &mut Out, style: &Style) {
    let (kind, text) = match style {
        Style::Raw => (0, String::new()),
        Style::Prefixed(pattern) => (1, pattern.clone()),
        Style::Json => (2, String::new()),
        Style::Colored(color, pattern) => (3, format!("{}{pattern}", color % 8)),
        Style::Labelled => (4, String::new()),
    };
    out.u8(kind);
    out.bytes(text.as_bytes());
}

fn encode_intention(out: &mut Out, intention: &Intention) {
    out.u64(intention.length);
    out.u64(intention.hash);
    out.u64(intention.mtime_ns);
    out.u8(u8::from(intention.lead == Lead::LineEnd));
    out.u32(u32::from(intention.notices));
    out.u8(intention.format.version);
    encode_style(out, &intention.format.style);
    out.u32(intention.format.offset_seconds.cast_unsigned());
    out.bytes(intention.format.zone.as_bytes());
    out.count(intention.moves.len());
    for step in &intention.moves {
        out.source(step.source);
        out.u32(step.pid);
        out.position(&step.from);
        out.position(&step.to);
        out.u8(match step.forced {
            None => 0,
            Some(Forced::TimedOut) => 1,
            Some(Forced::Ended) => 2,
            Some(Forced::Gap) => 3,
        });
        out.u8(u8::from(step.gap.is_some()));
        if let Some((gap, time_ns)) = &step.gap {
            for number in [gap.from.0, gap.to.0, gap.from_at, gap.to_at, *time_ns] {
                out.u64(number);
            }
        }
    }
}

/// Reads a value.
///
/// # Errors
/// When it is of an unknown version or damaged.
pub fn decode(bytes: &[u8]) -> Result<SinkValue, ValueError> {
    let (&version, rest) = bytes.split_first().ok_or(ValueError::Damaged)?;
    if version != VERSION {
        return Err(ValueError::Version(version));
    }
    decode_sections(In(rest)).ok_or(ValueError::Damaged)
}

fn decode_sections(mut sections: In<'_>) -> Option<SinkValue> {
    let mut target = None;
    let mut names = Vec::new();
    let mut room_bytes = 0;
    let mut value = SinkValue {
        target: Target::Console,
        file: FileId::default(),
        length: 0,
        anchor: Vec::new(),
        positions: Vec::new(),
        notices: Vec::new(),
        deadline_ns: None,
        intention: None,
    };
    while !sections.0.is_empty() {
        let tag = sections.u8()?;
        let mut section = In(sections.bytes()?);
        let section = &mut section;
        match tag {
            tag::TARGET => {
                target = Some(decode_target(section)?);
            }
            tag::FILE => {
                let (device, inode) = (section.u64()?, section.u64()?);
                value.file = FileId {
                    device,
                    inode,
                    born_ns: section.u64()?.cast_signed(),
                };
                value.length = section.u64()?;
                value.anchor = section.bytes()?.to_vec();
            }
            tag::POSITIONS => {
                let read = |section: &mut In<'_>| Some((section.source()?, section.position()?));
                value.positions = section.many(read)?;
            }
            tag::NOTICES => value.notices = section.many(decode_notice)?,
            tag::DEADLINE => value.deadline_ns = Some(section.u64()?.cast_signed()),
            tag::INTENTION => value.intention = Some(decode_intention(section)?),
            tag::NAMES => names = section.many(In::text)?,
            tag::ROOM => room_bytes = section.u64()?,
            _ => {}
        }
    }
    value.target = target?;
    if let Some(intention) = &mut value.intention {
        intention.room_bytes = room_bytes;
        for (step, name) in intention.moves.iter_mut().zip(names) {
            step.name = name.into();
        }
    }
    Some(value)
}

fn decode_target(section: &mut In<'_>) -> Option<Target> {
    Some(match section.u8()? {
        0 => Target::Console,
        2 => Target::ErrorConsole,
        1 => Target::File(section.path()?),
        3 => Target::StyledConsole(decode_style(section)?.ok()?),
        4 => Target::Command(CommandLine {
            command: section.text()?,
            style: decode_style(section)?.ok()?,
        }),
        5 => Target::Syslog(SyslogAddress {
            socket: section.path()?,
            facility: section.u8()?,
            ident: section.text()?,
        }),
        6 => Target::Journal(JournalAddress {
            socket: section.path()?,
            ident: section.text()?,
        }),
        _ => return None,
    })
}

/// The style belongs to a later manager.
struct UnknownStyle;

fn decode_style(section: &mut In<'_>) -> Option<Result<Style, UnknownStyle>> {
    let (kind, text) = (section.u8()?, section.text()?);
    Some(Ok(match kind {
        0 => Style::Raw,
        1 => Style::Prefixed(text),
        2 => Style::Json,
        3 => {
            let color = text.bytes().next()?.checked_sub(b'0')?;
            Style::Colored(color % 8, text.get(1..)?.to_owned())
        }
        4 => Style::Labelled,
        _ => return Some(Err(UnknownStyle)),
    }))
}

fn decode_notice(section: &mut In<'_>) -> Option<Notice> {
    let kind = match section.u8()? {
        1 => NoticeKind::Torn,
        2 => NoticeKind::MayRepeat(section.path()?),
        _ => return None,
    };
    Some(Notice {
        kind,
        source: section.source()?,
        pid: section.u32()?,
        time_ns: section.u64()?,
        from_at: section.u64()?,
        to_at: section.u64()?,
    })
}

fn decode_intention(section: &mut In<'_>) -> Option<Intention> {
    let (length, hash, mtime_ns) = (section.u64()?, section.u64()?, section.u64()?);
    let lead = if section.u8()? == 1 {
        Lead::LineEnd
    } else {
        Lead::Nothing
    };
    let notices = u16::try_from(section.u32()?).ok()?;
    let version = section.u8()?;
    let (version, style) = match decode_style(section)? {
        Ok(style) => (version, style),
        // The batch can be recognised, but not composed again.
        Err(UnknownStyle) => (u8::MAX, Style::Raw),
    };
    let offset_seconds = section.u32()?.cast_signed();
    let format = Format {
        version,
        style,
        offset_seconds,
        zone: section.text()?,
    };
    let moves = section.many(decode_move)?;
    Some(Intention {
        length,
        hash,
        mtime_ns,
        room_bytes: 0,
        lead,
        notices,
        moves,
        format,
    })
}

fn decode_move(section: &mut In<'_>) -> Option<Move> {
    let (source, pid) = (section.source()?, section.u32()?);
    let (from, to) = (section.position()?, section.position()?);
    let forced = match section.u8()? {
        0 => None,
        1 => Some(Forced::TimedOut),
        2 => Some(Forced::Ended),
        3 => Some(Forced::Gap),
        _ => return None,
    };
    let gap = if section.u8()? == 1 {
        let (from, to) = (Sequence(section.u64()?), Sequence(section.u64()?));
        let gap = Gap {
            from,
            to,
            from_at: section.u64()?,
            to_at: section.u64()?,
        };
        Some((gap, section.u64()?))
    } else {
        None
    };
    Some(Move {
        source,
        pid,
        name: "".into(),
        from,
        gap,
        to,
        forced,
    })
}

struct Out(Vec<u8>);

impl Out {
    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Counts and lengths are bounded by the kernel's limit on values, far below 4 GiB.
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn section(&mut self, tag: u8, content: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        content(&mut inner);
        self.u8(tag);
        self.bytes(&inner.0);
    }

    fn source(&mut self, source: Source) {
        self.u64(source.child.process.0);
        self.u64(source.child.epoch);
        self.u8(source.stream as u8);
    }

    fn position(&mut self, position: &Position) {
        self.u64(position.sequence.0);
        self.u32(position.offset);
        self.u64(position.at);
        self.u8(u8::from(position.joint == Joint::Continues));
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn path(&mut self) -> Option<PathBuf> {
        self.bytes()
            .map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)))
    }

    /// Grows as it reads, so that a wrong count costs no memory.
    fn many<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(one(self)?);
        }
        Some(items)
    }

    fn source(&mut self) -> Option<Source> {
        let child = Child {
            process: ProcessId(self.u64()?),
            epoch: self.u64()?,
        };
        Some(Source {
            child,
            stream: Stream::from_number(self.u8()?)?,
        })
    }

    fn position(&mut self) -> Option<Position> {
        let (sequence, offset, at) = (Sequence(self.u64()?), self.u32()?, self.u64()?);
        let joint = if self.u8()? == 1 {
            Joint::Continues
        } else {
            Joint::Fresh
        };
        Some(Position {
            sequence,
            offset,
            at,
            joint,
        })
    }
}

#[cfg(test)]
mod tests;

//! What a sink has to say by itself, and its wording. The wording is part of the formatter version:
//! a batch with a notice must be composed again byte for byte.

use super::feed::Gap;
use super::position::Source;
use std::path::PathBuf;

/// Something a reader of the file has to know, decided but not yet written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub kind: NoticeKind,
    /// To whose lines.
    pub source: Source,
    /// The child's process id, as in its lines.
    pub pid: u32,
    /// When it was decided, nanoseconds since 1970.
    pub time_ns: u64,
    /// Stream offset where the lines in question begin.
    pub from_at: u64,
    /// Stream offset behind them.
    pub to_at: u64,
}

/// The kinds of [`Notice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoticeKind {
    /// A line was cut and cannot be completed, because others wrote behind it: it follows once more.
    Torn,
    /// It could not be found out whether lines are in the named file already: they follow, perhaps
    /// for the second time.
    MayRepeat(PathBuf),
}

impl Notice {
    /// The line's text.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        let stream = self.source.stream.name();
        let (pid, from, to) = (self.pid, self.from_at, self.to_at);
        let text = match &self.kind {
            NoticeKind::Torn => format!(
                "kingpole: a line of {stream} of [{pid}] was cut, it follows again (bytes {from} to {to})"
            ),
            NoticeKind::MayRepeat(path) => format!(
                "kingpole: the following lines may repeat lines of {} ({stream} of [{pid}], bytes \
                 {from} to {to})",
                path.display()
            ),
        };
        // A path may hold a line end; a notice is one line.
        out.extend(text.bytes().map(|b| if b == b'\n' { b'?' } else { b }));
    }
}

/// The text of a line that announces a gap.
pub(super) fn write_gap_text(out: &mut Vec<u8>, source: Source, pid: u32, gap: &Gap) {
    let text = format!(
        "kingpole: {} bytes of {} of [{pid}] were lost (records {} to {}): nobody took them in time",
        gap.to_at.saturating_sub(gap.from_at),
        source.stream.name(),
        gap.from,
        gap.to.0.saturating_sub(1),
    );
    out.extend_from_slice(text.as_bytes());
}

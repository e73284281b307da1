//! A second, naive composition: from an intention in the simulated kernel and everything that the
//! children ever wrote, the bytes that the batch must have, and what each of them is.
//!
//! Written without a look at how the real one goes about it: byte by byte, unit by unit.

use super::super::compose::{Forced, Lead};
use super::super::format::{Format, Stamper, Style};
use super::super::notice::{Notice, write_gap_text};
use super::super::position::{Child, Joint, Source};
use super::super::value::{Intention, SinkValue};
use super::check::ChildLedger;
use kingpole_protocol::record::Stream;
use std::collections::BTreeMap;

/// What a stretch of a batch is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Lead,
    Notice(Notice),
    /// Bytes `from..to` of a source; they stand at `content` in the stretch.
    Line {
        source: Source,
        from: u64,
        to: u64,
        content: usize,
    },
    /// The line that says that these bytes are lost.
    Gap {
        source: Source,
        from: u64,
        to: u64,
    },
}

/// A unit of a batch.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) what: What,
    /// When it was completed.
    pub(super) time_ns: u64,
}

struct Piece<'a> {
    name: &'a str,
    source: Source,
    pid: u32,
    from: u64,
    to: u64,
    joint: Joint,
    mark: &'static str,
    whole: bool,
    sequence: u64,
    time_ns: u64,
}

/// The batch of a value's intention.
pub(super) fn batch(
    value: &SinkValue,
    intention: &Intention,
    ledger: &BTreeMap<Child, ChildLedger>,
    line_bytes: usize,
) -> (Vec<u8>, Vec<Span>) {
    let mut out = Vec::new();
    let mut spans = Vec::new();
    let raw = intention.format.style == Style::Raw;
    let mut look = Look {
        format: &intention.format,
        stamper: Stamper::new(intention.format.clone()),
    };
    if intention.lead == Lead::LineEnd {
        out.push(b'\n');
        spans.push(Span {
            from: 0,
            to: 1,
            what: What::Lead,
            time_ns: 0,
        });
    }
    for notice in value.notices.iter().take(usize::from(intention.notices)) {
        let from = out.len();
        let mut text = Vec::new();
        notice.write_text(&mut text);
        let (time_ns, stream) = (notice.time_ns, notice.source.stream);
        look.announcement(&mut out, time_ns, notice.pid, stream, &text);
        spans.push(Span {
            from,
            to: out.len(),
            what: What::Notice(notice.clone()),
            time_ns,
        });
    }
    for step in &intention.moves {
        if let Some((gap, time_ns)) = step.gap {
            let from = out.len();
            let mut text = Vec::new();
            write_gap_text(&mut text, step.source, step.pid, &gap);
            look.announcement(&mut out, time_ns, step.pid, step.source.stream, &text);
            let what = What::Gap {
                source: step.source,
                from: gap.from_at,
                to: gap.to_at,
            };
            spans.push(Span {
                from,
                to: out.len(),
                what,
                time_ns,
            });
        }
    }
    // Whole units of each child by the record that completes them, then unfinished lines.
    let mut queues: BTreeMap<Child, Vec<Piece>> = BTreeMap::new();
    let mut fragments = Vec::new();
    for step in &intention.moves {
        let Some(child) = ledger.get(&step.source.child) else {
            continue;
        };
        let stream = child.stream(step.source.stream);
        let start = step.gap.map_or(step.from, |(gap, _)| gap.behind());
        let mut piece_from = start.at;
        let mut joint = start.joint;
        let mut at = start.at;
        while at < step.to.at.min(stream.bytes.len() as u64) {
            let byte = stream.bytes[at as usize];
            at += 1;
            let long = (at - piece_from) as usize == line_bytes && byte != b'\n';
            let (sequence, time_ns) = stream.record_of(at - 1);
            let last = at == step.to.at;
            let forced = step.forced.filter(|_| last && byte != b'\n' && !long);
            if byte == b'\n' || long || forced.is_some() {
                let ended = forced == Some(Forced::Ended);
                let piece = Piece {
                    source: step.source,
                    pid: step.pid,
                    name: &step.name,
                    from: piece_from,
                    to: at,
                    joint,
                    mark: if raw || byte == b'\n' || ended {
                        ""
                    } else {
                        " [+]"
                    },
                    whole: byte == b'\n',
                    sequence,
                    time_ns,
                };
                joint = if byte == b'\n' || ended {
                    Joint::Fresh
                } else {
                    Joint::Continues
                };
                piece_from = at;
                if forced.is_some() {
                    fragments.push(piece);
                } else {
                    queues.entry(step.source.child).or_default().push(piece);
                }
            }
        }
    }
    let mut ordered = Vec::new();
    for queue in queues.values_mut() {
        queue.sort_by_key(|piece| (piece.sequence, piece.from));
        queue.reverse();
    }
    while let Some((_, queue)) = queues
        .iter_mut()
        .filter(|(_, queue)| !queue.is_empty())
        .min_by_key(|(child, queue)| (queue.last().map(|piece| piece.time_ns), **child))
    {
        ordered.extend(queue.pop());
    }
    for piece in ordered.into_iter().chain(fragments) {
        let from = out.len();
        let stream = ledger[&piece.source.child].stream(piece.source.stream);
        let text = &stream.bytes[piece.from as usize..piece.to as usize];
        let content = look.piece(&mut out, &piece, text);
        let what = What::Line {
            source: piece.source,
            from: piece.from,
            to: piece.to,
            content,
        };
        spans.push(Span {
            from,
            to: out.len(),
            what,
            time_ns: piece.time_ns,
        });
    }
    (out, spans)
}

/// How lines look.
struct Look<'a> {
    format: &'a Format,
    stamper: Stamper,
}

impl Look<'_> {
    fn announcement(
        &mut self,
        out: &mut Vec<u8>,
        time_ns: u64,
        pid: u32,
        stream: Stream,
        text: &[u8],
    ) {
        if self.format.style == Style::Json {
            let text = String::from_utf8_lossy(text).into_owned();
            let time = self.json_time(time_ns);
            let stream = stream.name();
            let notice = serde_json::Value::from(text);
            let line = format!(
                "{{\"time\":\"{time}\",\"pid\":{pid},\"stream\":\"{stream}\",\"notice\":{notice}}}\n"
            );
            return out.extend(line.bytes());
        }
        self.prefix(out, time_ns, pid, Joint::Fresh);
        out.extend_from_slice(text);
        out.push(b'\n');
    }

    /// Where in the line the child's bytes are.
    fn piece(&mut self, out: &mut Vec<u8>, piece: &Piece<'_>, text: &[u8]) -> usize {
        let begun = out.len();
        if self.format.style == Style::Json {
            let text = String::from_utf8_lossy(text.strip_suffix(b"\n").unwrap_or(text));
            let (time, name) = (self.json_time(piece.time_ns), piece.name);
            let (pid, stream) = (piece.pid, piece.source.stream.name());
            let head = format!(
                "{{\"time\":\"{time}\",\"name\":\"{name}\",\"pid\":{pid},\"stream\":\"{stream}\",\"text\":\""
            );
            out.extend(head.bytes());
            let content = out.len() - begun;
            let part = if piece.mark.is_empty() {
                ""
            } else {
                ",\"part\":true"
            };
            let cont = match piece.joint {
                Joint::Continues => ",\"cont\":true",
                Joint::Fresh => "",
            };
            out.extend(format!("{text}\"{part}{cont}}}\n").bytes());
            return content;
        }
        self.prefix(out, piece.time_ns, piece.pid, piece.joint);
        let content = out.len() - begun;
        out.extend_from_slice(text);
        out.extend_from_slice(piece.mark.as_bytes());
        if !piece.whole {
            out.push(b'\n');
        }
        content
    }

    fn prefix(&mut self, out: &mut Vec<u8>, time_ns: u64, pid: u32, joint: Joint) {
        if self.format.style != Style::Raw {
            let plus = if joint == Joint::Continues { "+" } else { "" };
            out.extend(format!("{} [{pid}] {plus}| ", self.stamper.time(time_ns)).bytes());
        }
    }

    fn json_time(&self, time_ns: u64) -> String {
        let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).expect("in range");
        let offset = jiff::tz::Offset::from_seconds(self.format.offset_seconds).expect("in range");
        let time = time.to_zoned(jiff::tz::TimeZone::fixed(offset));
        time.strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string()
    }
}

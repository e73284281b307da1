//! One line in a sink's style: what stands before the text, the text, what stands behind it. All of
//! it is frozen by [`super::format::FORMATTER_VERSION`].
//!
//! Must not know where lines begin and end, or in which order they come.

use super::format::{Format, Stamper, Style};
use super::position::Joint;
use kingpole_protocol::record::Stream;

/// A line's circumstances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// When it was completed, nanoseconds since 1970.
    pub(super) time_ns: u64,
    pub(super) pid: u32,
    /// What the child is called; may be empty.
    pub(super) name: &'a str,
    pub(super) stream: Stream,
    pub(super) joint: Joint,
    pub(super) voice: Voice,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// The child.
    Child,
    /// The log writer.
    Ours,
}

/// How a unit of a child's output ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// With the end of a line, or of the stream.
    Closed,
    /// In the middle of a line.
    Cut,
}

/// Renders lines.
#[derive(Debug)]
pub(super) struct Renderer {
    stamper: Stamper,
}

impl Renderer {
    pub(super) fn new(format: Format) -> Self {
        Self {
            stamper: Stamper::new(format),
        }
    }

    pub(super) fn format(&self) -> &Format {
        self.stamper.format()
    }

    pub(super) fn into_format(self) -> Format {
        self.stamper.into_format()
    }

    pub(super) fn set_zone(&mut self, offset_seconds: i32, zone: String) {
        self.stamper.set_zone(offset_seconds, zone);
    }

    /// Whether lines look different in another time zone.
    pub(super) fn is_zoned(&self) -> bool {
        match self.format().style {
            Style::Raw | Style::Labelled => false,
            Style::Prefixed(_) | Style::Json | Style::Colored(..) => true,
        }
    }

    /// Whether the text has to be given in one piece.
    pub(super) fn wants_whole(&self) -> bool {
        self.format().style == Style::Json
    }

    /// Adds what stands before the text.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>, line: &Line<'_>) {
        match &self.format().style {
            Style::Raw => {}
            Style::Prefixed(_) => self.prefix(out, line),
            Style::Colored(color, _) => {
                out.extend_from_slice(b"\x1b[0;3");
                out.push(b'0' + color % 8);
                out.extend_from_slice(b";40m");
                self.prefix(out, line);
            }
            Style::Json => self.object(out, line),
            Style::Labelled => {
                out.push(b'0' + line.stream as u8);
                out.push(b' ');
                push_number(out, u64::from(line.pid));
                out.push(b' ');
                push_number(out, line.time_ns / 1000);
                out.extend_from_slice(match line.joint {
                    Joint::Fresh => b" |".as_slice(),
                    Joint::Continues => b" +".as_slice(),
                });
            }
        }
    }

    /// Adds text, without a line end.
    pub(super) fn text(&self, out: &mut Vec<u8>, text: &[u8]) {
        if self.format().style == Style::Json {
            push_json_string(out, text);
        } else {
            out.extend_from_slice(text);
        }
    }

    /// Adds what stands behind the text, and the line end.
    pub(super) fn end(&self, out: &mut Vec<u8>, line: &Line<'_>, tail: Tail) {
        let cut = tail == Tail::Cut;
        match self.format().style {
            Style::Raw => {}
            Style::Prefixed(_) | Style::Labelled => {
                if cut {
                    out.extend_from_slice(b" [+]");
                }
            }
            Style::Colored(..) => {
                if cut {
                    out.extend_from_slice(b" [+]");
                }
                out.extend_from_slice(b"\x1b[0m");
            }
            Style::Json => {
                out.push(b'"');
                if cut {
                    out.extend_from_slice(b",\"part\":true");
                }
                if line.joint == Joint::Continues {
                    out.extend_from_slice(b",\"cont\":true");
                }
                out.push(b'}');
            }
        }
        out.push(b'\n');
    }

    fn prefix(&mut self, out: &mut Vec<u8>, line: &Line<'_>) {
        out.extend_from_slice(self.stamper.time(line.time_ns).as_bytes());
        out.extend_from_slice(b" [");
        push_number(out, u64::from(line.pid));
        out.extend_from_slice(match line.joint {
            Joint::Fresh => b"] | ".as_slice(),
            Joint::Continues => b"] +| ".as_slice(),
        });
    }

    fn object(&mut self, out: &mut Vec<u8>, line: &Line<'_>) {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(self.stamper.time(line.time_ns).as_bytes());
        out.push(b'.');
        push_padded(out, line.time_ns % 1_000_000_000 / 1000, 6);
        let offset = self.format().offset_seconds;
        out.push(if offset < 0 { b'-' } else { b'+' });
        let minutes = u64::from(offset.unsigned_abs()) / 60;
        push_padded(out, minutes / 60, 2);
        out.push(b':');
        push_padded(out, minutes % 60, 2);
        out.push(b'"');
        if !line.name.is_empty() {
            out.extend_from_slice(b",\"name\":\"");
            push_json_string(out, line.name.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b",\"pid\":");
        push_number(out, u64::from(line.pid));
        out.extend_from_slice(b",\"stream\":\"");
        out.extend_from_slice(line.stream.name().as_bytes());
        out.extend_from_slice(match line.voice {
            Voice::Child => b"\",\"text\":\"".as_slice(),
            Voice::Ours => b"\",\"notice\":\"".as_slice(),
        });
    }
}

/// A line of [`Style::Labelled`], taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labelled<'a> {
    /// Which stream it is of.
    pub stream: Stream,
    /// The child's process id.
    pub pid: u32,
    /// When it was completed, microseconds since 1970.
    pub time_us: u64,
    /// Whether it goes on with a line that was cut.
    pub joint: Joint,
    /// Its text.
    pub text: &'a [u8],
}

impl<'a> Labelled<'a> {
    /// Takes a line apart that was rendered by this version, its line end left out.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let (stream, pid, time_us) = (number()?, number()?, number()?);
        let (mark, text) = parts.next()?.split_first()?;
        Some(Self {
            stream: Stream::from_number(u8::try_from(stream).ok()?)?,
            pid: u32::try_from(pid).ok()?,
            time_us,
            joint: match mark {
                b'|' => Joint::Fresh,
                b'+' => Joint::Continues,
                _ => return None,
            },
            text,
        })
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

fn push_padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let begun = out.len();
    out.resize(begun + width, b'0');
    let mut rest = number;
    for digit in out[begun..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// The inside of a string of JSON. Bytes that are no UTF-8 become U+FFFD.
fn push_json_string(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut from = 0;
        for (at, byte) in valid.iter().enumerate() {
            let short = match byte {
                b'"' => b'"',
                b'\\' => b'\\',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0..0x20 => 0,
                _ => continue,
            };
            out.extend_from_slice(&valid[from..at]);
            from = at + 1;
            if short == 0 {
                out.extend_from_slice(b"\\u00");
                for digit in [byte >> 4, byte & 15] {
                    out.push(if digit < 10 {
                        b'0' + digit
                    } else {
                        b'a' + digit - 10
                    });
                }
            } else {
                out.extend_from_slice(&[b'\\', short]);
            }
        }
        out.extend_from_slice(&valid[from..]);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: Line<'_> = Line {
        time_ns: 1_795_228_350_012_345_678,
        pid: 1621,
        name: "web.1",
        stream: Stream::Stderr,
        joint: Joint::Fresh,
        voice: Voice::Child,
    };

    fn render(style: Style, line: &Line<'_>, text: &[u8], tail: Tail) -> Vec<u8> {
        let mut format = Format::new(style);
        format.offset_seconds = -12_600;
        let mut renderer = Renderer::new(format);
        let mut out = Vec::new();
        renderer.begin(&mut out, line);
        renderer.text(&mut out, text);
        renderer.end(&mut out, line, tail);
        out
    }

    #[test]
    fn a_line_of_json_has_its_time_with_the_zone_and_says_where_it_was_cut() {
        let whole = render(Style::Json, &LINE, b"a \"b\"\t\x01", Tail::Closed);
        assert_eq!(
            String::from_utf8_lossy(&whole),
            "{\"time\":\"2026-11-20T23:02:30.012345-03:30\",\"name\":\"web.1\",\"pid\":1621,\
             \"stream\":\"stderr\",\"text\":\"a \\\"b\\\"\\t\\u0001\"}\n"
        );
        let line = Line {
            joint: Joint::Continues,
            name: "",
            voice: Voice::Ours,
            ..LINE
        };
        let cut = render(Style::Json, &line, b"x", Tail::Cut);
        assert_eq!(
            String::from_utf8_lossy(&cut),
            "{\"time\":\"2026-11-20T23:02:30.012345-03:30\",\"pid\":1621,\"stream\":\"stderr\",\
             \"notice\":\"x\",\"part\":true,\"cont\":true}\n"
        );
    }

    #[test]
    fn a_coloured_line_is_that_of_circus() {
        let line = render(
            Style::Colored(2, "X".to_owned()),
            &LINE,
            b"one",
            Tail::Closed,
        );
        assert_eq!(line, b"\x1b[0;32;40mX [1621] | one\x1b[0m\n");
    }

    #[test]
    fn a_labelled_line_is_taken_apart_as_it_was_put_together() {
        let line = render(Style::Labelled, &LINE, b" a | b ", Tail::Closed);
        let parsed = Labelled::parse(&line[..line.len() - 1]).expect("ours");
        let expected = Labelled {
            stream: Stream::Stderr,
            pid: 1621,
            time_us: 1_795_228_350_012_345,
            joint: Joint::Fresh,
            text: b" a | b ",
        };
        assert_eq!(parsed, expected);
        assert_eq!(Labelled::parse(b"somebody else's"), None);
        assert_eq!(Labelled::parse(b"1 2 3 *x"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_line_of_json(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let line = render(Style::Json, &LINE, &text, Tail::Closed);
            prop_assert_eq!(memchr::memchr(b'\n', &line), Some(line.len() - 1));
            let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            prop_assert_eq!(value["text"].as_str(), Some(&*String::from_utf8_lossy(&text)));
        }
    }
}

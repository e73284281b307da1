//! From received bytes to lines: bounded, and with what telnet programs put between them.
//!
//! A line ends with `\n`, `\r\n` or the `\r\0` that a telnet client sends in character mode. Telnet
//! commands (RFC 854: byte 255 and what follows) are taken out wherever they stand, even when they
//! are cut in two by the network; offers and requests are declined so that the peer does not wait.
//! Byte 255 never occurs in UTF-8, so no other client is touched by that.

use crate::upgrade::saved_state::SavedLine;
use std::fmt;

/// Telnet's escape byte, "interpret as command".
const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
/// Begins a subnegotiation, which lasts until IAC SE.
const SB: u8 = 250;
const SE: u8 = 240;
/// What Ctrl-C becomes (interrupt process); BREAK is treated alike.
const IP: u8 = 244;
const BREAK: u8 = 243;
/// What Ctrl-D becomes (RFC 1184).
const TELNET_EOF: u8 = 236;
/// Ctrl-D as the terminal sends it in character mode.
const CTRL_D: u8 = 4;

/// What came out of the bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum LineEvent {
    /// A line without its end.
    Line(Vec<u8>),
    /// The line is longer than allowed. Nothing more comes out of this reader.
    TooLong,
    /// The person has finished (Ctrl-D on an empty line).
    EndOfInput,
    /// The person wants whatever is going on to stop (Ctrl-C).
    Interrupt,
    /// Send these bytes to the peer.
    Answer([u8; 3]),
}

impl fmt::Debug for LineEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "Line(\"{}\")", line.escape_ascii()),
            Self::TooLong => f.write_str("TooLong"),
            Self::EndOfInput => f.write_str("EndOfInput"),
            Self::Interrupt => f.write_str("Interrupt"),
            Self::Answer(bytes) => write!(f, "Answer({bytes:?})"),
        }
    }
}

/// Where a telnet command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telnet {
    /// Outside of any.
    Outside,
    /// After IAC.
    Command,
    /// After IAC and WILL, WONT, DO or DONT.
    Option(u8),
    /// Inside of a subnegotiation.
    Subnegotiation,
    /// Inside of one, after IAC.
    SubnegotiationCommand,
}

/// Cuts bytes into lines. It stops after each event, so that the caller can stop feeding it: what
/// follows an `attach` line belongs to another protocol.
#[derive(Debug)]
pub struct LineReader {
    line: Vec<u8>,
    bytes_max: usize,
    telnet: Telnet,
    after_return: bool,
    stuck: bool,
}

impl LineReader {
    /// Refuses lines of more than `bytes_max` bytes, ends not counted.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            bytes_max,
            telnet: Telnet::Outside,
            after_return: false,
            stuck: false,
        }
    }

    /// Goes on where an earlier image of this process stopped.
    #[must_use]
    pub fn resume(bytes_max: usize, saved: SavedLine) -> Self {
        Self {
            line: saved.bytes,
            bytes_max,
            telnet: match saved.telnet {
                1 => Telnet::Command,
                2 => Telnet::Option(saved.option),
                3 => Telnet::Subnegotiation,
                4 => Telnet::SubnegotiationCommand,
                _ => Telnet::Outside,
            },
            after_return: saved.after_return,
            stuck: saved.stuck,
        }
    }

    /// What [`LineReader::resume`] needs.
    #[must_use]
    pub fn save(&self) -> SavedLine {
        let (telnet, option) = match self.telnet {
            Telnet::Outside => (0, 0),
            Telnet::Command => (1, 0),
            Telnet::Option(option) => (2, option),
            Telnet::Subnegotiation => (3, 0),
            Telnet::SubnegotiationCommand => (4, 0),
        };
        SavedLine {
            bytes: self.line.clone(),
            telnet,
            option,
            after_return: self.after_return,
            stuck: self.stuck,
        }
    }

    /// Bytes of an unfinished line.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.line.len()
    }

    /// Takes bytes from the front of `input` up to the next event; `None` when all were taken and
    /// nothing came of them.
    pub fn poll_event(&mut self, input: &mut &[u8]) -> Option<LineEvent> {
        if self.stuck {
            *input = &[];
            return None;
        }
        while let Some((&byte, rest)) = input.split_first() {
            if self.telnet == Telnet::Outside && !self.after_return {
                let (plain, _) = input.split_at(plain_run(input));
                if !plain.is_empty() {
                    *input = input.get(plain.len()..).unwrap_or_default();
                    if let Some(event) = self.try_extend(plain) {
                        return Some(event);
                    }
                    continue;
                }
            }
            *input = rest;
            if let Some(event) = self.handle_byte(byte) {
                return Some(event);
            }
        }
        None
    }

    fn handle_byte(&mut self, byte: u8) -> Option<LineEvent> {
        match self.telnet {
            Telnet::Outside => self.handle_plain(byte),
            Telnet::Command => {
                self.telnet = Telnet::Outside;
                match byte {
                    WILL | WONT | DO | DONT => {
                        self.telnet = Telnet::Option(byte);
                        None
                    }
                    SB => {
                        self.telnet = Telnet::Subnegotiation;
                        None
                    }
                    IP | BREAK => {
                        self.line.clear();
                        Some(LineEvent::Interrupt)
                    }
                    TELNET_EOF => self.line.is_empty().then_some(LineEvent::EndOfInput),
                    // IAC IAC is a literal 255, which no text contains; the rest asks for nothing.
                    _ => None,
                }
            }
            Telnet::Option(verb) => {
                self.telnet = Telnet::Outside;
                match verb {
                    DO => Some(LineEvent::Answer([IAC, WONT, byte])),
                    WILL => Some(LineEvent::Answer([IAC, DONT, byte])),
                    _ => None,
                }
            }
            Telnet::Subnegotiation => {
                if byte == IAC {
                    self.telnet = Telnet::SubnegotiationCommand;
                }
                None
            }
            Telnet::SubnegotiationCommand => {
                self.telnet = match byte {
                    SE => Telnet::Outside,
                    _ => Telnet::Subnegotiation,
                };
                None
            }
        }
    }

    fn handle_plain(&mut self, byte: u8) -> Option<LineEvent> {
        let after_return = std::mem::replace(&mut self.after_return, false);
        match byte {
            IAC => {
                self.telnet = Telnet::Command;
                self.after_return = after_return;
                None
            }
            b'\n' => Some(self.take_line()),
            0 if after_return => Some(self.take_line()),
            CTRL_D if self.line.is_empty() && !after_return => Some(LineEvent::EndOfInput),
            b'\r' => {
                // The one before was no line end after all.
                let event = after_return.then(|| self.try_extend(b"\r")).flatten();
                self.after_return = true;
                event
            }
            _ if after_return => self.try_extend(&[b'\r', byte]),
            _ => self.try_extend(&[byte]),
        }
    }

    fn take_line(&mut self) -> LineEvent {
        LineEvent::Line(std::mem::take(&mut self.line))
    }

    fn try_extend(&mut self, bytes: &[u8]) -> Option<LineEvent> {
        if self.line.len().saturating_add(bytes.len()) > self.bytes_max {
            self.stuck = true;
            self.line = Vec::new();
            return Some(LineEvent::TooLong);
        }
        self.line.extend_from_slice(bytes);
        None
    }
}

/// How many bytes at the front need no thought.
fn plain_run(input: &[u8]) -> usize {
    let special = |byte: &u8| matches!(*byte, IAC | b'\n' | b'\r' | CTRL_D);
    input.iter().position(special).unwrap_or(input.len())
}

#[cfg(test)]
mod tests;

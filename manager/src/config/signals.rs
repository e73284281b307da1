//! Names and numbers of signals, in every spelling that Circus takes (reference, section 5.6).
//!
//! The numbers are Linux's for x86-64 and ARM (signal(7)); the real-time range is the one glibc
//! leaves to programs.

use std::fmt;

use super::coerce;
use super::ini::strip;
use super::model::SignalNumber;

const NAMES: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", RTMIN),
    ("RTMAX", RTMAX),
];

/// First real-time signal that glibc leaves to programs.
const RTMIN: i32 = 34;
/// Last signal of Linux.
const RTMAX: i32 = 64;

impl SignalNumber {
    /// Reads `15`, `TERM`, `sigterm` or `rtmin+1`. Zero is no signal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = strip(text);
        if let Some(number) = coerce::integer(text) {
            return i32::try_from(number).ok().and_then(Self::from_number);
        }
        let (name, offset) = match text.split_once('+') {
            Some((name, offset)) if offset.bytes().all(|b| b.is_ascii_digit()) => {
                (name, offset.parse::<i32>().ok()?)
            }
            Some(_) => return None,
            None => (text, 0),
        };
        let upper = name.to_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let (_, number) = NAMES.into_iter().find(|(name, _)| *name == short)?;
        Self::from_number(number.checked_add(offset)?)
    }

    /// The signal of that number, 1 to 64.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=RTMAX).contains(&number).then_some(Self(number))
    }
}

/// `SIGTERM`, `SIGRTMIN+1`, or the bare number for the two that have no name.
impl fmt::Display for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.into_iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0.checked_sub(RTMIN) {
            Some(offset) if offset > 0 => write!(f, "SIGRTMIN+{offset}"),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read() {
        for (text, number) in [
            ("15", 15),
            (" quit ", 3),
            ("SIGINT", 2),
            ("sigUsr1", 10),
            ("rtmin+1", 35),
            ("SIGRTMIN", 34),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(
                SignalNumber::parse(text),
                Some(SignalNumber(number)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "65",
            "BOGUS",
            "SIGSIGHUP",
            "rtmax+1",
            "rtmin+x",
            "term+-1",
        ] {
            assert_eq!(SignalNumber::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_number_is_shown_in_a_form_that_is_read_back() {
        for number in 1..=RTMAX {
            let signal = SignalNumber(number);
            assert_eq!(SignalNumber::parse(&signal.to_string()), Some(signal));
        }
        assert_eq!(SignalNumber::TERM.to_string(), "SIGTERM");
        assert_eq!(SignalNumber(36).to_string(), "SIGRTMIN+2");
    }
}

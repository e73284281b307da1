//! From words to a command: which one is meant, and what its words mean.
//!
//! The first word is looked up exactly, then as a prefix: first among Papa's commands in
//! alphabetical order, so that every abbreviation that ever worked means the same, then among ours.

use crate::effect::UpgradeExtent;
use crate::text::error::TextError;
use crate::text::help;
use crate::text::make_process::{ProcessDraft, parse_make_process};
use crate::text::make_socket::parse_make_socket;
use crate::text::options::parse_integer;
use crate::text::selector::Selection;
use crate::text::words::{Word, name_of, split_words};
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::names::check_name;
use kingpole_protocol::request::SignalTarget;
use kingpole_protocol::spec::SocketSpec;
use nix::sys::signal::Signal as SignalName;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// Lines that `tail` shows when it is not told how many.
pub const TAIL_LINES_DEFAULT: usize = 10;

/// Kinds of things that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Things {
    /// Processes.
    Processes,
    /// Sockets.
    Sockets,
    /// Values.
    Values,
}

/// Whether `tail` goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailMode {
    /// The last lines, and done.
    Once,
    /// The last lines, and what comes, until the client says something.
    Follow,
}

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing: the prompt again.
    Blank,
    /// `list`.
    List {
        /// Of what.
        things: Things,
        /// Which.
        selection: Selection,
    },
    /// `remove`.
    Remove {
        /// Of what.
        things: Things,
        /// Which.
        selection: Selection,
    },
    /// `watch processes`.
    Watch(Selection),
    /// `make socket`.
    MakeSocket(Box<SocketSpec>),
    /// `make process`.
    MakeProcess(Box<ProcessDraft>),
    /// `set`; without a value it clears.
    Set {
        /// Its name.
        key: String,
        /// Its new bytes.
        value: Option<ByteString>,
    },
    /// `get`.
    Get {
        /// Its name.
        key: String,
    },
    /// `help`, already answered.
    Help(String),
    /// `quit`.
    Quit,
    /// `exit-if-idle`.
    ExitIfIdle,
    /// `attach VERSION`.
    Attach {
        /// Of the frames the client wants to speak.
        version: u16,
    },
    /// `tail`.
    Tail {
        /// Whether it goes on.
        mode: TailMode,
        /// Whose output; `*` is no wildcard here.
        name: String,
        /// How many lines at most.
        lines: usize,
    },
    /// `signal`.
    Signal {
        /// To which processes.
        selection: Selection,
        /// Linux's number.
        signal: i32,
        /// How far it reaches.
        target: SignalTarget,
    },
    /// `stats`.
    Stats(Selection),
    /// `sessions`.
    Sessions,
    /// `leases`.
    Leases,
    /// `upgrade`.
    Upgrade {
        /// The program.
        path: PathBuf,
        /// How far to go.
        extent: UpgradeExtent,
    },
    /// `version`.
    Version,
}

/// The commands by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `exit-if-idle`.
    ExitIfIdle,
    /// `get`.
    Get,
    /// `help`.
    Help,
    /// `list`.
    List,
    /// `make`.
    Make,
    /// `quit`.
    Quit,
    /// `remove`.
    Remove,
    /// `set`.
    Set,
    /// `watch`.
    Watch,
    /// `attach`.
    Attach,
    /// `leases`.
    Leases,
    /// `sessions`.
    Sessions,
    /// `signal`.
    Signal,
    /// `stats`.
    Stats,
    /// `tail`.
    Tail,
    /// `upgrade`.
    Upgrade,
    /// `version`.
    Version,
}

/// In order of precedence for prefixes: Papa's in alphabetical order, then ours.
const VERBS: [(&str, Verb); 17] = [
    ("exit-if-idle", Verb::ExitIfIdle),
    ("get", Verb::Get),
    ("help", Verb::Help),
    ("list", Verb::List),
    ("make", Verb::Make),
    ("quit", Verb::Quit),
    ("remove", Verb::Remove),
    ("set", Verb::Set),
    ("watch", Verb::Watch),
    ("attach", Verb::Attach),
    ("leases", Verb::Leases),
    ("sessions", Verb::Sessions),
    ("signal", Verb::Signal),
    ("stats", Verb::Stats),
    ("tail", Verb::Tail),
    ("upgrade", Verb::Upgrade),
    ("version", Verb::Version),
];

/// Second words.
const THINGS: [(&str, Things); 3] = [
    ("processes", Things::Processes),
    ("sockets", Things::Sockets),
    ("values", Things::Values),
];
/// After `make`.
const MADE: [(&str, Things); 2] = [("process", Things::Processes), ("socket", Things::Sockets)];
/// After `watch`.
const WATCHED: [(&str, Things); 1] = [("processes", Things::Processes)];

/// Reads a line.
///
/// # Errors
/// It is no command; nothing is to be done then.
pub fn parse_line(line: &[u8], words_max: usize) -> Result<Command, TextError> {
    let words = split_words(line, words_max)?;
    let Some((first, rest)) = words.split_first() else {
        return Ok(Command::Blank);
    };
    let verb = look_up_verb(first)?;
    match verb {
        Verb::Help => Ok(Command::Help(help_text(rest))),
        Verb::Quit => Ok(Command::Quit),
        Verb::ExitIfIdle => Ok(Command::ExitIfIdle),
        Verb::Get => {
            let name = rest.first().ok_or(TextError::ValueName)?;
            Ok(Command::Get {
                key: name_of(name)?.to_owned(),
            })
        }
        Verb::Set => parse_set(rest),
        Verb::List => {
            let (things, rest) = second_word("list", &THINGS, rest)?;
            Ok(Command::List {
                things,
                selection: Selection::from_words(rest)?,
            })
        }
        Verb::Remove => parse_remove(rest),
        Verb::Watch => {
            let (_, rest) = second_word("watch", &WATCHED, rest)?;
            Ok(Command::Watch(Selection::from_words(rest)?))
        }
        Verb::Make => match second_word("make", &MADE, rest)? {
            (Things::Sockets, rest) => Ok(Command::MakeSocket(Box::new(parse_make_socket(rest)?))),
            (_, rest) => Ok(Command::MakeProcess(Box::new(parse_make_process(rest)?))),
        },
        Verb::Attach => parse_attach(rest),
        Verb::Tail => parse_tail(rest),
        Verb::Signal => parse_signal(rest),
        Verb::Stats => Ok(Command::Stats(Selection::from_words(rest)?)),
        Verb::Sessions => no_more("sessions", rest, Command::Sessions),
        Verb::Leases => no_more("leases", rest, Command::Leases),
        Verb::Upgrade => parse_upgrade(rest),
        Verb::Version => no_more("version", rest, Command::Version),
    }
}

fn look_up_verb(word: &Word) -> Result<Verb, TextError> {
    let word = word.to_text().to_lowercase();
    if let Some((_, verb)) = VERBS.iter().find(|(name, _)| *name == word) {
        return Ok(*verb);
    }
    match VERBS.iter().find(|(name, _)| name.starts_with(&word)) {
        Some((_, Verb::ExitIfIdle)) => Err(TextError::ExitAbbreviated),
        Some((_, verb)) => Ok(*verb),
        None => Err(TextError::UnknownCommand {
            word: shortened(word),
        }),
    }
}

/// An error must not echo a megabyte.
fn shortened(word: String) -> String {
    match word.char_indices().nth(200) {
        Some((at, _)) => format!("{}...", word.get(..at).unwrap_or_default()),
        None => word,
    }
}

fn second_word<'a>(
    command: &'static str,
    choices: &[(&str, Things)],
    words: &'a [Word],
) -> Result<(Things, &'a [Word]), TextError> {
    let names = || {
        choices
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let Some((word, rest)) = words.split_first() else {
        return Err(TextError::SecondWordMissing {
            command,
            choices: names(),
        });
    };
    let word = word.to_text().to_lowercase();
    let found = choices.iter().find(|(name, _)| name.starts_with(&word));
    let (_, things) = found.ok_or_else(|| TextError::BadSecondWord {
        command,
        choices: names(),
    })?;
    Ok((*things, rest))
}

fn help_text(words: &[Word]) -> String {
    let topic = || -> Result<&'static str, TextError> {
        let Some((first, rest)) = words.split_first() else {
            return Ok(help::OVERVIEW);
        };
        let verb = look_up_verb(first)?;
        let second = |command, choices: &[(&str, Things)]| match rest {
            [] => Ok(None),
            _ => second_word(command, choices, rest).map(|(things, _)| Some(things)),
        };
        let things = match verb {
            Verb::List => second("list", &THINGS)?,
            Verb::Remove => second("remove", &THINGS)?,
            Verb::Make => second("make", &MADE)?,
            Verb::Watch => second("watch", &WATCHED)?,
            _ => None,
        };
        Ok(help::topic(verb, things))
    };
    match topic() {
        Ok(text) => text.to_owned(),
        // Papa answers these as text, not as an error.
        Err(error) => format!("{error}\n"),
    }
}

fn parse_set(words: &[Word]) -> Result<Command, TextError> {
    let (name, rest) = words.split_first().ok_or(TextError::ValueName)?;
    if rest.is_empty() && &**name == b"*" {
        return Err(TextError::ValueName);
    }
    let key = name_of(name)?.to_owned();
    check_name("value", &key)?;
    let value = (!rest.is_empty()).then(|| ByteString(join(rest)));
    Ok(Command::Set { key, value })
}

fn join(words: &[Word]) -> Vec<u8> {
    words
        .iter()
        .map(|word| &word[..])
        .collect::<Vec<_>>()
        .join(&b' ')
}

fn parse_remove(words: &[Word]) -> Result<Command, TextError> {
    let (things, rest) = second_word("remove", &THINGS, words)?;
    if things == Things::Values {
        match rest {
            [] => return Err(TextError::RemoveAllValues),
            [only] if &**only == b"*" => return Err(TextError::RemoveAllValues),
            _ => {}
        }
    }
    Ok(Command::Remove {
        things,
        selection: Selection::from_words(rest)?,
    })
}

fn parse_attach(words: &[Word]) -> Result<Command, TextError> {
    let missing = TextError::Missing {
        command: "attach",
        what: "the version of the frames",
    };
    match words {
        [] => Err(missing),
        [word] => match parse_integer(word).and_then(|number| u16::try_from(number).ok()) {
            Some(version) => Ok(Command::Attach { version }),
            None => Err(surplus("attach", word)),
        },
        [_, word, ..] => Err(surplus("attach", word)),
    }
}

fn parse_upgrade(words: &[Word]) -> Result<Command, TextError> {
    let extent = match words.first() {
        Some(word) if word.0 == b"--check" => UpgradeExtent::CheckOnly,
        _ => UpgradeExtent::Whole,
    };
    let rest = match extent {
        UpgradeExtent::CheckOnly => words.get(1..).unwrap_or_default(),
        UpgradeExtent::Whole => words,
    };
    let missing = TextError::Missing {
        command: "upgrade",
        what: "the path of a kingpole-kernel",
    };
    let (path, rest) = rest.split_first().ok_or(missing)?;
    if let Some(word) = rest.first() {
        return Err(surplus("upgrade", word));
    }
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&path.0));
    Ok(Command::Upgrade { path, extent })
}

fn parse_tail(words: &[Word]) -> Result<Command, TextError> {
    let mut mode = TailMode::Once;
    let mut name = None;
    let mut lines = None;
    for word in words {
        let count = parse_integer(word).and_then(|number| usize::try_from(number.abs()).ok());
        match (&**word, name.is_some(), count) {
            (b"-f", _, _) => mode = TailMode::Follow,
            // `tail web 20` and, as in a shell, `tail -20 web`.
            (_, true, Some(count)) if lines.is_none() => lines = Some(count),
            ([b'-', ..], false, Some(count)) if lines.is_none() => lines = Some(count),
            (_, false, _) => name = Some(name_of(word)?.to_owned()),
            _ => return Err(surplus("tail", word)),
        }
    }
    let name = name.ok_or(TextError::Missing {
        command: "tail",
        what: "the name of a process",
    })?;
    Ok(Command::Tail {
        mode,
        name,
        lines: lines.unwrap_or(TAIL_LINES_DEFAULT),
    })
}

fn parse_signal(words: &[Word]) -> Result<Command, TextError> {
    let what = "a process and a signal";
    let [process, signal, rest @ ..] = words else {
        return Err(TextError::Missing {
            command: "signal",
            what,
        });
    };
    let target = match rest {
        [] => SignalTarget::Process,
        [word] => match word.to_ascii_lowercase().as_slice() {
            b"process" => SignalTarget::Process,
            b"group" => SignalTarget::Group,
            b"tree" => SignalTarget::Tree,
            b"children" => SignalTarget::Children,
            b"descendants" => SignalTarget::Descendants,
            _ => return Err(surplus("signal", word)),
        },
        [_, word, ..] => return Err(surplus("signal", word)),
    };
    let selection = Selection::from_words(std::slice::from_ref(process))?;
    Ok(Command::Signal {
        selection,
        signal: parse_signal_name(signal)?,
        target,
    })
}

/// `15`, `TERM` or `SIGTERM`, in any case.
fn parse_signal_name(word: &Word) -> Result<i32, TextError> {
    // SIGRTMAX is 64 on every Linux but MIPS.
    if let Some(number) = parse_integer(word).and_then(|number| i32::try_from(number).ok())
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let text = word.to_text().to_ascii_uppercase();
    let full = if text.starts_with("SIG") {
        text
    } else {
        format!("SIG{text}")
    };
    SignalName::from_str(&full)
        .map(|signal| signal as i32)
        .map_err(|_| TextError::UnknownSignal {
            name: shortened(word.to_text().into_owned()),
        })
}

fn no_more(command: &'static str, words: &[Word], meant: Command) -> Result<Command, TextError> {
    match words.first() {
        None => Ok(meant),
        Some(word) => Err(surplus(command, word)),
    }
}

fn surplus(command: &'static str, word: &Word) -> TextError {
    TextError::Surplus {
        command,
        word: shortened(word.to_text().into_owned()),
    }
}

#[cfg(test)]
mod tests;

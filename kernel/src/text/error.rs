//! Why a line is refused. The text after `Error: ` is Papa's where Papa has one.

use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::names::NameError;
use thiserror::Error;

/// Why a line is refused. Nothing has been done then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TextError {
    /// No command begins like this.
    #[error("Unknown command \"{word}\"")]
    UnknownCommand {
        /// In lower case.
        word: String,
    },
    /// The command has a second word.
    #[error("\"{command}\" must be followed by one of: {choices}")]
    SecondWordMissing {
        /// Spelled out.
        command: &'static str,
        /// Separated by commas.
        choices: String,
    },
    /// The second word is not one of its choices.
    #[error("Bad \"{command}\" command. The following word must be one of: {choices}")]
    BadSecondWord {
        /// Spelled out.
        command: &'static str,
        /// Separated by commas.
        choices: String,
    },
    /// It would be too easy to end the kernel.
    #[error("You cannot abbreviate \"exit-if-idle\"")]
    ExitAbbreviated,
    /// More words than a command may have.
    #[error("Too many words: at most {words_max} are allowed")]
    TooManyWords {
        /// The bound.
        words_max: usize,
    },
    /// A name has to be UTF-8.
    #[error("Not UTF-8: {}", word.to_text())]
    NotUtf8 {
        /// As sent.
        word: ByteString,
    },
    /// A name that cannot be had.
    #[error("{0}")]
    Name(#[from] NameError),
    /// `get` and `set`.
    #[error("Value requires a name")]
    ValueName,
    /// `remove values` without a name, or with `*`.
    #[error("You cannot remove all variables")]
    RemoveAllValues,
    /// `make socket`.
    #[error("Socket requires a name")]
    SocketName,
    /// `make process`.
    #[error("Process requires a name")]
    ProcessName,
    /// A command of ours lacks a word.
    #[error("\"{command}\" requires {what}; type \"help {command}\"")]
    Missing {
        /// Spelled out.
        command: &'static str,
        /// What.
        what: &'static str,
    },
    /// A word too many, or one that makes no sense.
    #[error("\"{command}\" does not understand \"{word}\"; type \"help {command}\"")]
    Surplus {
        /// Spelled out.
        command: &'static str,
        /// As sent.
        word: String,
    },
    /// A `name=value` word that nothing asks for.
    #[error("Unknown {of} option \"{option}\"")]
    UnknownOption {
        /// `socket` or `process`.
        of: &'static str,
        /// Its name.
        option: String,
    },
    /// A number was wanted.
    #[error("The value of \"{option}\" must be {wanted}, not \"{value}\"")]
    BadOption {
        /// Its name.
        option: String,
        /// What would do.
        wanted: &'static str,
        /// As sent.
        value: String,
    },
    /// Unix sockets need a place in the file system.
    #[error("Absolute path required for Unix sockets")]
    RelativePath,
    /// Linux has none of this type to listen on; the words are Linux's.
    #[error("[Errno {errno}] {reason}")]
    SocketType {
        /// Linux's number.
        errno: i32,
        /// Linux's words.
        reason: &'static str,
    },
    /// A child has to execute something.
    #[error("No command")]
    NoCommand,
    /// A command with more than the kernel takes.
    #[error("{0}")]
    TooLarge(
        /// What is too large.
        String,
    ),
    /// No such limit.
    #[error("Unknown rlimit \"{name}\"")]
    UnknownLimit {
        /// As sent.
        name: String,
    },
    /// A limit is a number.
    #[error("The rlimit value for \"{name}\" must be an integer, not \"{value}\"")]
    BadLimit {
        /// Which.
        name: String,
        /// As sent.
        value: String,
    },
    /// `$(socket.NAME` without an end.
    #[error(
        "Process for {process} argument starts with \"$(socket.\" but has no closing parenthesis"
    )]
    NoClosingParenthesis {
        /// The process's name.
        process: String,
    },
    /// `$(socket.NAME)`.
    #[error("You forgot to specify either \".port\" or \".fileno\" after the name")]
    NoSocketPart,
    /// No such user.
    #[error("'{name}' is not a valid user name")]
    UnknownUser {
        /// As sent.
        name: String,
    },
    /// No user has this number.
    #[error("'{uid}' is not a valid user id")]
    UnknownUserId {
        /// As sent.
        uid: String,
    },
    /// No such group.
    #[error("No such group: '{group}'")]
    UnknownGroup {
        /// As sent.
        group: String,
    },
    /// The user database cannot be read.
    #[error("Cannot look up \"{name}\": {reason}")]
    LookUp {
        /// As sent.
        name: String,
        /// Why.
        reason: String,
    },
    /// Nothing is so named.
    #[error("{name} not found")]
    NotFound {
        /// As sent.
        name: String,
    },
    /// No socket is so named.
    #[error("Socket {name} not found")]
    SocketNotFound {
        /// As sent.
        name: String,
    },
    /// Another socket has this path.
    #[error("Socket for {path} has already been created")]
    PathTaken {
        /// As sent.
        path: String,
    },
    /// Another process has this name.
    #[error("Process for {name} has already been created - {line}")]
    ProcessExists {
        /// The name.
        name: String,
        /// Its line in the listing.
        line: String,
    },
    /// `signal` with a prefix that no running process has.
    #[error("Nothing to signal")]
    NothingToSignal,
    /// `watch processes` while there are none.
    #[error("Nothing to watch")]
    NothingToWatch,
    /// No such signal.
    #[error("Unknown signal \"{name}\"")]
    UnknownSignal {
        /// As sent.
        name: String,
    },
    /// The host is neither numeric nor in the hosts file.
    #[error("[Errno -2] Name or service not known: {host} (give an address: DNS is not asked)")]
    UnknownHost {
        /// As sent.
        host: String,
    },
}

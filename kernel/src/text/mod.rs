//! The text protocol of Papa, which is also the prompt for people: bytes to lines, lines to words,
//! words to commands, and what is answered in words.
//!
//! Pure: it knows no sessions, no descriptors and no state. What the commands do is decided where
//! frames are decided too (`crate::step`); this module only translates.

pub mod command;
pub mod error;
pub mod help;
pub mod hosts;
pub mod lines;
pub mod make_process;
pub mod make_socket;
pub mod options;
pub mod render;
pub mod selector;
pub mod users;
pub mod words;

/// What every session is told first. Clients wait for its last three bytes.
pub const GREETING: &str = "Papa is home. Type \"help\" for commands.\n> ";

/// Ends every reply. Clients wait for a line end and these two bytes.
pub const PROMPT: &str = "> ";

/// Ends a batch of watched output; the client answers with a line.
pub const BATCH_END: &str = "] ";

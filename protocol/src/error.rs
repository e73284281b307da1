//! What a kernel answers when it refuses. The numbers are permanent.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a request was refused. New codes may be added; an unknown one means "refused".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u16);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// A short permanent word for it, for JSON and scripts.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self.0 { $($number => $text,)* _ => "refused" }
            }
        }
    };
}

codes! {
    /// The body is not what its kind says.
    MALFORMED = 1, "malformed";
    /// This kernel does not know that kind of request.
    UNKNOWN_KIND = 2, "unknown-kind";
    /// No common version, or a capability that was not agreed on.
    UNSUPPORTED = 3, "unsupported";
    /// No such process, socket, value or lease.
    NOT_FOUND = 4, "not-found";
    /// The name is taken by something else.
    ALREADY_EXISTS = 5, "already-exists";
    /// A field has a value that makes no sense.
    INVALID = 6, "invalid";
    /// The fencing number is not that of a living lease: somebody else has taken over.
    FENCED = 7, "fenced";
    /// The lease is held by a session that is connected.
    LEASE_HELD = 8, "lease-held";
    /// A bound was reached.
    LIMIT = 9, "limit";
    /// The program was not started; `step` and `errno` say where it failed.
    SPAWN_FAILED = 10, "spawn-failed";
    /// The socket could not be made.
    SOCKET_FAILED = 11, "socket-failed";
    /// Something is still held, so the kernel does not end.
    NOT_IDLE = 12, "not-idle";
    /// The peer may not do this.
    DENIED = 13, "denied";
    /// The process has ended, so it cannot be signalled.
    ENDED = 14, "ended";
    /// The first frame must be a hello.
    HELLO_EXPECTED = 15, "hello-expected";
    /// Linux refused; `errno` says why.
    SYSTEM = 16, "system";
    /// A repeated request is not decided yet; ask again.
    PENDING = 17, "pending";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The reply to a request that was refused; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened, to what, and what to do.
    pub message: String,
    /// Linux's error number, 0 if none was involved.
    pub errno: i32,
    /// Which step of a spawn failed (`exec`, `working-directory`, `user` ...), else empty.
    pub step: String,
}

impl ErrorReply {
    /// A refusal without a system error.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            errno: 0,
            step: String::new(),
        }
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorReply {}

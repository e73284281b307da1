//! Every bound of the ZeroMQ side, with where it comes from.

use std::time::Duration;

use crate::shells::upgrade::ANSWERS_PATIENCE;

/// Longest frame of a request. `set` with a long environment is some kilobytes; Linux takes no
/// argument list above 2 MiB, and nothing that is asked comes near.
pub const REQUEST_FRAME_BYTES_MAX: usize = 1 << 20;

/// Longest request, all its parts together.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Most parts of a message. Circus's have one, a REQ socket's two.
pub const PARTS_MAX: usize = 16;

/// Longest frame that a subscriber may send: a subscription or a command.
pub const SUBSCRIBER_FRAME_BYTES_MAX: usize = 4 << 10;

/// Longest command (READY with its metadata, ERROR, PING).
pub const COMMAND_BYTES_MAX: usize = 4 << 10;

/// Most subscriptions of one peer. circus-top has one, a plugin one, `circusctl listen` one for
/// each topic that somebody types.
pub const SUBSCRIPTIONS_MAX: usize = 256;

/// Connections of one endpoint. Each costs a descriptor and some kilobytes.
pub const CONNECTIONS_MAX: usize = 512;

/// Requests of one connection that are being worked on; further ones wait in its socket.
pub const REQUESTS_AT_ONCE_MAX: usize = 64;

/// Replies that wait for one connection before nothing more is read from it.
pub const REPLIES_BYTES_HIGH: usize = 256 << 10;

/// Replies that wait for one connection before it is dropped. Reached only when requests that were
/// already being worked on have very long answers.
pub const REPLIES_BYTES_MAX: usize = 64 << 20;

/// Messages that wait for one subscriber; further ones are dropped for it, and counted.
pub const PUBLISHED_BYTES_MAX: usize = 1 << 20;

/// From the connection to the end of its handshake. libzmq needs four packets.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer for which replies wait may take none of them.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long last messages may take to reach their peers when the manager leaves.
pub const LINGER: Duration = Duration::from_millis(400);

/// How long requests that are being worked on may keep a connection open once the manager leaves: a little longer than an
/// upgrade waits for answers, so that the last word comes from whoever decides.
pub const LEAVE_TIMEOUT: Duration = ANSWERS_PATIENCE.saturating_add(LINGER);

/// Most that has arrived on a connection and is carried to the next program unread; a peer that is in the middle of more
/// is closed.
pub const CARRIED_UNREAD_BYTES_MAX: usize = 64 << 10;

/// The same for all connections together, with what they have subscribed to.
pub const CARRIED_BYTES_MAX: usize = 4 << 20;

/// Pause after a failing accept (no descriptors left, usually).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Bytes taken from a connection at once.
pub const READ_BYTES: usize = 16 << 10;

//! Keys of sockets and plugins.

use super::{Key, key};

/// Section `[socket:NAME]`.
pub const SOCKET: &[Key] = &[
    key("host", "name or address", "localhost", "where to listen"),
    key("port", "int", "8080", "0 for one that the system chooses"),
    key(
        "path",
        "path",
        "",
        "makes it a unix socket; host and port are ignored",
    ),
    key(
        "family",
        "AF_INET AF_INET6 AF_UNIX",
        "AF_INET",
        "kind of address",
    ),
    key(
        "type",
        "SOCK_STREAM SOCK_DGRAM SOCK_SEQPACKET",
        "SOCK_STREAM",
        "kind of socket",
    ),
    key(
        "proto",
        "tcp udp ip",
        "that of `type`",
        "protocol; each type has one, and no other can be written",
    ),
    key(
        "backlog",
        "int",
        "2048",
        "length of the queue of connections",
    ),
    key(
        "umask",
        "decimal",
        "8",
        "mask of the unix socket's mode; decimal, as in Circus",
    ),
    key(
        "replace",
        "bool",
        "false",
        "an existing socket file; it is replaced in any case",
    ),
    key("interface", "name", "", "network interface"),
    key(
        "so_reuseport",
        "bool",
        "false",
        "a fresh socket for each process",
    ),
    key(
        "blocking",
        "bool",
        "true",
        "whether processes wait in `accept`; false: the socket is non-blocking for all who have it",
    ),
    key(
        "use_papa",
        "bool",
        "false",
        "every socket is held by the process kernel anyway",
    ),
];

/// Section `[plugin:NAME]`; all other keys are the plugin's own.
pub const PLUGIN: &[Key] = &[
    key("use", "class", "required", "what to run"),
    key("priority", "int", "1", "as for watchers"),
];

//! Refusals in Papa's words, where Papa has words for them.

use super::Step;
use crate::state::text::Then;
use crate::text::make_process::SHELL_LABEL;
use crate::text::render;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::spec::{ProcessSpec, SocketAddress, SocketSpec};
use nix::errno::Errno;

impl Step<'_> {
    /// What stands behind `Error: `.
    pub(super) fn refusal_line(&self, then: &Then, error: &ErrorReply) -> String {
        match then {
            Then::Socket(spec) => self.socket_refusal(spec, error),
            Then::Process { spec, .. } => process_refusal(spec, error),
            _ => error_line(error),
        }
    }

    fn socket_refusal(&self, spec: &SocketSpec, error: &ErrorReply) -> String {
        match error.code {
            ErrorCode::ALREADY_EXISTS => {
                let mut line =
                    format!("Socket for {} has already been created", spec.name).into_bytes();
                if let Some(socket) = self.state.sockets.get(&spec.name) {
                    line.extend_from_slice(b" - ");
                    render::push_socket(&mut line, &socket.info);
                }
                String::from_utf8_lossy(&line).into_owned()
            }
            ErrorCode::SOCKET_FAILED if error.message.contains("Bind failed") => {
                let place = match &spec.address {
                    SocketAddress::Unix { .. } => String::new(),
                    SocketAddress::Inet { host, port } | SocketAddress::Inet6 { host, port } => {
                        format!(" on {host}:{port}")
                    }
                };
                format!("Bind failed{place}: {}", cause(error.errno))
            }
            _ => error_line(error),
        }
    }
}

fn process_refusal(spec: &ProcessSpec, error: &ErrorReply) -> String {
    let shell = spec.labels.contains_key(SHELL_LABEL);
    let program = spec.arguments.first().map(|program| program.to_text());
    match (error.code, error.step.as_str(), program) {
        (ErrorCode::SPAWN_FAILED, "exec", Some(program)) if !shell => {
            format!("Bad command - {}: '{program}'", cause(error.errno))
        }
        (ErrorCode::SPAWN_FAILED, "working-directory", _) => {
            let directory = spec.working_directory.to_text();
            format!("Bad working_dir - {}: '{directory}'", cause(error.errno))
        }
        _ => error_line(error),
    }
}

/// A system error as Papa (Python) writes it.
fn cause(errno: i32) -> String {
    format!("[Errno {errno}] {}", Errno::from_raw(errno).desc())
}

/// Any refusal, on one line.
fn error_line(error: &ErrorReply) -> String {
    error.message.replace(['\n', '\r'], " ")
}

//! The manager as a service: no decoration, no kernel of its own, children run on when it ends. See
//! [`kingpole_manager::cli::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kingpole_manager::shells::hearing::run_if_asked()
        .unwrap_or_else(kingpole_manager::cli::daemon::main)
}

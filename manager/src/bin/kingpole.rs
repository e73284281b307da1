//! The `kingpole` command; see [`kingpole_manager::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kingpole_manager::shells::hearing::run_if_asked().unwrap_or_else(kingpole_manager::cli::main)
}

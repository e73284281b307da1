//! The `kingpole` command; see [`kingpole_manager::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kingpole_manager::cli::main()
}

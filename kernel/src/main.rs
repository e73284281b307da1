//! The program `kingpole-kernel`; see the library.

fn main() -> std::process::ExitCode {
    kingpole_kernel::start::main().into()
}

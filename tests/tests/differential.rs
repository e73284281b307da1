//! Promise: whoever comes from Circus meets no surprise that is not written down (P10).
//!
//! The real circusd and a manager of ours run the same configuration and are given the same commands;
//! `tests/interop/differential.py` compares events, replies and states after each, and holds
//! `docs/circus-compatibility.md` to what it finds. Without Python or PyPI it says that it is skipped; with
//! `CI` set that is a failure.

use kingpole_tests::python::{self, scripts};
use kingpole_tests::{Kernel, Manager, binaries};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::rc::Rc;

fn script(python: &Path, arguments: &[&str]) -> Output {
    Command::new(python)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .arg(scripts().join("differential.py"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the interpreter runs")
}

#[test]
fn all_differences_from_circusd_are_written_down() {
    let python = match python::environment() {
        Ok(python) => python,
        Err(why) => {
            eprintln!("SKIPPED: circusd was not compared: {why}");
            assert!(
                std::env::var_os("CI").is_none(),
                "skipped with CI set: {why}"
            );
            return;
        }
    };
    let kernel = Kernel::start();
    let scratch = Rc::clone(kernel.scratch());
    let directory = scratch.path().display().to_string();
    let printed = script(&python, &["--configuration", &directory]);
    let file = scratch.write("circus.ini", printed.stdout);
    let modules = scripts().display().to_string();
    let environment = [
        ("KINGPOLE_DEFAULT_ENDPOINTS", "off"),
        // For the hooks.
        ("PYTHONPATH", modules.as_str()),
        ("KINGPOLE_PYTHON", python.to_str().expect("text")),
    ];
    let mut manager = Manager::launch_with(&scratch, &file, binaries::manager(), &environment);
    manager.wait_ready();
    let document = binaries::workspace().join("docs/circus-compatibility.md");
    let document = document.to_str().expect("text");
    let compared = script(&python, &[&directory, document]);
    assert!(
        compared.status.success(),
        "{}\n{}\n{}\ncircusd: {}",
        compared.status,
        String::from_utf8_lossy(&compared.stdout),
        String::from_utf8_lossy(&compared.stderr),
        std::fs::read_to_string(scratch.join("circusd.log")).unwrap_or_default(),
    );
    // The last command was quit.
    let status = manager.process_mut().wait();
    assert!(status.success(), "{status}");
}

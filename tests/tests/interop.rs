//! The clients that existed before us, unmodified: Papa's library from PyPI, and Circus 0.17.2 with
//! `use_papa`.
//!
//! They live in a virtual environment below the target directory, made at the first run from
//! `tests/interop/requirements.txt`; that needs Python 3.9 to 3.11 and PyPI. Where there is neither,
//! the tests say that they are skipped; with `CI` set that is a failure.

use kingpole_tests::python::{self, run, scripts};
use kingpole_tests::{Kernel, Scratch, binaries, wait};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The environment's interpreter, or why there is none.
fn interpreter() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(python::environment) {
        Ok(path) => Some(path),
        Err(why) => {
            eprintln!("SKIPPED: Papa's and Circus's own clients were not tried: {why}");
            assert!(
                std::env::var_os("CI").is_none(),
                "skipped with CI set: {why}"
            );
            None
        }
    }
}

/// Runs a script and fails with what it printed.
#[track_caller]
fn script(python: &Path, name: &str, arguments: &[&str]) {
    if let Err(text) = try_script(python, name, arguments) {
        panic!("{text}");
    }
}

/// Runs a script; what it printed where it failed.
fn try_script(python: &Path, name: &str, arguments: &[&str]) -> Result<(), String> {
    // Papa's library cannot send variables that are empty, and Circus passes all on.
    let output = Command::new(python)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .arg(scripts().join(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the interpreter runs");
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{name} {arguments:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn unix_address(kernel: &Kernel) -> String {
    format!("unix:{}", kernel.scratch().join("text.sock").display())
}

/// It ends when its last session has closed.
fn wait_for_the_end(kernel: &mut Kernel) {
    let status = kernel.process_mut().wait();
    assert!(status.success(), "{status}");
}

#[test]
fn papas_client_library_works_over_a_unix_socket_and_ends_the_kernel() {
    let Some(python) = interpreter() else { return };
    let mut kernel = Kernel::start();
    script(python, "papa_client.py", &[&unix_address(&kernel)]);
    wait_for_the_end(&mut kernel);
}

#[test]
fn papas_client_library_works_over_tcp() {
    let Some(python) = interpreter() else { return };
    let (mut kernel, port) = Kernel::start_with_port(&[]);
    script(python, "papa_client.py", &[&format!("tcp:{port}")]);
    wait_for_the_end(&mut kernel);
}

#[test]
fn papas_own_test_suite_passes() {
    let Some(python) = interpreter() else { return };
    let kernel = Kernel::start();
    let socket = kernel.scratch().join("text.sock");
    let packages = binaries::workspace().join("target/interop-packages");
    let arguments = [&socket, &packages].map(|path| path.display().to_string());
    let arguments = arguments.each_ref().map(String::as_str);
    script(python, "papa_suite.py", &arguments);
}

#[test]
fn circus_leaves_its_processes_in_the_kernel_and_a_new_one_recovers_them() {
    let Some(python) = interpreter() else { return };
    let kernel = Kernel::start();
    script(python, "circus_recovery.py", &[&unix_address(&kernel)]);
}

#[test]
fn circus_finds_the_kernel_on_papas_own_port() {
    let Some(python) = interpreter() else { return };
    // A network of its own, so that nobody else has the port.
    let namespace = ["--net", "--", "/bin/sh", "-c"];
    let up = "ip link set lo up";
    if run(Command::new("unshare").args(namespace).arg(up)).is_err() {
        eprintln!("SKIPPED: a network namespace needs root, unshare and ip");
        return;
    }
    let scratch = Scratch::new();
    let both = format!(
        "{up} && {kernel} --runtime-dir {run} 2>{log} & \
         until [ -S {run}/kernel.sock ]; do \
         kill -0 $! || {{ cat {log}; exit 1; }}; sleep 0.05; done; \
         {python} {script} tcp:20202; status=$?; kill -QUIT $!; wait $!; exit $status",
        kernel = binaries::kernel().display(),
        run = scratch.runtime_dir().display(),
        log = scratch.join("kernel.log").display(),
        python = python.display(),
        script = scripts().join("circus_recovery.py").display(),
    );
    let mut command = Command::new("unshare");
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    if let Err(text) = run(command.args(namespace).arg(both)) {
        panic!("{text}");
    }
}

#[test]
fn recorded_sessions_are_what_papas_own_daemon_says() {
    let Some(python) = interpreter() else { return };
    let transcripts = scripts().join("transcripts");
    let mut files = std::fs::read_dir(transcripts)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>();
    files.sort();
    for file in files {
        if file.ends_with("processes.txt") && !nix::unistd::geteuid().is_root() {
            continue;
        }
        // Papa's daemon looks at its children now and then, so that what it has to tell may come in
        // one batch or in two: what the transcript shows has to be among what it does.
        let tries = (0..PAPA_TRIES_MAX).map(|_| replay_at_papa(python, &file));
        let failures = tries
            .map_while(std::result::Result::err)
            .collect::<Vec<_>>();
        assert!(failures.len() < PAPA_TRIES_MAX, "{}", failures.join("\n"));
    }
}

/// How often Papa's own daemon may do something else than the transcript shows.
const PAPA_TRIES_MAX: usize = 5;

/// Replays a transcript at a daemon of Papa's.
fn replay_at_papa(python: &Path, file: &Path) -> Result<(), String> {
    let scratch = Scratch::new();
    let socket = scratch.join("papa.sock");
    let mut command = Command::new(python);
    command
        .arg(scripts().join("original_papa.py"))
        .arg("-u")
        .arg(&socket);
    let log = scratch.join("papa.log");
    let _papa = kingpole_tests::process::Guarded::start("papa", command, log);
    wait::until_true("Papa listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let address = format!("unix:{}", socket.display());
    try_script(
        python,
        "transcript.py",
        &["papa", &address, &file.display().to_string()],
    )
}

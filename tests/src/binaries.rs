//! Where the binaries are that a test runs, and that they are those of the sources at hand.
//!
//! `cargo test` builds the binaries of a package only for its own integration tests, so the first
//! test that needs one builds them all, in the profile it was itself built in. Cargo's lock makes
//! test programs that start together wait for each other, and a second build has nothing to do.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Names a directory of binaries to use instead of building them.
pub const DIRECTORY_VARIABLE: &str = "KINGPOLE_TEST_BINARIES";

/// The process kernel.
#[must_use]
pub fn kernel() -> &'static Path {
    find("kingpole-kernel")
}

/// A process kernel that dies where a test wants it to, built beside the real one. It claims the next
/// version of frames and of the saved state as well, so that it can stand for a later release.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn kernel_with_crash_points() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build_ahead("kingpole-kernel", "kingpole-kernel", "crash-points"))
}

/// A manager that dies where a test wants it to, built beside the real one.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn manager_with_crash_points() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build_ahead("kingpole-manager", "kingpole-manager", "crash-points"))
}

/// Builds a test build of a program beside the real one.
fn build_ahead(package: &str, program: &str, features: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let directory = workspace().join("target").join("crash-points");
    let status = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--quiet", "-p", package, "--bin", program])
        .args(["--features", features, "--target-dir"])
        .arg(&directory)
        .stdin(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{program} does not build with {features}"
    );
    directory.join("debug").join(program)
}

/// A manager that claims the next version of frames, as [`kernel_with_crash_points`] does.
///
/// # Panics
/// When it does not build.
#[must_use]
pub fn manager_ahead() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let features = "kingpole-protocol/a-version-ahead";
        build_ahead("kingpole-manager", "kingpole-manager", features)
    })
}

/// The manager.
#[must_use]
pub fn manager() -> &'static Path {
    find("kingpole-manager")
}

/// The command line.
#[must_use]
pub fn kingpole() -> &'static Path {
    find("kingpole")
}

/// The child that does what it is told.
#[must_use]
pub fn puppet() -> &'static Path {
    find("puppet")
}

/// The child that supervisors are compared with.
#[must_use]
pub fn contestant() -> &'static Path {
    find("contestant")
}

/// The example of a program that hosts a child in the kernel.
#[must_use]
pub fn host_children() -> &'static Path {
    find("host_children")
}

/// The root of the sources.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

fn find(name: &str) -> &'static Path {
    static FOUND: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match std::env::var_os(DIRECTORY_VARIABLE) {
        Some(directory) => given(Path::new(&directory)),
        None => build(),
    });
    match found.get(name) {
        Some(path) => path,
        None => panic!("there is no binary {name}; there are {:?}", found.keys()),
    }
}

fn given(directory: &Path) -> BTreeMap<String, PathBuf> {
    // Only benchmarks need it.
    let contestant = directory
        .join("contestant")
        .is_file()
        .then_some("contestant");
    ["kingpole-kernel", "kingpole-manager", "kingpole", "puppet"]
        .into_iter()
        .chain(contestant)
        .map(|name| {
            let path = directory.join(name);
            assert!(
                path.is_file(),
                "{DIRECTORY_VARIABLE} names {}, but there is no {name} in it",
                directory.display()
            );
            (name.to_owned(), path)
        })
        .collect()
}

fn build() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command
        .current_dir(workspace())
        .args([
            "build",
            "--workspace",
            "--bins",
            "--examples",
            "--message-format=json-render-diagnostics",
        ])
        .stdin(Stdio::null());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {}: {error}", Path::new(&cargo).display()),
    };
    assert!(
        output.status.success(),
        "the binaries under test do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let path = PathBuf::from(message["executable"].as_str()?);
            Some((message["target"]["name"].as_str()?.to_owned(), path))
        })
        .collect()
}

//! The Python in which Papa's and Circus's own programs run: a virtual environment below the target
//! directory, made at its first use from `tests/interop/requirements.txt`. Hashes there say what may
//! be installed, so that it is the same everywhere.

use crate::binaries;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Versions that Circus 0.17.2 and Papa 1.0.6 run on, best first.
const PYTHONS: [&str; 4] = ["python3.11", "python3.10", "python3.9", "python3"];

/// Where the scripts are.
#[must_use]
pub fn scripts() -> PathBuf {
    binaries::workspace().join("tests/interop")
}

/// The environment's interpreter.
///
/// # Errors
/// Why there is none: no fitting Python, or no PyPI.
pub fn environment() -> Result<PathBuf, String> {
    environment_of(&scripts().join("requirements.txt"), "interop-python")
}

/// The interpreter of an environment with what a file asks for, in a directory of this name below
/// the target directory.
///
/// # Errors
/// Why there is none: no fitting Python, or no PyPI.
pub fn environment_of(requirements: &Path, name: &str) -> Result<PathBuf, String> {
    let build = scripts().join("requirements-build.txt");
    let mut wanted = String::new();
    for file in [&build, requirements] {
        let text = std::fs::read_to_string(file);
        wanted += &text.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let directory = binaries::workspace().join("target").join(name);
    let stamp = directory.join("installed.txt");
    let python = directory.join("bin/python");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let base = PYTHONS
        .into_iter()
        .find(|name| {
            let check = "import sys, venv; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))";
            run(Command::new(name).args(["-c", check])).is_ok()
        })
        .ok_or("there is no Python 3.9, 3.10 or 3.11 with venv")?;
    // A half-made one from an interrupted run would only confuse.
    let _ = std::fs::remove_dir_all(&directory);
    run(Command::new(base).args(["-m", "venv"]).arg(&directory))?;
    for file in [&build, requirements] {
        let install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--no-build-isolation",
            "--use-pep517",
            "-r",
        ];
        run(Command::new(&python).args(install).arg(file))?;
    }
    std::fs::write(&stamp, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be run, or fails; with what it said.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

//! Promise: the commands of the README do what it says, as written.
//!
//! They run below a shell in process and network namespaces of their own, where the machine allows
//! that, so that `pgrep` and the port mean ours. `KINGPOLE_README=as-written` runs the release build
//! of the first command as well; otherwise the binaries of this test run stand in for it.

use kingpole_tests::shell::Shell;
use kingpole_tests::{Scratch, binaries, wait};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Lines of the `sh` blocks, block by block.
fn blocks() -> Vec<Vec<String>> {
    let readme = std::fs::read_to_string(binaries::workspace().join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut block: Option<Vec<String>> = None;
    for line in readme.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(Vec::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(lines), line) => lines.push(line.to_owned()),
            (None, _) => {}
        }
    }
    blocks
}

/// A shell in which the README's commands mean ours.
fn shell(scratch: &Scratch) -> Shell {
    let home = scratch.join("home");
    std::fs::create_dir(&home).unwrap();
    let mut environment = vec![("HOME", home.display().to_string())];
    for (variable, default) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let old_home = std::env::var("HOME").unwrap_or_default();
        let there = std::env::var(variable).unwrap_or(format!("{old_home}/{default}"));
        environment.push((variable, there));
    }
    // The release build optimises across all crates, which takes minutes and changes no word of the README.
    let quickly = [
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ];
    environment.extend(quickly.map(|(variable, value)| (variable, value.to_owned())));
    let shell = Shell::start(scratch, binaries::workspace(), &environment);
    if !shell.is_isolated() {
        let others = Command::new("pgrep")
            .args(["-x", "kingpole"])
            .output()
            .unwrap();
        assert!(
            others.stdout.is_empty(),
            "another kingpole runs, which the README's kill would hit, and this machine allows \
             no process namespace"
        );
    }
    shell
}

/// The command with the binaries of this run, unless all of it is to run as written.
fn localized(command: &str) -> String {
    if std::env::var("KINGPOLE_README").is_ok_and(|how| how == "as-written") {
        return command.to_owned();
    }
    let directory = binaries::kingpole().parent().unwrap().display().to_string();
    let command = command
        .strip_prefix("cargo build --release && ")
        .unwrap_or(command);
    command.replace("target/release", &directory)
}

fn pids(status: &str) -> BTreeSet<String> {
    let status: serde_json::Value =
        serde_json::from_str(status).unwrap_or_else(|e| panic!("{e}: {status}"));
    let watchers = status["watchers"].as_array().unwrap();
    watchers
        .iter()
        .flat_map(|w| w["processes"].as_array().unwrap())
        .map(|p| p["pid"].to_string())
        .collect()
}

/// A terminal for the example, and a second one to look at it.
struct Screen {
    shell: Shell,
    log: PathBuf,
}

impl Screen {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The pids of all workers, once there are any.
    #[track_caller]
    fn pids(&mut self, patience: Duration) -> BTreeSet<String> {
        let status = format!("{} status --json", binaries::kingpole().display());
        wait::within(patience, "all four workers of the example run", || {
            let (code, text) = self.shell.run(&status);
            let found = if code == 0 {
                pids(&text)
            } else {
                BTreeSet::new()
            };
            if found.len() == 4 {
                Ok(found)
            } else {
                Err(format!("{text}; {}", self.said()))
            }
        })
    }

    /// Runs a command of the README in the second terminal and checks that it shows what it should.
    #[track_caller]
    fn obey(&mut self, command: &str, workers: &BTreeSet<String>) {
        let text = wait::until(command, || {
            let (code, text) = self.shell.run(&localized(command));
            // The workers may still be starting their interpreters.
            if code == 0 {
                Ok(text)
            } else {
                Err(format!("{code}, {text}; {}", self.said()))
            }
        });
        if command.starts_with("curl") {
            assert!(text.contains("worker "), "{command}: {text}");
        } else if command.contains(" status") {
            for pid in workers {
                assert!(
                    text.contains(pid.as_str()),
                    "{command} shows no {pid}: {text}"
                );
            }
        }
    }
}

#[test]
fn the_first_screen_works_as_written() {
    let blocks = blocks();
    let [run, look, again, test] = blocks.as_slice() else {
        panic!("four sh blocks: {blocks:?}")
    };
    let [run] = run.as_slice() else {
        panic!("one command runs it: {run:?}")
    };
    assert_eq!(test, &["cargo test --workspace"]);
    let kill = look
        .iter()
        .position(|l| l.starts_with("kill -9"))
        .expect("the manager is killed");

    let scratch = Scratch::new();
    let log = scratch.join("terminal.log");
    let mut screen = Screen {
        shell: shell(&scratch),
        log: log.clone(),
    };
    let leader = screen.shell.start_terminal(&localized(run), &log);
    // A release build from a clean clone comes first where it is run as written.
    let before = screen.pids(Duration::from_secs(1500));
    for command in &look[..=kill] {
        screen.obey(command, &before);
    }
    assert_ne!(screen.shell.wait_terminal(leader), 0, "it was killed");
    for command in &look[kill + 1..] {
        screen.obey(command, &before);
    }

    // An interactive shell survives Ctrl-C; so must the one that stands in for it.
    let leader = format!("trap : INT; {}", localized(run));
    let leader = screen.shell.start_terminal(&leader, &log);
    // At first it may not yet have asked the kernel.
    let after = screen.pids(wait::PATIENCE);
    assert_eq!(after, before, "the same pids");
    for command in again {
        screen.obey(command, &before);
    }

    // Ctrl-C: the terminal's whole process group.
    screen.shell.run(&format!("kill -INT -{leader}"));
    let code = screen.shell.wait_terminal(leader);
    assert_eq!(code, 0, "{}", screen.said());
    for pid in &before {
        let (code, _) = screen.shell.run(&format!("kill -0 {pid}"));
        assert_ne!(code, 0, "{pid} was stopped by Ctrl-C: {}", screen.said());
    }
    check_ticks(&before);
}

/// `ticker.log` has every line of the example's last run once and in order.
fn check_ticks(pids: &BTreeSet<String>) {
    let log = binaries::workspace().join("ticker.log");
    let text = std::fs::read_to_string(&log).unwrap();
    let numbers: Vec<u64> = text
        .lines()
        .filter_map(|line| {
            let (number, pid) = line.split_once("| line ")?.1.split_once(" of pid ")?;
            pids.contains(pid).then(|| number.parse().ok())?
        })
        .collect();
    assert!(!numbers.is_empty());
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    std::fs::remove_file(log).unwrap();
}

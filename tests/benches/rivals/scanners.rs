//! The family of daemontools: a directory of services, a program that scans it, a small parent for each service and one
//! for each log program.

use super::rival::{Job, Rival, Running, log_dir};
use kingpole_tests::Scratch;
use kingpole_tests::process::Guarded;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

/// One of them.
pub(super) struct Scanner {
    name: &'static str,
    /// The program that scans, and its arguments before the directory.
    scan: &'static [&'static str],
    /// The log program, and its arguments before the directory.
    log: &'static str,
}

/// runit.
pub(super) const RUNIT: Scanner = Scanner {
    name: "runit",
    scan: &["runsvdir"],
    log: "svlogd",
};

/// s6. It takes 500 services unless told.
pub(super) const S6: Scanner = Scanner {
    name: "s6",
    scan: &["s6-svscan", "-c", "4000"],
    log: "s6-log -- n100 s268435455",
};

/// Bernstein's own.
pub(super) const DAEMONTOOLS: Scanner = Scanner {
    name: "daemontools",
    scan: &["svscan"],
    log: "multilog n100 s16777215",
};

impl Rival for Scanner {
    fn name(&self) -> &'static str {
        self.name
    }

    fn find(&mut self) -> Result<(), String> {
        for program in [self.scan[0], self.log.split(' ').next().unwrap_or_default()] {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let there = std::env::split_paths(&path).any(|it| it.join(program).is_file());
            if !there {
                return Err(format!(
                    "there is no {program}; Debian has it as {}",
                    self.name
                ));
            }
        }
        Ok(())
    }

    /// A log program is a service too, and two of them take no more than 1000.
    fn processes_max(&self) -> u32 {
        990
    }

    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running {
        let services = scratch.join("services");
        std::fs::create_dir_all(&services).expect("a directory");
        for job in jobs {
            for number in 0..job.processes {
                let service = services.join(format!("{}.{number}", job.name));
                std::fs::create_dir_all(service.join("log")).expect("a directory");
                if job.logged {
                    let logs = log_dir(&scratch, &job.name);
                    // No limit to the size, where there is a file for that.
                    std::fs::write(logs.join("config"), "s0\n").expect("written");
                    let log = format!("exec {} {}", self.log, logs.display());
                    script(&service.join("log/run"), &log);
                } else {
                    std::fs::remove_dir(service.join("log")).expect("made above");
                }
                let output = if job.logged {
                    "2>&1"
                } else {
                    ">/dev/null 2>&1"
                };
                let run = format!("exec {} {output}", job.command.join(" "));
                script(&service.join("run"), &run);
            }
        }
        let mut command = Command::new(self.scan[0]);
        command.args(&self.scan[1..]).arg(&services);
        let log = scratch.join("scan.log");
        Running::of(Guarded::start(self.name, command, log), scratch)
    }
}

fn script(path: &Path, line: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).expect("written");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("its mode");
}

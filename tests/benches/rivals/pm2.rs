//! PM2, from npm, in a directory of its own below the target directory.

use super::rival::{Job, Rival, Running, log_dir};
use kingpole_tests::process::Guarded;
use kingpole_tests::{Scratch, binaries, python};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

/// What is installed.
const PACKAGE: &str = "pm2@7.0.4";

/// See the module.
#[derive(Default)]
pub(super) struct Pm2(PathBuf);

impl Rival for Pm2 {
    fn name(&self) -> &'static str {
        "PM2"
    }

    fn find(&mut self) -> Result<(), String> {
        let directory = binaries::workspace().join("target/rivals-pm2");
        let program = directory.join("node_modules/.bin/pm2-runtime");
        if !program.is_file() {
            let mut install = Command::new("npm");
            install
                .args([
                    "install",
                    "--silent",
                    "--no-audit",
                    "--no-fund",
                    "--ignore-scripts",
                ])
                .arg("--prefix")
                .arg(&directory)
                .arg(PACKAGE);
            python::run(&mut install)?;
        }
        self.0 = program;
        Ok(())
    }

    /// It takes seconds for each hundred.
    fn processes_max(&self) -> u32 {
        200
    }

    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running {
        let apps = jobs.iter().map(|job| {
            let out = match job.logged {
                true => log_dir(&scratch, &job.name)
                    .join("out.log")
                    .display()
                    .to_string(),
                false => "/dev/null".to_owned(),
            };
            json!({
                "name": job.name,
                "script": job.command[0],
                "args": job.command[1..].to_vec(),
                "interpreter": "none",
                "exec_mode": "fork",
                "instances": job.processes,
                "out_file": out,
                "error_file": "/dev/null",
                "merge_logs": true,
                "max_restarts": 1_000_000,
            })
        });
        let apps = json!({ "apps": apps.collect::<Vec<_>>() });
        let file = scratch.write("ecosystem.config.json", apps.to_string());
        let mut command = Command::new(&self.0);
        command
            .arg("start")
            .arg(file)
            .env("PM2_HOME", scratch.join("pm2"))
            .env("PM2_DISCRETE_MODE", "true");
        let program = Guarded::start("pm2-runtime", command, scratch.join("pm2.log"));
        Running::of(program, scratch)
    }
}

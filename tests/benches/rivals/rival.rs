//! What all supervisors have in common here: they are given jobs, keep them running, and are looked at from outside.

use super::watching::{self, Family};
use kingpole_tests::Scratch;
use kingpole_tests::process::Guarded;
use std::path::PathBuf;
use std::rc::Rc;

/// Something to be kept running.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Unique among the jobs of one run.
    pub(super) name: String,
    /// The program with its arguments, without a blank in them.
    pub(super) command: Vec<String>,
    /// How many of it.
    pub(super) processes: u32,
    /// Whether its output goes into files below [`Running::log_dir`]; else it goes nowhere.
    pub(super) logged: bool,
}

/// A supervisor that may be installed here.
pub(super) trait Rival {
    /// As it stands in the table.
    fn name(&self) -> &'static str;

    /// Finds it, or installs it in a directory of its own.
    ///
    /// # Errors
    /// Why it is left out.
    fn find(&mut self) -> Result<(), String>;

    /// Starts it on jobs, in a directory of its own.
    fn start(&self, jobs: &[Job], scratch: Rc<Scratch>) -> Running;

    /// Whether it replaces what ends, and writes output into files.
    fn keeps_running(&self) -> bool {
        true
    }

    /// Most processes that it is asked to hold.
    fn processes_max(&self) -> u32 {
        1000
    }
}

/// Asks for the status of everything once, on a connection that stays open.
pub(super) type Ask = Box<dyn FnMut()>;

/// A supervisor at work; it ends with this, and its jobs with it.
pub(super) struct Running {
    /// Its programs, whose descendants the jobs are.
    pub(super) programs: Vec<i32>,
    /// Connects to it, if it can be asked over a connection.
    pub(super) connect: Option<Box<dyn Fn() -> Ask>>,
    /// What else has to go when it ends.
    #[expect(dead_code, reason = "dropped")]
    pub(super) keep: Box<dyn std::any::Any>,
    /// Its directory.
    pub(super) scratch: Rc<Scratch>,
}

impl Running {
    /// Of this program in this directory.
    pub(super) fn of(program: Guarded, scratch: Rc<Scratch>) -> Self {
        Self {
            programs: vec![program.handle().pid()],
            connect: None,
            keep: Box::new(program),
            scratch,
        }
    }

    /// Where the output of a job is.
    pub(super) fn log_dir(&self, job: &Job) -> PathBuf {
        log_dir(&self.scratch, &job.name)
    }

    /// Everything that runs below it: its own processes and its jobs'.
    pub(super) fn family(&self) -> Family {
        watching::family(&self.programs)
    }
}

impl Drop for Running {
    /// What a killed supervisor leaves is not its descendant any more, so all of it is listed before.
    fn drop(&mut self) {
        watching::end(&self.family());
    }
}

/// The directory of a job's output; it is made.
pub(super) fn log_dir(scratch: &Scratch, job: &str) -> PathBuf {
    let path = scratch.join(format!("log-{job}"));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

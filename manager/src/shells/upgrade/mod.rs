//! Replacing the manager's program: the process stays, with its pid, its lock and its place under
//! whoever supervises it; the program in it becomes another one (`docs/decisions/manager-upgrade.md`).
//!
//! 1. The candidate is run once beside us ([`rehearse`]): it reads the configuration and the
//!    kernel's state, decides what it would do, and says that it is ready ([`standby`]).
//! 2. This manager leaves as on SIGTERM: answers who waits, writes and acknowledges output.
//! 3. The process becomes the candidate ([`replace`]), which resumes the lease by its number, so
//!    that nobody can have acted in between, and serves clients only once it has the kernel's facts.
//! 4. Until then it is on [`probation`]: whatever ends it, and time that runs out, makes the process
//!    the program that it was before, which goes on and says why.

pub mod probation;
pub mod rehearse;
pub mod replace;
pub mod standby;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use kingpole_protocol::Fence;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::control::next::CarriedVisitor;
use super::zmtp::{CarriedConnection, CarriedState};

pub use self::standby::Ready;

/// How long the new manager may take until it has the kernel's facts, unless the request says.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long commands that clients wait for may delay the change.
pub const ANSWERS_PATIENCE: Duration = Duration::from_secs(5);

/// This release, for people.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// How far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The candidate rehearses, and that is all.
    CheckOnly,
    /// To its end.
    Whole,
}

/// Somebody asks for it.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// The candidate; the program as it is installed now when there is none.
    pub program: Option<PathBuf>,
    /// How far.
    pub extent: Extent,
    /// How long the new manager may take.
    pub patience: Duration,
    /// Who waits for the answer.
    pub reply: oneshot::Sender<Result<Going, String>>,
}

/// The candidate is good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Going {
    /// Which program.
    pub program: PathBuf,
    /// What it said.
    pub ready: Ready,
    /// Recognises the attempt in [`Report::attempt`].
    pub attempt: u64,
}

/// A change that was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The candidate.
    pub program: PathBuf,
    /// Recognises the attempt.
    pub attempt: u64,
    /// How long the new manager may take.
    pub patience: Duration,
    /// Whether it goes on with connections of Circus's clients.
    pub takes_connections: bool,
    /// Instance of the kernel's state, and our number in it.
    pub lease: Option<(u64, Fence)>,
    /// When this manager stopped acting, nanoseconds since 1970.
    pub left_ns: u64,
}

/// How the last attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// As in [`Going::attempt`].
    pub attempt: u64,
    /// The release before.
    pub from: String,
    /// The release now.
    pub to: String,
    /// Why it is the one before; nothing when all went well.
    pub reason: Option<String>,
    /// How long nobody acted.
    pub took_ms: u64,
}

/// What the program before left for the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Carried {
    /// Of this structure; what is not known is refused in the rehearsal.
    version: u32,
    /// Number of the descriptor of the manager's lock.
    lock: i32,
    /// Number of the descriptor of the program before.
    program_before: i32,
    lease: Option<(u64, u64)>,
    attempt: u64,
    from: String,
    left_ns: u64,
    /// The command line of the program before, as bytes, without what concerned one start only.
    command_line: Vec<Vec<u8>>,
    /// Connections of Circus's clients: number of the descriptor, and all else about it. Only for one who
    /// says in its rehearsal that it takes them.
    #[serde(default)]
    connections: Vec<(i32, CarriedState)>,
    /// Connections to `manager.sock`: number of the descriptor, and what has arrived and was not looked at.
    /// The same holds for them.
    #[serde(default)]
    visitors: Vec<(i32, Vec<u8>)>,
}

/// The only version of [`Carried`] so far.
const CARRIED_VERSION: u32 = 1;

/// What a manager begins with that takes over from the program before.
#[derive(Debug)]
pub struct Resumed {
    /// The manager's lock, held all the time.
    pub lock: OwnedFd,
    /// Instance of the kernel's state, and the lease's number in it.
    pub lease: Option<(u64, Fence)>,
    /// What is to be told, once it is true.
    pub report: Report,
    /// Connections of Circus's clients that go on.
    pub connections: Vec<CarriedConnection>,
    /// Connections to `manager.sock` that go on.
    pub visitors: Vec<CarriedVisitor>,
    /// When the one before stopped acting.
    left_ns: u64,
}

impl Resumed {
    /// What is to be told now that it is healthy.
    #[must_use]
    pub fn finished(&self) -> Report {
        let took = super::clock::wall_ns().saturating_sub(self.left_ns);
        Report {
            took_ms: took / 1_000_000,
            ..self.report.clone()
        }
    }
}

impl Report {
    /// One line for the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let (from, to, took) = (&self.from, &self.to, self.took_ms);
        match &self.reason {
            None => format!("upgrade: manager {from} became {to}; nobody acted for {took} ms"),
            Some(reason) => format!(
                "upgrade: failed, manager {to} goes on; nobody acted for {took} ms; {reason}"
            ),
        }
    }
}

//! The harness of the tests and benchmarks that use real processes.
//!
//! It starts the real binaries in a runtime directory of their own, waits with deadlines that say
//! what was last seen, shows the logs of what it started when a test fails, and ends what it
//! started and nothing else. `docs/testing.md` says how a test is written with it.

pub mod binaries;
pub mod crash_table;
pub mod documents;
pub mod http;
pub mod kernel;
pub mod lines;
pub mod manager;
pub mod measure;
pub mod output;
pub mod pattern;
pub mod process;
pub mod puppet;
pub mod python;
pub mod rolling;
pub mod rotated;
pub mod scratch;
pub mod shell;
pub mod stacks;
pub mod storm;
pub mod sys;
pub mod terminal;
pub mod text;
pub mod wait;
pub mod zeromq;

pub use kernel::Kernel;
pub use manager::Manager;
pub use puppet::Puppet;
pub use scratch::Scratch;

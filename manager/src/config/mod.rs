//! From the text of a Circus configuration to checked data, and to what changed between two.
//!
//! Pure: files come in through a trait, the manager's environment and working directory as
//! values, and nothing here spawns, opens or looks anything up by itself. The exception is
//! [`disk`], which does nothing else.

pub mod admin;
pub mod amend;
pub mod check;
mod coerce;
pub mod command_line;
pub mod defaults;
pub mod depend;
pub mod diagnostic;
pub mod difference;
pub mod disk;
mod document;
pub mod endpoint;
mod env_file;
mod environments;
pub mod flapping;
mod global;
mod hook;
pub mod http_address;
pub mod ini;
mod interpret;
pub mod keys;
pub mod launch;
pub mod limits;
pub mod load;
pub mod model;
pub mod options;
pub mod papa_endpoint;
pub mod pattern;
mod plugin;
pub mod plugin_settings;
pub mod plugin_watcher;
pub mod probe;
pub mod rolling;
mod section;
pub mod signals;
mod socket;
mod stream;
mod suggest;
mod summary;
pub mod syslog;
pub mod toml;
pub mod variables;
mod watcher;
pub mod words;

pub use check::{CheckReport, check_report, render_check};
pub use difference::{Difference, difference};
pub use disk::load_file;
pub use launch::{LaunchContext, LaunchError, LaunchSpec, ResolvedIds, launch_spec};
pub use load::{LoadError, load};
pub use model::Configuration;

/// What Circus put before the names of its processes and sockets in Papa; kept, so that what an
/// older manager left behind is recognised.
pub const KERNEL_NAME_PREFIX: &str = "circus.";

//! Everything of the manager that touches the world: the way to the kernel, the control server, the
//! log, the clock, and the loop that drives the engine. No decisions are made here.

pub mod asking;
pub mod circus;
pub mod clock;
pub mod connections;
pub mod console;
pub mod control;
pub mod events;
pub mod farewell;
pub mod greeting;
pub mod hearing;
pub mod history;
pub mod hooks;
pub mod kernel_report;
pub mod known;
pub mod launch;
pub mod link;
pub mod listeners;
pub mod log;
pub mod machine;
pub mod manager;
pub mod metrics;
pub mod output;
pub mod papa_endpoint;
pub mod place;
pub mod plugins;
pub mod probes;
pub mod processes;
pub mod signals;
mod socket_mode;
pub mod startup;
pub mod streams;
mod syslog;
pub mod upgrade;
pub mod zmtp;

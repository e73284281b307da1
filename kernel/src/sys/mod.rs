//! System calls that no safe wrapper offers, and shared mappings. The only `unsafe` of the crate.
//!
//! Thin on purpose: nothing here decides anything. It knows nothing of processes, rings or plans
//! beyond the shapes it is handed.

pub mod alarm;
pub mod child;
pub mod daemon;
pub mod exec;
pub mod inherited;
pub mod kept;
pub mod mapping;
pub mod memfd;
pub mod pidfd_info;
pub mod process;
pub mod readiness;
pub mod rights;
#[cfg(test)]
pub(crate) mod simulated;
pub mod title;
pub mod trim;
pub mod wait;

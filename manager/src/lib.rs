//! The manager and the `kingpole` command: all the policy, none of the state.
//!
//! [`config`] turns text into a checked configuration, [`command`] is the one vocabulary in which
//! things are asked for, and [`engine`] makes all decisions; these and [`import`] are pure. [`shells`] connect them
//! with the process kernel, with files and with clients. [`cli`] is the command line on top.

#![deny(unsafe_code)]

pub mod cli;
pub mod command;
pub mod config;
mod crash;
pub mod engine;
pub mod import;
pub mod shells;
pub mod streams;
#[expect(unsafe_code, reason = "the one module of system-call wrappers")]
mod sys;

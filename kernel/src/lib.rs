//! The process kernel: holds child processes, listening sockets, values and unread output.
//!
//! This crate is Linux only, 5.9 or later (`close_range`). Everything below the decision core lives in [`memory`] (what survives
//! a `kill -9`), [`spawn`], [`reap`], [`signals`] and [`sockets`]; `sys` is the only place with
//! `unsafe`.
#![deny(unsafe_code)]

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    target_pointer_width = "64"
)))]
compile_error!("kingpole-kernel needs 64-bit little-endian Linux: its shared memory is frozen so");

pub mod crash;
pub mod effect;
pub mod entry;
pub mod event_loop;
pub mod exit;
pub mod guard;
pub mod input;
pub mod limits;
pub mod lock;
pub mod log;
pub mod memory;
pub mod notify;
pub mod options;
pub mod peer;
pub mod pid_files;
pub mod reap;
pub mod replay;
pub mod session;
pub mod signals;
pub mod sockets;
pub mod spawn;
pub mod start;
pub mod state;
pub mod step;
#[expect(unsafe_code, reason = "the one module of system-call wrappers")]
pub mod sys;
pub mod text;
pub mod upgrade;

//! Memory files: made, sealed against resizing, measured, and given back page by page.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, ftruncate, lseek};

/// The seals every shared file carries: its size cannot change, so no access can raise SIGBUS.
fn size_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// Makes a close-on-exec memory file of `bytes` bytes, all zero, with its size sealed.
///
/// `name` shows up in `/proc/PID/fd` and nowhere else.
///
/// # Errors
/// The error of `memfd_create`, `ftruncate` or `fcntl`: descriptor limit, memory limit.
pub fn create_sealed(name: &str, bytes: u64) -> Result<OwnedFd, Errno> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&fd, i64::try_from(bytes).map_err(|_| Errno::EFBIG)?)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(size_seals()))?;
    Ok(fd)
}

/// The size of a memory file whose size is sealed.
///
/// # Errors
/// `EPERM` when the seals are missing (somebody could shrink it under us), or that of the calls.
pub fn sealed_size(fd: impl AsFd) -> Result<u64, Errno> {
    let seals = SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW) {
        return Err(Errno::EPERM);
    }
    u64::try_from(fstat(&fd)?.st_size).map_err(|_| Errno::EINVAL)
}

/// Gives the pages of a range back to Linux; the range reads as zeros afterwards.
///
/// # Errors
/// The error of `fallocate`.
pub fn punch_hole(fd: impl AsFd, offset: u64, bytes: u64) -> Result<(), Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let bytes = i64::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd, flags, offset, bytes)
}

/// Whether nothing was ever written at `offset`, or it was given back. Makes no page, as looking would.
///
/// # Errors
/// The error of `lseek`.
pub fn is_hole(fd: impl AsFd, offset: u64) -> Result<bool, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    match lseek(fd, offset, Whence::SeekData) {
        Ok(found) => Ok(found != offset),
        // There is no data behind it either.
        Err(Errno::ENXIO) => Ok(true),
        Err(cause) => Err(cause),
    }
}

/// Makes a close-on-exec memory file that holds exactly `bytes` and can never change.
///
/// # Errors
/// The error of `memfd_create`, `write` or `fcntl`: descriptor limit, memory limit.
pub fn create_constant(name: &str, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = nix::unistd::write(&fd, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    let seals = size_seals() | SealFlag::F_SEAL_WRITE;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

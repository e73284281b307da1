//! Moving files out of the way, without any state. By size, the hole in the names is the progress: each
//! rename moves the hole down by one, so whoever is interrupted goes on exactly there by the same
//! rule. By time there is one rename, and then names are removed that are too many: whoever finds
//! the file gone has nothing left to do but the latter, which the next rotation does.

use super::disk::{Disk, Step, Stop, Taken, Trouble, TroubleKind};
use super::schedule::Schedule;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How many old files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backups(pub u32);

/// `base.number`.
#[must_use]
pub fn backup_path(base: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(base.as_os_str());
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Moves the file of this name out of the way. Without backups there is nowhere to: it grows on, as
/// in Circus.
///
/// # Errors
/// When a rename fails: the file of this name is still there, or the next to be opened is new.
pub fn rotate<D: Disk>(disk: &mut D, base: &Path, backups: Backups) -> Step<()> {
    let Backups(count @ 1..) = backups else {
        return Ok(Ok(()));
    };
    #[cfg(test)]
    if super::fault::is(super::fault::Fault::ClassicRenameChain) {
        return classic_chain(disk, base, count);
    }
    let hole = match first_hole(disk, base, count)? {
        Ok(hole) => hole,
        Err(trouble) => return Ok(Err(trouble)),
    };
    // Only when every name is taken does the oldest file go.
    let mut taken = if hole.is_some() {
        Taken::Refuse
    } else {
        Taken::Replace
    };
    for to in (1..=hole.unwrap_or(count)).rev() {
        let from = if to == 1 {
            base.to_owned()
        } else {
            backup_path(base, to - 1)
        };
        if let Err(trouble) = disk.rename(&from, &backup_path(base, to), taken)? {
            return Ok(Err(trouble));
        }
        taken = Taken::Refuse;
    }
    Ok(Ok(()))
}

/// Names with the same time that are tried before the rotation is given up.
const SAME_TIME_MAX: u32 = 1000;

/// Moves the file of this name to `base.suffix`, or `base.suffix.1` and so on where that is taken,
/// and removes the oldest files beyond those that are kept.
///
/// # Errors
/// When a name cannot be changed. When only old files cannot be removed, the trouble is returned
/// although the file is out of the way.
pub fn rotate_to<D: Disk>(
    disk: &mut D,
    base: &Path,
    suffix: &str,
    schedule: &Schedule,
) -> Step<()> {
    let mut number = 0;
    loop {
        let mut name = OsString::from(base.as_os_str());
        name.push(format!(".{suffix}"));
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match disk.rename(base, Path::new(&name), Taken::Refuse)? {
            Ok(()) => break,
            // An hour may come twice, and so may a time when the clock is set back.
            Err(trouble) if trouble.kind == TroubleKind::Exists && number < SAME_TIME_MAX => {
                number += 1;
            }
            Err(trouble) => return Ok(Err(trouble)),
        }
    }
    prune(disk, base, schedule)
}

fn prune<D: Disk>(disk: &mut D, base: &Path, schedule: &Schedule) -> Step<()> {
    if schedule.keep == 0 {
        return Ok(Ok(()));
    }
    let siblings = match disk.siblings(base)? {
        Ok(siblings) => siblings,
        Err(trouble) => return Ok(Err(trouble)),
    };
    let mut prefix = base.as_os_str().as_bytes().to_vec();
    prefix.push(b'.');
    let mut old = Vec::new();
    for path in &siblings {
        let behind = path.as_os_str().as_bytes().strip_prefix(prefix.as_slice());
        let behind = behind.and_then(|behind| std::str::from_utf8(behind).ok());
        if let Some(order) = behind.and_then(|behind| schedule.order(behind)) {
            old.push((order, path));
        }
    }
    old.sort();
    let too_many = old.len().saturating_sub(schedule.keep as usize);
    for (_, path) in old.into_iter().take(too_many) {
        if let Err(trouble) = disk.remove(path)? {
            return Ok(Err(trouble));
        }
    }
    Ok(Ok(()))
}

fn first_hole<D: Disk>(
    disk: &mut D,
    base: &Path,
    count: u32,
) -> Result<Result<Option<u32>, Trouble>, Stop> {
    for number in 1..=count {
        match disk.look_at(&backup_path(base, number))? {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Ok(Some(number))),
            Err(trouble) => return Ok(Err(trouble)),
        }
    }
    Ok(Ok(None))
}

/// What most programs do, and what the checker has to catch: every name is moved up whether or not
/// there is a hole, so an interrupted rotation loses a file early and leaves a hole.
#[cfg(test)]
fn classic_chain<D: Disk>(disk: &mut D, base: &Path, count: u32) -> Step<()> {
    for to in (1..=count).rev() {
        let from = if to == 1 {
            base.to_owned()
        } else {
            backup_path(base, to - 1)
        };
        if matches!(disk.look_at(&from)?, Ok(Some(_)))
            && let Err(trouble) = disk.rename(&from, &backup_path(base, to), Taken::Replace)?
        {
            return Ok(Err(trouble));
        }
    }
    Ok(Ok(()))
}

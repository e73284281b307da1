//! Rotation by size, without any state: the hole in the names is the progress. Each rename moves the
//! hole down by one, so whoever is interrupted goes on exactly there by the same rule.

use super::disk::{Disk, Step, Stop, Taken, Trouble};
use std::ffi::OsString;
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

//! One writer's view of the simulated world: its disk and its kernel. Every call is a step.

use super::super::disk::{
    Commit, Disk, FileKind, Keeper, Look, Step, Stop, Taken, Target, Trouble, TroubleKind,
};
use super::super::position::Child;
use super::super::writer::Baseline;
use super::world::{Inode, StepKind, World};
use kingpole_protocol::Sequence;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One writer's view of the world.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) generation: u32,
}

#[derive(Debug)]
pub(super) struct Handle {
    slot: usize,
    path: PathBuf,
    at: std::cell::Cell<u64>,
}

fn trouble(what: &'static str, path: &Path, kind: TroubleKind) -> Trouble {
    Trouble {
        what,
        path: path.to_owned(),
        kind,
        why: "simulated".to_owned(),
    }
}

fn look_of(inode: &Inode) -> Look {
    Look {
        id: inode.id,
        length: inode.bytes.len() as u64,
        mtime_ns: inode.mtime_ns,
        room_bytes: inode.room_bytes,
        kind: FileKind::Regular,
    }
}

impl Access {
    fn plain(&self) -> Result<std::cell::RefMut<'_, World>, Stop> {
        let mut world = self.world.borrow_mut();
        match world.step(StepKind::Plain, self.generation)? {
            Some(_) => Err(Stop::Killed),
            None => Ok(world),
        }
    }
}

impl Disk for Access {
    type File = Handle;

    fn open(&mut self, target: &Target) -> Step<Handle> {
        let Target::File(path) = target else {
            return Ok(Err(trouble(
                "open",
                Path::new("console"),
                TroubleKind::Failed,
            )));
        };
        let mut world = self.plain()?;
        let slot = match world.names.get(path) {
            Some(slot) => *slot,
            None => world.create(path),
        };
        world.inodes[slot].opened += 1;
        Ok(Ok(Handle {
            slot,
            path: path.clone(),
            at: 0.into(),
        }))
    }

    fn open_existing(&mut self, path: &Path) -> Step<Option<Handle>> {
        let mut world = self.plain()?;
        let Some(&slot) = world.names.get(path) else {
            return Ok(Ok(None));
        };
        world.inodes[slot].opened += 1;
        Ok(Ok(Some(Handle {
            slot,
            path: path.to_owned(),
            at: 0.into(),
        })))
    }

    fn look(&mut self, file: &Handle) -> Step<Look> {
        let mut world = self.plain()?;
        world.inodes[file.slot].handled = false;
        Ok(Ok(look_of(&world.inodes[file.slot])))
    }

    fn look_at(&mut self, path: &Path) -> Step<Option<Look>> {
        let world = self.plain()?;
        Ok(Ok(world
            .names
            .get(path)
            .map(|slot| look_of(&world.inodes[*slot]))))
    }

    fn reserve(&mut self, file: &Handle) -> Step<()> {
        let mut world = self.plain()?;
        if !world.keeps_room {
            return Ok(Ok(()));
        }
        let sick = world.is_sick(&file.path);
        if sick && world.weather.space == Some(0) {
            return Ok(Err(trouble("reserve", &file.path, TroubleKind::Failed)));
        }
        let now = world.wall_ns();
        let inode = &mut world.inodes[file.slot];
        inode.room_bytes = 1;
        inode.mtime_ns = now;
        Ok(Ok(()))
    }

    fn write(&mut self, file: &Handle, bytes: &[u8]) -> Step<usize> {
        let mut world = self.world.borrow_mut();
        let cut = world.step(StepKind::Write(bytes.len()), self.generation)?;
        if cut.is_some() && world.late_after.is_some() {
            let origins = world.check_write(file.slot, bytes, bytes.len());
            world.late = Some((u64::MAX, file.slot, bytes.to_vec(), origins));
            return Err(Stop::Killed);
        }
        let mut length = cut.map_or(bytes.len(), |part| part.min(bytes.len()));
        let sick = world.is_sick(&file.path);
        let fails = cut.is_none() && sick && {
            let chance = world.weather.write_error;
            chance > 0 && world.dice.percent(chance)
        };
        if fails {
            length = 0;
        }
        let chance = world.weather.short_write;
        if cut.is_none() && sick && chance > 0 && world.dice.percent(chance) {
            length = world.dice.below(length as u64 + 1) as usize;
        }
        let full = sick && world.weather.space.is_some_and(|space| space < length);
        if let Some(space) = world.weather.space.as_mut().filter(|_| sick) {
            length = length.min(*space);
            *space -= length;
        }
        let now = world.wall_ns();
        let origins = world.check_write(file.slot, &bytes[..length], bytes.len());
        let inode = &mut world.inodes[file.slot];
        inode.bytes.extend_from_slice(&bytes[..length]);
        inode.origin.extend(origins);
        // A write that is killed or fails may have set the time before it has copied a byte.
        // (An empty file without room of its own shows no difference to one that was emptied.)
        let told_apart = !inode.bytes.is_empty() || inode.room_bytes > 0;
        if length > 0 || told_apart {
            inode.mtime_ns = now;
        }
        if length == bytes.len() {
            *world.whole_writes.entry(file.path.clone()).or_default() += 1;
        }
        let inode = &world.inodes[file.slot];
        file.at.set(inode.bytes.len() as u64);
        match cut {
            Some(_) => Err(Stop::Killed),
            None if length == 0 && (fails || full) => {
                Ok(Err(trouble("write", Path::new("log"), TroubleKind::Failed)))
            }
            None => Ok(Ok(length)),
        }
    }

    fn position(&mut self, file: &Handle) -> Step<u64> {
        self.plain()?;
        Ok(Ok(file.at.get()))
    }

    fn read(&mut self, file: &Handle, at: u64, length: usize) -> Step<Vec<u8>> {
        let world = self.plain()?;
        let bytes = &world.inodes[file.slot].bytes;
        let from = (at as usize).min(bytes.len());
        let to = from.saturating_add(length).min(bytes.len());
        Ok(Ok(bytes[from..to].to_vec()))
    }

    fn rename(&mut self, from: &Path, to: &Path, taken: Taken) -> Step<()> {
        let mut world = self.plain()?;
        let chance = world.weather.rename_error;
        if chance > 0 && world.dice.percent(chance) {
            world.renames_failed = true;
            return Ok(Err(trouble("rename", from, TroubleKind::Failed)));
        }
        let Some(slot) = world.names.get(from).copied() else {
            return Ok(Err(trouble("rename", from, TroubleKind::Failed)));
        };
        if let Some(old) = world.names.get(to).copied() {
            if taken == Taken::Refuse {
                return Ok(Err(trouble("rename", to, TroubleKind::Exists)));
            }
            world.check_overwrite(to);
            world.inodes[old].linked = false;
        }
        world.names.remove(from);
        world.names.insert(to.to_owned(), slot);
        Ok(Ok(()))
    }

    fn remove(&mut self, path: &Path) -> Step<()> {
        let mut world = self.plain()?;
        world.check_remove(path);
        if let Some(slot) = world.names.remove(path) {
            world.inodes[slot].linked = false;
        }
        Ok(Ok(()))
    }

    fn empty(&mut self, file: &Handle) -> Step<()> {
        let mut world = self.plain()?;
        world.truncate(file.slot);
        world.inodes[file.slot].handled = false;
        Ok(Ok(()))
    }

    fn siblings(&mut self, path: &Path) -> Step<Vec<PathBuf>> {
        let world = self.plain()?;
        let directory = path.parent();
        let names = world.names.keys().filter(|name| name.parent() == directory);
        Ok(Ok(names.cloned().collect()))
    }
}

impl Keeper for Access {
    fn commit(&mut self, commit: Commit) -> Result<(), Stop> {
        let mut world = self.world.borrow_mut();
        let parts = commit.values.len() + commit.acknowledgements.len();
        let cut = world.step(StepKind::Message(parts), self.generation)?;
        let mut left = match cut {
            None => usize::MAX,
            // The whole of it, or nothing.
            Some(part) if world.atomic => {
                if part >= parts {
                    usize::MAX
                } else {
                    0
                }
            }
            Some(part) => part,
        };
        for (key, value) in commit.values {
            if left == 0 {
                break;
            }
            left -= 1;
            match value {
                Some(value) => world.values.insert(key, value),
                None => world.values.remove(&key),
            };
        }
        for (child, through) in commit.acknowledgements {
            if left == 0 {
                break;
            }
            left -= 1;
            world.acknowledge(child, through.0);
        }
        match cut {
            Some(_) => Err(Stop::Killed),
            None => Ok(()),
        }
    }
}

impl World {
    fn acknowledge(&mut self, child: Child, through: u64) {
        let Some(sim) = self.children.iter_mut().find(|c| c.child == child) else {
            return;
        };
        self.check.acknowledged(child, through);
        while sim.records.front().is_some_and(|r| r.sequence <= through) {
            sim.records.pop_front();
        }
        if through >= sim.next {
            self.check
                .violation(format!("{child} acknowledged {through} before it was read"));
        }
        sim.set_tail();
        if through + 1 > sim.baseline.sequence.0 {
            let at = self.check.offsets_at(child, through + 1);
            sim.baseline = Baseline {
                sequence: Sequence(through + 1),
                stdout_at: at[0],
                stderr_at: at[1],
            };
        }
    }
}

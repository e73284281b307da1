//! The descriptors that a guard holds, and their places in the shared table.

use crate::memory::StateMemory;
use crate::memory::held::{HeldPlace, Tag};
use crate::sys::inherited::Inherited;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// All of them.
#[derive(Debug, Default)]
pub struct Held {
    by_tag: HashMap<Tag, (HeldPlace, OwnedFd)>,
    free: BTreeSet<HeldPlace>,
}

/// Whether a descriptor is held now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    Yes,
    /// The table is full; it was closed.
    NoPlace,
}

impl Held {
    /// Takes those of the shared table over from whoever became us by exec. Entries without a
    /// descriptor are cleared.
    pub fn take(memory: &StateMemory, inherited: &mut Inherited) -> Self {
        let mut held = Self::default();
        for (place, tag, number) in memory.held().collect::<Vec<_>>() {
            match inherited.take(number) {
                Some(fd) => {
                    held.by_tag.insert(tag, (place, fd));
                }
                None => {
                    memory.clear_held(place);
                    held.free.insert(place);
                }
            }
        }
        held
    }

    /// Holds one; an earlier one of the same tag is closed.
    pub fn hold(&mut self, memory: &StateMemory, tag: Tag, fd: OwnedFd) -> Kept {
        let place = match self.by_tag.remove(&tag) {
            Some((place, old)) => {
                memory.clear_held(place);
                drop(old);
                Some(place)
            }
            None => self.free.pop_first().or_else(|| memory.next_held_place()),
        };
        let Some(place) = place else {
            return Kept::NoPlace;
        };
        memory.store_held(place, tag, fd.as_raw_fd());
        self.by_tag.insert(tag, (place, fd));
        Kept::Yes
    }

    /// Closes one; it may be gone already.
    pub fn release(&mut self, memory: &StateMemory, tag: Tag) {
        if let Some((place, fd)) = self.by_tag.remove(&tag) {
            memory.clear_held(place);
            self.free.insert(place);
            drop(fd);
        }
    }

    /// The one with this tag.
    #[must_use]
    pub fn get(&self, tag: Tag) -> Option<BorrowedFd<'_>> {
        self.by_tag.get(&tag).map(|(_, fd)| fd.as_fd())
    }

    /// The tags.
    pub fn tags(&self) -> impl Iterator<Item = Tag> {
        self.by_tag.keys().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_tag.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_tag.is_empty()
    }

    /// The descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.by_tag.values().map(|(_, fd)| fd.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::held::HeldKind;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_table_says_what_is_held_and_places_are_used_again() {
        let memory = StateMemory::create().unwrap();
        let mut held = Held::default();
        let tag = |id| Tag::new(id, HeldKind::Ring);
        for id in 1..=4 {
            assert_eq!(held.hold(&memory, tag(id), null()), Kept::Yes);
        }
        held.release(&memory, tag(2));
        held.release(&memory, tag(2));
        held.hold(&memory, tag(3), null());
        held.hold(&memory, tag(9), null());
        let mut table = memory
            .held()
            .map(|(_, tag, fd)| (tag, fd))
            .collect::<Vec<_>>();
        let mut ours = held
            .by_tag
            .iter()
            .map(|(tag, (_, fd))| (*tag, fd.as_raw_fd()))
            .collect::<Vec<_>>();
        table.sort_unstable();
        ours.sort_unstable();
        assert_eq!(table, ours);
        assert_eq!(
            table.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(),
            [1, 3, 4, 9].map(tag)
        );
        assert_eq!(
            memory
                .next_held_place()
                .map(|place| place > memory.held().map(|h| h.0).max().unwrap()),
            Some(true)
        );
        assert_eq!(memory.held().count(), 4);
    }
}

//! The held table: which descriptors the guard keeps, and under which numbers.
//!
//! Only the guard writes here (or a kernel that is about to take its place). A successor inherits
//! the descriptors under exactly these numbers.

use std::sync::atomic::Ordering;

use super::layout::{HELD_MAX, HeldWords};
use super::state_memory::{ProcessId, StateMemory};

/// What a held descriptor is: `id << 8 | kind`. Ids are never used again, so late news about one
/// cannot hit a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

/// The kinds, permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum HeldKind {
    /// Read end of a child's standard output; the id is the process's.
    Stdout = 1,
    /// Read end of its standard error.
    Stderr = 2,
    /// Its output ring.
    Ring = 3,
    /// Its pidfd.
    Pidfd = 4,
    /// A socket for children; the id is its number.
    Socket = 16,
    /// A listener of the kernel itself; the id is 1 + its place on the command line.
    Listener = 17,
}

impl Tag {
    /// The tag of a descriptor of a process.
    #[must_use]
    pub const fn of_process(process: ProcessId, kind: HeldKind) -> Self {
        Self::new(process.0, kind)
    }

    /// The tag of any descriptor.
    #[must_use]
    pub const fn new(id: u64, kind: HeldKind) -> Self {
        Self(id << 8 | kind as u64)
    }

    /// From a word of the table or of a message; 0 is none.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 { None } else { Some(Self(word)) }
    }

    /// As it stands there.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// What it is; `None` for a kind of a later release.
    #[must_use]
    pub fn kind(self) -> Option<HeldKind> {
        let [kind, ..] = self.0.to_le_bytes();
        [
            HeldKind::Stdout,
            HeldKind::Stderr,
            HeldKind::Ring,
            HeldKind::Pidfd,
            HeldKind::Socket,
            HeldKind::Listener,
        ]
        .into_iter()
        .find(|known| *known as u8 == kind)
    }

    /// Whose it is, if its kind is one of a process.
    #[must_use]
    pub const fn process(self) -> ProcessId {
        ProcessId(self.0 >> 8)
    }
}

impl HeldKind {
    /// Whether it belongs to a process.
    #[must_use]
    pub const fn is_of_process(self) -> bool {
        match self {
            Self::Stdout | Self::Stderr | Self::Ring | Self::Pidfd => true,
            Self::Socket | Self::Listener => false,
        }
    }
}

/// A place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeldPlace(u32);

impl StateMemory {
    /// Every entry that is not empty: place, tag, the guard's number.
    pub fn held(&self) -> impl Iterator<Item = (HeldPlace, Tag, i32)> {
        let used = self.header().held_used.load(Ordering::Acquire);
        let places = u32::try_from(used).unwrap_or(u32::MAX);
        (0..places)
            .map_while(|place| {
                let words = self.held_words(HeldPlace(place))?;
                let tag = Tag::from_word(words.tag.load(Ordering::Acquire));
                Some((HeldPlace(place), tag, words.fd.load(Ordering::Relaxed)))
            })
            .filter_map(|(place, tag, fd)| Some((place, tag?, fd)))
    }

    /// Makes the table say exactly this: for whoever is about to become the guard.
    pub fn replace_held(&self, held: impl IntoIterator<Item = (Tag, i32)>) {
        let places = self.held().map(|(place, _, _)| place).collect::<Vec<_>>();
        for place in &places {
            self.clear_held(*place);
        }
        let mut places = places.into_iter();
        for (tag, number) in held {
            if let Some(place) = places.next().or_else(|| self.next_held_place()) {
                self.store_held(place, tag, number);
            }
        }
    }

    /// The place behind all that were ever used, or `None` when the table is full.
    #[must_use]
    pub fn next_held_place(&self) -> Option<HeldPlace> {
        let header = self.header();
        let used = header.held_used.load(Ordering::Acquire);
        let place = u32::try_from(used).ok().map(HeldPlace)?;
        self.held_words(place)?;
        header
            .held_used
            .store(used.saturating_add(1), Ordering::Release);
        Some(place)
    }

    /// Fills an empty place. The tag comes last, so an entry is whole or empty.
    pub fn store_held(&self, place: HeldPlace, tag: Tag, fd: i32) {
        if let Some(words) = self.held_words(place) {
            words.fd.store(fd, Ordering::Relaxed);
            words.tag.store(tag.word(), Ordering::Release);
        }
    }

    /// Empties a place.
    pub fn clear_held(&self, place: HeldPlace) {
        if let Some(words) = self.held_words(place) {
            words.tag.store(0, Ordering::Release);
        }
    }

    /// How many messages of the present kernel the guard has dealt with.
    #[must_use]
    pub fn link_handled(&self) -> u64 {
        self.header().link_handled.load(Ordering::Acquire)
    }

    /// Counts one, or (for a fresh link) begins at none.
    pub fn set_link_handled(&self, count: u64) {
        self.header().link_handled.store(count, Ordering::Release);
    }

    fn held_words(&self, place: HeldPlace) -> Option<&HeldWords> {
        let place = usize::try_from(place.0)
            .ok()
            .filter(|place| *place < HELD_MAX)?;
        self.held_table().get(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_until_they_are_cleared() {
        let state = StateMemory::create().unwrap();
        assert_eq!(state.held().count(), 0);
        let tag = |id| Tag::of_process(ProcessId(id), HeldKind::Ring);
        let places = [1_u64, 2, 3].map(|id| {
            let place = state.next_held_place().unwrap();
            state.store_held(place, tag(id), i32::try_from(id).unwrap() + 10);
            place
        });
        state.clear_held(places[1]);
        let held = state
            .held()
            .map(|(_, tag, fd)| (tag, fd))
            .collect::<Vec<_>>();
        assert_eq!(held, [(tag(1), 11), (tag(3), 13)]);
    }

    #[test]
    fn tags_of_different_kinds_and_ids_differ() {
        let one = Tag::of_process(ProcessId(5), HeldKind::Stdout);
        assert_ne!(one, Tag::of_process(ProcessId(5), HeldKind::Stderr));
        assert_ne!(one, Tag::new(6, HeldKind::Stdout));
        assert_eq!(Tag::from_word(one.word()), Some(one));
        assert_eq!(
            (one.process(), one.kind()),
            (ProcessId(5), Some(HeldKind::Stdout))
        );
        assert_eq!(Tag::from_word(5 << 8 | 99).and_then(Tag::kind), None);
        assert_eq!(Tag::from_word(0), None);
    }
}

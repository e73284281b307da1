//! systemd's descriptor store (sd_pid_notify_with_fds(3)): a third holder of everything, for when guard
//! and kernel die together.
//!
//! A lagging copy: what was started in the last moments may be missing from it. systemd hands it all to
//! the next start (`LISTEN_FDS`, `LISTEN_FDNAMES`), which goes on with the same shared memory.

use super::held::Held;
use super::role::SharedNumbers;
use super::shared::Shared;
use crate::memory::held::Tag;
use crate::notify::{Notifier, notifier};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// How many descriptors systemd keeps for us (`FileDescriptorStoreMax`); it tells since version 254.
const COUNT_VARIABLE: &str = "FDSTORE";

const STATE: &str = "kingpole-state";
const JOURNAL: &str = "kingpole-journal";
const BOUNCE_READ: &str = "kingpole-bounce-read";
const BOUNCE_WRITE: &str = "kingpole-bounce-write";
const ENDED: &str = "kingpole-ended";
const HELD: &str = "kingpole-held-";

/// How many descriptors systemd keeps for us; 0 without a store.
#[must_use]
pub fn count_max() -> usize {
    let count = std::env::var(COUNT_VARIABLE).ok();
    count.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The store, if systemd offers one.
#[derive(Debug, Default)]
pub struct Store {
    notifier: Option<Notifier>,
    count_max: usize,
    /// What it has of the table.
    kept: BTreeSet<Tag>,
    /// What has changed since it was told.
    changed: BTreeSet<Tag>,
    fullness: Fullness,
}

/// Whether the store took everything so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Fullness {
    #[default]
    Room,
    /// It was told that there is no room for more.
    Full,
}

/// What telling the store came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It knows everything it can.
    All,
    /// It has to read first.
    Waiting,
    /// For the first time there was no room for something.
    Overfull,
}

impl Store {
    /// The one that the environment offers; a first guard stores what it shares with the kernel at once.
    #[must_use]
    pub fn offered() -> Self {
        let count_max = count_max();
        Self {
            notifier: if count_max == 0 { None } else { notifier() },
            count_max,
            ..Self::default()
        }
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_offered(&self) -> bool {
        self.notifier.is_some()
    }

    /// Stores the memory files and the rest of what guard and kernel share. systemd passes over what it
    /// has already.
    pub fn keep_shared(&self, shared: &Shared) {
        let all = [
            (STATE, shared.memory.descriptor()),
            (JOURNAL, shared.journal.as_fd()),
            (BOUNCE_READ, shared.bounce.read_end()),
            (BOUNCE_WRITE, shared.bounce.write_end()),
            (ENDED, shared.ended.as_fd()),
        ];
        if let Some(notifier) = &self.notifier {
            for (name, fd) in all {
                // A fresh socket has room; without these the rest is of no use, and the log of the next
                // start says what is missing.
                let _ = store(notifier, name, fd);
            }
        }
    }

    /// Everything was ended in good order: the next start shall find nothing.
    pub fn forget_all(&self) {
        let Some(notifier) = &self.notifier else {
            return;
        };
        let held = self
            .kept
            .iter()
            .map(|tag| format!("{HELD}{:x}", tag.word()));
        let shared = [STATE, JOURNAL, BOUNCE_READ, BOUNCE_WRITE, ENDED];
        for name in shared.map(str::to_owned).into_iter().chain(held) {
            // Without the shared ones the rest is not used.
            let _ = remove(notifier, &name);
        }
    }

    /// Something in the table is new or gone.
    pub fn note(&mut self, tag: Tag) {
        if self.notifier.is_some() {
            self.changed.insert(tag);
        }
    }

    /// Where to wait for room, while it has to read first.
    #[must_use]
    pub fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        let notifier = self.notifier.as_ref()?;
        (!self.changed.is_empty()).then(|| notifier.socket.as_fd())
    }

    /// Tells it what has changed. Never waits.
    pub fn tell(&mut self, held: &Held) -> Told {
        let Some(notifier) = &self.notifier else {
            return Told::All;
        };
        let mut told = Told::All;
        while let Some(tag) = self.changed.first().copied() {
            let name = format!("{HELD}{:x}", tag.word());
            let sent = match held.get(tag) {
                // Five are the shared ones.
                Some(_) if self.kept.len().saturating_add(5) >= self.count_max => {
                    if self.fullness == Fullness::Room {
                        self.fullness = Fullness::Full;
                        told = Told::Overfull;
                    }
                    Ok(())
                }
                Some(fd) => {
                    let mut sent = Ok(());
                    if self.kept.contains(&tag) {
                        // Another one has taken its place.
                        sent = remove(notifier, &name);
                    }
                    if sent.is_ok() {
                        self.kept.remove(&tag);
                        sent = store(notifier, &name, fd);
                    }
                    if sent.is_ok() {
                        self.kept.insert(tag);
                    }
                    sent
                }
                None if self.kept.contains(&tag) => {
                    let sent = remove(notifier, &name);
                    if sent.is_ok() {
                        self.kept.remove(&tag);
                    }
                    sent
                }
                None => Ok(()),
            };
            if matches!(sent, Err(Errno::EAGAIN | Errno::ENOBUFS)) {
                return Told::Waiting;
            }
            // Anything else is systemd's trouble (it is being restarted, say): the copy is less.
            self.changed.remove(&tag);
        }
        told
    }
}

fn remove(notifier: &Notifier, name: &str) -> Result<(), Errno> {
    send(notifier, &format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
}

fn store(notifier: &Notifier, name: &str, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // Without FDPOLL=0 systemd drops pipes and pidfds at their first hang-up.
    let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
    send(notifier, &text, &[fd.as_raw_fd()])
}

fn send(notifier: &Notifier, text: &str, fds: &[i32]) -> Result<(), Errno> {
    let slices = [IoSlice::new(text.as_bytes())];
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let socket = notifier.socket.as_raw_fd();
    sendmsg::<()>(socket, &slices, control, flags, None).map(drop)
}

/// What systemd hands back at a start: numbers of descriptors by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HandedBack {
    /// The shared ones.
    pub shared: Option<SharedNumbers>,
    /// Those of the table.
    pub held: BTreeMap<Tag, i32>,
}

/// Reads `LISTEN_FDS` and `LISTEN_FDNAMES`, if they are meant for this process.
#[must_use]
pub fn handed_back() -> HandedBack {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
        return HandedBack::default();
    }
    let count = variable("LISTEN_FDS").parse().unwrap_or(0);
    parse_names(&variable("LISTEN_FDNAMES"), count)
}

/// First number of what systemd passes (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

fn parse_names(names: &str, count: usize) -> HandedBack {
    let mut held = BTreeMap::new();
    let mut others = BTreeMap::new();
    for (name, number) in names.split(':').take(count).zip(FIRST..) {
        let tag = name.strip_prefix(HELD);
        match tag.and_then(|tag| u64::from_str_radix(tag, 16).ok()) {
            Some(word) => {
                if let Some(tag) = Tag::from_word(word) {
                    held.insert(tag, number);
                }
            }
            None => {
                others.insert(name, number);
            }
        }
    }
    let number = |name: &str| others.get(name).copied();
    let shared = || {
        Some(SharedNumbers {
            state: number(STATE)?,
            journal: number(JOURNAL)?,
            bounce_read: number(BOUNCE_READ)?,
            bounce_write: number(BOUNCE_WRITE)?,
            ended: number(ENDED)?,
            lock: -1,
        })
    };
    HandedBack {
        shared: shared(),
        held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::held::HeldKind;

    #[test]
    fn names_say_what_is_what_in_any_order() {
        let tag = Tag::new(7, HeldKind::Ring);
        let names = format!(
            "kingpole-ended:stored:{HELD}{:x}:kingpole-state:kingpole-journal:kingpole-bounce-write:\
             kingpole-bounce-read:{HELD}zz",
            tag.word()
        );
        let found = parse_names(&names, 8);
        assert_eq!(found.held, BTreeMap::from([(tag, 5)]));
        let shared = found.shared.unwrap();
        assert_eq!((shared.ended, shared.state, shared.journal), (3, 6, 7));
        assert_eq!((shared.bounce_write, shared.bounce_read), (8, 9));
        // One is missing: what is there is of no use.
        assert_eq!(parse_names(&names, 4).shared, None);
        assert_eq!(parse_names("", 0), HandedBack::default());
    }
}

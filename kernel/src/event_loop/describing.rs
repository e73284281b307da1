//! What the files of held descriptors are: looked at before an upgrade, some in each turn, and once more
//! after it. Nobody waits for it: with 1,000 children there are 4,000, and looking at one takes as long as
//! a short request.

use super::Kernel;
use super::hands::Hands;
use super::upgrading::Order;
use crate::crash::resume_stage;
use crate::exit::Exit;
use crate::memory::held::{HeldKind, Tag};
use crate::sys::exec::{Inherit, set_inherited};
use crate::sys::inherited::set_all_close_on_exec;
use crate::upgrade::saved_state::SavedDescriptor;
use nix::errno::Errno;
use nix::sys::stat::fstat;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Descriptors looked at in one turn.
const AT_ONCE: usize = 256;

/// What the files of held descriptors are, in the order of their tags. A tag means one file for as long as
/// this process has it under one number, so whoever saves looks only at what is new.
#[derive(Debug, Default)]
pub(super) struct Identities(Vec<SavedDescriptor>);

/// All that is held, as it is saved.
#[derive(Debug)]
pub(super) struct Described<'a> {
    /// In the order of their tags.
    pub(super) saved: Vec<SavedDescriptor>,
    /// Those that were new, and would be closed by exec.
    pub(super) fresh: Vec<BorrowedFd<'a>>,
}

impl Identities {
    /// Describes all of `held`, which is in the order of tags.
    fn describe<'a>(&self, held: &[(Tag, BorrowedFd<'a>)]) -> Result<Described<'a>, Errno> {
        let mut saved = Vec::with_capacity(held.len());
        let mut fresh = Vec::new();
        let mut known = self.0.iter().peekable();
        for (tag, fd) in held {
            while known.next_if(|one| one.tag < tag.word()).is_some() {}
            let same =
                |one: &&SavedDescriptor| one.tag == tag.word() && one.number == fd.as_raw_fd();
            saved.push(match known.next_if(same) {
                Some(known) => *known,
                None => {
                    fresh.push(*fd);
                    describe(tag.word(), *fd)?
                }
            });
        }
        Ok(Described { saved, fresh })
    }
}

/// An upgrade before its rehearsal: what is held is looked at, and made to stay open through exec.
#[derive(Debug)]
pub(super) struct Preparing {
    pub(super) order: Order,
    known: Identities,
}

impl Preparing {
    pub(super) fn new(order: Order) -> Self {
        let known = Identities::default();
        Self { order, known }
    }
}

impl Kernel {
    /// Goes on with the upgrade that was asked for: looks at some descriptors, or begins the rehearsal.
    pub(super) fn prepare_upgrade(&mut self) {
        let Some(mut preparing) = self.preparing.take() else {
            return;
        };
        let known = &mut preparing.known.0;
        let behind = known.last().map_or(0, |last| last.tag);
        let held = self.hands.held_in_order(&self.listeners);
        let next = held.iter().filter(|(tag, _)| tag.word() > behind);
        let next = next.take(AT_ONCE).copied().collect::<Vec<_>>();
        if next.is_empty() {
            return self.begin_upgrade(preparing.order, preparing.known);
        }
        let described = Identities::default().describe(&next).and_then(|described| {
            set_inherited(&described.fresh, Inherit::Yes)?;
            Ok(described.saved)
        });
        match described {
            Ok(described) => {
                known.extend(described);
                self.preparing = Some(preparing);
            }
            Err(cause) => {
                let reason = format!("the state cannot be saved: {}", cause.desc());
                self.answer_refused(preparing.order.asker, &reason);
            }
        }
    }

    /// Everything that is held, as it is saved now.
    pub(super) fn describe_held(&self, known: &Identities) -> Result<Described<'_>, String> {
        let held = self.hands.held_in_order(&self.listeners);
        let described = known.describe(&held);
        described.map_err(|cause| format!("the state cannot be saved: {}", cause.desc()))
    }

    /// Nothing is to stay open through exec any more.
    pub(super) fn close_on_exec_again(&self) {
        if set_all_close_on_exec().is_err() {
            // Before Linux 5.11.
            let held = self.hands.all_held(&self.listeners);
            let held = held.iter().map(|(_, fd)| *fd).collect::<Vec<_>>();
            let _ = set_inherited(&held, Inherit::No);
        }
    }

    /// Looks at some of the descriptors that were taken over before anybody had time to. Exec changes
    /// nothing about them, so one that is not what was saved means that nothing here can be relied on: then
    /// this process ends at once, and the guard starts a kernel with its own copies.
    pub(super) fn look_again(&mut self) {
        if self.unchecked.is_empty() {
            return;
        }
        let left = self.unchecked.len().saturating_sub(AT_ONCE);
        let mut some = self.unchecked.split_off(left).into_iter();
        let mut wrong = some
            .find(|saved| self.is_another(saved))
            .map(|saved| saved.number);
        if self.unchecked.is_empty() {
            self.unchecked = Vec::new();
            let asked_for = resume_stage("resume: looked again").is_err();
            wrong = wrong.or(asked_for.then_some(-1));
        }
        if let Some(number) = wrong {
            self.log_line(&format!(
                "descriptor {number} is not what the program before saved: ending, as the guard has what \
                 is right"
            ));
            // Nothing is put in order: files of sockets, for one, are the next kernel's.
            std::process::exit(Exit::Failed as i32);
        }
    }

    fn is_another(&self, saved: &SavedDescriptor) -> bool {
        let held = Tag::from_word(saved.tag).and_then(|tag| self.hands.held_for_child(tag));
        // Others have been closed since.
        let held = held.filter(|fd| fd.as_raw_fd() == saved.number);
        held.is_some_and(|fd| !is_what_was_saved(fd, saved))
    }
}

impl Hands {
    /// Everything that a guard holds, in the order of tags.
    fn held_in_order<'a>(&'a self, listeners: &'a [super::Listener]) -> Vec<(Tag, BorrowedFd<'a>)> {
        let mut held = self.all_held(listeners);
        // In order already, but for the last few.
        held.sort_by_key(|(tag, _)| *tag);
        held
    }

    /// What is held for a child under this tag.
    fn held_for_child(&self, tag: Tag) -> Option<BorrowedFd<'_>> {
        let child = self.children.get(&tag.process())?;
        match tag.kind()? {
            HeldKind::Stdout => child.stdout.as_ref().map(AsFd::as_fd),
            HeldKind::Stderr => child.stderr.as_ref().map(AsFd::as_fd),
            HeldKind::Ring => child.ring.as_ref().map(crate::memory::Ring::descriptor),
            HeldKind::Pidfd => child.pidfd.as_ref().map(AsFd::as_fd),
            HeldKind::Socket | HeldKind::Listener => None,
        }
    }
}

/// What a descriptor is, to be found again by the next program.
pub(super) fn describe(tag: u64, fd: BorrowedFd<'_>) -> Result<SavedDescriptor, Errno> {
    let stat = fstat(fd)?;
    Ok(SavedDescriptor {
        tag,
        number: fd.as_raw_fd(),
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Whether a descriptor is what was saved.
#[must_use]
pub fn is_what_was_saved(fd: BorrowedFd<'_>, saved: &SavedDescriptor) -> bool {
    fstat(fd).is_ok_and(|stat| stat.st_dev == saved.device && stat.st_ino == saved.inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kingpole_protocol::ids::ProcessId;
    use std::fs::File;

    #[test]
    fn only_what_is_new_or_has_another_number_is_looked_at() {
        let files = ["/dev/null", "/dev/zero", "/dev/full"].map(|path| File::open(path).unwrap());
        let tag = |id| Tag::of_process(ProcessId(id), HeldKind::Ring);
        let held = |ids: &[u64]| {
            let tags = ids.iter().map(|id| tag(*id));
            tags.zip(files.iter().map(AsFd::as_fd)).collect::<Vec<_>>()
        };
        let first = Identities::default().describe(&held(&[2, 4, 6])).unwrap();
        assert_eq!(first.fresh.len(), 3);
        let known = Identities(first.saved);
        assert_eq!(known.describe(&held(&[2, 4, 6])).unwrap().fresh.len(), 0);
        // 4 is gone and 6 has its number; 7 is new.
        let later = known.describe(&held(&[2, 6, 7])).unwrap();
        assert_eq!(later.fresh.len(), 2);
        let tags = later.saved.iter().map(|one| one.tag).collect::<Vec<_>>();
        assert_eq!(tags, [2, 6, 7].map(|id| tag(id).word()));
        assert!(later.saved.iter().zip(&files).all(|(saved, file)| {
            saved.number == file.as_raw_fd() && is_what_was_saved(file.as_fd(), saved)
        }));
        assert!(!is_what_was_saved(files[0].as_fd(), &later.saved[1]));
    }
}

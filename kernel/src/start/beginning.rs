//! What a kernel goes on with: what its guard holds, or what the image before has left.

use super::going_back::read_failure;
use super::{StartError, system};
use crate::crash::resume_stage;
use crate::event_loop::{Resumption, is_what_was_saved};
use crate::guard::role::{Original, Role};
use crate::guard::shared::Shared;
use crate::memory::held::{HeldKind, Tag};
use crate::sys::inherited::Inherited;
use crate::sys::kept::Kept;
use crate::sys::readiness::unpoll;
use crate::upgrade::rehearse::read_saved;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// All of it.
pub(crate) struct Beginning {
    /// The memory files and the rest of what guard and kernel share.
    pub(crate) shared: Shared,
    /// Descriptors by what they are.
    pub(crate) held: BTreeMap<Tag, OwnedFd>,
    /// The epoll that children's pipes hang on already.
    pub(crate) polled: Option<OwnedFd>,
    /// The link to the guard, if there is one.
    pub(crate) link: Option<OwnedFd>,
    /// What children get back.
    pub(crate) original: Original,
    /// What the image before has saved.
    pub(crate) resumption: Option<Resumption>,
}

impl Beginning {
    /// After a kill of the kernel: what the guard holds.
    pub(crate) fn after_a_kill(role: &Role, inherited: &mut Inherited) -> Result<Self, StartError> {
        let shared = Shared::take(inherited, role.shared)?;
        let link = role.link.and_then(|number| inherited.take(number));
        let held = shared.memory.held().filter_map(|(_, tag, number)| {
            let fd = inherited.take(number)?;
            Some((tag, fd))
        });
        let held = held.collect();
        Ok(Self {
            shared,
            held,
            polled: None,
            link,
            original: role.original,
            resumption: None,
        })
    }

    /// After an upgrade: what the image before has left. `number` is that of the saved state.
    pub(crate) fn after_an_upgrade(
        role: &Role,
        inherited: &mut Inherited,
        number: i32,
    ) -> Result<Self, StartError> {
        let lost = |reason: String| StartError::Resume { reason };
        let stage = |name| resume_stage(name).map_err(system(name));
        stage("resume: saved")?;
        let file = inherited.copy(number).map_err(|_| {
            lost(format!(
                "descriptor {number}, the saved state, is not there"
            ))
        })?;
        let saved = read_saved(file.into()).map_err(lost)?;
        let failure = role.failure.map(|number| read_failure(inherited, number));
        // All is looked at before anything is used.
        stage("resume: descriptors")?;
        for wanted in saved.descriptors() {
            let kind = Tag::from_word(wanted.tag).and_then(Tag::kind);
            // Thousands of them are looked at later, by a kernel that has a guard: see `Kernel::look_again`.
            let later = role.link.is_some() && kind.is_some_and(HeldKind::is_of_process);
            let found = inherited.get(wanted.number);
            if !found.is_some_and(|fd| later || is_what_was_saved(fd, wanted)) {
                let number = wanted.number;
                return Err(lost(format!("descriptor {number} is not what was saved")));
            }
        }
        stage("resume: shared memory")?;
        let shared = Shared::copy(inherited, role.shared)?;
        let link = match role.link {
            Some(number) => Some(
                inherited
                    .copy(number)
                    .map_err(system("take the link over"))?,
            ),
            None => None,
        };
        let polled = match role.polled {
            Some(number) => Some(take_polled_over(inherited, role, number)?),
            None => None,
        };
        // Not closed by a failure.
        let mut held = Kept::new(BTreeMap::new());
        let mut sockets = Kept::new(BTreeMap::new());
        let mut take = |number| {
            let taken: Option<OwnedFd> = inherited.take(number);
            taken.ok_or_else(|| lost(format!("descriptor {number} was saved twice")))
        };
        for saved in &saved.held {
            if let Some(tag) = Tag::from_word(saved.tag) {
                held.insert(tag, take(saved.number)?);
            }
        }
        for session in &saved.sessions {
            sockets.insert(session.session, take(session.socket.number)?);
        }
        Ok(Self {
            shared,
            held: Kept::into_inner(held),
            polled,
            link,
            original: role.original,
            resumption: Some(Resumption {
                saved,
                sockets: Kept::into_inner(sockets),
                failure,
            }),
        })
    }
}

/// The epoll of the program before, without what hangs on it under numbers that are not used again.
fn take_polled_over(
    inherited: &Inherited,
    role: &Role,
    number: i32,
) -> Result<OwnedFd, StartError> {
    let polled = inherited.copy(number);
    let polled = polled.map_err(system("take the epoll over"))?;
    for number in [Some(role.shared.ended), role.link].into_iter().flatten() {
        if let Some(fd) = inherited.get(number) {
            unpoll(&polled, fd);
        }
    }
    Ok(polled)
}

//! Leases and fencing: of two managers only the one with the newest number may act.

use super::{Refusal, Step, refusal};
use crate::effect::{After, Asker, Effect};
use crate::entry::{Entry, LeaseReleased, lease_taken};
use crate::limits::LEASES_MAX;
use crate::state::Lease;
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::event::LeaseLost;
use kingpole_protocol::ids::Fence;
use kingpole_protocol::names::check_name;
use kingpole_protocol::reply;
use kingpole_protocol::request::TakeLease;

impl Step<'_> {
    pub(super) fn check_fence(&self, fence: Fence) -> Result<(), Refusal> {
        if fence == Fence::NONE || self.state.leases.values().any(|lease| lease.fence == fence) {
            return Ok(());
        }
        let text = format!("lease {fence} is void: somebody else has taken over");
        Err(refusal(ErrorCode::FENCED, text))
    }

    pub(super) fn take_lease(&mut self, asker: Asker, take: TakeLease) -> Result<(), Refusal> {
        check_name("lease", &take.name)
            .map_err(|error| refusal(ErrorCode::INVALID, error.to_string()))?;
        let held = self.state.leases.get(&take.name);
        if take.resume != Fence::NONE {
            let Some(lease) = held.filter(|lease| lease.fence == take.resume) else {
                let text = format!(
                    "lease {:?} has not the number {} any more: somebody else has taken over",
                    take.name, take.resume
                );
                return Err(refusal(ErrorCode::FENCED, text));
            };
            // Whoever knows the number is the holder, even if the session it lost has not been
            // noticed to be gone.
            let fence = lease.fence;
            if let Some(lease) = self.state.leases.get_mut(&take.name) {
                lease.session = Some(asker.session);
            }
            self.reply(asker, reply::LeaseTaken { fence });
            return Ok(());
        }
        if let Some(lease) = held
            && let Some(holder) = lease.session
        {
            if holder == asker.session {
                let fence = lease.fence;
                self.reply(asker, reply::LeaseTaken { fence });
                return Ok(());
            }
            if !take.take_over {
                let text = format!(
                    "lease {:?} is held by session {} ({})",
                    take.name, holder.0, lease.client
                );
                return Err(refusal(ErrorCode::LEASE_HELD, text));
            }
        }
        if held.is_none() && self.state.leases.len() >= LEASES_MAX {
            let text = format!("{LEASES_MAX} leases are known, which is the limit");
            return Err(refusal(ErrorCode::LIMIT, text));
        }
        let client = self
            .state
            .sessions
            .get(&asker.session)
            .map(|s| s.client.clone());
        // Raised before it is recorded: a number may get lost, it must never repeat.
        self.state.newest_fence = Fence(self.state.newest_fence.0.saturating_add(1));
        let lease = Lease {
            name: take.name,
            fence: self.state.newest_fence,
            session: Some(asker.session),
            client: client.unwrap_or_default(),
            taken_ns: self.now.unix_ns,
        };
        let entry = Box::new(Entry::LeaseTaken(lease_taken(&lease.name, &lease)));
        let after = Box::new(After::LeaseTaken {
            asker,
            lease: Box::new(lease),
        });
        self.effects.push(Effect::Record { entry, after });
        Ok(())
    }

    pub(super) fn handle_lease_taken(&mut self, asker: Asker, lease: Lease) {
        let fence = lease.fence;
        let line = format!(
            "lease {:?}: number {fence} for {}",
            lease.name, lease.client
        );
        let old = self.state.leases.insert(lease.name.clone(), lease);
        self.log(line);
        if let Some(old) = old
            && let Some(holder) = old.session
            && holder != asker.session
        {
            self.event(
                holder,
                LeaseLost {
                    name: old.name,
                    lease: old.fence,
                },
            );
        }
        self.reply(asker, reply::LeaseTaken { fence });
    }

    pub(super) fn release_lease(&mut self, asker: Asker, fence: Fence) -> Result<(), Refusal> {
        let found = self
            .state
            .leases
            .values()
            .find(|lease| lease.fence == fence);
        let Some(lease) = found else {
            let text = format!("no lease has the number {fence}");
            return Err(refusal(ErrorCode::NOT_FOUND, text));
        };
        let name = lease.name.clone();
        let entry = Box::new(Entry::LeaseReleased(LeaseReleased { name: name.clone() }));
        let after = Box::new(After::LeaseReleased { asker, name });
        self.effects.push(Effect::Record { entry, after });
        Ok(())
    }

    pub(super) fn handle_lease_released(&mut self, asker: Asker, name: &str) {
        self.state.leases.remove(name);
        self.log(format!("lease {name:?}: released"));
        self.reply(asker, reply::Done {});
    }
}

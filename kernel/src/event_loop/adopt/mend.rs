//! What is damaged or missing in what another kernel left, and how its child is kept all the same.

use super::super::hands::{Child, Hands};
use super::{Adoption, kind_of_pipe};
use crate::memory::cursor::{EofBits, Stream};
use crate::memory::held::{HeldKind, Tag};
use crate::memory::read_cell::{ReadError, abandon_read, read_in_flight, recover_read};
use crate::memory::slot::SlotState;
use crate::memory::{Ring, RingSize, SlotIndex};
use crate::reap::now_ns;
use kingpole_protocol::ids::ProcessId;
use std::collections::BTreeMap;

impl Adoption {
    /// Whose control block is damaged is kept: its pipes, its pid and its end do not depend on it.
    pub(super) fn repair_slots(
        &mut self,
        slots: &[(SlotIndex, ProcessId, SlotState)],
        rings: &BTreeMap<SlotIndex, Ring>,
    ) {
        for (index, id, _) in slots {
            let slot = self.hands.memory.slot(*index);
            let Err(damage) = slot.cursor() else { continue };
            let mut ended = EofBits::NONE;
            for stream in Stream::ALL {
                if !self
                    .held
                    .contains_key(&Tag::new(id.0, kind_of_pipe(stream)))
                {
                    ended = ended.with(stream);
                }
            }
            slot.publish(&slot.reconstructed_cursor(rings.get(index), ended));
            self.notes.push(format!(
                "process {id}: {damage}; it is kept, and what it writes from now on is read"
            ));
        }
    }

    pub(super) fn finish_read(&mut self, rings: &mut BTreeMap<SlotIndex, Ring>) {
        let Hands { memory, bounce, .. } = &self.hands;
        match recover_read(memory, bounce, now_ns(), |i| rings.get_mut(&i)) {
            Ok(_) => {}
            Err(error @ ReadError::Call { .. }) => {
                let owner = read_in_flight(memory).map(|(slot, _)| memory.slot(slot).id());
                self.hands.unpolled.extend(owner);
                self.notes
                    .push(format!("a read in flight has to wait: {error}"));
            }
            Err(error) => {
                let owner = read_in_flight(memory);
                let lost = abandon_read(memory, bounce).unwrap_or(0);
                // As a record that was dropped, so that whoever reads it hears of it.
                if let Some((slot, stream)) = owner
                    && let Ok(cursor) = memory.slot(slot).cursor()
                {
                    let size = rings.get(&slot).map_or(0, |ring| ring.size().bytes());
                    let cursor = cursor.after_damage(size).after_loss(stream, lost);
                    memory.slot(slot).publish(&cursor);
                }
                self.notes
                    .push(format!("a read in flight is lost ({lost} bytes): {error}"));
            }
        }
    }
}

impl Hands {
    /// A ring in place of one that is lost, with what was unread in it; the pipes are whole.
    pub(super) fn replace_ring(
        &mut self,
        child: &mut Child,
        id: ProcessId,
        size: RingSize,
        asked_bytes: u64,
        notes: &mut Vec<String>,
    ) {
        let slot = self.memory.slot(child.slot);
        let Ok(cursor) = slot.cursor() else { return };
        slot.publish(&cursor.after_damage(size.bytes()));
        let made = Ring::create(size)
            .map(|ring| ring.limited_to(asked_bytes))
            .map_err(|error| error.to_string());
        let held = made.and_then(|ring| {
            let tag = Tag::of_process(id, HeldKind::Ring);
            let held = self.guard.hold(&[(tag, ring.descriptor())]);
            held.map(|()| ring).map_err(|error| error.to_string())
        });
        let unread = cursor.used();
        match held {
            Ok(ring) => {
                child.ring = Some(ring);
                notes.push(format!(
                    "process {id}: its buffer is lost with {unread} bytes of records; it has a new one"
                ));
            }
            // The first read tries again.
            Err(error) => notes.push(format!("process {id}: its buffer is lost: {error}")),
        }
    }
}

//! Slots: every store cut, published values whole or old.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::memory::StateMemory;
use crate::memory::images::{FileImage, cut_everywhere};

fn intent(state: &StateMemory) -> Intent {
    Intent {
        id: state.take_id(),
        epoch: state.epoch(),
        key_hash: 0xABCD,
        flags: 9,
        time_ns: 11,
        eof: EofBits::NONE.with(crate::memory::Stream::Stderr),
    }
}

fn cursor(number: u64) -> RingCursor {
    RingCursor {
        head: number * 64,
        tail: number * 32,
        next_seq: Sequence(number + 1),
        stdout_bytes: number * 3,
        stderr_bytes: number * 5,
        eof: EofBits::from_bits(number),
    }
}

#[test]
fn a_cursor_is_published_whole_or_not_at_all() {
    let mut state = StateMemory::create().unwrap();
    let index = state.allocate().unwrap();
    state.slot(index).begin(&intent(&state));
    for number in 1..5 {
        let (old, new) = (state.slot(index).cursor().unwrap(), cursor(number));
        let fd = state.descriptor().try_clone_to_owned().unwrap();
        let (images, ()) = cut_everywhere(
            move || FileImage::take(&fd),
            || state.slot(index).publish(&new),
        );
        assert_eq!(images.len(), 2);
        for (name, image) in images {
            let revived = StateMemory::open(image.revive()).unwrap();
            let wanted = if name == "control: published" {
                new
            } else {
                old
            };
            assert_eq!(revived.slot(index).cursor(), Ok(wanted), "{name}");
        }
    }
}

#[test]
fn a_slot_becomes_an_intent_with_its_last_store() {
    let mut state = StateMemory::create().unwrap();
    let index = state.allocate().unwrap();
    // A tenant before leaves its traces.
    state.slot(index).begin(&intent(&state));
    state
        .slot(index)
        .publish_end(&end(EndStatus::Exited(3)), EndedBy::Kernel);
    state.slot(index).words().pid.store(4711, Ordering::Relaxed);
    state.release(index);

    let wanted = intent(&state);
    let fd = state.descriptor().try_clone_to_owned().unwrap();
    let (images, ()) = cut_everywhere(
        move || FileImage::take(&fd),
        || state.slot(index).begin(&wanted),
    );
    for (name, image) in images {
        let revived = StateMemory::open(image.revive()).unwrap();
        let slot = revived.slot(index);
        if name != "spawn: after the intent" {
            assert_eq!(slot.state(), SlotState::Free, "{name}");
            continue;
        }
        assert_eq!(slot.state(), SlotState::Intent);
        assert_eq!((slot.id(), slot.epoch()), (wanted.id, wanted.epoch));
        assert_eq!(
            (slot.pid(), slot.ended(), slot.failure()),
            (None, None, None)
        );
        assert_eq!(slot.cursor(), Ok(RingCursor::new(wanted.eof)));
        assert_eq!(
            (slot.key_hash(), slot.flags(), slot.started_ns()),
            (0xABCD, 9, 11)
        );
    }
}

#[test]
fn an_end_is_seen_only_when_it_is_complete() {
    let mut state = StateMemory::create().unwrap();
    let index = state.allocate().unwrap();
    state.slot(index).begin(&intent(&state));
    let end = end(EndStatus::Signaled {
        signal: 9,
        core_dumped: false,
    });
    let fd = state.descriptor().try_clone_to_owned().unwrap();
    let (images, ()) = cut_everywhere(
        move || FileImage::take(&fd),
        || state.slot(index).publish_end(&end, EndedBy::Guard),
    );
    let mut seen = BTreeSet::new();
    for (name, image) in images {
        let revived = StateMemory::open(image.revive()).unwrap();
        let wanted = (name == "end: after ended").then_some(end);
        assert_eq!(revived.slot(index).ended(), wanted, "{name}");
        seen.insert(name);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn whoever_claims_first_wins_and_an_abort_can_be_repeated() {
    let mut state = StateMemory::create().unwrap();
    let index = state.allocate().unwrap();
    let slot_of = |state: &StateMemory| {
        let wanted = intent(state);
        state.slot(index).begin(&wanted);
        (
            claim_word(wanted.id, CLAIM_OPEN),
            claim_word(wanted.id, CLAIM_CHILD),
        )
    };
    let (open, claimed) = slot_of(&state);
    let slot = state.slot(index);
    slot.words()
        .claim
        .compare_exchange(open, claimed, Ordering::AcqRel, Ordering::Acquire)
        .unwrap();
    assert_eq!(slot.abort_claim(), Abort::ChildHasIt);
    assert!(slot.is_claimed_by_child());

    let (old_open, old_claimed) = (open, claimed);
    let (open, claimed) = slot_of(&state);
    let late = slot.words().claim.compare_exchange(
        old_open,
        old_claimed,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    assert!(
        late.is_err(),
        "a late child of the tenant before cannot claim"
    );
    assert_eq!(slot.abort_claim(), Abort::NeverStarted);
    assert_eq!(slot.abort_claim(), Abort::NeverStarted);
    let child =
        slot.words()
            .claim
            .compare_exchange(open, claimed, Ordering::AcqRel, Ordering::Acquire);
    assert!(child.is_err());
}

#[test]
fn damage_to_a_control_block_is_noticed() {
    let mut state = StateMemory::create().unwrap();
    let index = state.allocate().unwrap();
    let wanted = intent(&state);
    state.slot(index).begin(&wanted);
    let words = state.slot(index).words();
    let selected = words.selected.load(Ordering::Relaxed);
    words.control[(selected & 1) as usize]
        .stdout_bytes
        .store(1, Ordering::Relaxed);
    assert_eq!(
        state.slot(index).cursor(),
        Err(DamagedSlot { id: wanted.id.0 })
    );
}

fn end(status: EndStatus) -> End {
    End {
        status,
        time_ns: 1,
        user_us: 2,
        system_us: 3,
        max_rss_kb: 4,
    }
}

proptest! {
    #[test]
    fn every_wait_status_survives_its_encoding(code: u8, signal in 1_u8..65, core_dumped: bool) {
        for status in [
            EndStatus::Exited(code),
            EndStatus::Signaled { signal, core_dumped },
            EndStatus::Unknown,
        ] {
            prop_assert_eq!(EndStatus::from_wait_status(status.wait_status()), status);
        }
    }
}

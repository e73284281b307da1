//! The state file: counters, allocation, opening.

use super::*;
use crate::memory::cursor::EofBits;
use crate::memory::images::FileImage;
use crate::memory::slot::Intent;

fn begin(state: &StateMemory, index: SlotIndex) {
    state.slot(index).begin(&Intent {
        id: state.take_id(),
        epoch: state.epoch(),
        key_hash: 0,
        flags: 0,
        time_ns: 0,
        eof: EofBits::NONE,
    });
}

#[test]
fn ids_never_repeat_across_kernels() {
    let state = StateMemory::create().unwrap();
    let first = [state.take_id(), state.take_id()];
    assert_eq!(first, [ProcessId(1), ProcessId(2)]);
    let next = StateMemory::open(state.descriptor().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(next.take_id(), ProcessId(3));
    assert_eq!(state.take_id(), ProcessId(4), "both map the same file");
}

#[test]
fn epochs_count_up_and_pids_are_kept() {
    let state = StateMemory::create().unwrap();
    assert_eq!(
        (state.epoch(), state.begin_epoch(), state.epoch()),
        (Epoch(0), Epoch(1), Epoch(1))
    );
    state.set_min_epoch(Epoch(1));
    state.set_kernel_pid(12);
    state.set_guard_pid(34);
    let next = StateMemory::open(FileImage::take(state.descriptor()).revive()).unwrap();
    assert_eq!(
        (next.min_epoch(), next.kernel_pid(), next.guard_pid()),
        (Epoch(1), 12, 34)
    );
}

#[test]
fn the_lowest_free_slot_is_taken_and_lost_allocations_come_back() {
    let mut state = StateMemory::create().unwrap();
    let slots = [(); 5].map(|()| state.allocate().unwrap());
    assert_eq!(slots.map(SlotIndex::number), [0, 1, 2, 3, 4]);
    for index in slots {
        begin(&state, index);
    }
    state.release(slots[3]);
    state.release(slots[1]);
    assert_eq!(state.allocate(), Some(slots[1]));
    assert_eq!(state.slots_in_use().count(), 3);
    // Killed after allocating and before the intent: a successor finds it free.
    let mut next = StateMemory::open(FileImage::take(state.descriptor()).revive()).unwrap();
    assert_eq!(next.allocate(), Some(slots[1]));
    assert_eq!(next.allocate(), Some(slots[3]));
    assert_eq!(next.allocate().map(SlotIndex::number), Some(5));
}

#[test]
fn every_slot_can_be_used_and_no_more() {
    let mut state = StateMemory::create().unwrap();
    let all = std::iter::from_fn(|| state.allocate()).count();
    assert_eq!(all, SLOTS_MAX);
    assert_eq!(state.allocate(), None);
    let last = SlotIndex::new(SLOTS_MAX as u64 - 1).unwrap();
    state.release(last);
    assert_eq!(state.allocate(), Some(last));
    assert_eq!(SlotIndex::new(SLOTS_MAX as u64), None);
}

#[test]
fn a_pid_is_found_only_while_its_process_has_not_ended_and_is_of_this_age() {
    let mut state = StateMemory::create().unwrap();
    let index = state.allocate().unwrap();
    state.begin_epoch();
    begin(&state, index);
    state.slot(index).words().pid.store(77, Ordering::Relaxed);
    assert_eq!(state.find_running(77, Epoch(1)), Some(index));
    assert_eq!(state.find_running(77, Epoch(2)), None);
    assert_eq!(state.find_running(78, Epoch(1)), None);
    let end = crate::memory::End {
        status: crate::memory::EndStatus::Exited(0),
        time_ns: 0,
        user_us: 0,
        system_us: 0,
        max_rss_kb: 0,
    };
    state
        .slot(index)
        .publish_end(&end, crate::memory::EndedBy::Kernel);
    assert_eq!(state.find_running(77, Epoch(1)), None);
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let short = create_sealed("short", 4096).unwrap();
    let reason = StateMemory::open(short).unwrap_err().to_string();
    assert_eq!(
        reason,
        format!("the state file is not usable: 4096 bytes, not {STATE_BYTES}")
    );
    let blank = create_sealed("blank", STATE_BYTES as u64).unwrap();
    assert!(
        StateMemory::open(blank)
            .unwrap_err()
            .to_string()
            .contains("KPSTATE1")
    );
    let newer = StateMemory::create().unwrap();
    newer.header().version.store(2, Ordering::Relaxed);
    let image = FileImage::take(newer.descriptor()).revive();
    assert!(
        StateMemory::open(image)
            .unwrap_err()
            .to_string()
            .contains("layout version 2, not 1")
    );
    let unsealed = tempfile::tempfile().unwrap();
    unsealed.set_len(STATE_BYTES as u64).unwrap();
    assert!(matches!(
        StateMemory::open(unsealed.into()),
        Err(MemoryError::Call { .. })
    ));
}

#[test]
fn a_fresh_state_file_takes_a_few_pages() {
    let mut state = StateMemory::create().unwrap();
    for _ in 0..16 {
        let index = state.allocate().unwrap();
        begin(&state, index);
    }
    let blocks = nix::sys::stat::fstat(state.descriptor()).unwrap().st_blocks;
    assert!(blocks * 512 <= 3 * 4096, "{blocks} blocks of 512 bytes");
}

//! The journal: every store cut, unanswered changes whole or absent, answered ones always there.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::memory::images::{FileImage, cut_everywhere};

const SET: RecordKind = RecordKind::must_understand(1);
const NOTE: RecordKind = RecordKind::optional(2);
const SMALL: u64 = 16 * 4096;

fn all(journal: &Journal) -> Vec<(RecordKind, Vec<u8>)> {
    journal
        .records()
        .map(Result::unwrap)
        .map(|r| (r.kind, r.payload.to_vec()))
        .collect()
}

fn camera(
    state: &StateMemory,
    journal: &Journal,
) -> impl FnMut() -> (FileImage, FileImage) + use<> {
    let state = state.descriptor().try_clone_to_owned().unwrap();
    let journal = journal.descriptor().try_clone_to_owned().unwrap();
    move || (FileImage::take(&state), FileImage::take(&journal))
}

fn revive((state, journal): &(FileImage, FileImage)) -> (StateMemory, Journal) {
    let state = StateMemory::open(state.revive()).unwrap();
    let journal = Journal::open(journal.revive(), &state).unwrap();
    (state, journal)
}

#[test]
fn a_record_is_there_from_the_head_store_on_and_never_in_part() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create_sized(&state, SMALL).unwrap();
    journal.append(NOTE, b"first", Purpose::Growth).unwrap();
    for payload in [&b""[..], b"x", b"12345678", b"123456789"] {
        let before = all(&journal);
        let camera = camera(&state, &journal);
        let (images, stored) =
            cut_everywhere(camera, || journal.append(SET, payload, Purpose::Growth));
        stored.unwrap();
        assert_eq!(images.len(), 3);
        for (name, image) in images {
            let (_, mut revived) = revive(&image);
            let wanted = if name == "journal: after head" {
                all(&journal)
            } else {
                before.clone()
            };
            assert_eq!(all(&revived), wanted, "{name}");
            // And the successor goes on where it stands.
            revived.append(NOTE, b"next", Purpose::Growth).unwrap();
            assert_eq!(all(&revived).len(), wanted.len() + 1, "{name}");
        }
    }
}

#[test]
fn a_kill_during_compaction_leaves_the_old_half_or_the_new_one() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create_sized(&state, SMALL).unwrap();
    for round in 0..5_u8 {
        for number in 0..20 {
            journal
                .append(SET, &[round, number], Purpose::Growth)
                .unwrap();
        }
        let before = all(&journal);
        let camera = camera(&state, &journal);
        let (images, done) = cut_everywhere(camera, || {
            journal.compact(&state, |snapshot| {
                snapshot.append(SET, &[round])?;
                snapshot.append(NOTE, &[99])
            })
        });
        done.unwrap();
        let after = vec![(SET, vec![round]), (NOTE, vec![99])];
        assert_eq!(all(&journal), after);
        let mut names = Vec::new();
        for (name, image) in images {
            let wanted = if name == "compaction: after flip" {
                &after
            } else {
                &before
            };
            assert_eq!(&all(&revive(&image).1), wanted, "{name} in round {round}");
            names.push(name);
        }
        assert!(
            names.starts_with(&["compaction: before"]) && names.len() >= 4,
            "{names:?}"
        );
    }
}

#[test]
fn a_snapshot_that_fails_changes_nothing() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create_sized(&state, SMALL).unwrap();
    journal.append(SET, b"kept", Purpose::Growth).unwrap();
    let failed = journal.compact(&state, |snapshot| {
        loop {
            snapshot.append(SET, &[0; 1000])?;
        }
    });
    assert!(matches!(failed, Err(JournalError::Full { .. })));
    assert_eq!(all(&journal), [(SET, b"kept".to_vec())]);
    let reopened = journal.descriptor().try_clone_to_owned().unwrap();
    assert_eq!(
        all(&Journal::open(reopened, &state).unwrap()),
        all(&journal)
    );
}

#[test]
fn a_full_journal_says_so_and_still_takes_removals() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create_sized(&state, SMALL).unwrap();
    let full = loop {
        match journal.append(SET, &[7; 500], Purpose::Growth) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full { used, room } if used < room));
    assert!(
        full.to_string().starts_with("the journal is full ("),
        "{full}"
    );
    let count = all(&journal).len();
    journal.append(NOTE, b"removed", Purpose::Upkeep).unwrap();
    assert_eq!(all(&journal).len(), count + 1);
    let long = vec![0; usize::try_from(PAYLOAD_BYTES_MAX).unwrap() + 1];
    assert!(matches!(
        journal.append(SET, &long, Purpose::Upkeep),
        Err(JournalError::TooLong { .. })
    ));
}

#[test]
fn compaction_is_asked_for_when_twice_the_live_size_is_passed() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create(&state).unwrap();
    let mut appended = 0_u64;
    while journal.append(SET, &[1; 984], Purpose::Growth).unwrap() == Fill::Low {
        appended += 1000;
    }
    assert!(
        (60 * 1024 - 1000..=60 * 1024).contains(&appended),
        "{appended}"
    );
    journal
        .compact(&state, |snapshot| {
            (0..100).try_for_each(|_| snapshot.append(SET, &[1; 984]))
        })
        .unwrap();
    assert_eq!((journal.fill(), journal.used_bytes()), (Fill::Low, 100_000));
    let mut more = 0_u64;
    while journal.append(SET, &[1; 984], Purpose::Growth).unwrap() == Fill::Low {
        more += 1000;
    }
    assert!(
        (100_000 + 60_000..=100_000 + 62_000).contains(&more),
        "{more}"
    );
}

#[test]
fn unknown_kinds_are_carried_along_or_refused_as_they_ask() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create_sized(&state, SMALL).unwrap();
    journal.append(SET, b"s", Purpose::Growth).unwrap();
    journal.append(NOTE, b"n", Purpose::Growth).unwrap();
    let knows_set = |kind| kind == SET;
    let replayed = journal
        .replay(knows_set)
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let record = |kind, payload| JournalRecord { kind, payload };
    let wanted = [
        Replayed::Known(record(SET, b"s")),
        Replayed::CarryAlong(record(NOTE, b"n")),
    ];
    assert_eq!(replayed, wanted);
    let refused = journal
        .replay(|kind| kind == NOTE)
        .collect::<Result<Vec<_>, _>>();
    assert_eq!(refused, Err(ReplayError::NotUnderstood { kind: 1 }));
}

#[test]
fn a_big_old_half_gives_its_memory_back() {
    let state = StateMemory::create().unwrap();
    let mut journal = Journal::create(&state).unwrap();
    let blocks = |journal: &Journal| nix::sys::stat::fstat(&journal.fd).unwrap().st_blocks;
    assert!(blocks(&journal) <= 16);
    for _ in 0..40 {
        journal.append(SET, &[1; 100_000], Purpose::Growth).unwrap();
    }
    assert!(blocks(&journal) > 7000);
    journal
        .compact(&state, |snapshot| snapshot.append(SET, b"little"))
        .unwrap();
    assert!(blocks(&journal) <= 32, "{}", blocks(&journal));
    assert_eq!(all(&journal), [(SET, b"little".to_vec())]);
}

proptest! {
    #[test]
    fn damaged_journals_are_refused_or_read_right(at in 64_usize..700, bit in 0_u8..8) {
        let state = StateMemory::create().unwrap();
        let mut journal = Journal::create_sized(&state, SMALL).unwrap();
        for number in 0..10_u8 {
            journal.append(SET, &[number; 40], Purpose::Growth).unwrap();
        }
        let before = all(&journal);
        journal.mapping.bytes_mut(4096 + at, 1).unwrap()[0] ^= 1 << bit;
        let read = journal.records().collect::<Result<Vec<_>, _>>();
        if let Ok(read) = read {
            let read = read.iter().map(|r| (r.kind, r.payload.to_vec())).collect::<Vec<_>>();
            prop_assert_eq!(read, before);
        }
    }

    #[test]
    fn values_replay_to_what_was_set_across_compactions(
        sets in proptest::collection::vec((0_u8..8, any::<u8>(), any::<bool>()), 1..200),
    ) {
        let state = StateMemory::create().unwrap();
        let mut journal = Journal::create_sized(&state, SMALL).unwrap();
        let mut wanted = BTreeMap::new();
        for (key, value, compacts) in sets {
            journal.append(SET, &[key, value], Purpose::Growth).unwrap();
            wanted.insert(key, value);
            if compacts {
                journal.compact(&state, |snapshot| {
                    wanted.iter().try_for_each(|(key, value)| snapshot.append(SET, &[*key, *value]))
                }).unwrap();
            }
        }
        let fd = journal.descriptor().try_clone_to_owned().unwrap();
        let reopened = Journal::open(fd, &state).unwrap();
        let replayed = all(&reopened).iter().map(|(_, p)| (p[0], p[1])).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(replayed, wanted);
    }
}

//! The cursor against a plain list of records, for any sequence of operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 4096;

#[derive(Debug, Clone)]
enum Operation {
    Append(Stream, u32),
    Acknowledge(u64),
    MakeRoom(u64),
    Keep(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let operation = prop_oneof![
        4 => (stream, 1_u32..900).prop_map(|(stream, len)| Operation::Append(stream, len)),
        1 => (0_u64..60).prop_map(Operation::Acknowledge),
        1 => (0_u64..5000).prop_map(Operation::MakeRoom),
        1 => (0_u64..5000).prop_map(Operation::Keep),
    ];
    proptest::collection::vec(operation, 1..80)
}

proptest! {
    #[test]
    fn records_leave_only_from_the_old_end_and_totals_never_lie(operations in operations()) {
        let mut cursor = RingCursor::new(EofBits::NONE);
        let mut headers = BTreeMap::<u64, RecordHeader>::new();
        let mut totals = [0_u64; 2];
        for operation in operations {
            let before = cursor;
            let header_at = |position| headers.get(&position).copied();
            match operation {
                Operation::Append(stream, length) => {
                    let span = record_span(length);
                    cursor = cursor.after_making_room(SIZE, span, header_at).unwrap();
                    prop_assert!(cursor.room(SIZE) >= span);
                    let header = cursor.next_header(stream, length, 5);
                    let index = usize::from(stream == Stream::Stderr);
                    prop_assert_eq!(header.stream_offset, totals[index]);
                    totals[index] += u64::from(length);
                    headers.insert(cursor.head, header);
                    cursor = cursor.after_append(&header);
                    prop_assert_eq!(cursor.next_seq.0, before.next_seq.0 + 1);
                }
                Operation::Acknowledge(through) => {
                    cursor = cursor.after_acknowledge(SIZE, Sequence(through), header_at).unwrap();
                    let oldest = headers.get(&cursor.tail);
                    let keeps = oldest.is_none_or(|header| header.sequence.0 > through);
                    prop_assert!(cursor.is_empty() || keeps);
                    prop_assert!(!cursor.is_empty() || cursor.head.is_multiple_of(SIZE));
                }
                Operation::Keep(payload) => {
                    cursor = cursor.after_keeping(payload, header_at).unwrap();
                    let held = |from| headers.range(from..).map(|(_, h)| u64::from(h.length));
                    let one = headers.range(cursor.tail..).count() == 1;
                    prop_assert!(one || held(cursor.tail).sum::<u64>() <= payload);
                    // Not one record more than needed.
                    if let Some((last, _)) = headers.range(before.tail..cursor.tail).next_back() {
                        prop_assert!(held(*last).sum::<u64>() > payload);
                    }
                }
                Operation::MakeRoom(needed) => {
                    cursor = cursor.after_making_room(SIZE, needed, header_at).unwrap();
                    prop_assert!(cursor.room(SIZE) >= needed.min(SIZE));
                    // Not one record more than needed.
                    if cursor.tail != before.tail {
                        let last = headers.range(..cursor.tail).next_back().unwrap();
                        prop_assert!(cursor.room(SIZE) - record_span(last.1.length) < needed);
                    }
                }
            }
            prop_assert!(cursor.is_sound(SIZE));
            prop_assert!(cursor.tail >= before.tail && cursor.head >= before.head);
            prop_assert_eq!([cursor.stdout_bytes, cursor.stderr_bytes], totals);
            prop_assert!(cursor.is_empty() || headers.contains_key(&cursor.tail));
        }
    }
}

#[test]
fn what_is_kept_is_counted_to_the_byte_and_the_newest_stays() {
    let mut cursor = fresh();
    let mut headers = BTreeMap::new();
    for length in [16, 7, 4] {
        let header = cursor.next_header(Stream::Stdout, length, 0);
        headers.insert(cursor.head, header);
        cursor = cursor.after_append(&header);
    }
    let kept = |payload| {
        let after = cursor.after_keeping(payload, |position| headers.get(&position).copied());
        headers.range(after.unwrap().tail..).count()
    };
    assert_eq!(
        [kept(27), kept(26), kept(11), kept(10), kept(0)],
        [3, 2, 2, 1, 1]
    );
}

#[test]
fn nonsense_in_the_ring_is_an_error_and_can_be_given_up() {
    let cursor = RingCursor {
        head: 640,
        tail: 64,
        next_seq: Sequence(9),
        ..fresh()
    };
    let sound = RecordHeader {
        length: 32,
        stream: Stream::Stdout,
        sequence: Sequence(8),
        time_ns: 0,
        stream_offset: 0,
    };
    let from_the_future = RecordHeader {
        sequence: Sequence(9),
        ..sound
    };
    let too_long = RecordHeader {
        length: 600,
        ..sound
    };
    for bad in [None, Some(from_the_future), Some(too_long)] {
        let damaged = Err(DamagedRing { position: 64 });
        assert_eq!(cursor.after_making_room(SIZE, SIZE, |_| bad), damaged);
        assert_eq!(
            cursor.after_acknowledge(SIZE, Sequence(3), |_| bad),
            damaged
        );
    }
    let given_up = cursor.after_damage(SIZE);
    assert!(given_up.is_empty() && given_up.next_seq == Sequence(9));
}

#[test]
fn acknowledging_everything_needs_no_headers() {
    let cursor = RingCursor {
        head: 640,
        next_seq: Sequence(9),
        ..fresh()
    };
    let after = cursor
        .after_acknowledge(SIZE, Sequence(u64::MAX), |_| None)
        .unwrap();
    assert_eq!((after.head, after.tail), (SIZE, SIZE));
}

#[test]
fn unsound_words_are_recognised() {
    for bad in [
        RingCursor {
            head: 32,
            tail: 64,
            ..fresh()
        },
        RingCursor {
            head: SIZE + 32,
            tail: 0,
            ..fresh()
        },
        RingCursor {
            head: 33,
            ..fresh()
        },
        RingCursor {
            next_seq: Sequence(0),
            ..fresh()
        },
    ] {
        assert!(!bad.is_sound(SIZE), "{bad:?}");
    }
    assert!(fresh().is_sound(SIZE));
}

fn fresh() -> RingCursor {
    RingCursor::new(EofBits::NONE)
}

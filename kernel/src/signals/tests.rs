//! Who is related to whom, from made-up looks; real processes are in `tests/signals.rs`.

use super::*;

fn looks(rows: &[(i32, i32, i32)]) -> BTreeMap<i32, Look> {
    rows.iter()
        .map(|(pid, parent, session)| {
            (
                *pid,
                Look {
                    parent: *parent,
                    session: *session,
                    started: 1,
                },
            )
        })
        .collect()
}

#[test]
fn descendants_are_found_through_sessions_and_orphans_through_the_session() {
    // 10 leads session 10; 11 is its child; 12 left for a session of its own and has a child 13;
    // 14 lost its parent but stayed in the session, and has a child 15 elsewhere; 20 is a stranger.
    let looks = looks(&[
        (10, 1, 10),
        (11, 10, 10),
        (12, 11, 12),
        (13, 12, 12),
        (14, 1, 10),
        (15, 14, 15),
        (20, 1, 20),
    ]);
    let set = |pids: &[i32]| pids.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(
        members(&looks, 10, Kin::Descendants),
        set(&[11, 12, 13, 14, 15])
    );
    assert_eq!(members(&looks, 10, Kin::Session), set(&[11, 14]));
    assert_eq!(members(&looks, 10, Kin::Children), set(&[11]));
    assert_eq!(members(&looks, 99, Kin::Descendants), set(&[]));
}

#[test]
fn a_circle_of_parents_does_not_hang() {
    let looks = looks(&[(10, 11, 1), (11, 10, 1)]);
    assert_eq!(members(&looks, 10, Kin::Descendants), BTreeSet::from([11]));
}

#[test]
fn a_name_full_of_parentheses_does_not_shift_the_fields() {
    let rest = "S 7 8 9 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 555 0 0";
    let look = parse_stat(format!("42 (a) b) ({rest}) {rest}").as_bytes()).unwrap();
    assert_eq!(
        look,
        Look {
            parent: 7,
            session: 9,
            started: 555
        }
    );
    assert_eq!(parse_stat(b"42 (short) S 1"), None);
    assert_eq!(parse_stat(b""), None);
}

#[test]
fn signals_that_do_not_exist_are_refused() {
    let me = pidfd_open(std::process::id().cast_signed()).unwrap();
    let fd = std::os::fd::AsFd::as_fd(&me);
    for signal in [-1, 65, 1000] {
        let refused = send(1, fd, signal, SignalTarget::Process);
        assert_eq!(refused, Err(SignalError::NoSuchSignal { signal }));
    }
    let checked = send(
        std::process::id().cast_signed(),
        fd,
        0,
        SignalTarget::Process,
    )
    .unwrap();
    assert_eq!(
        checked,
        Delivered {
            processes: 1,
            refused: 0
        }
    );
}

//! What holds between any two steps.

use crate::state::{Access, State};
use std::collections::BTreeSet;

/// What holds between any two steps.
pub(super) fn check(state: &State) {
    let running = state
        .processes
        .values()
        .filter(|process| process.end.is_none())
        .count();
    assert_eq!(state.running, running as u64);
    assert_eq!(state.keys.len(), state.processes.len());
    assert_eq!(state.names.len(), state.processes.len());
    let mut running_names = BTreeSet::new();
    for (id, process) in &state.processes {
        assert_eq!(state.keys.get(&process.key), Some(id));
        assert!(state.names.contains(&(process.name.clone(), *id)));
        assert!(
            process.end.is_some() || running_names.insert(&process.name),
            "names are unique"
        );
        for session in &process.followers {
            assert!(state.sessions[session].follows.contains_key(id));
        }
    }
    let recorded = state
        .processes
        .values()
        .map(|p| p.recorded_bytes)
        .sum::<u64>()
        + state
            .sockets
            .values()
            .map(|s| s.recorded_bytes)
            .sum::<u64>();
    assert_eq!(state.recorded_bytes, recorded);
    let values = state
        .values
        .iter()
        .map(|(k, v)| k.len() as u64 + v.len() as u64 + 64)
        .sum();
    assert_eq!(state.values_bytes, values);
    for (id, session) in &state.sessions {
        for process in session.follows.keys() {
            assert!(state.processes[process].followers.contains(id));
        }
        for process in session.rings.keys() {
            let follow = &session.follows[process];
            assert_eq!(
                follow.access,
                Access::InPlace,
                "who asked for it has a ring"
            );
        }
        assert!(
            session
                .pending
                .iter()
                .all(|process| session.follows.contains_key(process))
        );
    }
    assert!(
        state
            .serving
            .iter()
            .all(|session| state.sessions.contains_key(session))
    );
    assert!(
        state
            .leases
            .values()
            .all(|lease| lease.fence <= state.newest_fence)
    );
}

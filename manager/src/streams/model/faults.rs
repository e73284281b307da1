//! The checker is tested with writers that are broken on purpose: each mistake must be caught.

use super::Run;
use super::exhaustive::{cuts, scenarios, single, troubles};
use super::random::{SERIES, run};
use super::world::Cut;
use crate::streams::fault::{Fault, with};

/// The first run that goes wrong with a mistake, and how many runs it took.
fn catch(fault: Fault) -> Option<(u64, String)> {
    let mut runs = 0;
    for seed in 0..400 {
        for series in SERIES {
            runs += 1;
            let outcome = with(Some(fault), || run(series, seed));
            if let Some(violation) = outcome.violations.first() {
                return Some((runs, violation.clone()));
            }
        }
    }
    for scenario in scenarios() {
        for cut in cuts(&scenario, 9) {
            for trouble in troubles(&scenario) {
                runs += 1;
                let outcome = with(Some(fault), || single(&scenario, cut, &trouble));
                if let Some(violation) = outcome.violations.first() {
                    return Some((runs, violation.clone()));
                }
            }
        }
    }
    None
}

#[test]
fn every_deliberate_mistake_is_caught() {
    let all = [
        Fault::AcknowledgeBeforeWrite,
        Fault::RecoveryAlwaysDone,
        Fault::RecoveryNeverLooks,
        Fault::NoMtime,
        Fault::NoTornNotice,
        Fault::NoRepeatNotice,
        Fault::NoLead,
        Fault::PositionNotMaximum,
        Fault::CutAtExceeds,
        Fault::GapNotAnnounced,
        Fault::OneByteTooFar,
        Fault::IntentionLost,
        Fault::ClassicRenameChain,
        Fault::LeftOutTooEarly,
        Fault::LateLines,
        Fault::RoomOverlooked,
        Fault::RoomTooEarly,
    ];
    let mut escaped = Vec::new();
    for fault in all {
        match catch(fault) {
            Some((runs, violation)) => println!("{fault:?}: caught in run {runs}: {violation}"),
            None => escaped.push(fault),
        }
    }
    assert!(escaped.is_empty(), "not caught: {escaped:?}");
}

/// A killed writer's last write may land late. Who waits for its death sees it; who does not,
/// doubles lines.
#[test]
fn a_late_write_of_the_old_writer_is_harmless_only_behind_the_lock() {
    let scenario = &scenarios()[0];
    let late = |cut: Cut, delay: u64| {
        let run = Run::new(scenario, 1).cut_at(&[cut]);
        run.world.borrow_mut().late_after = Some(delay);
        run.finish(|_, _| {})
    };
    let mut doubled = 0;
    for cut in cuts(scenario, 1000) {
        for delay in [1, 5, 9, 20] {
            let outcome = late(cut, delay);
            assert_eq!(outcome.violations, Vec::<String>::new(), "{cut:?} {delay}");
            let outcome = with(Some(Fault::NoLock), || late(cut, delay));
            doubled += usize::from(!outcome.violations.is_empty());
        }
    }
    assert!(doubled > 0, "two writers at once went unnoticed");
}

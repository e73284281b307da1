//! One step of a rolling run, as arithmetic: how many processes to start and to stop, given how
//! many there are of each kind. Knows nothing of watchers, and remembers nothing.

use crate::command::rolling::RunLimits;

/// What there is. Old ones are to be replaced, new ones are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// How many there shall be.
    pub(super) target: usize,
    /// There may never be two.
    pub(super) singleton: bool,
    pub(super) old_ready: usize,
    pub(super) old_unready: usize,
    /// Old ones that may be ready, which shows in a moment; they are not touched until then.
    pub(super) old_young: usize,
    pub(super) new_ready: usize,
    pub(super) new_unready: usize,
    /// Asked to stop, not ended.
    pub(super) stopping: usize,
    /// Asked for, not there.
    pub(super) spawning: usize,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// So many may be started.
    pub(super) spawn: usize,
    /// So many old ones that are not ready may be stopped.
    pub(super) stop_unready: usize,
    /// So many old ones that are ready may be stopped.
    pub(super) stop_ready: usize,
}

/// The limits as they hold for a number of processes, which operators may change in the middle. The
/// number of ready ones matters more than that of extra ones: where no extra one is allowed and none
/// may be missing, one extra is taken. Only of a singleton there are never two.
pub(super) fn effective(limits: &RunLimits, view: &View) -> (usize, usize) {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    if view.singleton {
        return (0, 0);
    }
    let floor = count(limits.min_active).min(view.target);
    let surge = count(limits.max_surge);
    if surge == 0 && floor >= view.target {
        (floor, 1)
    } else {
        (floor, surge)
    }
}

/// One step. Whoever takes it never has fewer ready processes than the floor because of it, and
/// never more processes than the target and the surge.
pub(super) fn step(limits: &RunLimits, view: &View) -> Step {
    let (floor, surge) = effective(limits, view);
    let old = view.old_ready + view.old_unready + view.old_young;
    let new = view.new_ready + view.new_unready + view.spawning;
    let room = (view.target + surge).saturating_sub(old + new + view.stopping);
    let ready = view.old_ready + view.new_ready;
    Step {
        spawn: view.target.saturating_sub(new).min(room),
        stop_unready: view.old_unready,
        stop_ready: view.old_ready.min(ready.saturating_sub(floor)),
    }
}

/// How many processes are too many once nothing is to be replaced, and how many of them may be ready
/// ones. Those that are not ready go first.
pub(super) fn surplus(limits: &RunLimits, view: &View) -> Step {
    let (floor, _) = effective(limits, view);
    let ready = view.old_ready + view.new_ready;
    let unready = view.old_unready + view.new_unready;
    let surplus = (ready + unready).saturating_sub(view.target);
    let stop_unready = surplus.min(unready);
    Step {
        spawn: 0,
        stop_unready,
        stop_ready: (surplus - stop_unready).min(ready.saturating_sub(floor)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn limits(min_active: u32, max_surge: u32) -> RunLimits {
        RunLimits {
            min_active,
            max_surge,
            ..RunLimits::default()
        }
    }

    fn old(target: usize) -> View {
        View {
            target,
            old_ready: target,
            ..View::default()
        }
    }

    #[test]
    fn all_but_the_minimum_go_at_once() {
        let step = step(&limits(1, 0), &old(5));
        assert_eq!((step.spawn, step.stop_ready), (0, 4));
    }

    #[test]
    fn with_extra_ones_nothing_is_stopped_before_they_are_ready() {
        let mut view = old(4);
        let first = step(&limits(4, 2), &view);
        assert_eq!((first.spawn, first.stop_ready), (2, 0));
        view.new_unready = 2;
        assert_eq!(step(&limits(4, 2), &view), Step::default());
        (view.new_unready, view.new_ready) = (1, 1);
        assert_eq!(step(&limits(4, 2), &view).stop_ready, 1);
    }

    #[test]
    fn what_is_not_ready_may_go_whatever_the_minimum() {
        let view = View {
            target: 3,
            old_ready: 1,
            old_unready: 2,
            ..View::default()
        };
        let step = step(&limits(3, 1), &view);
        assert_eq!((step.stop_unready, step.stop_ready), (2, 0));
    }

    #[test]
    fn of_a_singleton_there_are_never_two() {
        let view = View {
            singleton: true,
            ..old(1)
        };
        let step = step(&limits(1, 3), &view);
        assert_eq!((step.spawn, step.stop_ready), (0, 1));
    }

    /// Any walk ends with as many new ones as there shall be, within the bounds all the way.
    #[test]
    fn every_walk_ends_and_keeps_to_its_bounds() {
        for seed in 1..=2000 {
            let mut random = Random::new(seed);
            let mut draw = |most: u64| usize::try_from(random.up_to(most)).expect("small");
            let target = draw(9);
            let limits = limits(
                u32::try_from(draw(10)).expect("small"),
                u32::try_from(draw(4)).expect("small"),
            );
            let mut view = old(target);
            view.singleton = target == 1 && draw(2) == 0;
            for _ in 0..200 {
                let (floor, surge) = effective(&limits, &view);
                let step = step(&limits, &view);
                view.spawning += step.spawn;
                view.stopping += step.stop_ready + step.stop_unready;
                view.old_ready -= step.stop_ready;
                view.old_unready -= step.stop_unready;
                let ready = view.old_ready + view.new_ready;
                assert!(ready >= floor, "seed {seed}: {view:?}");
                let all = ready + view.new_unready + view.spawning + view.stopping;
                assert!(all <= target + surge, "seed {seed}: {view:?}");
                match draw(2) {
                    0 => {
                        view.new_unready += view.spawning;
                        view.spawning = 0;
                    }
                    1 => {
                        view.new_ready += view.new_unready;
                        view.new_unready = 0;
                    }
                    _ => view.stopping = view.stopping.saturating_sub(1),
                }
            }
            assert_eq!(
                (view.new_ready, view.old_ready, view.stopping),
                (target, 0, 0),
                "seed {seed}"
            );
        }
    }
}

//! What happens next.

use super::world::{Fuse, POINTS, World};
use crate::crash::faults;
use crate::memory::journal::{Purpose, RecordKind};
use crate::sys::simulated::{self, NextChild, Stage};

/// What the records of a newer kernel are about; ours has no such kind.
pub(super) const NOTE: RecordKind = RecordKind::optional(0x7777);

impl World {
    /// Lets one thing happen.
    pub(super) fn chaos(&mut self) {
        match self.random.below(100) {
            0..=19 => self.kernel_turn(),
            20..=25 => self.guard_turn(),
            26..=29 => self.sweep(),
            30..=46 => self.child_writes(),
            47..=48 => self.child_closes(),
            49..=51 => self.child_ends(),
            52..=53 => self.child_steps(),
            54..=73 => self.manager_moves(),
            74..=81 => self.prompt_moves(),
            82..=91 => self.light_fuse(),
            92 => self.kernel_is_killed(),
            93 => self.guard_is_killed(),
            94..=95 => self.order_upgrade(),
            96 => self.linux_refuses(),
            97 => self.newer_kernel_notes(),
            98 => self.next_child_is_special(),
            _ => self.time_passes(),
        }
        self.look();
    }

    /// Whether a kernel may be killed without losing everything: it has a guard that knows it.
    fn is_guarded(&self) -> bool {
        self.kernel.is_some() && self.guard.is_some()
    }

    /// Somebody will be killed soon, wherever that is.
    fn light_fuse(&mut self) {
        if !self.is_guarded() {
            return;
        }
        let fuse = match (self.aim, self.random.one_in(3)) {
            (Some(point), _) => Fuse::At(point),
            (None, true) => Fuse::Points(self.random.below(30)),
            (None, false) => Fuse::At(self.random.pick(&POINTS).unwrap()),
        };
        // Either of them, but not both.
        if self.random.one_in(8) {
            self.note(format!("the guard dies, {fuse:?}"));
            self.guard_fuse = Some(fuse);
            self.guard_turn();
            self.guard_fuse = None;
            return;
        }
        self.note(format!("the kernel dies, {fuse:?}"));
        self.fuse.set(Some(fuse));
        for _ in 0..6 {
            if self.fuse.get().is_none() || self.kernel.is_none() {
                break;
            }
            match self.random.below(8) {
                0 => self.sweep(),
                1 => self.child_writes(),
                2 | 3 => self.manager_moves(),
                4 => self.child_ends(),
                5 if self.random.one_in(3) => self.order_upgrade(),
                _ => self.kernel_turn(),
            }
        }
        // The next one may be met while it takes over.
        let takes_over = self.kernel.is_none() && self.guard.is_some();
        if takes_over && self.random.one_in(3) {
            let fuse = Fuse::Points(self.random.below(12));
            self.note(format!("the next one while it takes over, {fuse:?}"));
            self.fuse.set(Some(fuse));
            self.guard_turn();
            self.fuse.set(None);
        }
    }

    fn kernel_is_killed(&mut self) {
        if self.is_guarded() {
            self.note("the kernel is killed");
            self.kill_kernel();
        }
    }

    fn guard_is_killed(&mut self) {
        if self.is_guarded() {
            self.note("the guard is killed");
            self.kill_guard();
        }
    }

    fn linux_refuses(&mut self) {
        let points = ["read: map", "read: splice", "read: drain"];
        let point = self.random.pick(&points).unwrap();
        let (spared, times) = (self.random.below(3), 1 + self.random.below(4));
        self.note(format!("{point} is refused {times} times"));
        faults::set(point, spared, times);
    }

    /// A kernel of a later release writes something into the journal that this one does not know.
    fn newer_kernel_notes(&mut self) {
        let note = vec![self.random.next().to_le_bytes()[0]; 40];
        let Some(running) = &mut self.kernel else {
            return;
        };
        if running.version < 2 {
            return;
        }
        let fuse = self.fuse.take();
        let hands = &mut running.kernel.hands;
        if hands.journal.append(NOTE, &note, Purpose::Upkeep).is_ok() {
            hands.carried.push((NOTE, note.clone()));
            self.notes.push(note);
        }
        self.fuse.set(fuse);
    }

    fn next_child_is_special(&mut self) {
        let stages = [Stage::Cloned, Stage::Claimed, Stage::Decided];
        let orphaned_at = match self.is_guarded() && self.random.one_in(2) {
            true => self.random.pick(&stages),
            false => None,
        };
        let fails = self.random.one_in(2);
        self.note(format!("a child: fails {fails}, orphaned {orphaned_at:?}"));
        simulated::with(|linux| linux.next_child = NextChild { fails, orphaned_at });
        self.manager_spawns();
        for _ in 0..3 {
            self.kernel_turn();
        }
        simulated::with(|linux| linux.next_child = NextChild::default());
    }

    fn time_passes(&mut self) {
        let ns = 1 << (16 + self.random.below(17));
        simulated::with(|linux| linux.clock_ns += ns);
    }

    /// Faults stop; everybody does what is left to do.
    pub(super) fn settle_down(&mut self) {
        self.note("--- faults stop");
        faults::set("", 0, 0);
        self.fuse.set(None);
        self.finish(400, "a guard and a kernel", |world| world.is_guarded());
        self.manager.asks_no_more = true;
        self.finish(4000, "nothing is held any more", |world| {
            let Some(running) = &world.kernel else {
                return false;
            };
            let state = &running.kernel.state;
            state.processes.is_empty() && state.intents.is_empty() && world.manager.is_done()
        });
        self.finish(20, "the guard holds nothing", |world| {
            let guard = world.guard.as_ref();
            guard.is_some_and(|(_, guard)| guard.held().is_empty())
        });
        self.look_back();
    }

    fn finish(&mut self, rounds: usize, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..rounds {
            if is_so(self) {
                return;
            }
            simulated::with(|linux| linux.clock_ns += 20_000_000);
            self.guard_turn();
            if self.manager.asks_no_more {
                self.end_children();
            }
            self.sweep();
            self.kernel_turn();
            self.manager_works();
            self.prompt_works();
            self.look();
        }
        let left = self.kernel.as_ref().map(|running| {
            let state = &running.kernel.state;
            let left = state.processes.values().map(|process| {
                let output = &process.output;
                (
                    &process.name,
                    process.end,
                    process.flags,
                    output.oldest,
                    output.cursor,
                )
            });
            let left = left.collect::<Vec<_>>();
            format!(
                "{left:?}; {:?}; {}",
                state.intents,
                self.manager.left(state)
            )
        });
        let held = self.guard.as_ref().map(|(_, guard)| guard.held());
        panic!(
            "not within {rounds} rounds: {what}: {left:?}; {:?}; {held:?}",
            self.prompt
        );
    }
}

//! Seeded simulation of kernel and guard: the real ones with the real memory files, pipes and sockets,
//! over a simulated Linux of processes ([`crate::sys::simulated`]) and a simulated clock.
//!
//! Kernels are killed at any crash point, also while they take over, and while a child is between clone
//! and exec; guards as well; kernels become newer and older programs, or try to; Linux refuses reads;
//! clients come and go in the middle of everything. What children wrote and how they ended is kept in a
//! ledger beside, and everything that kernels and clients find is compared with it.
//!
//! An ordinary test run takes some hundred seeds. More of them, or longer runs:
//!
//! ```text
//! KINGPOLE_SIMULATION_SEEDS=100000 KINGPOLE_SIMULATION_STEPS=1000 \
//!     cargo test -p kingpole-kernel --lib event_loop::simulation
//! ```
//!
//! A failure prints the seed, what happened last, and the command that repeats it.

mod children;
mod manager;
mod moves;
mod oracle;
mod programs;
mod prompt;
mod world;

use crate::sys::simulated;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

const SEEDS: u64 = 300;
const STEPS: u64 = 150;
/// Seeds of their own, in which everybody dies at the one point that no ordinary seed has met.
const AIMED_SEEDS: std::ops::Range<u64> = 1_000_000..1_000_300;

/// Splitmix64: its own, so that a seed means the same for ever.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.below(from.len() as u64);
        from.get(usize::try_from(index).unwrap()).copied()
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// Plays one seed; gives its story if something is not as it must be. Whoever is killed is killed at the
/// point `aim`, if there is one.
fn run(seed: u64, steps: u64, aim: Option<&'static str>) -> Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        world.aim = aim;
        let story = world.story();
        let played = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..steps {
                world.chaos();
            }
            world.settle_down();
        }));
        played.map_err(|_| story.tell())
    }));
    simulated::install(None);
    match played {
        Ok(played) => played,
        Err(_) => Err("no world could be made".to_owned()),
    }
}

#[test]
fn every_byte_end_and_value_survives_every_seed() {
    let steps = setting("KINGPOLE_SIMULATION_STEPS").unwrap_or(STEPS);
    let seeds = match setting("KINGPOLE_SIMULATION_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=setting("KINGPOLE_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let seeds_tried = seeds.clone().count();
    let mut met = std::collections::BTreeMap::new();
    let mut read_in_place = std::collections::BTreeMap::new();
    let aim = std::env::var("KINGPOLE_SIMULATION_POINT").ok();
    let aim = aim.map(|aim| world::POINTS.into_iter().find(|point| *point == aim));
    let aim = aim.map(|point| point.expect("KINGPOLE_SIMULATION_POINT is a crash point"));
    for seed in seeds {
        play(seed, steps, aim);
        world::met(|name, count| *met.entry(name).or_insert(0_u64) += count);
        for (what, count) in manager::in_place::met() {
            *read_in_place.entry(what).or_insert(0_u64) += count;
        }
    }
    println!("deaths: {met:#?}; output read in place: {read_in_place:?}");
    if seeds_tried >= 100 {
        for what in ["copied", "overtaken", "over", "refused"] {
            assert!(
                read_in_place.contains_key(what),
                "output in place: never {what}"
            );
        }
        // Somebody dies at every point.
        for point in world::POINTS {
            let mut seeds = AIMED_SEEDS;
            while !met.contains_key(point) {
                let seed = seeds
                    .next()
                    .unwrap_or_else(|| panic!("nobody died at {point:?}"));
                play(seed, steps, Some(point));
                world::met(|name, count| *met.entry(name).or_insert(0_u64) += count);
            }
        }
    }
}

#[track_caller]
fn play(seed: u64, steps: u64, aim: Option<&'static str>) {
    if let Err(story) = run(seed, steps, aim) {
        let point = aim.map_or_else(String::new, |aim| {
            format!("KINGPOLE_SIMULATION_POINT={aim:?} ")
        });
        panic!(
            "seed {seed}:\n{story}\nagain: {point}KINGPOLE_SIMULATION_SEED={seed} \
             KINGPOLE_SIMULATION_STEPS={steps} cargo test -p kingpole-kernel --lib \
             event_loop::simulation"
        );
    }
}

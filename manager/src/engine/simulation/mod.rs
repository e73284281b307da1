//! Seeded simulation of the engine: a kernel, children, operators and time are simulated, and
//! managers and connections die between any two steps.
//!
//! An ordinary test run takes a few hundred seeds. More of them, or longer runs:
//!
//! ```text
//! KINGPOLE_SIMULATION_SEEDS=100000 KINGPOLE_SIMULATION_STEPS=1000 \
//!     cargo test -p kingpole-manager --lib engine::simulation::every
//! ```
//!
//! `KINGPOLE_SIMULATION_FAULT=StopTooMany` tries only one of the deliberate faults.
//!
//! A failure prints the seed, the end of its log, and the command that repeats it.

mod checks;
mod hooks;
pub(super) mod kernel;
mod operators;
mod probes;
mod rolling;
mod scenario;
mod voices;
mod world;

use super::context::Fault;
use world::World;

const SEEDS: u64 = 400;
const STEPS: u64 = 500;
/// Seeds within which each deliberate fault has to be caught.
const SEEDS_PER_FAULT: u64 = 2000;

/// Seeds that caught the rarer ones the last time that somebody looked. They are tried before the others, as
/// some faults need hundreds. Whoever changes what is drawn makes that slower again, and nothing worse.
const RARE_SEEDS: [u64; 9] = [26, 36, 42, 68, 81, 113, 246, 262, 517];

struct Failure {
    seed: u64,
    problem: String,
    log: Vec<String>,
}

fn run(seed: u64, steps: u64, fault: Fault) -> Result<(), Failure> {
    let mut world = World::new(seed, fault);
    let outcome = (0..steps)
        .try_for_each(|_| world.chaos())
        .and_then(|()| checks::settle_down(&mut world));
    outcome.map_err(|problem| Failure {
        seed,
        problem,
        log: world.log.into(),
    })
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

#[test]
fn every_seed_converges_and_breaks_no_promise() {
    let steps = setting("KINGPOLE_SIMULATION_STEPS").unwrap_or(STEPS);
    let seeds = match setting("KINGPOLE_SIMULATION_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=setting("KINGPOLE_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(Failure { seed, problem, log }) = run(seed, steps, Fault::None) {
            panic!(
                "{}\n\nseed {seed}: {problem}\nrepeat: KINGPOLE_SIMULATION_SEED={seed} \
                 KINGPOLE_SIMULATION_STEPS={steps} cargo test -p kingpole-manager --lib \
                 engine::simulation::every",
                log.join("\n")
            );
        }
    }
}

#[test]
fn every_deliberate_fault_is_caught() {
    let only = std::env::var("KINGPOLE_SIMULATION_FAULT").ok();
    for fault in Fault::ALL {
        if only
            .as_ref()
            .is_some_and(|only| *only != format!("{fault:?}"))
        {
            continue;
        }
        let mut seeds = (1..=5).chain(RARE_SEEDS).chain(6..=SEEDS_PER_FAULT);
        let caught = seeds.find_map(|seed| run(seed, STEPS, fault).err());
        match caught {
            Some(Failure { seed, problem, .. }) => println!("{fault:?}: seed {seed}: {problem}"),
            None => panic!("{fault:?} was not caught in {SEEDS_PER_FAULT} seeds"),
        }
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    let logs = [(); 2].map(|()| {
        let mut world = World::new(42, Fault::None);
        let outcome = (0..STEPS).try_for_each(|_| world.chaos());
        assert_eq!(outcome, Ok(()));
        world.log
    });
    assert!(logs[0] == logs[1], "the runs differ");
}

//! Long random runs. A failing one prints its series and seed, and is run again with
//! `KINGPOLE_MODEL_ONE=SERIES:SEED`.

use super::world::{HANDS, Hand, Weather};
use super::{
    Act, LIMITS, Outcome, Run, Scenario, Setup, SimZoneOffsets, Trouble, by_size, dice,
    every_seconds, file_sink, kept,
};
use crate::streams::format::Style;
use crate::streams::model::world::Dice;
use crate::streams::sink::Rotation;
use kingpole_protocol::record::Stream;

/// What may happen in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Series {
    /// Crashes, rotation, full disks, I/O errors, changed configuration: exact, and no notice.
    Exact,
    /// The same with every line alike.
    Dull,
    /// And the kernel has to drop output.
    Drops,
    /// And others tamper with the files.
    Outside,
}

pub(super) const SERIES: [Series; 4] =
    [Series::Exact, Series::Dull, Series::Drops, Series::Outside];

fn style(dice: &mut Dice, series: Series) -> Style {
    match dice.below(4) {
        _ if series == Series::Dull => Style::Raw,
        0 => Style::Raw,
        1 => Style::Prefixed("%S".to_owned()),
        2 => Style::Json,
        _ => Style::Prefixed("%H:%M:%S".to_owned()),
    }
}

fn setup(dice: &mut Dice, series: Series, children: u64, rotation: Option<Rotation>) -> Setup {
    let count = 1 + dice.below(3);
    let names = ["a.log", "b.log", "c.log", "d.log"];
    let from = dice.below(2) as usize;
    let sinks = (0..count as usize)
        .map(|number| {
            let rotation = rotation.filter(|_| dice.percent(70));
            file_sink(names[from + number], style(dice, series), rotation)
        })
        .collect();
    let route = |dice: &mut Dice| [dice.below(count) as usize, dice.below(count) as usize];
    let offsets = [0, 3600, -18_000, 19_800];
    let before = offsets[dice.below(4) as usize];
    let after = if dice.percent(20) {
        before + 3600
    } else {
        before
    };
    let zone = SimZoneOffsets {
        before,
        after,
        changes_after: dice.below(20),
    };
    Setup {
        sinks,
        routes: (0..children).map(|_| route(dice)).collect(),
        zone,
    }
}

fn script(dice: &mut Dice, series: Series, children: u64) -> Vec<Act> {
    let mut script = Vec::new();
    for number in 0..10 + dice.below(40) {
        let child = dice.below(children) as usize;
        let stream = if dice.percent(30) {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        if dice.percent(4) {
            let back = -(dice.below(30) as i64);
            script.push(match dice.below(6) {
                0 => Act::Clock(back),
                1 => Act::Clock(dice.below(30) as i64),
                _ => Act::Pause,
            });
            continue;
        }
        let mut text = Vec::new();
        if series == Series::Dull {
            for _ in 0..=dice.below(5) {
                text.extend_from_slice(b"t\n");
            }
        } else {
            for piece in 0..=dice.below(3) {
                let most = if dice.percent(10) { 60 } else { 12 };
                let length = dice.below(most);
                let letters = b"abcdefghijklmnopqrstuvwxyz";
                text.extend(format!("{number}{piece}").bytes());
                text.extend((0..length).map(|n| letters[(n as usize) % letters.len()]));
                if dice.percent(80) {
                    text.push(b'\n');
                }
            }
        }
        script.push(Act::Says(child, stream, text));
    }
    for child in 0..children as usize {
        for stream in Stream::ALL {
            if dice.percent(50) {
                script.push(Act::Ends(child, stream));
            }
        }
    }
    script
}

fn weather(dice: &mut Dice, rotates: bool) -> Weather {
    let mut weather = Weather::default();
    match dice.below(6) {
        0 => {
            weather.space = Some(dice.below(200) as usize);
            weather.space_back = 30 + dice.below(200);
        }
        1 => weather.write_error = 5 + dice.below(30),
        2 => weather.short_write = 5 + dice.below(30),
        3 => {
            weather.short_write = 40;
            weather.only = Some("/log/a.log".into());
        }
        4 if rotates => weather.rename_error = 5 + dice.below(40),
        _ => {}
    }
    weather
}

/// One run of a series.
pub(super) fn run(series: Series, seed: u64) -> Outcome {
    let mut dice = dice(seed);
    let children = 1 + dice.below(4);
    let rotation = dice.percent(60).then(|| {
        let (max_bytes, backups) = (30 + dice.below(200), 1 + dice.below(4) as u32);
        match dice.below(6) {
            0 => Rotation::Empty { max_bytes },
            1 | 2 => every_seconds(1 + dice.below(3) as u32, dice.below(4) as u32),
            _ => by_size(max_bytes, backups),
        }
    });
    let mut limits = LIMITS;
    limits.batch_bytes = [1, 20, 60, 120, 400][dice.below(5) as usize];
    let drops = matches!(series, Series::Drops | Series::Outside) && dice.percent(70);
    let scenario = Scenario {
        name: "random",
        setup: setup(&mut dice, series, children, rotation),
        script: script(&mut dice, series, children),
        limits,
        cap: if drops {
            40 + dice.below(300) as usize
        } else {
            usize::MAX
        },
        atomic: dice.percent(50),
        tells_baseline: dice.percent(50),
        knows_birth: dice.percent(70),
        keeps_room: dice.percent(70),
        weather: weather(&mut dice, rotation.is_some()),
    };
    let mut run = Run::new(&scenario, seed);
    if matches!(series, Series::Exact | Series::Dull) {
        run = run.exact();
    }
    run.late_attach = dice.below(3);
    run.pace = [1, 2, u64::MAX][dice.below(3) as usize];
    run.tell = std::env::var_os("KINGPOLE_MODEL_ONE").is_some();
    {
        let mut world = run.world.borrow_mut();
        let most = if dice.percent(50) { 4 } else { 24 };
        world.kill_chance = 1 + dice.below(most);
        world.check.backups = kept(rotation);
    }
    if series == Series::Outside {
        let mut step = 0;
        for _ in 0..dice.below(4) {
            step += 1 + dice.below(150);
            run = run.hand_at(step, HANDS[dice.below(HANDS.len() as u64) as usize]);
        }
    }
    run.finish(|run, kills| {
        run.late_attach = dice.below(3);
        if kills > 60 || run.world.borrow().steps > 3000 {
            let mut world = run.world.borrow_mut();
            world.kill_chance = 0;
            world.weather = Weather::default();
        }
        let changed = setup(&mut dice, series, children, rotation);
        let hand = HANDS[dice.below(HANDS.len() as u64) as usize];
        let trouble = match (dice.below(20), series) {
            (0 | 1, _) => Trouble::Config(changed),
            (2, Series::Drops | Series::Outside) => Trouble::Flood,
            (3, Series::Drops | Series::Outside) => Trouble::ConfigAndFlood(changed),
            (4 | 5, Series::Outside) => Trouble::Hand(hand),
            (6, Series::Outside) => Trouble::HandAndFlood(hand),
            (7, Series::Outside) => Trouble::ConfigAndHand(changed, Hand::AppendPiece),
            _ => Trouble::Nothing,
        };
        run.trouble(&trouble);
    })
}

/// Runs seeds of all series; what went wrong, if anything.
pub(super) fn series(seeds: std::ops::Range<u64>) -> Result<[u64; 3], String> {
    let mut totals = [0; 3];
    for seed in seeds {
        for series in SERIES {
            let outcome = run(series, seed);
            totals = [
                totals[0] + 1,
                totals[1] + outcome.kills,
                totals[2] + outcome.steps,
            ];
            if !outcome.violations.is_empty() {
                return Err(format!(
                    "{series:?}:{seed}: {:#?}\n{}",
                    outcome.violations, outcome.story
                ));
            }
        }
    }
    Ok(totals)
}

#[test]
fn random_lives_leave_every_line_once() {
    let only = std::env::var("KINGPOLE_MODEL_ONE").unwrap_or_default();
    if let Some((name, seed)) = only.split_once(':') {
        let seed = seed.parse().expect("SERIES:SEED");
        let series = SERIES
            .into_iter()
            .find(|s| format!("{s:?}") == name)
            .expect("SERIES:SEED");
        let outcome = run(series, seed);
        println!("{}", outcome.story);
        assert_eq!(outcome.violations, Vec::<String>::new());
        return;
    }
    let totals = series(0..250).unwrap_or_else(|failure| panic!("{failure}"));
    println!(
        "{} runs, {} kills, {} steps",
        totals[0], totals[1], totals[2]
    );
}

#[test]
#[ignore = "takes minutes: see the module's head for the command"]
fn long() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let runs = number("KINGPOLE_MODEL_RUNS", 2_000_000) / SERIES.len() as u64;
    let from = number("KINGPOLE_MODEL_SEED", 1_000_000);
    let mut totals = [0_u64; 3];
    let mut failures = Vec::new();
    for begin in (from..from + runs).step_by(1000) {
        for seed in begin..(begin + 1000).min(from + runs) {
            match series(seed..seed + 1) {
                Ok(sums) => {
                    for (total, sum) in totals.iter_mut().zip(sums) {
                        *total += sum;
                    }
                }
                Err(failure) => {
                    println!("{failure}");
                    failures.push(failure.split(": ").next().unwrap_or_default().to_owned());
                }
            }
        }
        println!(
            "{} runs, {} kills, {} steps",
            totals[0], totals[1], totals[2]
        );
    }
    assert!(failures.is_empty(), "{failures:?}");
}

//! Small scenarios, cut everywhere.

use super::world::{Cut, HANDS, Hand, StepKind, Weather};
use super::{
    Act, LIMITS, Outcome, Run, Scenario, Setup, SimZoneOffsets, Trouble, UTC, by_size,
    every_seconds, file_sink, moans, says,
};
use crate::streams::format::Style;
use crate::streams::sink::Rotation;
use kingpole_protocol::record::Stream;

fn stamped() -> Style {
    Style::Prefixed("%S".to_owned())
}

fn base(name: &'static str, setup: Setup, script: Vec<Act>) -> Scenario {
    Scenario {
        name,
        setup,
        script,
        limits: LIMITS,
        cap: usize::MAX,
        atomic: true,
        tells_baseline: false,
        knows_birth: true,
        keeps_room: true,
        weather: Weather::default(),
    }
}

fn one_file(style: Style, rotation: Option<Rotation>) -> Setup {
    Setup {
        sinks: vec![file_sink("a.log", style, rotation)],
        routes: vec![[0, 0], [0, 0]],
        zone: UTC,
    }
}

fn two_files() -> Setup {
    Setup {
        sinks: vec![
            file_sink("a.log", stamped(), None),
            file_sink("b.log", Style::Raw, None),
        ],
        routes: vec![[0, 1], [0, 1], [1, 0]],
        zone: UTC,
    }
}

fn talk() -> Vec<Act> {
    vec![
        says(0, "one\ntw"),
        moans(0, "err 1\n"),
        says(1, "uno\ndos\n"),
        says(0, "o\nthree"),
        moans(1, "a line that is longer than the limit of it\n"),
        Act::Pause,
        says(0, "!\n"),
        says(1, "tres\nquatro\n"),
        moans(0, "last"),
        Act::Ends(0, Stream::Stdout),
        Act::Ends(0, Stream::Stderr),
    ]
}

/// The scenarios that are cut everywhere.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = vec![
        base("raw", one_file(Style::Raw, None), talk()),
        base("prefixed", one_file(stamped(), None), talk()),
        base("two files", two_files(), talk()),
        base(
            "rotation 2",
            one_file(Style::Raw, Some(by_size(30, 2))),
            talk(),
        ),
        base(
            "rotation 4",
            one_file(stamped(), Some(by_size(30, 4))),
            talk(),
        ),
    ];
    let mut tiny = base("batches of one line", one_file(Style::Raw, None), talk());
    tiny.limits.batch_bytes = 1;
    all.push(tiny);
    let mut sparse = base("positions left out, cut messages", two_files(), talk());
    sparse.tells_baseline = true;
    sparse.atomic = false;
    all.push(sparse);
    let mut cut = base("cut messages", two_files(), talk());
    cut.atomic = false;
    all.push(cut);
    let mut unborn = base(
        "no birth times",
        one_file(Style::Raw, Some(by_size(60, 2))),
        talk(),
    );
    unborn.knows_birth = false;
    all.push(unborn);
    let mut full = base("disk full", two_files(), talk());
    full.weather = Weather {
        space: Some(31),
        space_back: 40,
        ..Weather::default()
    };
    all.push(full);
    let mut summer = base(
        "time change",
        one_file(Style::Prefixed("%H:%M".to_owned()), None),
        talk(),
    );
    summer.setup.zone = SimZoneOffsets {
        before: 3600,
        after: 7200,
        changes_after: 1,
    };
    all.push(summer);
    let talk_on = || {
        let pauses = [says(1, "later\n"), Act::Pause, moans(0, "still later\n")];
        [talk(), pauses.to_vec()].concat()
    };
    let hourly = one_file(stamped(), Some(every_seconds(1, 0)));
    all.push(base("by time", hourly, talk_on()));
    let mut pruned = base("by time, two kept", two_files(), talk_on());
    pruned.setup.sinks[0].rotation = Some(every_seconds(1, 2));
    all.push(pruned);
    let mut set = base("by time, the clock set", two_files(), Vec::new());
    set.setup.sinks[0].rotation = Some(every_seconds(2, 0));
    for (number, seconds) in [20, -40, 1, 60].into_iter().enumerate() {
        set.script.push(says(number % 2, "tick\ntock\n"));
        set.script.push(Act::Clock(seconds));
    }
    set.script.push(says(0, "end\n"));
    all.push(set);
    let emptied = one_file(Style::Raw, Some(Rotation::Empty { max_bytes: 40 }));
    all.push(base("emptied", emptied, talk()));
    all.push(base("JSON", one_file(Style::Json, None), talk()));
    let ticks = (0..6).map(|n| says(n % 2, "t\nt\n")).collect();
    all.push(base("equal lines", one_file(Style::Raw, None), ticks));
    all
}

/// Every trouble that can happen between two lives.
pub(super) fn troubles(scenario: &Scenario) -> Vec<Trouble> {
    let mut all = vec![
        Trouble::Nothing,
        Trouble::Flood,
        Trouble::Full,
        Trouble::Error,
    ];
    all.extend(HANDS.map(Trouble::Hand));
    all.push(Trouble::HandAndFlood(Hand::AppendPiece));
    all.push(Trouble::HandAndFlood(Hand::Move));
    all.push(Trouble::HandAndFlood(Hand::CopyTruncate));
    let changed = |change: &dyn Fn(&mut Setup)| {
        let mut setup = scenario.setup.clone();
        change(&mut setup);
        setup
    };
    let zone = changed(&|setup| {
        setup.zone = SimZoneOffsets {
            before: 7200,
            ..UTC
        }
    });
    let format = changed(&|setup| {
        for sink in &mut setup.sinks {
            let raw = sink.style == Style::Raw;
            sink.style = if raw { stamped() } else { Style::Raw };
        }
    });
    let name = changed(&|setup| {
        let (style, rotation) = (setup.sinks[0].style.clone(), setup.sinks[0].rotation);
        setup.sinks[0] = file_sink("renamed.log", style, rotation);
    });
    let routing = changed(&|setup| {
        let rotation = setup.sinks[0].rotation;
        setup.sinks.push(file_sink("c.log", Style::Raw, rotation));
        let last = setup.sinks.len() - 1;
        setup.routes[0] = [last, 0];
    });
    all.push(Trouble::Config(zone));
    all.push(Trouble::Config(format.clone()));
    all.push(Trouble::Config(name.clone()));
    all.push(Trouble::Config(routing.clone()));
    all.push(Trouble::ConfigAndFlood(routing));
    all.push(Trouble::ConfigAndFlood(format));
    all.push(Trouble::ConfigAndHand(name, Hand::AppendPiece));
    all
}

/// Whether such a run must be exact: nothing lost, nobody else at the files.
fn is_exact(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Nothing | Trouble::Full | Trouble::Error | Trouble::Config(_) => true,
        Trouble::Flood
        | Trouble::Hand(_)
        | Trouble::HandAndFlood(_)
        | Trouble::ConfigAndFlood(_)
        | Trouble::ConfigAndHand(..) => false,
    }
}

/// Where a run can be cut: before each step, and inside those that have parts.
pub(super) fn cuts(scenario: &Scenario, stride: usize) -> Vec<Cut> {
    let outcome = Run::new(scenario, 1).finish(|_, _| {});
    assert_eq!(
        outcome.violations,
        Vec::<String>::new(),
        "{}\n{}",
        scenario.name,
        outcome.story
    );
    let mut cuts = Vec::new();
    for (step, kind) in (1..).zip(&outcome.log) {
        let parts = match kind {
            StepKind::Plain => 0,
            StepKind::Write(parts) | StepKind::Message(parts) => *parts,
        };
        let all = (0..=parts).step_by(stride).chain([parts]);
        let mut parts: Vec<usize> = all.collect();
        parts.dedup();
        cuts.extend(parts.into_iter().map(|part| Cut { step, part }));
    }
    cuts
}

pub(super) fn judge(scenario: &Scenario, what: &str, outcome: &Outcome) {
    assert!(
        outcome.violations.is_empty(),
        "{}, {what}: {:#?}\n{}",
        scenario.name,
        outcome.violations,
        outcome.story
    );
}

pub(super) fn single(scenario: &Scenario, cut: Cut, trouble: &Trouble) -> Outcome {
    let mut run = Run::new(scenario, 1).cut_at(&[cut]);
    if is_exact(trouble) {
        run = run.exact();
    }
    run.finish(|run, kills| {
        if kills == 1 {
            run.trouble(trouble);
        }
        let mut world = run.world.borrow_mut();
        if kills > 1 {
            world.weather = Weather::default();
        }
    })
}

/// How many bytes or steps are passed over between two cuts: fewer when the long run asks.
fn stride(ordinary: usize) -> usize {
    let thorough = std::env::var_os("KINGPOLE_MODEL_THOROUGH").is_some();
    if thorough { 1 } else { ordinary }
}

#[test]
fn killed_anywhere_with_any_trouble_before_the_next_start() {
    let mut runs = 0;
    for scenario in scenarios() {
        for cut in cuts(&scenario, stride(40)) {
            for trouble in troubles(&scenario) {
                let outcome = single(&scenario, cut, &trouble);
                judge(&scenario, &format!("{cut:?} {trouble:?}"), &outcome);
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn killed_twice_anywhere() {
    let mut runs = 0;
    for scenario in scenarios()
        .into_iter()
        .filter(|s| ["two files", "disk full"].contains(&s.name))
    {
        for first in cuts(&scenario, stride(40)) {
            for apart in 1..25 {
                for part in [0, 7] {
                    let second = Cut {
                        step: first.step + apart,
                        part,
                    };
                    let run = Run::new(&scenario, 1).exact().cut_at(&[first, second]);
                    let outcome = run.finish(|_, _| {});
                    judge(&scenario, &format!("{first:?} {second:?}"), &outcome);
                    runs += 1;
                }
            }
        }
    }
    println!("{runs} runs");
}

#[test]
fn tampered_with_at_any_step_and_killed_soon_after() {
    let mut runs = 0;
    for scenario in scenarios() {
        if !["raw", "rotation 2", "disk full"].contains(&scenario.name) {
            continue;
        }
        let steps = Run::new(&scenario, 1).finish(|_, _| {}).steps;
        for step in 1..steps {
            for hand in HANDS {
                let outcome = Run::new(&scenario, 1).hand_at(step, hand).finish(|_, _| {});
                judge(&scenario, &format!("{hand:?} at {step}"), &outcome);
                for apart in (0..8).step_by(stride(4)) {
                    let cut = Cut {
                        step: step + apart,
                        part: 3,
                    };
                    let run = Run::new(&scenario, 1).hand_at(step, hand).cut_at(&[cut]);
                    let outcome = run.finish(|_, _| {});
                    judge(&scenario, &format!("{hand:?} at {step}, {cut:?}"), &outcome);
                    runs += 2;
                }
            }
        }
    }
    println!("{runs} runs");
}

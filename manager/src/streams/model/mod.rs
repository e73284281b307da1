//! The algorithm's model: the real writer in a simulated world, killed between any two steps and
//! inside writes and messages, restarted with the same or another configuration, while children
//! write, the kernel drops, disks fill up and others tamper with the files. Afterwards the checker
//! looks at every byte.
//!
//! The ordinary tests run the small scenarios exhaustively and some thousand random runs; the long
//! run is
//! `cargo test --profile model -p kingpole-manager --lib streams::model::random::long -- --ignored --nocapture`
//! with `KINGPOLE_MODEL_RUNS` (random runs, 2,000,000 by default) and `KINGPOLE_MODEL_SEED`; the same
//! command with `KINGPOLE_MODEL_THOROUGH=1` and without `random::long -- --ignored` cuts at every byte.

mod access;
mod check;
mod exhaustive;
mod faults;
mod oracle;
mod random;
mod versions;
mod world;

use super::disk::{Stop, Target};
use super::feed::Chunk;
use super::format::Style;
use super::limits::Limits;
use super::position::Child;
use super::rotate::Backups;
use super::schedule::{Clock, Schedule, Unit};
use super::sink::{Event, Rotation, SinkSpec};
use super::value::KEY_PREFIX;
use super::writer::{Label, Now, Turn, Writer};
use access::Access;
use kingpole_protocol::Sequence;
use kingpole_protocol::record::Stream;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use world::{Cut, Dice, Hand, SimZone, StepKind, Weather, World, index};

const MILLISECOND: u64 = 1_000_000;

/// Tiny bounds, so that every one of them is met.
const LIMITS: Limits = Limits {
    batch_bytes: 120,
    line_bytes: 24,
    anchor_bytes: 16,
    search_bytes: 1 << 16,
    search_starts: 4096,
    partial_ns: 1000 * MILLISECOND,
    partial_console_ns: 200 * MILLISECOND,
    commit_idle_ns: 50 * MILLISECOND,
    retry_min_ns: 100 * MILLISECOND,
    retry_max_ns: 5000 * MILLISECOND,
    commit_bytes: 4096,
};

/// What one child does next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// Writes these bytes.
    Says(usize, Stream, Vec<u8>),
    /// Closes a stream.
    Ends(usize, Stream),
    /// Nothing for a second and a half.
    Pause,
    /// The clock is set, by so many seconds forward or back.
    Clock(i64),
}

/// Where everybody's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setup {
    sinks: Vec<SinkSpec>,
    /// For each child: the sinks of stdout and stderr.
    routes: Vec<[usize; 2]>,
    zone: SimZoneOffsets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SimZoneOffsets {
    before: i32,
    after: i32,
    /// Seconds after the beginning of the run.
    changes_after: u64,
}

const UTC: SimZoneOffsets = SimZoneOffsets {
    before: 0,
    after: 0,
    changes_after: 0,
};

/// A run's circumstances.
#[derive(Debug, Clone)]
struct Scenario {
    name: &'static str,
    setup: Setup,
    script: Vec<Act>,
    limits: Limits,
    cap: usize,
    atomic: bool,
    tells_baseline: bool,
    knows_birth: bool,
    keeps_room: bool,
    weather: Weather,
}

/// What happens between a death and the next start.
#[derive(Debug, Clone)]
enum Trouble {
    Nothing,
    Flood,
    Hand(Hand),
    HandAndFlood(Hand),
    Full,
    Error,
    Config(Setup),
    ConfigAndFlood(Setup),
    ConfigAndHand(Setup, Hand),
}

/// The outcome of a run.
#[derive(Debug)]
struct Outcome {
    violations: Vec<String>,
    steps: u64,
    kills: u64,
    log: Vec<StepKind>,
    story: String,
}

fn file_sink(name: &str, style: Style, rotation: Option<Rotation>) -> SinkSpec {
    SinkSpec {
        target: Target::File(PathBuf::from(format!("/log/{name}"))),
        style,
        rotation,
    }
}

fn by_size(max_bytes: u64, backups: u32) -> Rotation {
    let backups = Backups(backups);
    Rotation::Size { max_bytes, backups }
}

/// How many old files may stay.
fn kept(rotation: Option<Rotation>) -> u32 {
    match rotation {
        Some(Rotation::Size { backups, .. }) => backups.0,
        Some(Rotation::Time(schedule)) => schedule.keep,
        Some(Rotation::Empty { .. }) | None => 0,
    }
}

fn every_seconds(count: u32, keep: u32) -> Rotation {
    Rotation::Time(Schedule {
        unit: Unit::Seconds,
        count,
        clock: Clock::Utc,
        keep,
    })
}

fn says(child: usize, text: &str) -> Act {
    Act::Says(child, Stream::Stdout, text.as_bytes().to_vec())
}

fn moans(child: usize, text: &str) -> Act {
    Act::Says(child, Stream::Stderr, text.as_bytes().to_vec())
}

/// One run: the manager is started again and again until the script is through.
struct Run {
    world: Rc<RefCell<World>>,
    scenario: Scenario,
    setup: Setup,
    script: std::vec::IntoIter<Act>,
    kills: u64,
    /// Children are attached only after some turns.
    late_attach: u64,
    /// Records handed over per turn.
    pace: u64,
    exact: bool,
    /// Prints what happens.
    tell: bool,
}

impl Run {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut world = World::new(seed);
        for _ in &scenario.setup.routes {
            world.add_child();
        }
        world.cap = scenario.cap;
        world.atomic = scenario.atomic;
        world.tells_baseline = scenario.tells_baseline;
        world.knows_birth = scenario.knows_birth;
        world.keeps_room = scenario.keeps_room;
        world.weather = scenario.weather.clone();
        world.check.line_bytes = scenario.limits.line_bytes;
        let rotations = scenario.setup.sinks.iter().map(|sink| sink.rotation);
        world.check.backups = rotations.map(kept).max().unwrap_or(0);
        Self {
            world: Rc::new(RefCell::new(world)),
            setup: scenario.setup.clone(),
            script: scenario.script.clone().into_iter(),
            scenario: scenario.clone(),
            kills: 0,
            late_attach: 0,
            pace: u64::MAX,
            exact: false,
            tell: false,
        }
    }

    /// No notice, no torn line: every line exactly once.
    fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    fn cut_at(self, cuts: &[Cut]) -> Self {
        self.world.borrow_mut().cuts = cuts.iter().copied().collect();
        self
    }

    fn hand_at(self, step: u64, hand: Hand) -> Self {
        let path = self.path();
        self.world.borrow_mut().hands.push_back((step, hand, path));
        self
    }

    /// The file that others tamper with.
    fn path(&self) -> PathBuf {
        check::path(&self.setup.sinks[0].target).to_owned()
    }

    fn act(&mut self) -> bool {
        let Some(act) = self.script.next() else {
            return false;
        };
        let mut world = self.world.borrow_mut();
        match act {
            Act::Says(child, stream, bytes) => world.output(child, stream, &bytes),
            Act::Ends(child, stream) => {
                world.children[child].ended[index(stream)] = true;
            }
            Act::Pause => world.clock_ns += 1500 * MILLISECOND,
            Act::Clock(seconds) => {
                world.check.clock_set = true;
                world.skew_ns += seconds * 1_000_000_000;
            }
        }
        true
    }

    fn now(&self) -> Now {
        let world = self.world.borrow();
        Now {
            monotonic_ns: world.clock_ns,
            wall_ns: world.wall_ns(),
        }
    }

    fn spec(&self, child: usize, stream: Stream) -> &SinkSpec {
        &self.setup.sinks[self.setup.routes[child][index(stream)]]
    }

    /// One life of the manager. `Ok` when everything is written and acknowledged.
    fn live(&mut self) -> Result<(), Stop> {
        let generation = self.world.borrow().generation;
        let mut access = Access {
            world: Rc::clone(&self.world),
            generation,
        };
        let mut keeper = access.clone();
        let (values, alive) = {
            let world = self.world.borrow();
            let values = world
                .values
                .iter()
                .filter(|(key, _)| key.starts_with(KEY_PREFIX));
            let values: Vec<_> = values.map(|(k, v)| (k.clone(), v.clone())).collect();
            (values, world.alive())
        };
        let zone = self.setup.zone;
        let changes_at = 1_700_000_000 + zone.changes_after;
        let mut zone = SimZone {
            before: zone.before,
            after: zone.after,
            changes_at,
        };
        let mut writer = Writer::new(self.scenario.limits, &values, &alive);
        let mut cursors: BTreeMap<Child, u64> = BTreeMap::new();
        let mut ends: Vec<(Child, Stream)> = Vec::new();
        let mut attached = false;
        let mut failing = BTreeMap::new();
        let mut idle = 0;
        for turn in 0.. {
            if !attached && turn >= self.late_attach {
                attached = true;
                for (number, alive) in alive.iter().enumerate() {
                    let out = self.spec(number, Stream::Stdout);
                    let err = self.spec(number, Stream::Stderr);
                    let label = Label {
                        pid: alive.pid,
                        name: format!("w.{number}").into(),
                    };
                    writer.attach(alive.child, label, out, err, self.now());
                }
                writer.handle_attached_all(self.now());
            }
            // As the thread does that runs it.
            if !attached && !writer.waits_for_children() {
                writer.handle_attached_all(self.now());
            }
            let acted = self.act();
            while let Some((child, from)) = writer.poll_follow() {
                cursors.insert(child, from.0);
            }
            let fed = self.feed(&mut writer, &mut cursors, &mut ends);
            let outcome = writer.turn(&mut access, &mut keeper, &mut zone, self.now())?;
            while let Some(event) = writer.poll_event() {
                self.check_event(&event, &mut failing);
                if self.tell {
                    println!("{}: {event:?}", self.world.borrow().steps);
                }
            }
            if acted || fed || outcome == Turn::Again || !attached {
                idle = 0;
                continue;
            }
            let mut world = self.world.borrow_mut();
            match writer.poll_deadline() {
                Some(deadline) if idle < 200 => {
                    idle += 1;
                    world.clock_ns = world.clock_ns.max(deadline) + 1;
                }
                Some(_) => {
                    world
                        .check
                        .violation("the writer never comes to rest".to_owned());
                    return Ok(());
                }
                None if writer.is_settled() => return Ok(()),
                None => {
                    world
                        .check
                        .violation("the writer rests before it is done".to_owned());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Who says that writing works again has written something since it said that it does not (or, if
    /// others had their hands in it, found it written).
    fn check_event(&self, event: &Event, failing: &mut BTreeMap<Target, u64>) {
        let mut world = self.world.borrow_mut();
        let written = |world: &World, target: &Target| {
            let writes = world.whole_writes.get(check::path(target));
            writes.copied().unwrap_or_default()
        };
        match event {
            Event::SinkFailing(target, _) => {
                failing.insert(target.clone(), written(&world, target));
            }
            Event::SinkRecovered(target) => {
                let before = failing.remove(target);
                let nothing = before.is_none_or(|before| before == written(&world, target));
                if nothing && !world.check.outside {
                    let text = format!("{target:?} recovered, but nothing was written");
                    world.check.violation(text);
                }
            }
            _ => {}
        }
    }

    fn feed<F>(
        &self,
        writer: &mut Writer<F>,
        cursors: &mut BTreeMap<Child, u64>,
        ends: &mut Vec<(Child, Stream)>,
    ) -> bool {
        let world = self.world.borrow();
        let mut fed = false;
        for sim in &world.children {
            let Some(cursor) = cursors.get_mut(&sim.child) else {
                continue;
            };
            for _ in 0..self.pace {
                let (gap, record) = sim.read(*cursor);
                if let Some((to, [out, err])) = gap {
                    writer.handle_gap(sim.child, Sequence(to), out, err);
                    *cursor = to;
                    fed = true;
                }
                let Some(record) = record else { break };
                let block = Arc::new(record.data.clone());
                let length = block.len();
                let sequence = Sequence(record.sequence);
                let chunk = Chunk::new(sequence, record.time_ns, record.at, block, 0, length);
                writer.handle_record(sim.child, record.stream, chunk);
                *cursor = record.sequence + 1;
                fed = true;
            }
            for stream in Stream::ALL {
                let key = (sim.child, stream);
                let through = *cursor >= sim.next;
                if sim.ended[index(stream)] && through && !ends.contains(&key) {
                    let bytes = sim.at[index(stream)];
                    writer.handle_stream_ended(sim.child, stream, Sequence(sim.next), bytes);
                    ends.push(key);
                    fed = true;
                }
            }
        }
        fed
    }

    /// Between two lives.
    fn trouble(&mut self, trouble: &Trouble) {
        let path = self.path();
        let mut world = self.world.borrow_mut();
        world.check.reconfigured |= matches!(
            trouble,
            Trouble::Config(_) | Trouble::ConfigAndFlood(_) | Trouble::ConfigAndHand(..)
        );
        match trouble {
            Trouble::Nothing => {}
            Trouble::Flood => Self::flood(&mut world),
            Trouble::Hand(hand) => world.hand(*hand, &path),
            Trouble::HandAndFlood(hand) => {
                world.hand(*hand, &path);
                Self::flood(&mut world);
            }
            Trouble::Full => {
                world.weather.space = Some(7);
                world.weather.space_back = world.steps + 60;
            }
            Trouble::Error => {
                world.weather.write_error = 60;
                world.weather.space_back = world.steps + 60;
            }
            Trouble::Config(setup) => self.setup = setup.clone(),
            Trouble::ConfigAndFlood(setup) => {
                self.setup = setup.clone();
                Self::flood(&mut world);
            }
            Trouble::ConfigAndHand(setup, hand) => {
                world.hand(*hand, &path);
                self.setup = setup.clone();
            }
        }
    }

    /// Every child writes more than the kernel keeps.
    fn flood(world: &mut World) {
        let cap = world.cap;
        world.cap = cap.min(64);
        for child in 0..world.children.len() {
            for number in 0..12 {
                let stream = if number % 3 == 2 {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                world.output(child, stream, format!("flood {number}\n").as_bytes());
            }
        }
        world.cap = cap;
    }

    /// Lives until it is done; `between` is told after each death.
    fn finish(mut self, mut between: impl FnMut(&mut Self, u64)) -> Outcome {
        loop {
            let result = self.live();
            self.world.borrow_mut().bury();
            match result {
                Ok(()) => break,
                Err(_) => {
                    self.kills += 1;
                    if self.tell {
                        let world = self.world.borrow();
                        println!(
                            "killed before or in step {}\n{}",
                            world.steps,
                            world.story()
                        );
                        for value in world.values.values() {
                            println!("{:?}", super::value::decode(value));
                        }
                    }
                    let kills = self.kills;
                    between(&mut self, kills);
                }
            }
        }
        let mut world = self.world.borrow_mut();
        world.check_end(self.exact, &self.setup.sinks);
        Outcome {
            violations: std::mem::take(&mut world.check.violations),
            steps: world.steps,
            kills: self.kills,
            log: std::mem::take(&mut world.log),
            story: world.story(),
        }
    }
}

impl World {
    /// The files as they are, for people who look for a mistake.
    fn story(&self) -> String {
        let mut story = String::new();
        for (path, slot) in &self.names {
            let text = String::from_utf8_lossy(&self.inodes[*slot].bytes).into_owned();
            story.push_str(&format!("--- {}\n{text}\n", path.display()));
        }
        story
    }
}

/// A die for a run that is told apart by its seed.
fn dice(seed: u64) -> Dice {
    Dice::new(seed ^ 0xd1ce)
}

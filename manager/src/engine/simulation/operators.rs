//! Operators: they give random commands, and the model here keeps what their words may amount to.
//! A command whose answer was lost may have been heard or not, so the model keeps sets.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::kernel::one_in;
use super::scenario::{self, EXTRA};
use crate::command::{
    Add, Caller, Change, Command, Deploy, End, KillRequest, Reload, ReloadConfig, ReloadMethod,
    Remove, Roll, RollOptions, Scale, Selection, SetOptions, SignalRequest, Step, Stopping, Wait,
};
use crate::config::model::{Configuration, WatcherConfig};
use crate::engine::random::Random;
use crate::engine::{SignalTarget, WatcherKey};

/// What one watcher may be asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The last word on whether it runs; `None` for what `autostart` says.
    pub(super) run: BTreeSet<Option<bool>>,
    /// The last word on its number, with the configured number at that time.
    pub(super) count: BTreeSet<Option<(u32, u32)>>,
    /// The last word on its option `args`, with what the file said then.
    pub(super) args: BTreeSet<Option<(String, Option<String>)>>,
    /// The same of versions that were rolled out. They count from when their turn came, which may be
    /// after an edit of the file, and may have been taken back.
    pub(super) deployed: BTreeSet<String>,
    /// Whether there is such a watcher at all.
    pub(super) presence: BTreeSet<Presence>,
}

/// Whether there is a watcher, in the last word on that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Presence {
    There,
    /// Removed, with what the file said then.
    Gone(BTreeMap<String, String>),
    /// The same, with its processes left running.
    Left(BTreeMap<String, String>),
}

impl Presence {
    /// Where nobody has said anything.
    fn of(key: &WatcherKey) -> Self {
        if *key == WatcherKey::of(EXTRA) {
            Self::Gone(BTreeMap::new())
        } else {
            Self::There
        }
    }
}

impl Words {
    fn unsaid(key: &WatcherKey) -> Self {
        Self {
            run: [None].into(),
            count: [None].into(),
            args: [None].into(),
            deployed: BTreeSet::new(),
            presence: [Presence::of(key)].into(),
        }
    }

    /// Whether there may be such a watcher, whether it may be gone, whether it may be left alone.
    pub(super) fn presences(&self, config: &WatcherConfig) -> BTreeSet<Presence> {
        let of_file = config.key() != WatcherKey::of(EXTRA).as_str();
        let presence = |presence: &Presence| match presence {
            Presence::Gone(written) | Presence::Left(written)
                if of_file && *written != config.options =>
            {
                Presence::There
            }
            other => other.clone(),
        };
        self.presence.iter().map(presence).collect()
    }

    /// What the option `args` may be.
    pub(super) fn args(&self, config: &WatcherConfig) -> BTreeSet<String> {
        let of_file = config.options.get("args").cloned();
        let args = |word: &Option<(String, Option<String>)>| match word {
            Some((args, written)) if *written == of_file => args.clone(),
            Some(_) | None => config.args.clone(),
        };
        let words = self.args.iter().map(args);
        words.chain(self.deployed.iter().cloned()).collect()
    }

    pub(super) fn runs(&self, config: &WatcherConfig) -> BTreeSet<bool> {
        self.run
            .iter()
            .map(|word| word.unwrap_or(config.autostart))
            .collect()
    }

    pub(super) fn counts(&self, config: &WatcherConfig) -> BTreeSet<u32> {
        let counts = self.count.iter().map(|word| effective(*word, config));
        counts
            .map(|count| {
                if config.singleton {
                    count.min(1)
                } else {
                    count
                }
            })
            .collect()
    }

    /// It may have been forgotten, or not.
    pub(super) fn blur(&mut self, key: &WatcherKey) {
        self.run.insert(None);
        self.count.insert(None);
        self.args.insert(None);
        self.presence.insert(Presence::of(key));
    }

    fn join(&mut self, other: Self) {
        self.run.extend(other.run);
        self.count.extend(other.count);
        self.args.extend(other.args);
        self.deployed.extend(other.deployed);
        self.presence.extend(other.presence);
    }
}

fn effective(word: Option<(u32, u32)>, config: &WatcherConfig) -> u32 {
    match word {
        Some((count, configured)) if configured == config.numprocesses => count,
        Some(_) | None => config.numprocesses,
    }
}

/// Everything that operators may have said.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) words: BTreeMap<WatcherKey, Words>,
}

impl Model {
    pub(super) fn words(&self, key: &WatcherKey) -> Words {
        self.words
            .get(key)
            .cloned()
            .unwrap_or_else(|| Words::unsaid(key))
    }

    /// A command was heard (and accepted).
    pub(super) fn hear(&mut self, command: &Command, configuration: &Configuration) {
        for config in meant(command, configuration) {
            let key = WatcherKey::of(&config.name);
            let mut words = self.words(&key);
            let before = words.clone();
            hear(&mut words, command, &config);
            // One that may have been removed before may not have been meant by "all".
            let perhaps_gone = before.presence.iter().any(|it| *it != Presence::There);
            let settles = matches!(
                command,
                Command::Add(_) | Command::Rm(_) | Command::Quit(_) | Command::Shutdown(_)
            );
            if perhaps_gone && !settles {
                words.join(before);
            }
            self.words.insert(key, words);
        }
    }

    /// A command may have been heard.
    pub(super) fn perhaps_hear(&mut self, command: &Command, configuration: &Configuration) {
        for config in meant(command, configuration) {
            let key = WatcherKey::of(&config.name);
            let mut words = self.words(&key);
            let mut heard = words.clone();
            hear(&mut heard, command, &config);
            words.join(heard);
            self.words.insert(key, words);
        }
    }

    /// The configuration changed: earlier words on numbers may have lost their meaning.
    pub(super) fn reconfigure(&mut self, configuration: &Configuration) {
        for (key, words) in &mut self.words {
            if *key == WatcherKey::of(EXTRA) {
                continue;
            }
            words.count.insert(None);
            words.args.insert(None);
            let changed =
                |presence: &Presence| match (presence, configuration.watcher(key.as_str())) {
                    (Presence::Gone(written) | Presence::Left(written), Some(config)) => {
                        *written != config.options
                    }
                    (Presence::There, _) | (_, None) => false,
                };
            if words.presence.iter().any(changed) {
                words.presence.insert(Presence::There);
            }
            if configuration.watcher(key.as_str()).is_none() {
                words.blur(key);
            }
        }
    }
}

fn hear(words: &mut Words, command: &Command, config: &WatcherConfig) {
    let change = |words: &mut Words, apply: &dyn Fn(u32) -> u32| {
        if !config.singleton {
            let count = |word: &Option<(u32, u32)>| {
                Some((apply(effective(*word, config)), config.numprocesses))
            };
            words.count = words.count.iter().map(count).collect();
        }
    };
    match command {
        Command::Start(_) | Command::Restart(_) | Command::Reload(_) => {
            words.run = [Some(true)].into();
        }
        Command::Deploy(request) => {
            words.run = [Some(true)].into();
            if let Some(Value::String(args)) = request.options.get("args") {
                words.deployed.insert(args.clone());
            }
        }
        Command::Roll(roll) if !roll.dry_run => words.run = [Some(true)].into(),
        Command::Stop(_) => words.run = [Some(false)].into(),
        Command::Incr(step) => change(words, &|count| count + step.by),
        Command::Decr(step) => change(words, &|count| count.saturating_sub(step.by)),
        Command::Scale(scale) => change(words, &|_| scale.numprocesses),
        Command::Set(request) => {
            if let Some(Value::String(args)) = request.options.get("args") {
                words.args = [Some((args.clone(), config.options.get("args").cloned()))].into();
            }
            if let Some(number) = request.options.get("numprocesses").and_then(Value::as_u64) {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                words.count = [Some((number, config.numprocesses))].into();
            }
        }
        Command::Add(add) => {
            *words = Words::unsaid(&WatcherKey::of(&config.name));
            words.presence = [Presence::There].into();
            words.run = [if add.start { None } else { Some(false) }].into();
        }
        Command::Rm(request) => {
            let key = WatcherKey::of(&config.name);
            let written = if key == WatcherKey::of(EXTRA) {
                BTreeMap::new()
            } else {
                config.options.clone()
            };
            *words = Words::unsaid(&key);
            words.presence = match request.stopping {
                Stopping::Stop => [Presence::Gone(written)].into(),
                // They may end, and then nothing is left of one that no file knows.
                Stopping::Leave => [Presence::Left(written)].into(),
            };
        }
        Command::Quit(_) if !config.use_papa => {
            let key = WatcherKey::of(&config.name);
            let left = words.presence.clone();
            *words = Words::unsaid(&key);
            let left = left
                .into_iter()
                .filter(|it| matches!(it, Presence::Left(_)));
            words.presence.extend(left);
        }
        Command::Shutdown(_) => *words = Words::unsaid(&WatcherKey::of(&config.name)),
        Command::Quit(_)
        | Command::Detach(_)
        | Command::Signal(_)
        | Command::Kill(_)
        | Command::Status(_)
        | Command::States(_)
        | Command::List(_)
        | Command::ListPids(_)
        | Command::NumWatchers
        | Command::NumProcesses(_)
        | Command::Get(_)
        | Command::Options(_)
        | Command::GlobalOptions(_)
        | Command::ReloadConfig(_)
        | Command::Stats(_)
        | Command::Dstats
        | Command::Roll(_)
        | Command::Runs(_)
        | Command::Rollback(_)
        | Command::History(_)
        | Command::Suspend(_)
        | Command::Resume(_)
        | Command::ListSockets => {}
    }
}

/// Whose words a command changes: watchers of the file, and the one that no file knows. Operators
/// here name one or all.
pub(super) fn meant(command: &Command, configuration: &Configuration) -> Vec<WatcherConfig> {
    let known = configuration.watchers.iter().cloned();
    let known: Vec<WatcherConfig> = known.chain([scenario::extra()]).collect();
    let (selection, usual_ones) = match command {
        Command::Start(change) | Command::Restart(change) => (&change.selection, true),
        Command::Stop(change) => (&change.selection, false),
        Command::Reload(reload) => (&reload.selection, true),
        Command::Roll(roll) => (&roll.selection, true),
        Command::Deploy(request) => {
            let named = |config: &WatcherConfig| config.key() == request.watcher.to_lowercase();
            return known.into_iter().filter(named).collect();
        }
        Command::Incr(step) | Command::Decr(step) => (&step.selection, false),
        Command::Scale(scale) => (&scale.selection, false),
        Command::Set(request) => (&request.selection, false),
        Command::Rm(request) => (&request.selection, false),
        Command::Add(_) => return vec![scenario::extra()],
        Command::Quit(_) | Command::Shutdown(_) => return known,
        Command::Signal(_)
        | Command::Kill(_)
        | Command::Detach(_)
        | Command::Status(_)
        | Command::States(_)
        | Command::List(_)
        | Command::ListPids(_)
        | Command::NumWatchers
        | Command::NumProcesses(_)
        | Command::Get(_)
        | Command::Options(_)
        | Command::GlobalOptions(_)
        | Command::ReloadConfig(_)
        | Command::Stats(_)
        | Command::Dstats
        | Command::Runs(_)
        | Command::Rollback(_)
        | Command::History(_)
        | Command::Suspend(_)
        | Command::Resume(_)
        | Command::ListSockets => return Vec::new(),
    };
    let all = selection.watchers.is_empty();
    let named = |config: &WatcherConfig| {
        selection
            .watchers
            .iter()
            .any(|name| config.key() == name.to_lowercase())
    };
    known
        .into_iter()
        .filter(|config| {
            if all {
                !usual_ones || config.autostart
            } else {
                named(config)
            }
        })
        .collect()
}

/// A command that an operator might give.
pub(super) fn random_command(random: &mut Random, configuration: &Configuration) -> Command {
    let wait = if one_in(random, 2) {
        Wait::Done
    } else {
        Wait::No
    };
    let selection = random_selection(random, configuration);
    let change = Change {
        selection: selection.clone(),
        wait,
    };
    match random.up_to(30) {
        0 | 1 => Command::Start(change),
        2 | 3 => Command::Stop(change),
        4 | 5 => Command::Restart(change),
        6 | 7 => {
            let method = match random.up_to(2) {
                0 => ReloadMethod::Sequential,
                1 => ReloadMethod::Terminate,
                _ => ReloadMethod::Graceful,
            };
            Command::Reload(Reload {
                selection,
                method,
                wait,
            })
        }
        8 | 9 => Command::Incr(Step {
            selection,
            by: 1,
            wait,
        }),
        10 => Command::Decr(Step {
            selection,
            by: 1,
            wait,
        }),
        11 => {
            let numprocesses = u32::try_from(random.up_to(4)).unwrap_or(0);
            Command::Scale(Scale {
                selection,
                numprocesses,
                wait,
            })
        }
        12 => Command::Kill(KillRequest {
            selection,
            pid: None,
            worker: one_in(random, 2).then_some(1),
            signal: None,
            graceful_timeout_ms: one_in(random, 2).then_some(100),
            wait,
        }),
        13 => Command::Signal(SignalRequest {
            selection,
            signal: 1,
            pid: None,
            worker: None,
            child_pid: None,
            target: SignalTarget::Process,
        }),
        14 | 15 => {
            let number = random.up_to(4);
            let option = if one_in(random, 3) {
                ("numprocesses".to_owned(), json!(number))
            } else {
                ("args".to_owned(), json!(format!("--level {number}")))
            };
            Command::Set(SetOptions {
                selection,
                options: [option].into(),
                wait,
            })
        }
        16 | 17 => {
            let texts = scenario::extra_options().into_iter();
            Command::Add(Add {
                name: EXTRA.to_owned(),
                options: texts.map(|(key, text)| (key, json!(text))).collect(),
                start: !one_in(random, 3),
                wait,
                ..Add::default()
            })
        }
        18 => Command::Rm(Remove {
            selection,
            stopping: Stopping::from(one_in(random, 3)),
            wait,
        }),
        19 | 20 => Command::ReloadConfig(ReloadConfig {
            dry_run: one_in(random, 3),
            wait,
        }),
        21..=25 => Command::Roll(random_roll(random, selection, wait)),
        26 | 27 if !selection.watchers.is_empty() => {
            let number = random.up_to(4);
            let Roll { options: pace, .. } = random_roll(random, Selection::default(), wait);
            Command::Deploy(Deploy {
                watcher: selection.watchers[0].clone(),
                options: [("args".to_owned(), json!(format!("--version {number}")))].into(),
                env: BTreeMap::new(),
                pace,
                wait,
                by: Caller::default(),
            })
        }
        28 => Command::Suspend(change),
        29 => Command::Resume(change),
        _ => Command::Status(Selection::default()),
    }
}

/// A rolling run that an operator might ask for.
fn random_roll(random: &mut Random, selection: Selection, wait: Wait) -> Roll {
    let mut perhaps = |most: u64| {
        let number = random.up_to(most + 1).checked_sub(1);
        number.and_then(|number| u32::try_from(number).ok())
    };
    let options = RollOptions {
        min_active: perhaps(3),
        max_surge: perhaps(2),
        skew_ms: perhaps(1).map(|it| u64::from(it) * 700),
        timeout_ms: perhaps(2).map(|it| 2000 + u64::from(it) * 10_000),
        force: one_in(random, 5),
        workers: None,
    };
    Roll {
        selection,
        options,
        dry_run: one_in(random, 10),
        wait,
        by: Caller::default(),
    }
}

/// A command after which the manager leaves.
pub(super) fn random_ending(random: &mut Random) -> Command {
    let end = End {
        wait: if one_in(random, 2) {
            Wait::Done
        } else {
            Wait::No
        },
    };
    match random.up_to(5) {
        0 => Command::Shutdown(end),
        1 | 2 => Command::Quit(end),
        _ => Command::Detach(end),
    }
}

fn random_selection(random: &mut Random, configuration: &Configuration) -> Selection {
    let count = u64::try_from(configuration.watchers.len()).unwrap_or(0);
    if one_in(random, 8) {
        return Selection::default();
    }
    if count == 0 || one_in(random, 6) {
        return Selection::one(EXTRA);
    }
    let index = usize::try_from(random.up_to(count - 1)).unwrap_or(0);
    let name = configuration.watchers[index].name.clone();
    let name = if one_in(random, 2) {
        name.to_uppercase()
    } else {
        name
    };
    Selection {
        watchers: vec![name],
        ..Selection::default()
    }
}

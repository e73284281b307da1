//! Operators: they give random commands, and the model here keeps what their words may amount to.
//! A command whose answer was lost may have been heard or not, so the model keeps sets.

use std::collections::{BTreeMap, BTreeSet};

use super::kernel::one_in;
use crate::command::{
    Change, Command, End, KillRequest, Reload, ReloadMethod, Scale, Selection, SignalRequest, Step,
    Wait,
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
}

impl Default for Words {
    fn default() -> Self {
        Self {
            run: [None].into(),
            count: [None].into(),
        }
    }
}

impl Words {
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
    pub(super) fn blur(&mut self) {
        self.run.insert(None);
        self.count.insert(None);
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
        self.words.get(key).cloned().unwrap_or_default()
    }

    /// A command was heard (and accepted).
    pub(super) fn hear(&mut self, command: &Command, configuration: &Configuration) {
        for config in meant(command, configuration) {
            let words = self.words.entry(WatcherKey::of(&config.name)).or_default();
            hear(words, command, config);
        }
    }

    /// A command may have been heard.
    pub(super) fn perhaps_hear(&mut self, command: &Command, configuration: &Configuration) {
        for config in meant(command, configuration) {
            let words = self.words.entry(WatcherKey::of(&config.name)).or_default();
            let mut heard = words.clone();
            hear(&mut heard, command, config);
            words.run.extend(heard.run);
            words.count.extend(heard.count);
        }
    }

    /// The configuration changed: earlier words on numbers may have lost their meaning.
    pub(super) fn reconfigure(&mut self, configuration: &Configuration) {
        for (key, words) in &mut self.words {
            words.count.insert(None);
            if configuration.watcher(key.as_str()).is_none() {
                words.blur();
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
        Command::Stop(_) => words.run = [Some(false)].into(),
        Command::Incr(step) => change(words, &|count| count + step.by),
        Command::Decr(step) => change(words, &|count| count.saturating_sub(step.by)),
        Command::Scale(scale) => change(words, &|_| scale.numprocesses),
        Command::Quit(_) if !config.use_papa => *words = Words::default(),
        Command::Shutdown(_) => *words = Words::default(),
        Command::Quit(_)
        | Command::Detach(_)
        | Command::Signal(_)
        | Command::Kill(_)
        | Command::Status(_)
        | Command::List(_) => {}
    }
}

/// The watchers whose words a command changes. Operators here name one or all.
pub(super) fn meant<'a>(
    command: &Command,
    configuration: &'a Configuration,
) -> Vec<&'a WatcherConfig> {
    let (selection, usual_ones) = match command {
        Command::Start(change) | Command::Restart(change) => (&change.selection, true),
        Command::Stop(change) => (&change.selection, false),
        Command::Reload(reload) => (&reload.selection, true),
        Command::Incr(step) | Command::Decr(step) => (&step.selection, false),
        Command::Scale(scale) => (&scale.selection, false),
        Command::Quit(_) | Command::Shutdown(_) => return configuration.watchers.iter().collect(),
        Command::Signal(_)
        | Command::Kill(_)
        | Command::Detach(_)
        | Command::Status(_)
        | Command::List(_) => return Vec::new(),
    };
    let all = selection.watchers.is_empty();
    let named = |config: &&WatcherConfig| {
        selection
            .watchers
            .iter()
            .any(|name| config.key() == name.to_lowercase())
    };
    configuration
        .watchers
        .iter()
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
    match random.up_to(15) {
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
            target: SignalTarget::Process,
        }),
        _ => Command::Status(Selection::default()),
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
    if count == 0 || one_in(random, 8) {
        return Selection::default();
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

//! Versions of a watcher: what a deploy makes of its options, how that is taken back, and what is
//! remembered of it.

use std::collections::BTreeMap;

use super::{Order, Rolling, Version};
use crate::command::rolling::{Deploy, Purpose, RollOptions, Rollback, RunState, VersionReport};
use crate::command::{Answer, Caller, GetOptions, Refusal, Response, Selection, Wait};
use crate::config::amend::{self, Changes, ENVIRONMENT};
use crate::engine::action::EventAction;
use crate::engine::commands::{Pending, invalid};
use crate::engine::context::Context;
use crate::engine::ids::{CommandId, WatcherKey};
use crate::engine::limits::{VERSIONS_BYTES_MAX, VERSIONS_MAX};
use crate::engine::manager::Engine;
use crate::engine::operation::Operation;
use crate::engine::remember::OptionWord;
use crate::engine::watcher::{Stage, Watcher};

/// What is accepted for one watcher.
struct Accepted {
    key: WatcherKey,
    purpose: Purpose,
    changes: Changes,
    pace: RollOptions,
    by: Caller,
    wait: Wait,
}

impl Engine {
    /// Accepts a new version.
    pub(in crate::engine) fn deploy(
        &mut self,
        command: CommandId,
        request: &Deploy,
    ) -> Result<(), Refusal> {
        let key = self.one(&request.watcher)?;
        let mut changes = amend::changes(&request.options)?;
        if let Some(watcher) = self.watchers.get(&key)
            && !request.env.is_empty()
        {
            let mut environment = match changes.get(ENVIRONMENT) {
                Some(Some(text)) => serde_json::from_str(text).unwrap_or_default(),
                Some(None) | None => watcher.config.environment.clone(),
            };
            environment.extend(request.env.clone());
            let text = serde_json::to_string(&environment)
                .map_err(|error| invalid(format!("the environment cannot be written: {error}")))?;
            changes.insert(ENVIRONMENT.to_owned(), Some(text));
        }
        if changes.is_empty() {
            return Err(invalid(
                "nothing to deploy; give cmd, env or other options".to_owned(),
            ));
        }
        self.accept_version(
            command,
            Accepted {
                key,
                purpose: Purpose::Deploy,
                changes,
                pace: request.pace,
                by: request.by.clone(),
                wait: request.wait,
            },
        )
    }

    /// Accepts an earlier version.
    pub(in crate::engine) fn roll_back(
        &mut self,
        command: CommandId,
        request: &Rollback,
    ) -> Result<(), Refusal> {
        let key = self.one(&request.watcher)?;
        let Some(watcher) = self.watchers.get(&key) else {
            return Err(self.unknown(&request.watcher));
        };
        let changes = watcher.changes_to(request.version)?;
        self.accept_version(
            command,
            Accepted {
                key,
                purpose: Purpose::Rollback,
                changes,
                pace: request.pace,
                by: request.by.clone(),
                wait: request.wait,
            },
        )
    }

    fn one(&self, name: &str) -> Result<WatcherKey, Refusal> {
        let keys = self.select(&Selection::one(name))?;
        keys.into_iter().next().ok_or_else(|| self.unknown(name))
    }

    fn accept_version(&mut self, command: CommandId, accepted: Accepted) -> Result<(), Refusal> {
        let Accepted {
            key,
            purpose,
            changes,
            pace,
            by,
            wait,
        } = accepted;
        self.check_queues([&key])?;
        let now = self.cx.now;
        let Some(watcher) = self.watchers.get_mut(&key) else {
            return Err(self.unknown(key.as_str()));
        };
        watcher.check_free_for_run(now)?;
        watcher.amended_memory(&changes)?;
        watcher.checked_limits(pace)?;
        let mut order = watcher.order_run(now, purpose, by, pace);
        order.changes = changes;
        let waiter = match wait {
            Wait::Done => Some(command),
            Wait::No => None,
        };
        watcher.enqueue(&mut self.cx, Operation::Roll(Box::new(order)), waiter);
        let runs = watcher.run_report(&self.cx).into_iter().collect();
        if watcher.stage == Stage::Down {
            self.grant_turn(&key);
        }
        self.dirty.insert(key);
        match wait {
            Wait::Done => {
                self.pending
                    .insert(command, Pending::of_watchers(1, Vec::new()));
            }
            Wait::No => self.cx.promise(command, Ok(Answer::Runs { runs })),
        }
        Ok(())
    }

    /// The versions of a watcher.
    pub(in crate::engine) fn history(&self, request: &GetOptions) -> Response {
        let key = self.one(&request.watcher)?;
        let Some(watcher) = self.watchers.get(&key) else {
            return Err(self.unknown(&request.watcher));
        };
        Ok(Answer::History {
            watcher: watcher.config.name.clone(),
            versions: watcher.version_reports(),
        })
    }

    /// Works out the options of watchers whose words a run has changed, before anything is started
    /// from them.
    pub(in crate::engine) fn rewrite(&mut self) {
        let due = self.watchers.values().filter(|watcher| watcher.rewritten);
        let due: Vec<WatcherKey> = due.map(|watcher| watcher.key.clone()).collect();
        if due.is_empty() {
            return;
        }
        let now = self.cx.now;
        for key in due {
            if let Some(watcher) = self.watchers.get_mut(&key) {
                watcher.rewritten = false;
                watcher.reconsider(&mut self.cx, &self.base);
                watcher.publish(&mut self.cx, now, EventAction::Updated);
            }
            self.dirty.insert(key);
        }
        self.stale = true;
        self.sort_watchers();
        self.rebuild_configuration();
    }
}

impl Watcher {
    /// Makes the options those of a new version, and remembers it. Gives what operators had said
    /// before about those options.
    pub(super) fn take_version(
        &mut self,
        cx: &Context,
        order: &Order,
    ) -> Result<BTreeMap<String, OptionWord>, Refusal> {
        if order.purpose == Purpose::Reload {
            return Ok(BTreeMap::new());
        }
        let memory = self.amended_memory(&order.changes)?;
        let words = self.words();
        let last = self.memory().versions.iter().rev();
        let known = last
            .filter(|it| it.state == RunState::Done)
            .map(|it| &it.words);
        if known.into_iter().next() != Some(&words) {
            self.push_version(Version {
                number: 0,
                run: None,
                at: cx.now,
                by: Caller::default(),
                purpose: None,
                cmd: self.config.cmd.clone(),
                words,
                state: RunState::Done,
                reason: None,
            });
        }
        let keys = order.changes.keys();
        let before = keys.filter_map(|key| {
            let word = self.memory().options.get(key)?;
            Some((key.clone(), word.clone()))
        });
        let before = before.collect();
        self.memory_mut().options = memory.options;
        self.rewritten = true;
        let cmd = match order.changes.get("cmd") {
            Some(Some(cmd)) => cmd.clone(),
            Some(None) => self
                .base
                .as_ref()
                .map_or_else(String::new, |it| it.cmd.clone()),
            None => self.config.cmd.clone(),
        };
        self.push_version(Version {
            number: 0,
            run: Some(order.run),
            at: cx.now,
            by: order.by.clone(),
            purpose: Some(order.purpose),
            cmd,
            words: self.words(),
            state: RunState::Rolling,
            reason: None,
        });
        Ok(before)
    }

    fn words(&self) -> BTreeMap<String, String> {
        let words = self.memory().options.iter();
        words
            .map(|(key, word)| (key.clone(), word.value.clone()))
            .collect()
    }

    /// Numbers a version and remembers it, and forgets the oldest where they are too many.
    fn push_version(&mut self, version: Version) {
        let versions = &mut self.memory_mut().versions;
        let number = versions.back().map_or(0, |last| last.number) + 1;
        versions.push_back(Version { number, ..version });
        let size = |version: &Version| -> usize {
            let words = version.words.iter();
            words.map(|(key, text)| key.len() + text.len()).sum()
        };
        while versions.len() > VERSIONS_MAX
            || versions.len() > 2 && versions.iter().map(size).sum::<usize>() > VERSIONS_BYTES_MAX
        {
            versions.pop_front();
        }
    }

    /// The words about options are what they were before a run, where nobody has said anything else
    /// since.
    pub(super) fn take_words_back(&mut self, rolling: &Rolling) {
        if rolling.order.purpose == Purpose::Reload {
            return;
        }
        let options = &mut self.memory_mut().options;
        for (key, change) in &rolling.order.changes {
            let current = options.get(key).map(|word| &word.value);
            if current != change.as_ref() {
                continue;
            }
            match rolling.before.get(key) {
                Some(word) => {
                    options.insert(key.clone(), word.clone());
                }
                None => {
                    options.remove(key);
                }
            }
        }
        self.rewritten = true;
    }

    /// What became of the version that a run was to bring.
    pub(super) fn note_outcome(
        &mut self,
        rolling: &Rolling,
        state: RunState,
        reason: Option<&str>,
    ) {
        let run = Some(rolling.order.run);
        let trouble = rolling.back.as_ref().map(|trouble| trouble.why.clone());
        let reason = trouble.or_else(|| reason.map(str::to_owned));
        let versions = &mut self.memory_mut().versions;
        if let Some(version) = versions.iter_mut().find(|version| version.run == run) {
            version.state = state;
            version.reason = reason;
        }
    }

    /// The version that a run brings.
    pub(super) fn version_of(&self, run: u64) -> Option<u64> {
        let mut versions = self.memory().versions.iter();
        let version = versions.find(|version| version.run == Some(run))?;
        Some(version.number)
    }

    /// What has to change for a version to run again.
    fn changes_to(&self, number: Option<u64>) -> Result<Changes, Refusal> {
        let versions = &self.memory().versions;
        let name = &self.config.name;
        let done = || {
            versions
                .iter()
                .rev()
                .filter(|it| it.state == RunState::Done)
        };
        let words = self.words();
        let version = match number {
            Some(number) => versions
                .iter()
                .find(|it| it.number == number)
                .ok_or_else(|| {
                    invalid(format!(
                        "watcher {name:?} has no version {number}; see: kingpole history {name}"
                    ))
                })?,
            None => done().find(|it| it.words != words).ok_or_else(|| {
                invalid(format!(
                    "watcher {name:?} has no version before this one; see: kingpole history {name}"
                ))
            })?,
        };
        let gone = words.keys().filter(|key| !version.words.contains_key(*key));
        let mut changes: Changes = gone.map(|key| (key.clone(), None)).collect();
        let texts = version.words.iter();
        changes.extend(texts.map(|(key, text)| (key.clone(), Some(text.clone()))));
        if changes.is_empty() {
            return Err(invalid(format!(
                "watcher {name:?} runs version {} already",
                version.number
            )));
        }
        Ok(changes)
    }

    fn version_reports(&self) -> Vec<VersionReport> {
        let versions = &self.memory().versions;
        let words = self.words();
        let current = versions.iter().rev();
        let mut current = current.filter(|it| it.state == RunState::Done && it.words == words);
        let current = current.next().map(|version| version.number);
        let report = |version: &Version| {
            let shown = version.words.iter().filter(|(key, _)| *key != ENVIRONMENT);
            let variables = version.words.get(ENVIRONMENT);
            let variables: BTreeMap<String, String> = variables
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            VersionReport {
                version: version.number,
                at: version.at,
                by: version.by.clone(),
                purpose: version.purpose,
                state: version.state,
                reason: version.reason.clone(),
                current: Some(version.number) == current,
                cmd: version.cmd.clone(),
                options: shown
                    .map(|(key, text)| (key.clone(), text.clone()))
                    .collect(),
                env: variables.into_keys().collect(),
            }
        };
        versions.iter().map(report).collect()
    }
}

//! Calls hooks: programs, and Python functions in a host process per watcher. Decides nothing;
//! the engine says when, counts the time, and says when an answer is not wanted any more.

mod command;
mod context;
mod limits;
mod lines;
mod news;
pub(in crate::shells) mod program;
mod python;
pub mod statistics;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use self::limits::NEWS_WAITING_MAX;
pub use self::news::HookNews;
use self::news::{Call, Reporter};
use self::python::{Done, Host, HostSettings, Job};
use super::launch::Circumstances;
use crate::config::model::{Configuration, HookTarget, WatcherConfig};
use crate::engine::{HookAnswer, HookId, HookProcess, HookRequest, WatcherKey};

/// Names the Python to run hooks with, where no virtual environment does.
const PYTHON_VARIABLE: &str = "KINGPOLE_PYTHON";
/// The one that is looked for otherwise.
const PYTHON: &str = "python3";

/// See the module.
#[derive(Debug)]
pub struct HookRunner {
    around: Circumstances,
    reporter: Reporter,
    news: mpsc::Receiver<HookNews>,
    running: BTreeMap<HookId, Running>,
    hosts: BTreeMap<WatcherKey, Host>,
}

/// What runs for a call.
#[derive(Debug)]
enum Running {
    Command(AbortHandle),
    Python(WatcherKey),
}

impl HookRunner {
    /// One that has called nothing yet.
    #[must_use]
    pub fn new(around: Circumstances) -> Self {
        let (sender, news) = mpsc::channel(NEWS_WAITING_MAX);
        Self {
            around,
            reporter: Reporter(sender),
            news,
            running: BTreeMap::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// Calls a hook. Its answer comes as news.
    pub fn call(&mut self, request: &HookRequest, configuration: &Configuration) {
        let name = request.hook.name();
        let watcher = configuration.watcher(request.watcher.as_str());
        let hook = watcher.and_then(|watcher| Some((watcher, watcher.hooks.get(name)?)));
        let Some((watcher, hook)) = hook else {
            return self.fail(request.id, "it is not configured any more".to_owned());
        };
        let call = Call {
            watcher: watcher.name.clone(),
            hook: name,
        };
        let context = context::of(request, watcher, configuration);
        match HookTarget::parse(&hook.target) {
            Err(problem) => self.fail(request.id, problem),
            Ok(HookTarget::Command(words)) => self.run(request.id, words, context, call),
            Ok(HookTarget::Python { module, function }) => {
                let job = Job {
                    call,
                    request: python_request(context, &module, &function),
                    done: Done::Engine(request.id),
                };
                let running = Running::Python(request.watcher.clone());
                self.running.insert(request.id, running);
                self.give(watcher, job);
            }
        }
    }

    /// Ends what runs for a call. There will be no answer.
    pub fn cancel(&mut self, hook: HookId) {
        match self.running.remove(&hook) {
            Some(Running::Command(task)) => task.abort(),
            Some(Running::Python(watcher)) => {
                self.end_host(&watcher);
            }
            None => {}
        }
    }

    /// Ends the Python host of a watcher, and what it is doing with it.
    fn end_host(&mut self, watcher: &WatcherKey) {
        self.hosts.remove(watcher);
    }

    /// Lets `extended_stats` of a watcher add to the statistics of one of its processes. Nothing
    /// if there is no such hook.
    fn extend(
        &mut self,
        watcher: &WatcherConfig,
        configuration: &Configuration,
        processes: &[HookProcess],
        pid: u32,
        stats: &Value,
    ) -> Option<oneshot::Receiver<Result<Value, String>>> {
        let hook = watcher.hooks.get("extended_stats")?;
        let (reply, receiver) = oneshot::channel();
        let Ok(HookTarget::Python { module, function }) = HookTarget::parse(&hook.target) else {
            // A program has no statistics that it could change.
            let _ = reply.send(Err("extended_stats has to be a Python function".to_owned()));
            return Some(receiver);
        };
        let context = context::of_statistics(watcher, configuration, processes, pid, stats);
        let job = Job {
            call: Call {
                watcher: watcher.name.clone(),
                hook: "extended_stats",
            },
            request: python_request(context, &module, &function),
            done: Done::Statistics(reply),
        };
        self.give(watcher, job);
        Some(receiver)
    }

    /// What hooks have to say next.
    pub async fn next(&mut self) -> HookNews {
        loop {
            let Some(news) = self.news.recv().await else {
                // Not while there is a reporter, which is in here.
                return std::future::pending().await;
            };
            match news {
                HookNews::Answer(hook, answer) => {
                    // One that was cancelled meanwhile is not told.
                    if self.running.remove(&hook).is_some() {
                        return HookNews::Answer(hook, answer);
                    }
                }
                HookNews::Log(..) => return news,
            }
        }
    }

    fn run(&mut self, hook: HookId, words: Vec<String>, context: Value, call: Call) {
        let reporter = self.reporter.clone();
        let around = self.around.clone();
        let task = tokio::spawn(async move {
            let answer = command::run(&words, &context, &around, &call, &reporter).await;
            reporter.answer(hook, answer).await;
        });
        self.running
            .insert(hook, Running::Command(task.abort_handle()));
    }

    fn fail(&mut self, hook: HookId, error: String) {
        let reporter = self.reporter.clone();
        let task = tokio::spawn(async move {
            reporter.answer(hook, HookAnswer::Failed(error)).await;
        });
        self.running
            .insert(hook, Running::Command(task.abort_handle()));
    }

    fn give(&mut self, watcher: &WatcherConfig, job: Job) {
        let settings = self.host_settings(watcher);
        let key = WatcherKey::of(&watcher.name);
        let usable = |host: &&Host| host.is_open() && host.settings == settings;
        let job = match self.hosts.get(&key).filter(usable) {
            None => Some(job),
            Some(host) => host.give(job).err(),
        };
        let Some(job) = job else { return };
        let host = Host::start(settings, &self.around, &self.reporter);
        // A fresh host has room.
        let _ = host.give(job);
        self.hosts.insert(key, host);
        self.hosts.retain(|_, host| host.is_open());
    }

    fn host_settings(&self, watcher: &WatcherConfig) -> HostSettings {
        let around = &self.around.environment;
        let own = watcher
            .virtualenv
            .as_ref()
            .map(|directory| directory.join("bin/python"))
            .filter(|python| python.exists());
        let named = || around.get(PYTHON_VARIABLE).map(PathBuf::from);
        let path = watcher
            .environment
            .get("PYTHONPATH")
            .or_else(|| around.get("PYTHONPATH"));
        HostSettings {
            python: own.or_else(named).unwrap_or_else(|| PYTHON.into()),
            path: path.cloned(),
        }
    }
}

fn python_request(mut context: Value, module: &str, function: &str) -> Value {
    context["module"] = json!(module);
    context["function"] = json!(function);
    context
}

#[cfg(test)]
mod tests;

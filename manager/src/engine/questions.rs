//! Commands that only look, beside `status`: numbers, pids, options, and whose resources the shells
//! shall look at.

use super::commands::invalid;
use super::manager::Engine;
use crate::command::{
    Answer, GetOptions, GlobalOptions, ProcessStatistics, Refusal, RefusalKind, Response,
    Selection, StatsRequest, WatcherPids, WatcherStatistics,
};
use crate::config::options;

impl Engine {
    pub(super) fn list_pids(&self, selection: &Selection) -> Response {
        let keys = self.select(selection)?;
        let watchers = keys.iter().filter_map(|key| self.watchers.get(key));
        let watchers = watchers.map(|watcher| WatcherPids {
            watcher: watcher.config.name.clone(),
            pids: watcher.children.values().map(|child| child.pid).collect(),
        });
        Ok(Answer::Pids {
            watchers: watchers.collect(),
        })
    }

    pub(super) fn number_of_watchers(&self) -> Response {
        let there = self.watchers.values().filter(|it| !it.standing.is_over());
        number(there.count())
    }

    pub(super) fn number_of_processes(&self, selection: &Selection) -> Response {
        let keys = self.select(selection)?;
        let watchers = keys.iter().filter_map(|key| self.watchers.get(key));
        number(watchers.map(|watcher| watcher.children.len()).sum())
    }

    pub(super) fn options(&self, request: &GetOptions) -> Response {
        let keys = self.select(&Selection::one(&request.watcher))?;
        let watcher = keys.first().and_then(|key| self.watchers.get(key));
        let Some(watcher) = watcher else {
            return Err(self.unknown(&request.watcher));
        };
        Ok(Answer::Options {
            options: options::of_watcher(&watcher.config, watcher.count()),
        })
    }

    pub(super) fn get(&self, request: &GetOptions) -> Response {
        let Answer::Options { options: mut all } = self.options(request)? else {
            return Err(invalid("options were asked for".to_owned()));
        };
        let mut options = std::collections::BTreeMap::new();
        for key in &request.keys {
            match all.remove(key) {
                Some(value) => {
                    options.insert(key.clone(), value);
                }
                None if options.contains_key(key) => {}
                None => return Err(unknown_option(format!("{key:?} option not found"))),
            }
        }
        Ok(Answer::Options { options })
    }

    pub(super) fn global_options(&self, request: &GlobalOptions) -> Response {
        let mut all = options::of_manager(&self.configuration);
        let options = match &request.option {
            None => all,
            Some(key) => match all.remove(key) {
                Some(value) => [(key.clone(), value)].into(),
                None => return Err(unknown_option(format!("{key:?} not an existing option"))),
            },
        };
        Ok(Answer::Options { options })
    }

    pub(super) fn stats(&self, request: &StatsRequest) -> Response {
        let keys = self.select(&request.selection)?;
        let chosen = self.choose_processes(&keys, request.pid, None)?;
        let of = |key| {
            let watcher = self.watchers.get(key)?;
            let meant = chosen.iter().filter(|(owner, _)| owner == key);
            let children = meant.filter_map(|(_, id)| watcher.children.get(*id));
            let mut processes: Vec<ProcessStatistics> = children
                .map(|child| ProcessStatistics {
                    worker: child.worker(),
                    pid: child.pid,
                    started: child.started,
                    info: None,
                    extended: serde_json::Map::new(),
                })
                .collect();
            processes.sort_by_key(|process| (process.worker, process.pid));
            Some(WatcherStatistics {
                watcher: watcher.config.name.clone(),
                processes,
            })
        };
        let watchers = keys.iter().filter_map(of);
        let watchers = watchers.filter(|it| request.pid.is_none() || !it.processes.is_empty());
        Ok(Answer::Stats {
            watchers: watchers.collect(),
        })
    }

    pub(super) fn list_sockets(&self) -> Response {
        Ok(Answer::Sockets {
            sockets: self.cx.sockets.details(),
        })
    }
}

fn number(count: usize) -> Response {
    Ok(Answer::Number {
        number: u64::try_from(count).unwrap_or(u64::MAX),
    })
}

const fn unknown_option(reason: String) -> Refusal {
    Refusal {
        kind: RefusalKind::UnknownOption,
        reason,
    }
}

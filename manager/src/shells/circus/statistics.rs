//! Circus's `stats` and `dstats`, and the form in which hooks know statistics.

use serde_json::{Map, Value};

use super::info::info;
use super::json::{Tree, repr, to_bytes};
use super::reply::{CircusError, Fields, seconds};
use super::request::Properties;
use super::translate::{Outcome, about, unexpected};
use crate::command::{
    Answer, Command, ProcessInfo, ProcessStatistics, RefusalKind, Selection, StatsRequest,
};
use crate::shells::asking::Asker;
use crate::shells::clock::Clocks;

pub(super) async fn dstats(asker: &Asker) -> Outcome {
    match asker.ask(Command::Dstats).await? {
        Answer::Dstats {
            manager: Some(manager),
        } => Ok(Fields::none().and_tree("info", Tree::Object(info(&manager.info)))),
        Answer::Dstats { manager: None } => {
            Err(CircusError::command("/proc does not show this process"))
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn stats(properties: &Properties, asker: &Asker) -> Outcome {
    let name = properties.text("name")?;
    // Circus ignores the process where no watcher is named.
    let pid = name.map_or(Ok(None), |_| properties.pid("process"))?;
    let request = StatsRequest {
        selection: name.map_or_else(Selection::default, Selection::one),
        pid,
        extended: name.is_some() && properties.flag("extended", false),
    };
    let no_process = |name: &str| {
        let process = pid.map(|pid| pid.to_string()).unwrap_or_default();
        CircusError::message(format!("process {process} not found in {}", repr(name)))
    };
    let answer = asker.ask(Command::Stats(request)).await;
    let answer = answer.map_err(|refusal| match (name, refusal.kind) {
        (Some(name), RefusalKind::UnknownProcess) => no_process(name),
        (name, _) => about(name.unwrap_or_default())(refusal),
    })?;
    let Answer::Stats { watchers } = answer else {
        return Err(unexpected(&answer));
    };
    let clocks = Clocks::read();
    let by_pid = |processes: &[ProcessStatistics]| {
        let each = processes
            .iter()
            .map(|process| (process.pid.0.to_string(), worker_info(process, clocks)));
        Tree::Object(each.collect())
    };
    let Some(name) = name else {
        let infos = watchers
            .iter()
            .map(|watcher| (watcher.watcher.clone(), by_pid(&watcher.processes)));
        return Ok(Fields::none().and_tree("infos", Tree::Object(infos.collect())));
    };
    let processes: Vec<ProcessStatistics> =
        watchers.into_iter().flat_map(|it| it.processes).collect();
    let Some(pid) = pid else {
        let fields = Fields::none().and("name", name);
        return Ok(fields.and_tree("info", by_pid(&processes)));
    };
    let process = processes.first().ok_or_else(|| no_process(name))?;
    let fields = Fields::none().and("process", pid);
    Ok(fields.and_tree("info", worker_info(process, clocks)))
}

fn worker_info(process: &ProcessStatistics, clocks: Clocks) -> Tree {
    let Some(found) = &process.info else {
        return "No such process (stopped?)".into();
    };
    let mut fields = worker_fields(process, found, clocks);
    for (key, value) in &process.extended {
        let value = Tree::from(value.clone());
        match fields.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => fields.push((key.clone(), value)),
        }
    }
    Tree::Object(fields)
}

/// The statistics of one of our processes as hooks know them from Circus.
#[must_use]
pub fn statistics_for_hooks(process: &ProcessStatistics) -> Option<Map<String, Value>> {
    let fields = worker_fields(process, process.info.as_ref()?, Clocks::read());
    serde_json::from_slice(&to_bytes(&Tree::Object(fields))).ok()
}

/// The statistics of one of our processes as Circus tells them.
fn worker_fields(
    process: &ProcessStatistics,
    found: &ProcessInfo,
    clocks: Clocks,
) -> Vec<(String, Tree)> {
    let mut fields = info(found);
    let started = seconds(clocks.wall_of(process.started));
    let now = seconds(clocks.wall_of(crate::shells::clock::now()));
    if let Some((_, age)) = fields.iter_mut().find(|(key, _)| key == "age") {
        *age = (now - started).max(0.0).into();
    }
    fields.push(("started".to_owned(), started.into()));
    fields.push(("wid".to_owned(), process.worker.0.into()));
    fields
}

//! The stats endpoint: what processes use, once a second, in the topics that circus-top draws (section
//! 4.1 of Circus's protocol).
//!
//! Nothing is looked at while nobody listens. Reading `/proc` can block on a busy machine, so a helper
//! thread does it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::info::info;
use super::json::{Tree, to_bytes};
use super::sockets::{self, SocketReads};
use crate::command::{Answer, Command, ProcessInfo, Selection, WatcherPids};
use crate::engine::res_name;
use crate::shells::asking::Asker;
use crate::shells::processes::Sampler;
use crate::shells::zmtp::Publisher;

/// Time between two samples, as in circusd-stats; circus-top forgets a process after three.
const PERIOD: Duration = Duration::from_secs(1);

/// What all topics begin with.
pub(super) const BEGINNING: &[u8] = b"stat.";

/// Publishes for as long as the manager answers.
pub async fn publish(asker: Asker, publisher: Publisher, reads: SocketReads) {
    let sampler = Arc::new(Mutex::new(Sampler::default()));
    let mut changes = publisher.changes();
    loop {
        if !wait_for_listeners(&publisher, &mut changes).await {
            return;
        }
        let mut ticks = interval_at(Instant::now() + PERIOD, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // At once, so that the first percentages are those of the first second.
        while publisher.is_wanted(BEGINNING) {
            let Ok(answer) = asker.ask(Command::ListPids(Selection::default())).await else {
                return;
            };
            if let Answer::Pids { watchers } = answer {
                let sampler = Arc::clone(&sampler);
                let messages = spawn_blocking(move || {
                    let mut sampler = sampler.lock().unwrap_or_else(PoisonError::into_inner);
                    messages(&watchers, &mut sampler)
                });
                for (topic, payload) in messages.await.unwrap_or_default() {
                    publisher.publish(topic.as_bytes(), &payload);
                }
            }
            for (topic, payload) in sockets::messages(&reads.take()) {
                publisher.publish(topic.as_bytes(), &to_bytes(&payload));
            }
            ticks.tick().await;
        }
    }
}

/// False when nobody can come any more.
pub(super) async fn wait_for_listeners(
    publisher: &Publisher,
    changes: &mut watch::Receiver<u64>,
) -> bool {
    loop {
        changes.mark_unchanged();
        if publisher.is_wanted(BEGINNING) {
            return true;
        }
        if changes.changed().await.is_err() {
            return false;
        }
    }
}

/// A topic and its payload.
type Message = (String, Vec<u8>);

fn messages(watchers: &[WatcherPids], sampler: &mut Sampler) -> Vec<Message> {
    let mut messages = Vec::new();
    for watcher in watchers {
        let name = res_name(&watcher.watcher);
        let infos: Vec<ProcessInfo> = watcher
            .pids
            .iter()
            .filter_map(|pid| sampler.info(pid.0))
            .collect();
        group(&name, &infos, None, &mut messages);
    }
    let own: Vec<ProcessInfo> = sampler.info(std::process::id()).into_iter().collect();
    // circus-top looks for the daemon under this name.
    group("circus", &own, Some("circusd"), &mut messages);
    sampler.forget_old();
    messages
}

/// Each process of a group, then the group.
fn group(name: &str, infos: &[ProcessInfo], label: Option<&str>, messages: &mut Vec<Message>) {
    for process in infos {
        let mut fields = info(process);
        fields.push(("subtopic".to_owned(), process.pid.into()));
        fields.push(("name".to_owned(), json!(label).into()));
        let topic = format!("stat.{name}.{}", process.pid);
        messages.push((topic, to_bytes(&Tree::Object(fields))));
    }
    messages.push((format!("stat.{name}"), to_bytes(&aggregate(infos))));
}

fn aggregate(infos: &[ProcessInfo]) -> Tree {
    let pids: Vec<u32> = infos.iter().map(|info| info.pid).collect();
    let sum = |part: fn(&ProcessInfo) -> f64| infos.iter().map(part).sum::<f64>();
    let (cpu, mem, age) = if infos.is_empty() {
        (json!(0.0), json!(0), Value::from("N/A"))
    } else {
        let oldest = infos.iter().map(|info| info.age).fold(0.0, f64::max);
        let mean = sum(|info| info.cpu) / infos.len() as f64;
        (json!(mean), json!(sum(|info| info.mem)), json!(oldest))
    };
    Tree::Object(vec![
        ("pid".to_owned(), pids.into()),
        ("cpu".to_owned(), cpu.into()),
        ("mem".to_owned(), mem.into()),
        ("age".to_owned(), age.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Pid;

    #[test]
    fn each_process_and_its_watcher_have_their_topics() {
        let own = std::process::id();
        let watchers = [
            WatcherPids {
                watcher: "My Web".into(),
                pids: vec![Pid(own), Pid(u32::MAX)],
            },
            WatcherPids {
                watcher: "idle".into(),
                pids: vec![],
            },
        ];
        let messages = messages(&watchers, &mut Sampler::default());
        let topics: Vec<&str> = messages.iter().map(|(topic, _)| topic.as_str()).collect();
        let of_process = format!("stat.my_web.{own}");
        let of_manager = format!("stat.circus.{own}");
        let expected = [
            &of_process,
            "stat.my_web",
            "stat.idle",
            &of_manager,
            "stat.circus",
        ];
        assert_eq!(topics, expected);
        let read = |at: usize| serde_json::from_slice::<Value>(&messages[at].1).unwrap();
        let process = read(0);
        assert_eq!(process["subtopic"], own);
        assert!(process["name"].is_null() && process["cpu"].is_number());
        assert!(process["age"].as_f64().unwrap() >= 0.0);
        assert_eq!(read(1)["pid"], json!([own]));
        assert_eq!(
            messages[2].1,
            br#"{"pid": [], "cpu": 0.0, "mem": 0, "age": "N/A"}"#
        );
        assert_eq!(read(3)["name"], "circusd");
    }
}

//! WatchDog: processes tell by UDP that they are well; those that fall silent are stopped, and the
//! manager starts their successors.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use regex_lite::Regex;
use tokio::net::UdpSocket;
use tokio::sync::broadcast::error::RecvError;

use super::{Tools, every};
use crate::command::{Answer, Command, KillRequest, Selection, Wait};
use crate::config::plugin_settings::WatchDogSettings;
use crate::engine::res_name;
use crate::shells::control::wire::EventLine;

/// Longest heartbeat, as in Circus.
const HEARTBEAT_BYTES: usize = 1024;

/// Processes that are watched over.
#[derive(Debug, Default)]
struct Watched {
    /// Watcher and last sign of life, by pid.
    processes: BTreeMap<u32, (String, Instant)>,
}

impl Watched {
    fn handle_event(&mut self, event: &EventLine, watchers: &Regex, now: Instant) {
        let Some(pid) = event.pid else {
            return;
        };
        match event.action.as_str() {
            "spawn" if watchers.is_match(&res_name(&event.watcher)) => {
                self.processes.insert(pid, (event.watcher.clone(), now));
            }
            "reap" => {
                self.processes.remove(&pid);
            }
            _ => {}
        }
    }

    fn handle_heartbeat(&mut self, text: &str, message: &Regex, now: Instant) {
        let captured = message.captures(text);
        let pid = captured.as_ref().and_then(|found| found.name("pid"));
        let pid = pid.and_then(|pid| pid.as_str().trim().parse::<u32>().ok());
        if let Some((_, seen)) = pid.and_then(|pid| self.processes.get_mut(&pid)) {
            *seen = now;
        }
    }

    /// Those that were silent for too long; they are not watched over any more.
    fn take_silent(&mut self, patience: Duration, now: Instant) -> Vec<(u32, String)> {
        let silent = |seen: &Instant| now.saturating_duration_since(*seen) > patience;
        let found: Vec<(u32, String)> = self
            .processes
            .iter()
            .filter(|(_, (_, seen))| silent(seen))
            .map(|(pid, (watcher, _))| (*pid, watcher.clone()))
            .collect();
        for (pid, _) in &found {
            self.processes.remove(pid);
        }
        found
    }

    async fn discover(&mut self, tools: &Tools, watchers: &Regex) {
        let answer = tools
            .asker
            .ask(Command::ListPids(Selection::default()))
            .await;
        let Ok(Answer::Pids { watchers: found }) = answer else {
            return;
        };
        let now = Instant::now();
        for watcher in found
            .iter()
            .filter(|it| watchers.is_match(&res_name(&it.watcher)))
        {
            for pid in &watcher.pids {
                let fresh = (watcher.watcher.clone(), now);
                self.processes.entry(pid.0).or_insert(fresh);
            }
        }
    }
}

pub(super) async fn run(settings: WatchDogSettings, tools: Tools) -> Result<(), String> {
    let mut events = tools.events.subscribe();
    let WatchDogSettings {
        watchers,
        message,
        period,
        ip,
        port,
        ..
    } = &settings;
    let patience = period.saturating_mul(settings.max_count);
    let graceful_timeout = settings.graceful_timeout.map(|it| it.as_millis());
    let graceful_timeout_ms = graceful_timeout.map(|it| u64::try_from(it).unwrap_or(u64::MAX));
    let socket = UdpSocket::bind((ip.as_str(), *port)).await;
    let socket = socket.map_err(|error| format!("{ip}:{port}: {error}"))?;
    let mut watched = Watched::default();
    watched.discover(&tools, watchers).await;
    let mut heartbeat = vec![0; HEARTBEAT_BYTES];
    let mut ticks = every(*period);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => watched.handle_event(&event, watchers, Instant::now()),
                Err(RecvError::Lagged(_)) => watched.discover(&tools, watchers).await,
                Err(RecvError::Closed) => return Ok(()),
            },
            received = socket.recv(&mut heartbeat) => {
                let text = heartbeat.get(..received.unwrap_or(0)).unwrap_or_default();
                if let Ok(text) = std::str::from_utf8(text) {
                    watched.handle_heartbeat(text, message, Instant::now());
                }
            }
            _ = ticks.tick() => {
                for (pid, watcher) in watched.take_silent(patience, Instant::now()) {
                    tools.log.warning(format!(
                        "watchdog: pid {pid} of watcher {watcher:?} is silent; it is stopped"
                    ));
                    let request = KillRequest {
                        selection: Selection::one(&watcher),
                        pid: Some(pid),
                        worker: None,
                        signal: settings.stop_signal,
                        graceful_timeout_ms,
                        wait: Wait::No,
                    };
                    // It may have ended meanwhile.
                    let _ = tools.asker.ask(Command::Kill(request)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_too_long_is_told_once() {
        let message = Regex::new(r"\A(?:^(?P<pid>.*);(?P<timestamp>.*)$)").unwrap();
        let begun = Instant::now();
        let mut watched = Watched::default();
        for pid in [7, 8] {
            watched.processes.insert(pid, ("web".into(), begun));
        }
        let later = begun + Duration::from_secs(10);
        watched.handle_heartbeat("7;123.4", &message, later);
        watched.handle_heartbeat("9;1", &message, later);
        watched.handle_heartbeat("nonsense", &message, later);
        let patience = Duration::from_secs(5);
        assert_eq!(
            watched.take_silent(patience, later),
            [(8, "web".to_owned())]
        );
        assert_eq!(watched.take_silent(patience, later), []);
    }
}

//! ResourceWatcher: restarts a watcher whose processes use too much or too little for too long.

use std::collections::BTreeMap;

use super::statsd::Statsd;
use super::{Tools, every};
use crate::command::{Command, ProcessInfo, Selection, SignalRequest};
use crate::config::plugin_settings::{Bounds, Memory, ResourceWatcherSettings};
use crate::engine::SignalTarget;

/// Which bounds processes break: names of metrics.
fn broken(bounds: &Bounds, use_of: &Use) -> [(&'static str, bool); 5] {
    let over = bounds.max_mem.is_some_and(|bound| match bound {
        Memory::Percent(bound) => use_of.max_mem > bound,
        Memory::Bytes(bound) => use_of.max_bytes > bound,
    });
    let under = bounds.min_mem.is_some_and(|bound| match bound {
        Memory::Percent(bound) => use_of.min_mem < bound,
        Memory::Bytes(bound) => use_of.min_bytes < bound,
    });
    let health = f64::midpoint(use_of.max_cpu, use_of.max_mem) > bounds.health;
    [
        (
            "over_cpu",
            bounds.max_cpu > 0.0 && use_of.max_cpu > bounds.max_cpu,
        ),
        (
            "under_cpu",
            bounds.min_cpu.is_some_and(|min| use_of.min_cpu <= min),
        ),
        ("over_memory", over),
        ("under_memory", under),
        ("over_health", bounds.health > 0.0 && health),
    ]
}

/// What processes use at most and at least; nothing at all where there are none.
#[derive(Debug, Default, PartialEq)]
struct Use {
    max_cpu: f64,
    min_cpu: f64,
    max_mem: f64,
    min_mem: f64,
    max_bytes: u64,
    min_bytes: u64,
}

impl Use {
    fn of(infos: &[&ProcessInfo]) -> Self {
        let Some(first) = infos.first() else {
            return Self::default();
        };
        let one = |info: &ProcessInfo| Self {
            max_cpu: info.cpu,
            min_cpu: info.cpu,
            max_mem: info.mem,
            min_mem: info.mem,
            max_bytes: info.resident_bytes,
            min_bytes: info.resident_bytes,
        };
        infos.iter().fold(one(first), |all, info| Self {
            max_cpu: all.max_cpu.max(info.cpu),
            min_cpu: all.min_cpu.min(info.cpu),
            max_mem: all.max_mem.max(info.mem),
            min_mem: all.min_mem.min(info.mem),
            max_bytes: all.max_bytes.max(info.resident_bytes),
            min_bytes: all.min_bytes.min(info.resident_bytes),
        })
    }
}

/// How often in a row each bound was broken.
#[derive(Debug, Default)]
struct Counts([u64; 5]);

impl Counts {
    /// Counts, and says whether it was too often; then it begins anew.
    fn add(&mut self, broken: [(&'static str, bool); 5], max_count: u64) -> bool {
        for (count, (_, broken)) in self.0.iter_mut().zip(broken) {
            *count = if broken { count.saturating_add(1) } else { 0 };
        }
        let too_often = self.0.iter().any(|count| *count > max_count);
        if too_often {
            *self = Self::default();
        }
        too_often
    }
}

pub(super) async fn run(settings: ResourceWatcherSettings, tools: Tools) -> Result<(), String> {
    let (watcher, bounds) = (settings.watcher.as_str(), &settings.bounds);
    let statsd = Statsd::open(&settings.statsd).await?;
    let metric = |name: &str| format!("_resource_watcher.{watcher}.{name}");
    let mut ticks = every(settings.period);
    let mut own = Counts::default();
    let mut children: BTreeMap<u32, Counts> = BTreeMap::new();
    loop {
        ticks.tick().await;
        let Ok(found) = tools.statistics(Some(watcher)).await else {
            statsd.increment(&metric("error"));
            continue;
        };
        let processes: Vec<&ProcessInfo> = found
            .iter()
            .flat_map(|watcher| &watcher.processes)
            .filter_map(|process| process.info.as_ref())
            .collect();
        let judge = |counts: &mut Counts, infos: &[&ProcessInfo]| {
            let broken = broken(bounds, &Use::of(infos));
            for (name, _) in broken.iter().filter(|(_, broken)| *broken) {
                statsd.increment(&metric(name));
            }
            let too_often = counts.add(broken, bounds.max_count);
            if too_often {
                statsd.increment(&metric("restarting"));
            }
            too_often
        };
        if judge(&mut own, &processes) {
            tools.log.warning(format!(
                "resource_watcher: watcher {watcher:?} is beyond its bounds; restarting it"
            ));
            if let Err(reason) = tools.restart(watcher).await {
                tools.log.warning(format!("resource_watcher: {reason}"));
            }
        }
        if !settings.process_children {
            continue;
        }
        let mut before = std::mem::take(&mut children);
        for parent in processes {
            for child in &parent.children {
                let mut counts = before.remove(&child.pid).unwrap_or_default();
                if judge(&mut counts, &[child]) {
                    let request = SignalRequest {
                        selection: Selection::one(watcher),
                        signal: settings.child_signal,
                        pid: Some(parent.pid),
                        worker: None,
                        child_pid: Some(child.pid),
                        target: SignalTarget::default(),
                    };
                    // It may have ended meanwhile.
                    let _ = tools.asker.ask(Command::Signal(request)).await;
                }
                children.insert(child.pid, counts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plugin_settings::PluginOptions;

    fn options(all: &[(&str, &str)]) -> PluginOptions {
        let all = all
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        PluginOptions::new(all.collect())
    }

    fn broken(options: &[(&str, &str)], use_of: &Use) -> Vec<&'static str> {
        let bounds = Bounds::read(&self::options(options)).unwrap();
        let broken = super::broken(&bounds, use_of).into_iter();
        broken.filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }

    #[test]
    fn bounds_are_those_of_circus() {
        let busy = Use {
            max_cpu: 95.0,
            min_cpu: 1.0,
            max_mem: 60.0,
            min_mem: 0.5,
            max_bytes: 60 << 20,
            min_bytes: 1 << 20,
        };
        assert_eq!(broken(&[], &busy), ["over_cpu", "over_health"]);
        let all = [
            ("max_cpu", "99"),
            ("min_cpu", "1"),
            ("max_mem", "50M"),
            ("min_mem", "2M"),
            ("health_threshold", "0"),
        ];
        assert_eq!(
            broken(&all, &busy),
            ["under_cpu", "over_memory", "under_memory"]
        );
        assert_eq!(broken(&[("max_mem", "59.5")], &busy).len(), 3);
        assert_eq!(broken(&[("min_cpu", "0")], &Use::default()), ["under_cpu"]);
        assert!(Bounds::read(&options(&[("max_mem", "much")])).is_err());
    }

    #[test]
    fn only_too_often_in_a_row_counts() {
        let yes = [
            ("a", true),
            ("b", false),
            ("c", false),
            ("d", false),
            ("e", false),
        ];
        let no = [("a", false); 5];
        let mut counts = Counts::default();
        let mut seen = Vec::new();
        for broken in [yes, yes, no, yes, yes, yes, yes] {
            seen.push(counts.add(broken, 2));
        }
        assert_eq!(seen, [false, false, false, false, false, true, false]);
    }
}

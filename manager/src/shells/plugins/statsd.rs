//! Metrics in the form of statsd: one datagram each, never waited for. StatsdEmitter counts events,
//! FullStats tells what processes use.

use std::net::{SocketAddr, UdpSocket};

use tokio::net::lookup_host;
use tokio::sync::broadcast::error::RecvError;

use super::{Tools, every};
use crate::command::{ProcessInfo, WatcherStatistics};
use crate::config::plugin_settings::{FullStatsSettings, StatsdSettings};

/// Sends metrics to one server.
#[derive(Debug)]
pub(super) struct Statsd {
    socket: UdpSocket,
    prefix: String,
    /// `|@0.5`, or nothing for 1.
    rate: String,
}

impl Statsd {
    /// Finds the server.
    ///
    /// # Errors
    /// When it has no address.
    pub(super) async fn open(settings: &StatsdSettings) -> Result<Self, String> {
        let StatsdSettings {
            application,
            host,
            port,
            sample_rate: rate,
        } = settings;
        let found = lookup_host((host.as_str(), *port)).await;
        let found = found.map_err(|error| format!("host = {host}: {error}"))?;
        let address = found
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| format!("host = {host} has no address"))?;
        let own = match address {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        };
        let connected = || {
            let socket = UdpSocket::bind(own)?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        let socket = connected().map_err(|error| format!("statsd at {address}: {error}"))?;
        #[expect(clippy::float_cmp, reason = "as written")]
        let rate = if *rate == 1.0 {
            String::new()
        } else {
            format!("|@{rate:?}")
        };
        Ok(Self {
            socket,
            prefix: format!("circus.{application}.watcher"),
            rate,
        })
    }

    fn send(&self, bucket: &str, value: &str, kind: &str) {
        let (prefix, rate) = (&self.prefix, &self.rate);
        let datagram = format!("{prefix}.{bucket}:{value}|{kind}{rate}");
        // Nobody may be there, and a full queue is no reason to wait.
        let _ = self.socket.send(datagram.as_bytes());
    }

    /// Counts one.
    pub(super) fn increment(&self, bucket: &str) {
        self.send(bucket, "1", "c");
    }

    /// Tells a value.
    pub(super) fn gauge(&self, bucket: &str, value: &str) {
        self.send(bucket, value, "g");
    }

    /// Tells a time.
    pub(super) fn timed(&self, bucket: &str, milliseconds: u128) {
        self.send(bucket, &milliseconds.to_string(), "ms");
    }
}

/// StatsdEmitter: each event is counted.
pub(super) async fn emit(settings: StatsdSettings, tools: Tools) -> Result<(), String> {
    let mut events = tools.events.subscribe();
    let statsd = Statsd::open(&settings).await?;
    loop {
        match events.recv().await {
            // `NAME.ACTION` is what stands behind `watcher.` in the topic.
            Ok(event) => {
                let bucket = event.topic.strip_prefix("watcher.");
                statsd.increment(bucket.unwrap_or(&event.topic));
            }
            Err(RecvError::Lagged(count)) => tools.log.warning(format!(
                "statsd: {count} events came too fast and were not counted"
            )),
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// FullStats: what the processes of each watcher use, every `loop_rate` seconds.
pub(super) async fn full_stats(settings: FullStatsSettings, tools: Tools) -> Result<(), String> {
    let statsd = Statsd::open(&settings.statsd).await?;
    let mut ticks = every(settings.period);
    loop {
        ticks.tick().await;
        match tools.statistics(None).await {
            Ok(watchers) => {
                for watcher in watchers {
                    for (bucket, value) in gauges(&watcher) {
                        statsd.gauge(&bucket, &value);
                    }
                }
            }
            Err(_) => statsd.increment("_stats.error"),
        }
    }
}

fn gauges(watcher: &WatcherStatistics) -> Vec<(String, String)> {
    let name = &watcher.watcher;
    if name.starts_with("plugin:") {
        return Vec::new();
    }
    let infos: Vec<&ProcessInfo> = watcher
        .processes
        .iter()
        .filter_map(|process| process.info.as_ref())
        .collect();
    let mut gauges = vec![("watchers_num", infos.len().to_string())];
    if !infos.is_empty() {
        let max =
            |part: fn(&ProcessInfo) -> f64| infos.iter().map(|it| part(it)).fold(0.0, f64::max);
        let sum = |part: fn(&ProcessInfo) -> f64| infos.iter().map(|it| part(it)).sum::<f64>();
        let bytes = || infos.iter().map(|info| info.resident_bytes);
        gauges.extend([
            ("cpu_max", format!("{:?}", max(|it| it.cpu))),
            ("cpu_sum", format!("{:?}", sum(|it| it.cpu))),
            ("mem_pct_max", format!("{:?}", max(|it| it.mem))),
            ("mem_pct_sum", format!("{:?}", sum(|it| it.mem))),
            ("mem_max", bytes().max().unwrap_or_default().to_string()),
            ("mem_sum", bytes().sum::<u64>().to_string()),
        ]);
    }
    let named = |(key, value)| (format!("_stats.{name}.{key}"), value);
    gauges.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(port: u16, application: &str, sample_rate: f64) -> StatsdSettings {
        StatsdSettings {
            application: application.to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            sample_rate,
        }
    }

    #[tokio::test]
    async fn metrics_are_written_as_circus_writes_them() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        let port = server.local_addr().unwrap().port();
        let plain = Statsd::open(&settings(port, "app", 1.0)).await.unwrap();
        let sampled = Statsd::open(&settings(port, "app1", 0.5)).await.unwrap();
        plain.gauge("_stats.x.mem_max", "1457520");
        plain.timed("http_stats.request_time", 12);
        sampled.increment("fast.reap");
        let mut buffer = [0; 200];
        for expected in [
            "circus.app.watcher._stats.x.mem_max:1457520|g",
            "circus.app.watcher.http_stats.request_time:12|ms",
            "circus.app1.watcher.fast.reap:1|c|@0.5",
        ] {
            let count = server.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..count]), Ok(expected));
        }
    }

    #[test]
    fn a_watcher_without_processes_has_only_their_number() {
        let watcher = WatcherStatistics {
            watcher: "web".into(),
            processes: vec![],
        };
        let expected = [("_stats.web.watchers_num".to_owned(), "0".to_owned())];
        assert_eq!(gauges(&watcher), expected);
        let plugin = WatcherStatistics {
            watcher: "plugin:x".into(),
            processes: vec![],
        };
        assert!(gauges(&plugin).is_empty());
    }
}

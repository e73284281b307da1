//! RedisObserver: asks a redis server how it is, tells statsd, and restarts a watcher when there is no
//! answer in time.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::statsd::Statsd;
use super::{Tools, every};
use crate::config::plugin_settings::{RedisObserverSettings, RedisServer};

/// What is told of INFO's answer.
const OBSERVED: [&str; 22] = [
    "pubsub_channels",
    "connected_slaves",
    "lru_clock",
    "connected_clients",
    "keyspace_misses",
    "used_memory",
    "used_memory_peak",
    "total_commands_processed",
    "used_memory_rss",
    "total_connections_received",
    "pubsub_patterns",
    "used_cpu_sys",
    "used_cpu_sys_children",
    "blocked_clients",
    "used_cpu_user",
    "client_biggest_input_buf",
    "mem_fragmentation_ratio",
    "expired_keys",
    "evicted_keys",
    "client_longest_output_list",
    "uptime_in_seconds",
    "keyspace_hits",
];

/// Longest answer that is read; INFO has some kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Longest line of the protocol around answers.
const LINE_BYTES_MAX: u64 = 4096;

/// The text of INFO.
async fn info(server: &RedisServer) -> Result<String, String> {
    let say = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let mut stream = BufReader::new(stream.map_err(say)?);
    let mut commands = Vec::new();
    if !server.authentication.is_empty() {
        let mut words = vec!["AUTH"];
        words.extend(server.authentication.iter().map(String::as_str));
        commands.push(words);
    }
    if let Some(database) = &server.database {
        commands.push(vec!["SELECT", database]);
    }
    commands.push(vec!["INFO"]);
    let mut answer = String::new();
    for words in commands {
        stream.write_all(&request(&words)).await.map_err(say)?;
        answer = reply(&mut stream).await?;
    }
    Ok(answer)
}

/// A command in redis's protocol.
fn request(words: &[&str]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    request.into_bytes()
}

async fn reply(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = Vec::new();
    let mut limited = (&mut *stream).take(LINE_BYTES_MAX);
    let count = limited.read_until(b'\n', &mut line).await;
    count.map_err(|error| error.to_string())?;
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    match (line.chars().next(), line.get(1..)) {
        (Some('+'), Some(text)) => Ok(text.to_owned()),
        (Some('$'), Some(said)) => {
            let length = said.parse().ok().filter(|n| *n <= ANSWER_BYTES_MAX);
            let length: usize = length.ok_or_else(|| format!("an answer of {said} bytes"))?;
            let mut body = vec![0; length + 2];
            let read = stream.read_exact(&mut body).await;
            read.map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(&body).into_owned())
        }
        _ => Err(format!("the server says {line:?}")),
    }
}

fn gauges(info: &str) -> impl Iterator<Item = (&str, &str)> {
    let fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| OBSERVED.contains(key))
}

pub(super) async fn run(settings: RedisObserverSettings, tools: Tools) -> Result<(), String> {
    let (server, patience) = (&settings.server, settings.timeout);
    let statsd = Statsd::open(&settings.statsd).await?;
    let mut ticks = every(settings.period);
    loop {
        ticks.tick().await;
        let answer = timeout(patience, info(server)).await;
        match answer.unwrap_or_else(|_| Err(format!("no answer within {patience:?}"))) {
            Ok(info) => {
                for (key, value) in gauges(&info) {
                    statsd.gauge(&format!("redis_stats.{key}"), value.trim());
                }
            }
            Err(reason) => {
                statsd.increment("redis_stats.error");
                if let Some(watcher) = &settings.restart {
                    tools.log.warning(format!(
                        "redis_observer: {}:{}: {reason}; restarting watcher {watcher:?}",
                        server.host, server.port
                    ));
                    if let Err(reason) = tools.restart(watcher).await {
                        tools.log.warning(format!("redis_observer: {reason}"));
                    }
                    statsd.increment("redis_stats.restart_on_error");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_circus_tells_is_told() {
        let info = "# Clients\r\nconnected_clients:3\r\nredis_version:7\r\nused_cpu_sys:0.5\r\n";
        let told: Vec<_> = gauges(info).collect();
        assert_eq!(told, [("connected_clients", "3"), ("used_cpu_sys", "0.5")]);
        assert_eq!(
            request(&["SELECT", "0"]),
            b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n"
        );
    }
}

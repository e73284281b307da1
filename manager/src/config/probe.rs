//! What probes look at: the values of `ready` and `alive`, which are a word for the kind and what it
//! needs, and the times around them.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::coerce;
use super::defaults;
use super::http_address::HttpAddress;
use super::ini::{quoted, strip};
use super::limits;
use super::model::as_seconds;
use super::section::Reader;
use super::suggest;
use super::variables;
use super::words;

/// How it is found out whether a process is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It has run for so long.
    Uptime(Duration),
    /// It says so itself, by systemd's protocol.
    Notify,
    /// Something accepts a connection at `HOST:PORT`, as written.
    Tcp(String),
    /// A GET of this URL, as written, is answered with a status from 200 to 399.
    Http(String),
    /// This command line, as written, ends with exit status 0.
    Exec(String),
    /// It writes a line that this regular expression matches.
    Log(String),
}

/// When a process counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadyConfig {
    /// How it is found out; a process that runs is ready when absent.
    pub probe: Option<Probe>,
    /// How long a process may take after its start.
    #[serde(serialize_with = "as_seconds")]
    pub timeout: Duration,
    /// Pause between two attempts of a probe.
    #[serde(serialize_with = "as_seconds")]
    pub interval: Duration,
    /// How long one attempt may take.
    #[serde(serialize_with = "as_seconds")]
    pub probe_limit: Duration,
}

/// When a process that was ready is replaced because it does not answer any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AliveConfig {
    /// How it is found out; never when absent.
    pub probe: Option<Probe>,
    /// Pause between two looks.
    #[serde(serialize_with = "as_seconds")]
    pub interval: Duration,
    /// Pause before the first look once it is ready.
    #[serde(serialize_with = "as_seconds")]
    pub grace: Duration,
    /// How many looks in a row have to fail.
    pub failures: u32,
    /// How long one look may take.
    #[serde(serialize_with = "as_seconds")]
    pub probe_limit: Duration,
}

/// Reads `ready` and what belongs to it.
pub(super) fn read_ready(reader: &mut Reader<'_>) -> ReadyConfig {
    let plain = defaults::READY;
    ReadyConfig {
        probe: reader.parsed_or("ready", |text| Probe::parse(text, Purpose::Ready)),
        timeout: reader.seconds("ready_timeout", plain.timeout),
        interval: pause(reader, "ready_interval", plain.interval),
        ..plain
    }
}

/// Reads `alive` and what belongs to it.
pub(super) fn read_alive(reader: &mut Reader<'_>) -> AliveConfig {
    let plain = defaults::ALIVE;
    let interval = pause(reader, "alive_interval", plain.interval);
    let failures = reader.integer("alive_failures", 1..=limits::ALIVE_FAILURES);
    AliveConfig {
        probe: reader.parsed_or("alive", |text| Probe::parse(text, Purpose::Alive)),
        interval,
        grace: reader.seconds("alive_grace", interval),
        failures: failures
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(plain.failures),
        probe_limit: pause(reader, "alive_timeout", plain.probe_limit),
    }
}

/// A time that keeps no processor busy.
fn pause(reader: &mut Reader<'_>, key: &str, default: Duration) -> Duration {
    let pause = reader.seconds(key, default);
    if pause >= limits::PROBE_PAUSE {
        return pause;
    }
    if let Some(written) = reader.written(key) {
        let least = limits::PROBE_PAUSE.as_secs_f64();
        let problem = format!(
            "must be at least {least} s: {}",
            quoted(&written.entry.value)
        );
        reader.error(written.entry, &problem);
    }
    default
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whether a process is ready.
    Ready,
    /// Whether it still answers.
    Alive,
}

impl Purpose {
    /// The word of each kind, and what has to stand behind it.
    const fn kinds(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ready => &[
                ("uptime", "SECONDS"),
                ("notify", ""),
                ("tcp", "HOST:PORT"),
                ("http", "URL"),
                ("exec", "COMMAND"),
                ("log", "REGEX"),
            ],
            Self::Alive => &[("tcp", "HOST:PORT"), ("http", "URL"), ("exec", "COMMAND")],
        }
    }
}

impl Probe {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind the name of the option.
    pub(super) fn parse(text: &str, purpose: Purpose) -> Result<Self, String> {
        let text = strip(text);
        let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = strip(rest);
        let kind = kind.to_lowercase();
        if kind.starts_with("http://") {
            return Err("needs the word http before the address".to_owned());
        }
        let kinds = purpose.kinds();
        if !kinds.iter().any(|(known, _)| *known == kind) {
            return Err(no_kind(&kind, kinds));
        }
        match kind.as_str() {
            "uptime" => coerce::float(rest)
                .and_then(coerce::duration)
                .map(Self::Uptime)
                .ok_or_else(|| "needs a number of seconds behind uptime".to_owned()),
            "notify" if rest.is_empty() => Ok(Self::Notify),
            "notify" => Err("takes nothing behind notify".to_owned()),
            "log" if rest.is_empty() => Err("needs a regular expression behind log".to_owned()),
            "log" => match line_regex(rest) {
                Ok(_) => Ok(Self::Log(rest.to_owned())),
                Err(error) => Err(format!("is no regular expression behind log: {error}")),
            },
            "tcp" if is_address(rest) => Ok(Self::Tcp(rest.to_owned())),
            "tcp" => Err("needs HOST:PORT behind tcp".to_owned()),
            "http" => match HttpAddress::parse(&with_placeholders(rest)) {
                Some(_) => Ok(Self::Http(rest.to_owned())),
                None => Err("needs an address of http:// behind http".to_owned()),
            },
            "exec" => match words::split(rest) {
                Ok(words) if words.is_empty() => Err("needs a command behind exec".to_owned()),
                Ok(_) => Ok(Self::Exec(rest.to_owned())),
                Err(error) => Err(format!("cannot be split into words: {error}")),
            },
            other => Err(no_kind(other, kinds)),
        }
    }
}

/// What a line of output is searched for.
///
/// # Errors
/// What is wrong with it, for people.
pub fn line_regex(text: &str) -> Result<regex_lite::Regex, String> {
    regex_lite::RegexBuilder::new(text)
        .size_limit(limits::LINE_REGEX_BYTES)
        .build()
        .map_err(|error| error.to_string())
}

/// Reads `watchdog`.
pub(super) fn read_watchdog(reader: &mut Reader<'_>) -> Option<Duration> {
    let pause = reader.seconds("watchdog", Duration::ZERO);
    if pause.is_zero() || pause >= limits::WATCHDOG {
        return (!pause.is_zero()).then_some(pause);
    }
    if let Some(written) = reader.written("watchdog") {
        let least = limits::WATCHDOG.as_secs_f64();
        let problem = format!(
            "must be 0 or at least {least} s: {}",
            quoted(&written.entry.value)
        );
        reader.error(written.entry, &problem);
    }
    None
}

fn no_kind(word: &str, kinds: &[(&str, &str)]) -> String {
    let all: Vec<String> = kinds
        .iter()
        .map(|(kind, what)| format!("{kind} {what}").trim_end().to_owned())
        .collect();
    let hint = suggest::nearest(word, kinds.iter().map(|(kind, _)| *kind))
        .map(|meant| format!("; did you mean {meant}?"))
        .unwrap_or_default();
    format!("must be {}{hint}", all.join(", "))
}

/// With something in the place of each variable, which are replaced when a process is looked at.
fn with_placeholders(text: &str) -> String {
    variables::expand(text, &|_| Some("1".to_owned()))
}

/// Whether it is `HOST:PORT`, once its variables are replaced.
fn is_address(text: &str) -> bool {
    let text = with_placeholders(text);
    let clean = text.chars().all(|c| c.is_ascii_graphic());
    let parts = text.rsplit_once(':');
    clean && parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// As it is written.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uptime(time) => write!(f, "uptime {}", time.as_secs_f64()),
            Self::Notify => f.write_str("notify"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Http(url) => write!(f, "http {url}"),
            Self::Exec(command) => write!(f, "exec {command}"),
            Self::Log(regex) => write!(f, "log {regex}"),
        }
    }
}

impl Serialize for Probe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_read_and_written_alike() {
        for text in [
            "uptime 5",
            "uptime 0.5",
            "tcp 127.0.0.1:80",
            "tcp [::1]:80$(circus.wid)",
            "http http://127.0.0.1:$(circus.env.port)/health",
            "exec test -e 'a b'",
            "notify",
            "log ^Listening on .*:[0-9]+$",
        ] {
            let probe = Probe::parse(text, Purpose::Ready).expect(text);
            assert_eq!(probe.to_string(), text);
        }
        assert_eq!(
            Probe::parse(" UPTIME  2 ", Purpose::Ready),
            Ok(Probe::Uptime(Duration::from_secs(2)))
        );
    }

    #[test]
    fn an_expression_for_lines_that_cannot_be_used_says_why() {
        for text in ["log (", "log a{1000}{1000}"] {
            let problem = Probe::parse(text, Purpose::Ready).unwrap_err();
            let begins = "is no regular expression behind log: ";
            assert!(problem.starts_with(begins), "{text}: {problem}");
        }
    }

    #[test]
    fn what_is_no_probe_says_what_would_be() {
        for (text, problem) in [
            ("uptime", "needs a number of seconds behind uptime"),
            ("uptime -1", "needs a number of seconds behind uptime"),
            ("tcp 80", "needs HOST:PORT behind tcp"),
            ("tcp :80", "needs HOST:PORT behind tcp"),
            ("tcp localhost:http", "needs HOST:PORT behind tcp"),
            ("http x", "needs an address of http:// behind http"),
            ("http https://x/", "needs an address of http:// behind http"),
            ("http://x/", "needs the word http before the address"),
            ("notify me", "takes nothing behind notify"),
            ("log", "needs a regular expression behind log"),
            ("exec", "needs a command behind exec"),
            (
                "exec 'a",
                "cannot be split into words: no closing quotation mark",
            ),
            (
                "uptme 3",
                "must be uptime SECONDS, notify, tcp HOST:PORT, http URL, exec COMMAND, log REGEX; did you mean uptime?",
            ),
            (
                "",
                "must be uptime SECONDS, notify, tcp HOST:PORT, http URL, exec COMMAND, log REGEX",
            ),
        ] {
            assert_eq!(
                Probe::parse(text, Purpose::Ready),
                Err(problem.to_owned()),
                "{text}"
            );
        }
    }
}

//! What uWSGI's statistics servers say about vassals.

use std::fmt;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::Vassal;

/// How long a statistics server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest statistics that are read.
const STATISTICS_BYTES_MAX: u64 = 16 << 20;

/// What emperor and routers say about one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) modified: i64,
    pub(super) state: State,
}

impl Said {
    pub(super) fn accepts(self) -> bool {
        self.state == State::Accepts
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// The emperor does not name it, or has not answered.
    #[default]
    Unknown,
    /// It ended too often; so many attempts were made.
    HeldBack(i64),
    /// The emperor is ending it.
    Cursed,
    /// It is not ready yet.
    Starting,
    /// A router does not have it, or thinks it dead.
    NotRouted,
    Accepts,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the emperor does not name it"),
            Self::HeldBack(attempts) => write!(
                f,
                "it does not stay up (attempts: {attempts}); the emperor's log says why"
            ),
            Self::Cursed => f.write_str("the emperor is ending it"),
            Self::Starting => f.write_str("it does not accept requests yet"),
            Self::NotRouted => f.write_str("a router does not have its socket"),
            Self::Accepts => f.write_str("it accepts requests"),
        }
    }
}

/// What the emperor says about a vassal.
pub(super) fn said_of(emperor: &Value, vassal: &Vassal) -> Said {
    let name = vassal.file.file_name().and_then(|name| name.to_str());
    let directory = vassal.file.parent();
    let all = emperor["vassals"].as_array().into_iter().flatten();
    let mut meant = all.filter(|it| {
        let monitor = it["monitor"].as_str().map(Path::new);
        let monitor = monitor.and_then(|path| fs::canonicalize(path).ok());
        it["id"].as_str() == name && (monitor.is_none() || monitor.as_deref() == directory)
    });
    let held_back = emperor["blacklist"].as_array().into_iter().flatten();
    let mut held_back = held_back.filter(|it| it["id"].as_str() == name);
    let number = |value: &Value, name: &str| value[name].as_i64().unwrap_or_default();
    let Some(vassal) = meant.next() else {
        let attempts = held_back.next().map(|it| number(it, "attempt"));
        return Said {
            modified: 0,
            state: attempts.map_or(State::Unknown, State::HeldBack),
        };
    };
    let state = match (number(vassal, "cursed"), number(vassal, "accepting")) {
        (0, 1) => State::Accepts,
        (0, _) => match held_back.next() {
            Some(it) => State::HeldBack(number(it, "attempt")),
            None => State::Starting,
        },
        _ => State::Cursed,
    };
    Said {
        modified: number(vassal, "last_mod"),
        state,
    }
}

/// Nodes of a router that are not marked as dead.
pub(super) fn subscribed(router: &Value) -> Vec<String> {
    let keys = router["subscriptions"].as_array().into_iter().flatten();
    let nodes = keys.flat_map(|key| key["nodes"].as_array().into_iter().flatten());
    let alive = nodes.filter(|node| node["death_mark"].as_i64() == Some(0));
    alive
        .filter_map(|node| node["name"].as_str().map(str::to_owned))
        .collect()
}

/// What a statistics server of uWSGI says: it sends one JSON document and closes.
pub(super) fn statistics(address: &str) -> Result<Value, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let text = format!("the statistics at {address} cannot be read: {error}");
        Failure::new(Exit::CannotReach, text)
    };
    let mut text = Vec::new();
    let read = if address.contains('/') {
        UnixStream::connect(address).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.take(STATISTICS_BYTES_MAX).read_to_end(&mut text)
        })
    } else {
        TcpStream::connect(address).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.take(STATISTICS_BYTES_MAX).read_to_end(&mut text)
        })
    };
    read.map_err(|error| failed(&error))?;
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::super::file::Addresses;
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    #[test]
    fn one_that_does_not_stay_up_is_told_from_one_that_starts() {
        let vassal = Vassal {
            file: PathBuf::from("/v/a.ini"),
            addresses: Addresses::Named("a".to_owned()),
        };
        let starting = json!({"id": "a.ini", "last_mod": 1, "accepting": 0, "cursed": 0});
        let state = |emperor: Value| said_of(&emperor, &vassal).state;
        assert_eq!(state(json!({ "vassals": [starting] })), State::Starting);
        let held_back = json!([{"id": "b.ini", "attempt": 9}, {"id": "a.ini", "attempt": 4}]);
        let emperor = json!({"vassals": [], "blacklist": held_back});
        assert_eq!(state(emperor), State::HeldBack(4));
        assert_eq!(state(json!({ "vassals": [] })), State::Unknown);
    }

    #[test]
    fn a_node_with_a_death_mark_does_not_count() {
        let nodes = json!([{"name": "a", "death_mark": 1}, {"name": "b", "death_mark": 0}]);
        let router = json!({ "subscriptions": [{ "nodes": nodes }] });
        assert_eq!(subscribed(&router), ["b"]);
    }
}

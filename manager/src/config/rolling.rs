//! How a watcher's processes are replaced while enough of them are ready (`rolling`, `rolling_*`, ours).

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::limits;
use super::section::Reader;

/// What rolling runs of a watcher keep to where the command does not say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RollingConfig {
    /// Whether graceful reloads, and changes of options and of the file, are rolling runs too.
    pub always: bool,
    /// Never fewer than so many ready processes.
    pub min_active: Option<u32>,
    /// So many extra processes at most.
    pub max_surge: Option<u32>,
    /// Pause between two stops of old processes.
    #[serde(serialize_with = "seconds")]
    pub skew: Option<Duration>,
    /// Within which each new process has to become ready.
    #[serde(serialize_with = "seconds")]
    pub timeout: Option<Duration>,
}

/// Reads the options of a watcher with so many processes.
pub(super) fn read(reader: &mut Reader<'_>, numprocesses: u32, singleton: bool) -> RollingConfig {
    let mut number = |key: &str| {
        let number = reader.integer(key, 0..=limits::NUMPROCESSES)?;
        u32::try_from(number).ok()
    };
    let (min_active, max_surge) = (number("rolling_min_active"), number("rolling_max_surge"));
    let mut seconds = |key: &str| {
        reader.written(key)?;
        Some(reader.seconds(key, Duration::ZERO))
    };
    let (skew, timeout) = (seconds("rolling_skew"), seconds("rolling_timeout"));
    let rolling = RollingConfig {
        always: reader.boolean("rolling", false),
        min_active,
        max_surge,
        skew,
        timeout,
    };
    let none_extra = singleton || max_surge == Some(0);
    if let Some(least) = min_active.filter(|least| none_extra && *least >= numprocesses)
        && numprocesses > 0
        && let Some(written) = reader.written("rolling_min_active")
    {
        let why = if singleton {
            "there are never two of a singleton"
        } else {
            "rolling_max_surge is 0"
        };
        let problem = format!(
            "leaves nothing to replace: {least} of {numprocesses} have to be ready all the time, and {why}"
        );
        reader.error(written.entry, &problem);
    }
    rolling
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|it| it.as_secs_f64()).serialize(serializer)
}

//! A short text that changes when, and only when, a newly started process would be a different
//! one. It is a label of each process, and tells which ones are outdated.

use serde::Serialize;

use crate::config::model::WatcherConfig;

/// Fingerprint of what a watcher's processes are made from. Counts, delays, limits of patience
/// and streams are left out: changing them does not change the process.
#[must_use]
pub(super) fn fingerprint(config: &WatcherConfig) -> String {
    // Only what differs from the defaults counts, by name: an option that a later version adds
    // leaves the fingerprints of all who do not use it as they were.
    let plain = WatcherConfig::with_defaults(&config.name, config.origin.clone());
    let mut hash = Fnv::new();
    macro_rules! add {
        ($($field:ident)*) => {
            $(hash.add(stringify!($field), &config.$field, &plain.$field);)*
        };
    }
    add!(cmd args executable shell shell_args working_dir uid gid);
    add!(environment environment_base copy_path virtualenv virtualenv_py_ver rlimits);
    add!(use_sockets stdin_socket close_child_stdin close_child_stdout close_child_stderr);
    add!(buffer_bytes buffer_full watchdog);
    format!("{:016x}", hash.state)
}

/// Fingerprint of the part that does not depend on the environment of the manager, which may be
/// another one each time a manager is started by hand. What differs here differs because somebody
/// wrote something else.
#[must_use]
pub(super) fn program(config: &WatcherConfig) -> String {
    let plain = WatcherConfig::with_defaults(&config.name, config.origin.clone());
    let mut hash = Fnv::new();
    macro_rules! add {
        ($($field:ident)*) => {
            $(hash.add(stringify!($field), &config.$field, &plain.$field);)*
        };
    }
    add!(cmd args executable shell shell_args working_dir uid gid rlimits);
    add!(use_sockets stdin_socket close_child_stdin close_child_stdout close_child_stderr watchdog);
    format!("{:016x}", hash.state)
}

/// Digest of what a configuration says about an option, or that it says nothing.
#[must_use]
pub(super) fn digest(text: Option<&str>) -> String {
    text.map_or_else(
        || "-".to_owned(),
        |text| {
            let mut hash = Fnv::new();
            hash.add("", &text, &());
            format!("{:016x}", hash.state)
        },
    )
}

/// The same about a whole watcher.
#[must_use]
pub(super) fn section_digest(config: Option<&WatcherConfig>) -> String {
    let Some(config) = config else {
        return digest(None);
    };
    let mut hash = Fnv::new();
    hash.add("options", &config.options, &());
    hash.add("environment", &config.environment, &());
    format!("{:016x}", hash.state)
}

/// FNV-1a, 64 bits (RFC 9923): stable across versions and machines, which the standard hasher
/// does not promise.
struct Fnv {
    state: u64,
}

impl Fnv {
    const fn new() -> Self {
        Self {
            state: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn add(&mut self, name: &str, part: &impl Serialize, plain: &impl Serialize) {
        // Only a path that is not UTF-8 cannot be written as JSON; the reader makes none.
        let text = serde_json::to_vec(part).unwrap_or_default();
        if text == serde_json::to_vec(plain).unwrap_or_default() {
            return;
        }
        for byte in name.bytes().chain(*b"=").chain(text).chain(*b"\n") {
            self.state = (self.state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Location;

    fn config() -> WatcherConfig {
        WatcherConfig::with_defaults("web", Location::new("test.ini", 1, 1))
    }

    #[test]
    fn only_what_changes_the_process_changes_the_fingerprint() {
        let base = fingerprint(&config());
        let mut more = config();
        more.numprocesses += 1;
        more.priority = 9;
        assert_eq!(fingerprint(&more), base);
        let mut other = config();
        other.cmd = "other".to_owned();
        assert_ne!(fingerprint(&other), base);
        let mut variable = config();
        variable.environment.insert("A".to_owned(), "1".to_owned());
        assert_ne!(fingerprint(&variable), base);
    }

    #[test]
    fn words_do_not_run_together() {
        let (mut left, mut right) = (config(), config());
        (left.cmd, left.args) = ("ab".to_owned(), "c".to_owned());
        (right.cmd, right.args) = ("a".to_owned(), "bc".to_owned());
        assert_ne!(fingerprint(&left), fingerprint(&right));
    }
}

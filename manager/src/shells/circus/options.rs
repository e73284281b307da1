//! What Circus checks of the options of `set` and `add` (the table in its section 2.2), before the
//! manager sees whether their values make sense.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::json::repr;
use super::reply::CircusError;
use crate::config::model::Resource;

/// Checks one option.
pub(super) fn check(key: &str, value: &Value) -> Result<(), CircusError> {
    let fail = |what: &str| Err(CircusError::message(format!("{} {what}", repr(key))));
    let is_text_number = |text: &str| text.trim().parse::<f64>().is_ok();
    match key {
        "numprocesses" | "max_retry" | "max_age" | "max_age_variance" | "stop_signal" => {
            match value {
                Value::Number(number) if !number.is_f64() => Ok(()),
                Value::Bool(_) => Ok(()),
                Value::String(text) if text.trim().parse::<i64>().is_ok() => Ok(()),
                // Names of signals are no integers, and clear enough.
                Value::String(_) if key == "stop_signal" => Ok(()),
                _ => fail("isn't an integer"),
            }
        }
        "warmup_delay" | "retry_in" | "graceful_timeout" => match value {
            Value::Number(_) | Value::Bool(_) => Ok(()),
            Value::String(text) if is_text_number(text) => Ok(()),
            _ => fail("isn't a number"),
        },
        "uid" | "gid" => match value {
            Value::Number(number) if !number.is_f64() => Ok(()),
            Value::String(_) => Ok(()),
            _ => fail("isn't an integer or string"),
        },
        "send_hup" | "shell" | "copy_env" | "respawn" | "stop_children" | "close_child_stdin"
        | "close_child_stdout" | "close_child_stderr" => match value {
            Value::Bool(_) => Ok(()),
            _ => fail("isn't a valid boolean"),
        },
        "env" => match value {
            Value::Object(variables) => {
                match variables.iter().find(|(_, value)| !value.is_string()) {
                    None => Ok(()),
                    Some((name, _)) => Err(CircusError::message(format!(
                        "{} isn't a string",
                        repr(name)
                    ))),
                }
            }
            _ => fail("isn't a valid object"),
        },
        "hooks" => match value {
            Value::Object(hooks) => match hooks.keys().find(|name| !HOOKS.contains(&name.as_str()))
            {
                None => Ok(()),
                Some(name) => Err(CircusError::message(format!("Unknown hook {name}"))),
            },
            _ => fail("isn't a valid hook dict"),
        },
        "stdout_stream" | "stderr_stream" => match value {
            Value::Object(stream) if stream.contains_key("class") => Ok(()),
            Value::Object(_) => fail("must have a 'class' key"),
            _ => fail("isn't a valid object"),
        },
        "working_dir" | "cmd" | "args" | "singleton" => Ok(()),
        // Circus refuses some of these and means no harm by it: they are options of the file.
        "executable" | "priority" | "autostart" | "use_sockets" | "shell_args" | "on_demand"
        | "use_papa" | "copy_path" | "virtualenv" | "stdin_socket" | "buffer_bytes"
        | "buffer_full" => Ok(()),
        _ => check_prefixed(key, value),
    }
}

fn check_prefixed(key: &str, value: &Value) -> Result<(), CircusError> {
    if let Some(resource) = key.strip_prefix("rlimit_") {
        let known = Resource::from_name(resource).is_some();
        let fits = match value {
            Value::Null => true,
            Value::Number(number) => !number.is_f64(),
            Value::String(text) => text.trim().is_empty() || text.trim().parse::<i64>().is_ok(),
            _ => false,
        };
        return if known && fits {
            Ok(())
        } else if known {
            Err(CircusError::message(format!(
                "{} isn't an integer",
                repr(key)
            )))
        } else {
            let reason = format!("{} isn't a valid rlimit setting", repr(key));
            Err(CircusError::message(reason))
        };
    }
    let prefixes = [
        "stdout_stream.",
        "stderr_stream.",
        "hooks.",
        "flapping.",
        "backoff_",
    ];
    if prefixes.iter().any(|prefix| key.starts_with(prefix)) {
        return Ok(());
    }
    Err(CircusError::message(format!("unknown key {}", repr(key))))
}

/// Hooks of Circus.
const HOOKS: [&str; 11] = [
    "before_start",
    "after_start",
    "before_spawn",
    "after_spawn",
    "before_stop",
    "after_stop",
    "before_signal",
    "after_signal",
    "before_reap",
    "after_reap",
    "extended_stats",
];

/// With `endpoint_owner` set, watchers over ZeroMQ run as that user and no other.
pub(super) fn check_owner(uid: Option<&Value>, owner: Option<&str>) -> Result<(), CircusError> {
    let Some(owner) = owner else {
        return Ok(());
    };
    let same = match uid {
        Some(Value::String(name)) => name == owner || number_of(name) == number_of(owner),
        Some(Value::Number(number)) => number.as_u64() == number_of(owner).map(u64::from),
        _ => false,
    };
    if same {
        Ok(())
    } else {
        Err(CircusError::message("uid does not match endpoint_owner"))
    }
}

fn number_of(user: &str) -> Option<u32> {
    if let Ok(number) = user.parse() {
        return Some(number);
    }
    let found = nix::unistd::User::from_name(user).ok().flatten();
    found.map(|user| user.uid.as_raw())
}

/// Objects of streams and hooks as the keys of a section.
pub(super) fn flatten(options: Map<String, Value>) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in options {
        match value {
            Value::Object(inner) if key != "env" => {
                for (inner_key, value) in inner {
                    flat.insert(format!("{key}.{inner_key}"), value);
                }
            }
            value => {
                flat.insert(key, value);
            }
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reason(key: &str, value: Value) -> Option<String> {
        check(key, &value).err().map(|error| error.reason)
    }

    #[test]
    fn options_are_checked_in_circuss_words() {
        for (key, value, expected) in [
            (
                "numprocesses",
                json!("x"),
                "'numprocesses' isn't an integer",
            ),
            (
                "numprocesses",
                json!(1.5),
                "'numprocesses' isn't an integer",
            ),
            (
                "graceful_timeout",
                json!([]),
                "'graceful_timeout' isn't a number",
            ),
            ("uid", json!(1.5), "'uid' isn't an integer or string"),
            ("shell", json!("yes"), "'shell' isn't a valid boolean"),
            ("env", json!(1), "'env' isn't a valid object"),
            ("env", json!({"A": 1}), "'A' isn't a string"),
            ("hooks", json!([]), "'hooks' isn't a valid hook dict"),
            (
                "stdout_stream",
                json!({}),
                "'stdout_stream' must have a 'class' key",
            ),
            (
                "rlimit_bogus",
                json!(1),
                "'rlimit_bogus' isn't a valid rlimit setting",
            ),
            ("frobnicate", json!(1), "unknown key 'frobnicate'"),
        ] {
            assert_eq!(reason(key, value), Some(expected.to_owned()));
        }
        for (key, value) in [
            ("numprocesses", json!("3")),
            ("numprocesses", json!(true)),
            ("graceful_timeout", json!("2.5")),
            ("stop_signal", json!("INT")),
            ("rlimit_nofile", json!(null)),
            ("env", json!({"A": "b"})),
            ("hooks.before_start", json!("a.b")),
            ("stdout_stream.max_bytes", json!(5)),
        ] {
            assert_eq!(reason(key, value), None);
        }
    }

    #[test]
    fn an_endpoint_owner_is_the_only_user() {
        check_owner(None, None).unwrap();
        check_owner(Some(&json!(0)), Some("root")).unwrap();
        check_owner(Some(&json!("root")), Some("0")).unwrap();
        assert!(check_owner(None, Some("root")).is_err());
        assert!(check_owner(Some(&json!(4711)), Some("root")).is_err());
    }

    #[test]
    fn objects_become_keys_of_a_section() {
        let options = json!({"env": {"A": "b"}, "hooks": {"after_stop": "m.f"}, "cmd": "x"});
        let Value::Object(options) = options else {
            unreachable!()
        };
        let flat = flatten(options);
        assert_eq!(flat["hooks.after_stop"], "m.f");
        assert_eq!(flat["env"], json!({"A": "b"}));
    }
}

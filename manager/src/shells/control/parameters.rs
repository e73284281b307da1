//! Checks that what a client sent is all understood: what is passed over in silence is found out
//! too late.

use serde_json::Value;

use super::error::ControlError;
use crate::command::Command;

/// A query parameter that does not exist.
pub(super) fn unknown(key: &str, known: &[&str]) -> ControlError {
    let known = known.join(", ");
    ControlError::invalid(format!("unknown parameter {key:?}; known are: {known}"))
}

/// Whether the body goes on with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Yes,
    No,
}

impl Follow {
    pub(super) fn read(value: &str) -> Result<Self, ControlError> {
        match value {
            "1" | "true" | "" => Ok(Self::Yes),
            "0" | "false" => Ok(Self::No),
            _ => Err(ControlError::invalid(format!(
                "follow={value}: 1 or 0 is needed"
            ))),
        }
    }
}

/// A number.
pub(super) fn number(key: &str, value: &str) -> Result<usize, ControlError> {
    let number = value.parse();
    number.map_err(|_| ControlError::invalid(format!("{key}={value}: a number is needed")))
}

/// A command from its JSON.
pub(super) fn command(body: &[u8]) -> Result<Command, ControlError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ControlError::invalid(format!("the body is no JSON: {error}")))?;
    let Value::Object(given) = &value else {
        return Err(ControlError::invalid(
            "the body must be an object like {\"command\": \"status\"}",
        ));
    };
    let command: Command = serde_json::from_value(value.clone())
        .map_err(|error| ControlError::invalid(format!("no such command: {error}")))?;
    // All arguments are written out again, so what is missing there was not understood.
    let Ok(Value::Object(understood)) = serde_json::to_value(&command) else {
        return Err(ControlError::invalid("the command cannot be read back"));
    };
    let stray = given.keys().find(|key| !understood.contains_key(*key));
    match stray {
        None => Ok(command),
        Some(key) => {
            let known: Vec<&str> = understood.keys().map(String::as_str).collect();
            Err(unknown(key, &known))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Change, Matching, Selection, Wait};

    #[test]
    fn arguments_that_do_not_exist_are_refused_by_name() {
        let refused = |body: &str| format!("{:?}", command(body.as_bytes()).unwrap_err());
        assert!(refused(r#"{"command": "stop", "watcher": ["x"]}"#).contains("watcher"));
        assert!(refused(r#"{"command": "explode"}"#).contains("explode"));
        assert!(refused("[]").contains("object"));
        assert!(refused("{").contains("no JSON"));
        assert!(refused(r#"{"command": "incr", "by": -1}"#).contains("no such command"));
    }

    #[test]
    fn a_command_with_few_arguments_means_the_defaults() {
        let read = command(br#"{"command": "stop", "watchers": ["web*"], "wait": true}"#).unwrap();
        let selection = Selection {
            watchers: vec!["web*".to_owned()],
            matching: Matching::Glob,
        };
        assert_eq!(
            read,
            Command::Stop(Change {
                selection,
                wait: Wait::Done
            })
        );
    }
}

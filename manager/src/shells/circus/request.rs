//! A request of Circus's clients: one JSON object.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::json::repr;
use super::reply::{CircusError, Errno};

/// What was asked, before anybody knows whether it makes sense.
#[derive(Debug)]
pub(super) struct Request {
    /// The verb, in lower case.
    pub(super) verb: String,
    /// Its arguments.
    pub(super) properties: Properties,
}

/// What stands around every request.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// Repeated in the reply as it came.
    pub(super) id: Option<Box<RawValue>>,
    /// Whether nobody waits for a reply.
    pub(super) cast: bool,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    command: Value,
    #[serde(default)]
    properties: Value,
    #[serde(default)]
    id: Option<Box<RawValue>>,
    #[serde(default)]
    msg_type: Value,
}

/// Reads a body. Even of a request that makes no sense it is known who wants to hear so.
pub(super) fn read(body: &[u8]) -> (Envelope, Result<Request, CircusError>) {
    let body = body.trim_ascii();
    let invalid = || CircusError::new(Errno::InvalidJson, "json invalid");
    // The last of two equal keys wins, so a plain derive will not do: it refuses them.
    let Ok(fields) = serde_json::from_slice::<Fields>(body) else {
        return (Envelope::default(), Err(invalid()));
    };
    let wire = fields.0;
    let envelope = Envelope {
        cast: wire.msg_type.as_str() == Some("cast"),
        id: wire.id,
    };
    let Value::String(command) = wire.command else {
        let what = match wire.command {
            Value::Null => "None".to_owned(),
            other => other.to_string(),
        };
        let error = CircusError::new(Errno::UnknownCommand, format!("unknown command: {what}"));
        return (envelope, Err(error));
    };
    let properties = match wire.properties {
        Value::Null => Map::new(),
        Value::Object(properties) => properties,
        _ => {
            let error = CircusError::new(Errno::Command, "properties must be an object");
            return (envelope, Err(error));
        }
    };
    let request = Request {
        verb: command.to_lowercase(),
        properties: Properties(properties),
    };
    if VERBS.contains(&request.verb.as_str()) {
        (envelope, Ok(request))
    } else {
        let reason = format!("unknown command: {}", repr(&command));
        (
            envelope,
            Err(CircusError::new(Errno::UnknownCommand, reason)),
        )
    }
}

/// Every command of Circus.
pub(super) const VERBS: [&str; 25] = [
    "add",
    "decr",
    "dstats",
    "get",
    "globaloptions",
    "incr",
    "ipython",
    "kill",
    "list",
    "listen",
    "listsockets",
    "numprocesses",
    "numwatchers",
    "options",
    "quit",
    "reload",
    "reloadconfig",
    "restart",
    "rm",
    "set",
    "signal",
    "start",
    "stats",
    "status",
    "stop",
];

/// [`Wire`], read so that later keys win over earlier ones.
struct Fields(Wire);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Fields;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Fields, A::Error> {
                let mut wire = Wire {
                    command: Value::Null,
                    properties: Value::Null,
                    id: None,
                    msg_type: Value::Null,
                };
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "command" => wire.command = map.next_value()?,
                        "properties" => wire.properties = map.next_value()?,
                        "id" => wire.id = map.next_value()?,
                        "msg_type" => wire.msg_type = map.next_value()?,
                        _ => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok(Fields(wire))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Arguments of a request, in the spellings that real clients use: numbers as texts, truth as
/// numbers or words.
#[derive(Clone, Debug, Default)]
pub(super) struct Properties(pub(super) Map<String, Value>);

impl Properties {
    /// A value that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Fails as Circus does unless the keys are there.
    pub(super) fn require(&self, keys: &[&str]) -> Result<(), CircusError> {
        match keys.iter().find(|key| !self.0.contains_key(**key)) {
            None => Ok(()),
            Some(key) => Err(CircusError::message(format!(
                "message invalid '{key}' is missing"
            ))),
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, CircusError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(CircusError::command(format!("'{key}' must be a string"))),
        }
    }

    /// The name of a watcher, which has to be there.
    pub(super) fn name(&self) -> Result<&str, CircusError> {
        self.require(&["name"])?;
        self.text("name")?
            .ok_or_else(|| CircusError::command("'name' must be a string"))
    }

    /// Whether a flag is set: as Python sees truth, except that the words for no mean no.
    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        match self.0.get(key) {
            None => default,
            Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => {
                let text = text.trim().to_lowercase();
                !matches!(text.as_str(), "" | "0" | "no" | "off" | "false" | "none")
            }
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
        }
    }

    /// A whole number, also as text.
    pub(super) fn integer(&self, key: &str) -> Result<Option<i64>, CircusError> {
        let wrong = || CircusError::command(format!("'{key}' must be an integer"));
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(i64::from(*flag))),
            Some(Value::Number(number)) => number
                .as_i64()
                .map(Some)
                .or_else(|| whole(number.as_f64()).map(Some))
                .ok_or_else(wrong),
            Some(Value::String(text)) => match text.trim() {
                "" => Ok(None),
                text => text.parse().map(Some).map_err(|_| wrong()),
            },
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => Err(wrong()),
        }
    }

    /// A number of processes or a pid.
    pub(super) fn pid(&self, key: &str) -> Result<Option<u32>, CircusError> {
        let number = self.integer(key)?;
        // Nobody has a pid below zero.
        Ok(number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
    }

    /// Seconds, also as text.
    pub(super) fn seconds(&self, key: &str) -> Result<Option<f64>, CircusError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(CircusError::command(format!("'{key}' must be a number"))),
        }
    }
}

fn whole(number: Option<f64>) -> Option<i64> {
    let number = number.filter(|number| number.fract() == 0.0 && number.abs() < 9e15)?;
    #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
    let whole = number as i64;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> (Errno, String) {
        let error = read(body.as_bytes()).1.unwrap_err();
        (error.errno, error.reason)
    }

    #[test]
    fn ids_are_kept_as_they_came() {
        for id in [
            r#""abc""#,
            "7",
            "1.50",
            "123456789012345678901234567890",
            r#"{"a":[1 ]}"#,
        ] {
            let body = format!(r#"{{"command":"LIST","id": {id}, "more": [1]}}"#);
            let (envelope, request) = read(body.as_bytes());
            assert_eq!(envelope.id.unwrap().get(), id);
            assert!(!envelope.cast);
            assert_eq!(request.unwrap().verb, "list");
        }
        let (envelope, _) = read(br#" {"command": "list", "msg_type": "cast"} "#);
        assert!(envelope.cast && envelope.id.is_none());
        let (envelope, request) = read(br#"{"id": 1, "command": "x", "id": 2, "command": "list"}"#);
        assert_eq!(envelope.id.unwrap().get(), "2");
        assert_eq!(request.unwrap().verb, "list");
    }

    #[test]
    fn what_is_no_request_is_answered_too() {
        for body in [
            "",
            "  ",
            "{nope",
            "[1]",
            "null",
            r#""x""#,
            r#"{"command":"list"} x"#,
        ] {
            assert_eq!(error(body), (Errno::InvalidJson, "json invalid".to_owned()));
        }
        assert_eq!(error("{}").0, Errno::UnknownCommand);
        assert_eq!(error(r#"{"command": 5}"#).0, Errno::UnknownCommand);
        let unknown = (
            Errno::UnknownCommand,
            "unknown command: 'Frobnicate'".to_owned(),
        );
        assert_eq!(error(r#"{"command": "Frobnicate"}"#), unknown);
        assert_eq!(
            error(r#"{"command": "list", "properties": [1]}"#).0,
            Errno::Command
        );
        assert!(
            read(br#"{"command": "list", "properties": null}"#)
                .1
                .is_ok()
        );
    }

    #[test]
    fn numbers_and_flags_may_be_texts() {
        let body =
            br#"{"command": "kill", "properties": {"pid": "12", "timeout": "1.5", "no": "False",
            "yes": 1, "bad": "x", "name": 5, "float": 3.0}}"#;
        let properties = read(body).1.unwrap().properties;
        assert_eq!(properties.pid("pid").unwrap(), Some(12));
        assert_eq!(properties.integer("float").unwrap(), Some(3));
        assert_eq!(properties.seconds("timeout").unwrap(), Some(1.5));
        assert!(!properties.flag("no", true) && properties.flag("yes", false));
        assert!(properties.flag("absent", true));
        assert_eq!(properties.integer("bad").unwrap_err().errno, Errno::Command);
        assert_eq!(properties.name().unwrap_err().errno, Errno::Command);
        let missing = Properties::default().name().unwrap_err();
        assert_eq!(missing.reason, "message invalid 'name' is missing");
    }
}

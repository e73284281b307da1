//! What the verbs share that take options: `KEY=VALUE`, and how values are shown.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Map, Value};

/// Options and their values.
#[derive(Debug, Args)]
pub(super) struct OptionArguments {
    /// Environment of the processes, all of it: repeat it for each variable
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    environment: Vec<(String, String)>,
}

impl OptionArguments {
    /// As a command wants them.
    pub(super) fn with(self, pairs: Vec<(String, String)>) -> BTreeMap<String, Value> {
        let mut options: BTreeMap<String, Value> = pairs
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect();
        if !self.environment.is_empty() {
            let variables = self.environment.into_iter();
            let variables: Map<String, Value> = variables
                .map(|(name, value)| (name, Value::String(value)))
                .collect();
            options.insert("env".to_owned(), Value::Object(variables));
        }
        options
    }
}

/// A key and its value.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE; KEY= for an empty value".to_owned()),
    }
}

/// Options for people: a line each.
pub(super) fn describe(options: &BTreeMap<String, Value>) -> String {
    let value = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(parts) => parts
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    };
    let line = |(key, one): (&String, &Value)| format!("{key}: {}", value(one));
    let lines = options.iter().map(line);
    lines
        .map(|line| format!("{}\n", line.trim_end().replace(char::is_control, "?")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pairs_are_split_at_the_first_sign() {
        let pair = |text: &str| parse_pair(text).ok();
        assert_eq!(pair("a=b=c"), Some(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Some(("a".to_owned(), String::new())));
        assert_eq!(pair("=b"), None);
        assert_eq!(pair("a"), None);
    }

    #[test]
    fn options_are_a_line_each() {
        let options = [
            ("env".to_owned(), json!({"A": "1", "B": "x\ny"})),
            ("gid".to_owned(), json!(null)),
            ("priority".to_owned(), json!(3)),
        ];
        assert_eq!(
            describe(&options.into()),
            "env: A=1,B=x?y\ngid:\npriority: 3\n"
        );
    }
}

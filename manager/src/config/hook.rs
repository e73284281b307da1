//! What `hooks.NAME` may say: a dotted Python name, as in Circus, or a command. Pure.

use std::collections::BTreeMap;

use super::coerce;
use super::model::{HookConfig, HookTarget};
use super::section::Reader;
use super::suggest;
use super::words;

/// Hooks that are called.
pub(super) const HOOKS: [&str; 11] = [
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

/// Reads all hooks of a watcher.
pub(super) fn read(reader: &mut Reader<'_>) -> BTreeMap<String, HookConfig> {
    let mut hooks = BTreeMap::new();
    for (name, written) in reader.with_prefix("hooks.") {
        if !HOOKS.contains(&name) {
            let problem = match suggest::nearest(name, HOOKS) {
                Some(meant) => format!("is never called; did you mean hooks.{meant}?"),
                None => "is never called: there is no such hook".to_owned(),
            };
            reader.warn(written.entry, &problem);
        }
        let (target, ignore_failure) = match split(&written.value) {
            Ok(parts) => parts,
            Err(problem) => {
                reader.error(written.entry, problem);
                (written.value.trim(), false)
            }
        };
        if HOOKS.contains(&name)
            && let Err(problem) = HookTarget::parse(target)
        {
            reader.error(written.entry, &problem);
        }
        let origin = written.entry.key_location.clone();
        hooks.insert(
            name.to_owned(),
            HookConfig {
                target: target.to_owned(),
                ignore_failure,
                origin,
            },
        );
    }
    hooks
}

/// The target and the flag behind its last comma. A command may have commas of its own.
fn split(value: &str) -> Result<(&str, bool), &'static str> {
    let problem = "has neither yes nor no behind the comma";
    match value.rsplit_once(',') {
        None => Ok((value.trim(), false)),
        Some((target, flag)) => match coerce::boolean(flag) {
            Some(flag) => Ok((target.trim(), flag)),
            None if looks_like_command(target) => Ok((value.trim(), false)),
            None => Err(problem),
        },
    }
}

/// A Python name has neither slashes nor spaces.
fn looks_like_command(target: &str) -> bool {
    target.contains('/') || target.contains(char::is_whitespace)
}

impl HookTarget {
    /// What a target as written means.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(target: &str) -> Result<Self, String> {
        if target.is_empty() {
            return Err("names no function".to_owned());
        }
        if looks_like_command(target) {
            return match words::split(target) {
                Ok(words) if !words.is_empty() => Ok(Self::Command(words)),
                Ok(_) => Err("is an empty command".to_owned()),
                Err(problem) => Err(format!("cannot be split into words: {problem}")),
            };
        }
        let (module, function) = target
            .split_once(':')
            .or_else(|| target.rsplit_once('.'))
            .unwrap_or(("", target));
        let dotted = |path: &str| path.split('.').all(is_identifier);
        if dotted(module) && dotted(function) {
            return Ok(Self::Python {
                module: module.to_owned(),
                function: function.to_owned(),
            });
        }
        Err(format!(
            "is neither a Python name such as package.module.function nor a command with a path \
             such as /usr/local/bin/check or ./check.sh: {target}"
        ))
    }
}

/// Whether Python takes it for a name.
pub(super) fn is_identifier(word: &str) -> bool {
    let mut characters = word.chars();
    let first = characters.next();
    first.is_some_and(|it| it.is_alphabetic() || it == '_')
        && characters.all(|it| it.is_alphanumeric() || it == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(module: &str, function: &str) -> Result<HookTarget, String> {
        Ok(HookTarget::Python {
            module: module.to_owned(),
            function: function.to_owned(),
        })
    }

    #[test]
    fn a_dotted_name_is_python_and_a_path_is_a_command() {
        assert_eq!(HookTarget::parse("a.b.c"), python("a.b", "c"));
        assert_eq!(HookTarget::parse("a.b:C.method"), python("a.b", "C.method"));
        let command = HookTarget::parse("/bin/check --port '8 0'").expect("a command");
        let words = ["/bin/check", "--port", "8 0"].map(str::to_owned);
        assert_eq!(command, HookTarget::Command(words.into()));
        assert!(matches!(
            HookTarget::parse("./check.sh"),
            Ok(HookTarget::Command(_))
        ));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for wrong in [
            "",
            "function",
            "a..b",
            "1a.b",
            "a.b-c",
            ":f",
            "/bin/x 'open",
        ] {
            assert!(HookTarget::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn commas_of_a_command_are_its_own() {
        assert_eq!(split("/bin/x a,b"), Ok(("/bin/x a,b", false)));
        assert_eq!(split("/bin/x a,b, true"), Ok(("/bin/x a,b", true)));
        assert_eq!(split("a.b , yes"), Ok(("a.b", true)));
        assert!(split("a.b, perhaps").is_err());
    }
}

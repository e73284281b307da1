//! `$(circus.NAME)` and `((circus.NAME))` in texts, and `$NAME` in environment values
//! (reference, section 5.3).

use std::collections::BTreeMap;

/// Replaces every variable that `lookup` knows and leaves all others as they are. `lookup` gets
/// the lower-cased name behind `circus.`; what it gives is not looked through again.
#[must_use]
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, variable)) = next_variable(rest) {
        result.push_str(before);
        match lookup(&variable.name) {
            Some(value) => result.push_str(&value),
            None => result.push_str(variable.written),
        }
        rest = variable.after;
    }
    result.push_str(rest);
    result
}

/// Lower-cased names (behind `circus.`) of all variables in a text, in order, repeated ones too.
#[must_use]
pub fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((_, variable)) = next_variable(rest) {
        rest = variable.after;
        names.push(variable.name);
    }
    names
}

struct Variable<'a> {
    name: String,
    written: &'a str,
    after: &'a str,
}

/// The first variable of a text, and what is before it.
fn next_variable(text: &str) -> Option<(&str, Variable<'_>)> {
    let mut from = 0;
    while let Some(found) = text.get(from..)?.find(['$', '(']) {
        let start = from + found;
        if let Some(variable) = variable_at(&text[start..]) {
            return Some((&text[..start], variable));
        }
        from = start + 1;
    }
    None
}

/// The variable that begins the text, if one does.
fn variable_at(text: &str) -> Option<Variable<'_>> {
    let (body, closing) = match text.strip_prefix("$(") {
        Some(body) => (body, ")"),
        None => (text.strip_prefix("((")?, "))"),
    };
    let length = body.find(|c: char| !is_name_character(c))?;
    let (name, rest) = body.split_at(length);
    let after = rest.strip_prefix(closing)?;
    let prefix = name.get(..PREFIX.len())?;
    let name = name.get(PREFIX.len()..)?;
    if !prefix.eq_ignore_ascii_case(PREFIX) || name.is_empty() {
        return None;
    }
    let written = &text[..text.len() - after.len()];
    Some(Variable {
        name: name.to_lowercase(),
        written,
        after,
    })
}

/// What every variable's name begins with.
const PREFIX: &str = "circus.";

fn is_name_character(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '.' | '-')
}

/// Environments laid over each other, for `circus.env.NAME`: names without regard to case.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentVariables {
    values: BTreeMap<String, String>,
}

impl EnvironmentVariables {
    /// Those of one environment.
    pub fn new<'a>(layer: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let mut variables = Self::default();
        variables.lay_over(layer);
        variables
    }

    /// Adds a layer whose values win. In one layer the last of several that differ in case wins.
    pub fn lay_over<'a>(&mut self, layer: impl IntoIterator<Item = (&'a String, &'a String)>) {
        for (name, value) in layer {
            self.values.insert(name.to_lowercase(), value.clone());
        }
    }

    /// Replaces `circus.env.NAME`, and nothing else.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        expand(text, &|name| self.lookup(name))
    }

    /// The value for a variable's name, such as `env.home`.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<String> {
        self.values.get(name.strip_prefix("env.")?).cloned()
    }
}

/// Replaces `$NAME` (upper-case letters, digits and underscores) by the manager's environment;
/// what is not set becomes empty.
#[must_use]
pub fn expand_dollars(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let length = after.find(|c: char| !is_part(c)).unwrap_or(after.len());
        let (name, next) = after.split_at(length);
        if name.starts_with(|c: char| c.is_ascii_uppercase()) {
            result.push_str(environment.get(name).map_or("", String::as_str));
            rest = next;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment() -> BTreeMap<String, String> {
        [("HOME", "/root"), ("A1_B", "x"), ("empty", "")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    fn expanded(text: &str) -> String {
        EnvironmentVariables::new(&environment()).expand(text)
    }

    #[test]
    fn both_forms_are_replaced_in_any_case() {
        assert_eq!(
            expanded("$(circus.env.home)/((CIRCUS.ENV.HOME))"),
            "/root//root"
        );
        assert_eq!(expanded("(((circus.env.HOME)))"), "(/root)");
        assert_eq!(expanded("$$(circus.env.home)"), "$/root");
        assert_eq!(expanded("x$(circus.env.empty)y"), "xy");
    }

    #[test]
    fn what_is_unknown_or_malformed_stays() {
        for text in [
            "$(circus.env.nope)",
            "$(circus.wid)",
            "$(circus.)",
            "$(home)",
            "$(circus.env.home",
            "((circus.env.home)",
            "$ (circus.env.home)",
            "$(circus.env.home )",
            "((circus",
            "$(",
        ] {
            assert_eq!(expanded(text), text);
        }
    }

    #[test]
    fn replaced_text_is_not_looked_through_again() {
        let twice = |name: &str| (name == "a").then(|| "$(circus.a)".to_owned());
        assert_eq!(expand("$(circus.a)", &twice), "$(circus.a)");
    }

    #[test]
    fn later_layers_win_without_regard_to_case() {
        let mut variables = EnvironmentVariables::new(&environment());
        variables.lay_over(&BTreeMap::from([("home".to_owned(), "/srv".to_owned())]));
        assert_eq!(variables.expand("$(circus.env.HOME)"), "/srv");
    }

    #[test]
    fn dollar_names_are_upper_case_and_unset_ones_are_empty() {
        let expanded = |text: &str| expand_dollars(text, &environment());
        assert_eq!(expanded("$HOME/bin:$A1_B"), "/root/bin:x");
        assert_eq!(expanded("$NOPE."), ".");
        assert_eq!(expanded("$home $1A $ $_A $"), "$home $1A $ $_A $");
        assert_eq!(expanded("$HOMEx"), "/rootx");
        assert_eq!(expanded("$$HOME"), "$/root");
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_without_panic(text in r"[$(circusCIRUS.enva_\u{e9})]{0,60}") {
            let _ = expand(&text, &|_| Some(String::new()));
            let kept = expand(&text, &|_| None);
            prop_assert_eq!(kept, text.clone());
            let _ = expand_dollars(&text, &environment());
        }
    }
}

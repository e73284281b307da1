//! The addresses under which a vassal's file makes it known to routers. Knows as much of uWSGI's INI as
//! that takes.

use std::path::Path;

/// How often a placeholder may stand for another one.
const DEPTH_MAX: u8 = 8;

/// Where a vassal subscribes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    /// Its sockets, and what `subscribe2` says instead.
    Known(Vec<String>),
    /// They depend on something outside of the file. By custom a socket bears the vassal's name then.
    Named(String),
}

impl Addresses {
    /// Reads them from a vassal's file.
    pub(super) fn of(file: &Path, text: &str) -> Self {
        let settings: Vec<(&str, &str)> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with(['#', ';']))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let mut found = Vec::new();
        for (key, value) in &settings {
            let address = match *key {
                "socket" | "uwsgi-socket" => Some(*value),
                "subscribe2" => value.split(',').find_map(|it| it.strip_prefix("addr=")),
                _ => None,
            };
            let Some(address) = address else { continue };
            match expand(address, file, &settings, 0) {
                Some(address) => found.push(address),
                None => return Self::Named(stem(file).to_owned()),
            }
        }
        match found.is_empty() {
            true => Self::Named(stem(file).to_owned()),
            false => Self::Known(found),
        }
    }

    /// Whether a router's node is this vassal.
    pub(super) fn are_of(&self, node: &str) -> bool {
        match self {
            Self::Known(addresses) => addresses.iter().any(|address| address == node),
            Self::Named(name) => stem(Path::new(node)) == name,
        }
    }
}

/// A file's name up to its first dot.
fn stem(file: &Path) -> &str {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// Puts in what placeholders and magic variables stand for (uWSGI's `Configuration`), or nothing if
/// this file does not tell.
fn expand(text: &str, file: &Path, settings: &[(&str, &str)], depth: u8) -> Option<String> {
    if text.contains("$(") || text.contains("@(") || depth > DEPTH_MAX {
        return None;
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        expanded.push_str(before);
        if let Some((key, behind)) = behind.strip_prefix('(').and_then(|it| it.split_once(')')) {
            let (_, value) = settings.iter().find(|(name, _)| *name == key)?;
            expanded.push_str(&expand(value, file, settings, depth + 1)?);
            rest = behind;
            continue;
        }
        let mut characters = behind.chars();
        expanded.push_str(&magic(characters.next()?, file)?);
        rest = characters.as_str();
    }
    expanded.push_str(rest);
    Some(expanded)
}

/// What a magic variable stands for. The capital ones are those of the file that the emperor loads,
/// which is this one.
fn magic(variable: char, file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let directory = file.parent()?;
    Some(match variable.to_ascii_lowercase() {
        '%' => "%".to_owned(),
        'p' => file.to_str()?.to_owned(),
        's' => name.to_owned(),
        'n' => name
            .rsplit_once('.')
            .map_or(name, |(stem, _)| stem)
            .to_owned(),
        'e' => name.rsplit_once('.')?.1.to_owned(),
        'd' => format!("{}/", directory.to_str()?.trim_end_matches('/')),
        'c' => directory.file_name()?.to_str()?.to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Addresses {
        Addresses::of(Path::new("/etc/vassals/web_01.ini"), text)
    }

    fn known(addresses: &[&str]) -> Addresses {
        let addresses = addresses.iter().map(|&address| address.to_owned());
        Addresses::Known(addresses.collect())
    }

    #[test]
    fn one_file_for_many_vassals_names_the_socket_of_each() {
        let text = "[uwsgi]\n_main_dir = /home/u/uwsgi\nsocket = %(_main_dir)/%n.sock\n";
        assert_eq!(of(text), known(&["/home/u/uwsgi/web_01.sock"]));
        assert_eq!(
            of("socket=%d../run/%s"),
            known(&["/etc/vassals/../run/web_01.ini"])
        );
        assert_eq!(
            of("uwsgi-socket = %c-%e-100%%"),
            known(&["vassals-ini-100%"])
        );
    }

    #[test]
    fn an_address_of_its_own_counts_as_well() {
        let text =
            "; socket = /old\nsocket = :3031\nsubscribe2 = server=/s,key=k,addr=10.0.0.1:3031";
        assert_eq!(of(text), known(&[":3031", "10.0.0.1:3031"]));
    }

    #[test]
    fn what_the_file_does_not_tell_is_known_by_name() {
        for text in [
            "socket = $(DIR)/a",
            "socket = %(gone)",
            "a = %(a)\nsocket = %(a)",
            "",
        ] {
            let addresses = of(text);
            assert_eq!(addresses, Addresses::Named("web_01".to_owned()), "{text}");
            assert!(addresses.are_of("/run/web_01.sock"));
            assert!(!addresses.are_of("/run/web_011.sock"));
        }
    }
}

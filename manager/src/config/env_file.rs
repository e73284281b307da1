//! Files of environment variables (`env_file`, ours): a `NAME=VALUE` per line, as in `.env` files
//! and systemd's `EnvironmentFile`. What they say lies over `[env]` and `[env:...]`.

use std::collections::BTreeMap;
use std::path::Path;

use super::diagnostic::Diagnostic;
use super::load::Files;
use super::model::WatcherConfig;
use super::section::Findings;

/// Reads the files of all watchers. Paths are relative to the main configuration file.
pub(super) fn read_all(
    watchers: &mut [WatcherConfig],
    main_file: &Path,
    files: &dyn Files,
    findings: &mut Findings,
) {
    let directory = main_file.parent().unwrap_or(Path::new(""));
    for watcher in watchers {
        let Some(name) = watcher.env_file.clone() else {
            continue;
        };
        // As systemd has it: a file that may be missing.
        let text = name.to_string_lossy();
        let (optional, name) = match text.strip_prefix('-') {
            Some(name) => (true, directory.join(name)),
            None => (false, directory.join(&name)),
        };
        let outcome = match files.read(&name) {
            Ok(bytes) => parse(&bytes),
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err("is not there; write - before it if it may be missing".to_owned())
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match outcome {
            Ok(variables) => watcher.environment.extend(variables),
            Err(problem) => {
                let place = watcher.written_at.get("env_file");
                let message = format!(
                    "watcher {}: env_file '{}' {problem}",
                    super::ini::quoted(&watcher.name),
                    name.display()
                );
                let place = place.unwrap_or(&watcher.origin).clone();
                findings.errors.push(Diagnostic::error(place, message));
            }
        }
    }
}

/// The variables of one file. Empty lines and those that begin with `#` or `;` are passed over,
/// `export ` before a name too, and quotation marks around a value.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let mut variables = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("has no NAME=VALUE in line {number}"))?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) || line.contains('\0') {
            return Err(format!("has no NAME=VALUE in line {number}"));
        }
        variables.insert(name.to_owned(), unquoted(value.trim()).to_owned());
    }
    Ok(variables)
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|it| it.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values() {
        let text = "# c\n\n; d\nA=1\nexport B = \"x y\"\nC='#'\nD=\nE=a=b\n";
        let found = parse(text.as_bytes()).expect("readable");
        let expected = [
            ("A", "1"),
            ("B", "x y"),
            ("C", "#"),
            ("D", ""),
            ("E", "a=b"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected.into());
        for wrong in ["A", "=1", "A B=1"] {
            assert!(
                parse(wrong.as_bytes()).unwrap_err().contains("line 1"),
                "{wrong}"
            );
        }
        assert!(parse(&[0xff]).unwrap_err().contains("UTF-8"));
    }
}

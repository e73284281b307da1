//! The same words as in INI files, written in TOML: bytes in, sections and keys with their places
//! out. Knows no more of what they mean than which of them may be tables.
//!
//! | TOML | INI |
//! |---|---|
//! | `[watcher.web]`, `[socket.web]`, `[plugin.x]` | `[watcher:web]` and so on |
//! | `[env]`, `[env."web,api*"]` | `[env]`, `[env:web,api*]` |
//! | `[watcher.web.env]` | `[env:web]` |
//! | `[watcher.web.hooks]` and other tables of a watcher | `hooks.NAME = ...` |
//! | `[watcher.web.rlimit]` | `rlimit_NAME = ...` |
//! | a list | its words; those of `cmd` and `args` quoted as needed |

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Location};
use super::ini::{self, IniEntry, IniFile, IniSection, quoted};
use super::limits;
use super::words;

/// Kinds of sections that have names.
const NAMED: [&str; 3] = ["watcher", "socket", "plugin"];
/// Keys whose lists are words of a command line.
const COMMAND_LINES: [&str; 3] = ["cmd", "args", "shell_args"];

/// Reads one file, as [`ini::parse`] does.
#[must_use]
pub fn parse(file: &str, bytes: &[u8]) -> (IniFile, Vec<Diagnostic>) {
    let text = match ini::text_of(file, bytes) {
        Ok(text) => text,
        Err(error) => return (IniFile::default(), vec![error]),
    };
    let mut reader = Reader {
        file,
        lines: std::iter::once(0)
            .chain(text.match_indices('\n').map(|(place, _)| place + 1))
            .collect(),
        text,
        sections: Vec::new(),
        errors: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().map_or(0, |span| span.start);
        reader.error(place, error.message().to_owned());
    }
    if reader.errors.is_empty() {
        reader.read(table.get_ref());
    }
    reader.sections.sort_by_key(|(place, _)| *place);
    let sections = reader.sections.into_iter().map(|(_, section)| section);
    let sections = IniFile {
        sections: sections.collect(),
    };
    let place = |error: &Diagnostic| (error.location.line, error.location.column);
    reader.errors.sort_by_key(place);
    reader.errors.truncate(limits::DIAGNOSTICS);
    (sections, reader.errors)
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// With their places: tables come by name, sections in the order of the file.
    sections: Vec<(usize, IniSection)>,
    errors: Vec<Diagnostic>,
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl Reader<'_> {
    fn location(&self, place: usize) -> Location {
        let line = self.lines.partition_point(|start| *start <= place).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..place).unwrap_or_default();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let column = number(before.chars().count()).saturating_add(1);
        Location::new(self.file, number(line), column)
    }

    fn error(&mut self, place: usize, message: String) {
        let error = Diagnostic::error(self.location(place), message);
        self.errors.push(error);
    }

    fn read(&mut self, file: &DeTable<'_>) {
        for (key, value) in file {
            let name = key.get_ref().as_ref();
            let DeValue::Table(table) = value.get_ref() else {
                let problem = format!(
                    "{} is outside of a table; settings of the manager belong into [circus]",
                    quoted(name)
                );
                self.error(key.span().start, problem);
                continue;
            };
            if NAMED.contains(&name) {
                self.named(name, table);
            } else if name == "env" {
                self.environments(key, table);
            } else {
                // As in INI: what nobody knows is left out later, with a warning.
                self.section(name.to_owned(), key, table);
            }
        }
    }

    /// `[watcher.NAME]` and the like.
    fn named(&mut self, kind: &str, tables: &DeTable<'_>) {
        for (key, value) in tables {
            let name = key.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(table) => self.section(format!("{kind}:{name}"), key, table),
                other => {
                    let problem = format!(
                        "{kind}.{name} is {} and has to be a table: [{kind}.{name}]",
                        other.type_str()
                    );
                    self.error(key.span().start, problem);
                }
            }
        }
    }

    /// `[env]` with its variables, and the tables in it that are for some watchers only.
    fn environments(&mut self, key: &Key<'_>, table: &DeTable<'_>) {
        let mut common = DeTable::new();
        for (name, value) in table {
            match value.get_ref() {
                DeValue::Table(own) => {
                    self.section(format!("env:{}", name.get_ref()), name, own);
                }
                _ => {
                    common.insert(name.clone(), value.clone());
                }
            }
        }
        if !common.is_empty() {
            self.section("env".to_owned(), key, &common);
        }
    }

    fn section(&mut self, name: String, key: &Key<'_>, table: &DeTable<'_>) {
        let place = key.span().start;
        let mut entries: Vec<(usize, IniEntry)> = Vec::new();
        let watcher = name.strip_prefix("watcher:").map(str::to_owned);
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            match (value.get_ref(), &watcher) {
                (DeValue::Table(own), Some(watcher)) if word == "env" => {
                    self.section(format!("env:{}", literal_pattern(watcher)), key, own);
                }
                (DeValue::Table(inner), _) => {
                    let joint = if word == "rlimit" { "_" } else { "." };
                    for (inner_key, value) in inner {
                        let full = format!("{word}{joint}{}", inner_key.get_ref());
                        entries.extend(self.entry(full, inner_key, value));
                    }
                }
                _ => entries.extend(self.entry(word.to_owned(), key, value)),
            }
        }
        entries.sort_by_key(|(place, _)| *place);
        let section = IniSection {
            name,
            location: self.location(place),
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        };
        self.sections.push((place, section));
    }

    fn entry(
        &mut self,
        name: String,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<(usize, IniEntry)> {
        let place = key.span().start;
        let value_place = value.span().start;
        match text_of(&name, value.get_ref()) {
            Ok(text) => {
                let entry = IniEntry {
                    key: name,
                    key_location: self.location(place),
                    value: text,
                    value_location: self.location(value_place),
                };
                Some((place, entry))
            }
            Err(what) => {
                let problem = format!(
                    "{name} is {what}, and has to be text, a number, true or false, or a list of \
                     those"
                );
                self.error(value_place, problem);
                None
            }
        }
    }
}

/// A value as it would stand in an INI file, or what else it is.
fn text_of(key: &str, value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::Array(items) => {
            let command = COMMAND_LINES.contains(&key);
            let mut texts = Vec::new();
            for item in items.iter() {
                if item.get_ref().is_array() {
                    return Err("a list of lists");
                }
                let text = text_of(key, item.get_ref())?;
                texts.push(if command { words::quote(&text) } else { text });
            }
            Ok(texts.join(" "))
        }
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "a number that is too large"),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Table(_) => Err("a table"),
    }
}

/// A pattern that only this name matches: sections `[env:...]` have patterns with commas between.
fn literal_pattern(name: &str) -> String {
    let escape = |character: char| match character {
        '*' | '?' | '[' => format!("[{character}]"),
        // A comma cannot be escaped, so any one character has to do.
        ',' => "?".to_owned(),
        other => other.to_string(),
    };
    name.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        let (file, errors) = parse("t.toml", text.as_bytes());
        assert_eq!(errors, []);
        let entries = |section: IniSection| {
            let pairs = section.entries.into_iter().map(|it| (it.key, it.value));
            (section.name, pairs.collect())
        };
        file.sections.into_iter().map(entries).collect()
    }

    fn errors(text: &str) -> Vec<String> {
        let (_, errors) = parse("t.toml", text.as_bytes());
        let line = |error: &Diagnostic| {
            let Location {
                line, column, file, ..
            } = &error.location;
            format!("{file}:{line}:{column}: {}", error.message)
        };
        errors.iter().map(line).collect()
    }

    #[test]
    fn tables_become_the_sections_of_ini_in_the_order_of_the_file() {
        let text = "[watcher.web]\ncmd = [\"serve\", \"a b\"]\nnumprocesses = 2\nshell = false\n\
                    hooks.after_spawn = \"a.b\"\n[watcher.web.env]\nPORT = 80\n\
                    [watcher.web.rlimit]\nnofile = 0x10\n\
                    [watcher.web.stdout_stream]\nfilename = \"x.log\"\n\
                    [socket.web]\nport = 8080\n[circus]\ncheck_delay = 0.5\n\
                    include = [\"a.ini\", \"b/*.toml\"]\n[env]\nA = \"1\"\n[env.\"w*,api\"]\nB = \"2\"\n";
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        let expected = [
            (
                "watcher:web",
                pairs(&[
                    ("cmd", "serve 'a b'"),
                    ("numprocesses", "2"),
                    ("shell", "false"),
                    ("hooks.after_spawn", "a.b"),
                    ("rlimit_nofile", "16"),
                    ("stdout_stream.filename", "x.log"),
                ]),
            ),
            ("env:web", pairs(&[("PORT", "80")])),
            ("socket:web", pairs(&[("port", "8080")])),
            (
                "circus",
                pairs(&[("check_delay", "0.5"), ("include", "a.ini b/*.toml")]),
            ),
            ("env", pairs(&[("A", "1")])),
            ("env:w*,api", pairs(&[("B", "2")])),
        ];
        let expected = expected.map(|(name, pairs)| (name.to_owned(), pairs));
        assert_eq!(sections(text), expected);
    }

    #[test]
    fn errors_have_their_place() {
        let found = errors("x = 1\n[watcher]\nweb = 3\n[watcher.\"é\"]\n  cmd = 1979-05-27\n");
        assert_eq!(
            found,
            [
                "t.toml:1:1: \"x\" is outside of a table; settings of the manager belong into \
                 [circus]",
                "t.toml:3:1: watcher.web is integer and has to be a table: [watcher.web]",
                "t.toml:5:9: cmd is a date, and has to be text, a number, true or false, or a \
                 list of those",
            ]
        );
        assert!(errors("[watcher.web\ncmd = 'a'\n")[0].starts_with("t.toml:1:"));
        assert!(errors("[a]\nb = 1\nb = 2\n")[0].starts_with("t.toml:3:1: duplicate"));
    }

    #[test]
    fn names_of_watchers_are_no_patterns_for_their_own_environment() {
        let text = "[watcher.\"a*b,c\"]\ncmd = 'x'\n[watcher.\"a*b,c\".env]\nA = 'b'\n";
        assert_eq!(sections(text)[1].0, "env:a[*]b?c");
    }
}

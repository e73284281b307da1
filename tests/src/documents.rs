//! The commands that documentation shows, and how they are to be tried.
//!
//! - Blocks marked `sh` are commands, a line each (or several, joined by backslashes).
//! - Blocks marked `console` are commands after `$ `, what is typed into them after `> `, and what they write.
//! - Code in the text that begins with `kingpole ` is a command, or a synopsis of several.
//! - `<!-- not run: WHY -->` before a block excepts it, and `` <!-- not run `COMMAND`: WHY --> `` anywhere a command.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Programs of which a line in a block without a mark would be a command.
const PROGRAMS: [&str; 16] = [
    "kingpole",
    "kingpole-kernel",
    "kingpole-manager",
    "circusctl",
    "circusd",
    "curl",
    "nc",
    "telnet",
    "socat",
    "node",
    "cargo",
    "systemctl",
    "sudo",
    "pip",
    "apt-get",
    "$",
];

/// A command of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// As it is to be run.
    pub command: String,
    /// What is typed into it.
    pub typed: String,
    /// What it is shown to write, line by line.
    pub output: Vec<String>,
}

/// What a page shows.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of the page; each once, unless it stands in a block.
    pub commands: Vec<Shown>,
    /// What is not run, and why.
    pub excepted: Vec<(String, String)>,
    /// What cannot be understood.
    pub unclear: Vec<String>,
}

/// All pages, by their path below the workspace. The changelog tells of what was.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn pages(workspace: &Path) -> Vec<PathBuf> {
    let mut pages = vec![PathBuf::from("README.md")];
    for directory in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(workspace.join(directory)).expect("the documentation");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let found = names.map(|name| Path::new(directory).join(name));
        pages.extend(found.filter(|path| {
            path.extension().is_some_and(|it| it == "md") && !path.ends_with("changelog.md")
        }));
    }
    pages.sort();
    pages
}

impl Page {
    /// Reads one.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut page = Self::default();
        let exceptions = exceptions(text);
        let mut seen = BTreeSet::new();
        let mut lines = text.lines().peekable();
        let mut whole_block: Option<String> = None;
        while let Some(line) = lines.next() {
            if let Some(language) = line.strip_prefix("```") {
                let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                let found = match language {
                    "sh" => in_sh(&block),
                    "console" => in_console(&block),
                    "" => {
                        page.unclear.extend(looks_like_commands(&block));
                        Vec::new()
                    }
                    _ => Vec::new(),
                };
                match whole_block.take() {
                    Some(why) => {
                        let commands = found.into_iter().map(|it| (it.command, why.clone()));
                        page.excepted.extend(commands);
                    }
                    None => found.into_iter().for_each(|it| page.add(it, &exceptions)),
                }
                continue;
            }
            if let Some(why) = mark(line, "not run: ") {
                whole_block = Some(why.to_owned());
                continue;
            }
            if !line.trim().is_empty() {
                whole_block = None;
            }
            for code in line.split('`').skip(1).step_by(2) {
                if line.contains("<!--") || !code.starts_with("kingpole ") {
                    continue;
                }
                for command in synopsis(code) {
                    if seen.insert(command.clone()) {
                        let shown = Shown {
                            command,
                            typed: String::new(),
                            output: Vec::new(),
                        };
                        page.add(shown, &exceptions);
                    }
                }
            }
        }
        for (command, _) in exceptions {
            if !page.excepted.iter().any(|(other, _)| *other == command) {
                let text = format!("{command:?} is excepted, and not shown");
                page.unclear.push(text);
            }
        }
        page
    }

    fn add(&mut self, shown: Shown, exceptions: &BTreeMap<String, String>) {
        match exceptions.get(&shown.command) {
            Some(why) => self.excepted.push((shown.command, why.clone())),
            None => self.commands.push(shown),
        }
    }
}

/// What stands in a comment of ours.
fn mark<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let inside = line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    inside.strip_prefix(word)
}

fn exceptions(text: &str) -> BTreeMap<String, String> {
    let marks = text.lines().filter_map(|line| mark(line, "not run `"));
    marks
        .filter_map(|rest| rest.split_once("`: "))
        .map(|(command, why)| (command.to_owned(), why.to_owned()))
        .collect()
}

fn looks_like_commands(block: &[&str]) -> Vec<String> {
    let command = |line: &&&str| {
        let first = line.split(' ').next().unwrap_or_default();
        line.contains(' ') && PROGRAMS.contains(&first)
    };
    block
        .iter()
        .filter(command)
        .map(|line| format!("{line:?} stands in a block that is neither sh, console nor text"))
        .collect()
}

fn in_sh(block: &[&str]) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut open = String::new();
    for line in block {
        open.push_str(line);
        if line.ends_with('\\') {
            open.push('\n');
            continue;
        }
        let command = std::mem::take(&mut open);
        if !command.trim().is_empty() {
            found.push(Shown {
                command,
                typed: String::new(),
                output: Vec::new(),
            });
        }
    }
    found
}

fn in_console(block: &[&str]) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    for line in block {
        if let Some(command) = line.strip_prefix("$ ") {
            found.push(Shown {
                command: command.to_owned(),
                typed: String::new(),
                output: Vec::new(),
            });
            continue;
        }
        let Some(last) = found.last_mut() else {
            continue;
        };
        match line.strip_prefix("> ") {
            Some(typed) => {
                last.typed.push_str(typed);
                last.typed.push('\n');
            }
            None => last.output.push((*line).to_owned()),
        }
    }
    found
}

/// The commands of a synopsis: without its optional parts, and with each of them alone; of alternatives each.
/// Placeholders stay.
fn synopsis(code: &str) -> Vec<String> {
    let text = code.replace("\\|", "|").replace("...", "");
    if text.contains(" | ") {
        return vec![text];
    }
    let mut required: Vec<String> = Vec::new();
    let mut optional: Vec<(usize, String)> = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').unwrap_or(inside.len());
            let (part, after) = inside.split_at(end);
            optional.push((required.len(), part.to_owned()));
            rest = after.trim_start_matches(']');
            continue;
        }
        // Quoted words stay whole.
        let end = match rest.strip_prefix('\'') {
            Some(inside) => inside.find('\'').map_or(rest.len(), |at| at + 2),
            None => rest.find([' ', '[']).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        if !word.is_empty() {
            required.push(word.to_owned());
        }
        rest = after;
    }
    let mut found = vec![required.join(" ")];
    for (at, part) in optional {
        let mut words = required.clone();
        words.insert(at, part);
        found.push(words.join(" "));
    }
    found.into_iter().flat_map(|it| alternatives(&it)).collect()
}

fn alternatives(command: &str) -> Vec<String> {
    let Some(word) = command.split(' ').find(|word| word.contains('|')) else {
        return vec![command.to_owned()];
    };
    let one = |choice: &str| command.replacen(word, choice, 1);
    word.split('|')
        .flat_map(|choice| alternatives(&one(choice)))
        .collect()
}

/// Text without what differs from run to run: numbers.
#[must_use]
pub fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut number = false;
    for c in text.chars() {
        let part = c.is_ascii_digit() || number && c == '.';
        if part && !number {
            shape.push('#');
        }
        if !part {
            shape.push(c);
        }
        number = part;
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<String> {
        let page = Page::read(text);
        assert!(page.unclear.is_empty(), "{:?}", page.unclear);
        page.commands.into_iter().map(|it| it.command).collect()
    }

    #[test]
    fn a_synopsis_is_several_commands() {
        let text =
            "| `kingpole logs [-f] [-n N] [NAME...]` | `kingpole import a\\|b FILE` | `circus` |";
        let expected = [
            "kingpole logs",
            "kingpole logs -f",
            "kingpole logs -n N",
            "kingpole logs NAME",
            "kingpole import a FILE",
            "kingpole import b FILE",
        ];
        assert_eq!(commands(text), expected);
    }

    #[test]
    fn a_console_has_commands_input_and_output() {
        let text = "```console\n$ nc -U x\nhello\n> a b\nc\n$ true\n```";
        let page = Page::read(text);
        assert_eq!(page.commands[0].typed, "a b\n");
        assert_eq!(page.commands[0].output, ["hello", "c"]);
        assert_eq!(page.commands[1].command, "true");
    }

    #[test]
    fn what_is_not_run_says_why_and_must_be_there() {
        let text = "<!-- not run: needs a bear -->\n```sh\ncargo dance\n```\n\
                    <!-- not run `kingpole fly`: no wings -->\n`kingpole fly`";
        let page = Page::read(text);
        assert!(page.commands.is_empty() && page.unclear.is_empty());
        assert_eq!(page.excepted.len(), 2);
        let page = Page::read("<!-- not run `kingpole fly`: no wings -->\n");
        assert_eq!(page.unclear.len(), 1);
        assert_eq!(Page::read("```\ncargo dance\n```").unclear.len(), 1);
    }

    #[test]
    fn numbers_differ() {
        assert_eq!(
            shape("release 0.2.0 in 1.9 ms."),
            shape("release 12 in 3 ms.")
        );
    }
}

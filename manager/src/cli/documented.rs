//! Every command that the documentation or a `--help` shows is one that this program understands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::Cli;

/// Words that stand for others in synopses.
const PLACEHOLDERS: [(&str, &str); 12] = [
    ("N", "1"),
    ("TIME", "1s"),
    ("SECONDS", "1"),
    ("SIGNAL", "HUP"),
    ("ORDER", "cpu"),
    ("WHEN", "never"),
    ("T", "group"),
    ("LINES", "1"),
    ("bash\\|zsh\\|fish", "bash"),
    ("supervisor\\|procfile\\|pm2", "pm2"),
    ("K=V", "A=b"),
    ("VERSION", "1"),
];

/// Where a command ends in a line of a shell.
fn end_of_command(line: &str) -> usize {
    let mut quoted = None;
    for (at, c) in line.char_indices() {
        match (quoted, c) {
            (Some(quote), c) if quote == c => quoted = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quoted = Some(c),
            (None, '|' | '>' | '<' | ';' | '&' | '#' | ')') => return at,
            (None, _) => {}
        }
    }
    line.len()
}

/// The commands of ours in a line of a shell, as words.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let line = line.trim().trim_start_matches("$ ");
    for part in line.split("&& ") {
        let part = part
            .trim_start_matches("sudo ")
            .trim_start_matches("watch ");
        let Some((program, rest)) = part.split_once(' ') else {
            continue;
        };
        if rest.trim().is_empty() || rest.starts_with("...") {
            continue;
        }
        if program == "kingpole" || program.ends_with("/kingpole") {
            let words = shlex::split(&part[..end_of_command(part)]);
            found.push(words.unwrap_or_else(|| panic!("a quote has no end: {line}")));
        }
    }
    found
}

/// A synopsis without its brackets and dots.
fn plain(synopsis: &str) -> String {
    let mut out = String::new();
    let mut rest = synopsis.replace("...", "");
    for (placeholder, word) in PLACEHOLDERS {
        let words: Vec<String> = rest
            .split(' ')
            .map(|w| {
                let bare = w.trim_matches(['[', ']']);
                if bare == placeholder {
                    w.replace(placeholder, word)
                } else {
                    w.to_owned()
                }
            })
            .collect();
        rest = words.join(" ");
    }
    // Of alternatives the first; of optional parts all.
    for word in rest.split(' ') {
        let word = word.trim_matches(['[', ']']);
        let word = word.split("\\|").next().unwrap_or(word);
        out.push_str(word);
        out.push(' ');
    }
    out
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    for dir in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(root.join(dir)).expect("the documentation");
        pages.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    // It tells of what was.
    pages.retain(|page| !page.ends_with("changelog.md"));
    pages
}

fn in_page(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.extend(commands(line));
        } else {
            for code in line.split('`').skip(1).step_by(2) {
                if code.starts_with("kingpole ") {
                    found.extend(commands(&plain(code)));
                }
            }
        }
    }
    found
}

fn in_help(command: &clap::Command, found: &mut Vec<Vec<String>>) {
    let help = command.get_after_help().map(ToString::to_string);
    for line in help.unwrap_or_default().lines() {
        found.extend(commands(line));
    }
    for verb in command.get_subcommands() {
        in_help(verb, found);
    }
}

#[test]
fn what_is_shown_is_understood() {
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut check = |place: String, words: Vec<String>| {
        if words.len() < 2 {
            return;
        }
        count += 1;
        // Named, not shown.
        let named = words[1..].iter().try_fold(Cli::command(), |command, verb| {
            command.find_subcommand(verb).cloned()
        });
        if named.is_some() {
            return;
        }
        if let Err(error) = Cli::try_parse_from(&words) {
            let help = matches!(
                error.kind(),
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
            );
            if !help {
                wrong.push(format!("{place}: {}\n{error}", words.join(" ")));
            }
        }
    };
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for words in in_page(&text) {
            check(page.display().to_string(), words);
        }
    }
    let mut help = Vec::new();
    in_help(&Cli::command(), &mut help);
    for words in help {
        check("--help".to_owned(), words);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 50, "only {count} were found");
}

#[test]
fn every_verb_has_examples_or_nothing_to_choose() {
    let mut without = Vec::new();
    for verb in Cli::command().get_subcommands() {
        let arguments = verb.get_arguments().count();
        let help = verb.get_after_help().map(ToString::to_string);
        let shown = help.is_some_and(|help| help.contains("kingpole "));
        let has_verbs = verb.get_subcommands().next().is_some();
        if !(shown || has_verbs || arguments == 0 || verb.get_name() == "help") {
            without.push(verb.get_name().to_owned());
        }
    }
    assert!(without.is_empty(), "--help has no example: {without:?}");
}

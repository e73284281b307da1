//! `kingpole shell`: a prompt for all other verbs. Each line runs as a `kingpole` of its own, so that
//! whatever a verb does, the prompt is there again afterwards.

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::client::{ManagerClient, Patience};
use super::completions::takes_names;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;
use crate::command::{Answer, Command, Selection};

/// How long Tab waits for the names of watchers.
const NAMES_PATIENCE: Duration = Duration::from_secs(1);

/// Lines of history that are kept.
const HISTORY_LINES: usize = 1000;

#[derive(Debug, Args)]
#[command(
    after_help = "Commands are those of kingpole, without the word: status, restart web. \
exit or Ctrl-D leaves.\nFrom a file or a pipe it stops at the first command that fails, with its exit \
code.\n\nExamples:\n  kingpole shell\n  kingpole shell < commands.txt"
)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments, dir: &Path, command: &clap::Command) -> Outcome {
    let interrupts = Interrupts::new()?;
    let shell = Shell {
        dir: dir.to_owned(),
        verbs: command.clone(),
        _interrupts: interrupts,
    };
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        shell.prompt()
    } else {
        shell.script(io::stdin().lock())
    }
}

/// Ctrl-C ends what a line runs, not the prompt.
struct Interrupts {
    _runtime: tokio::runtime::Runtime,
    _interrupt: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let no_loop = |error: io::Error| Failure::failed(format!("no event loop: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_loop)?;
        let entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).map_err(no_loop)?;
        drop(entered);
        Ok(Self {
            _runtime: runtime,
            _interrupt: interrupt,
        })
    }
}

struct Shell {
    dir: PathBuf,
    verbs: clap::Command,
    _interrupts: Interrupts,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Leave,
    Run(Vec<String>),
    Refused(&'static str),
}

fn read(line: &str) -> Line {
    let Some(words) = shlex::split(line) else {
        return Line::Refused("a quote has no end");
    };
    match words.first().map(String::as_str) {
        None => Line::Nothing,
        Some(word) if word.starts_with('#') => Line::Nothing,
        Some("exit") => Line::Leave,
        Some("shell") => Line::Refused("this is the shell"),
        Some(_) => Line::Run(words),
    }
}

impl Shell {
    fn prompt(&self) -> Outcome {
        let broken = |error: ReadlineError| Failure::failed(format!("no prompt: {error}"));
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .max_history_size(HISTORY_LINES)
            .map_err(broken)?
            .auto_add_history(true)
            .build();
        let mut editor: Editor<Words, FileHistory> = Editor::with_config(config).map_err(broken)?;
        editor.set_helper(Some(Words {
            dir: self.dir.clone(),
            verbs: self.verbs.clone(),
        }));
        let history = history_file();
        if let Some(file) = &history {
            // The first time there is none.
            let _ = editor.load_history(file);
        }
        loop {
            let line = match editor.readline("kingpole> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(broken(error)),
            };
            match read(&line) {
                Line::Nothing => {}
                Line::Leave => break,
                Line::Refused(why) => print(&format!("{why}\n"))?,
                Line::Run(words) => {
                    if is_quit(&words) && !self.confirm(&mut editor)? {
                        continue;
                    }
                    self.execute(&words)?;
                }
            }
            if let Some(file) = &history {
                // A history that cannot be kept is no reason to stop.
                let _ = editor.save_history(file);
            }
        }
        Ok(Exit::Done)
    }

    /// In other shells this word only leaves.
    fn confirm(&self, editor: &mut Editor<Words, FileHistory>) -> Result<bool, Failure> {
        print("quit ends the manager and what is not use_papa; exit leaves this shell\n")?;
        match editor.readline("end the manager? (y/n) ") {
            Ok(answer) => Ok(matches!(answer.trim(), "y" | "Y" | "yes")),
            Err(_) => Ok(false),
        }
    }

    fn script(&self, input: impl BufRead) -> Outcome {
        for (number, line) in (1..).zip(input.lines()) {
            let line = line
                .map_err(|error| Failure::failed(format!("cannot read the commands: {error}")))?;
            match read(&line) {
                Line::Nothing => {}
                Line::Leave => break,
                Line::Refused(why) => {
                    return Err(Failure::new(Exit::Usage, format!("line {number}: {why}")));
                }
                Line::Run(words) => {
                    let status = self.execute(&words)?;
                    if !status.success() {
                        // The verb has said why, in its own words.
                        return Err(Failure::silent(Exit::of(status)));
                    }
                }
            }
        }
        Ok(Exit::Done)
    }

    fn execute(&self, words: &[String]) -> Result<ExitStatus, Failure> {
        let cannot = |error: io::Error| Failure::failed(format!("cannot run {words:?}: {error}"));
        std::process::Command::new(std::env::current_exe().map_err(cannot)?)
            .arg("--runtime-dir")
            .arg(&self.dir)
            .args(words)
            .status()
            .map_err(cannot)
    }
}

fn is_quit(words: &[String]) -> bool {
    words.first().is_some_and(|verb| verb == "quit") && !words.iter().any(|w| w == "--help")
}

/// `$XDG_STATE_HOME/kingpole/history`, in a directory of its user alone.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let dir = state.join("kingpole");
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&dir).ok()?;
    fs::metadata(&dir)
        .ok()?
        .is_dir()
        .then(|| dir.join("history"))
}

/// What Tab offers: verbs, their options, and the names of the watchers that there are.
struct Words {
    dir: PathBuf,
    verbs: clap::Command,
}

impl Words {
    fn offers(&self, before: &str) -> Vec<String> {
        let words: Vec<&str> = before.split_whitespace().collect();
        let Some(mut command) = words
            .first()
            .map_or(Some(&self.verbs), |verb| self.verbs.find_subcommand(verb))
        else {
            return Vec::new();
        };
        for word in words.iter().skip(1) {
            command = command.find_subcommand(word).unwrap_or(command);
        }
        let mut offers: Vec<String> = command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(|verb| verb.get_name().to_owned())
            .collect();
        if words.is_empty() {
            offers.extend(["exit".to_owned(), "help".to_owned()]);
        } else {
            let options = command.get_arguments().filter_map(clap::Arg::get_long);
            offers.extend(options.map(|option| format!("--{option}")));
        }
        if takes_names(command) {
            offers.extend(self.names());
        }
        offers
    }

    /// None when no manager answers in time.
    fn names(&self) -> Vec<String> {
        let list = Command::List(Selection::default());
        let answer = ManagerClient::new(&self.dir)
            .and_then(|client| client.command(&list, Patience::For(NAMES_PATIENCE)));
        let Ok(Answer::List { watchers }) = answer else {
            return Vec::new();
        };
        let quoted = watchers.iter().map(|name| shlex::try_quote(name));
        quoted.flatten().map(std::borrow::Cow::into_owned).collect()
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..position).unwrap_or(line);
        let start = typed.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (before, word) = typed.split_at(start);
        let mut offers = self.offers(before);
        offers.retain(|offer| {
            offer.starts_with(word) && (word.starts_with('-') || !offer.starts_with('-'))
        });
        offers.sort();
        Ok((start, offers.into_iter().map(|o| o + " ").collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn lines_are_read_as_a_shell_reads_them() {
        let run = |words: &[&str]| Line::Run(words.iter().map(|w| (*w).to_owned()).collect());
        assert_eq!(read("restart 'my web' x"), run(&["restart", "my web", "x"]));
        assert_eq!(read("  # only a comment"), Line::Nothing);
        assert_eq!(read(""), Line::Nothing);
        assert_eq!(read(" exit "), Line::Leave);
        assert_eq!(read("stop 'web"), Line::Refused("a quote has no end"));
        assert_eq!(read("shell"), Line::Refused("this is the shell"));
    }

    #[test]
    fn tab_offers_verbs_options_and_nothing_wrong() {
        let words = Words {
            dir: tempfile::tempdir().unwrap().path().to_owned(),
            verbs: crate::cli::Cli::command(),
        };
        let history = FileHistory::new();
        let offers = |line: &str| {
            let found = words.complete(line, line.len(), &Context::new(&history));
            found.unwrap()
        };
        assert_eq!(offers("resta"), (0, vec!["restart ".to_owned()]));
        assert_eq!(offers("kernel st"), (7, vec!["status ".to_owned()]));
        assert!(offers("stop --wa").1.contains(&"--wait ".to_owned()));
        assert_eq!(
            offers("stop ").1,
            Vec::<String>::new(),
            "no manager, no names"
        );
        assert_eq!(offers("nonsense x").1, Vec::<String>::new());
        assert!(offers("").1.contains(&"exit ".to_owned()));
    }
}

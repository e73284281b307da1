//! What all verbs share that change watchers: which ones, whether to wait, and how the answer is
//! shown.

use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{print, print_json};
use crate::command::{
    Answer, Change, Command, Matching, Selection, Step, Wait, WatcherOutcome, WatcherResult,
};
use crate::engine::Pid;

/// Which watchers.
#[derive(Debug, Args)]
pub(super) struct Watchers {
    /// Names of watchers, or patterns such as 'web*'; all when none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How names are read
    #[arg(long = "match", value_enum, default_value_t = MatchWord::Glob)]
    matching: MatchWord,
}

/// How names are read, as a word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MatchWord {
    /// As patterns of *, ?, [abc], [!abc]
    Glob,
    /// As they are
    Simple,
    /// As regular expressions that the beginning of a name has to match
    Regex,
}

impl From<MatchWord> for Matching {
    fn from(word: MatchWord) -> Self {
        match word {
            MatchWord::Glob => Self::Glob,
            MatchWord::Simple => Self::Simple,
            MatchWord::Regex => Self::Regex,
        }
    }
}

impl Watchers {
    pub(super) fn selection(self) -> Selection {
        Selection {
            watchers: self.names,
            matching: self.matching.into(),
        }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

/// Which watchers, where "all" would too easily be a mistake.
#[derive(Debug, Args)]
pub(super) struct SomeWatchers {
    /// Names of watchers, or patterns such as 'web*'
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// How names are read
    #[arg(long = "match", value_enum, default_value_t = MatchWord::Glob)]
    matching: MatchWord,
}

impl SomeWatchers {
    pub(super) fn selection(self) -> Selection {
        Selection {
            watchers: self.names,
            matching: self.matching.into(),
        }
    }
}

/// Whether to wait.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Waiting {
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
    /// Wait at most so long: 10, 1.5s, 500ms, 2m (implies --wait); exit code 5 when it takes longer
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Waiting {
    /// As a verb says whose own options mean more than these.
    pub(super) const fn new(wait: bool, timeout: Option<Duration>, json: bool) -> Self {
        Self {
            wait,
            timeout,
            json,
        }
    }

    pub(super) fn wait(&self) -> Wait {
        Wait::from(self.wait || self.timeout.is_some())
    }

    fn patience(&self) -> Patience {
        match (self.timeout, self.wait) {
            (Some(limit), _) => Patience::For(limit),
            (None, true) => Patience::Endless,
            (None, false) => Patience::Usual,
        }
    }
}

/// What `start` and `stop` are told.
#[derive(Debug, Args)]
pub(super) struct ChangeArguments {
    #[command(flatten)]
    watchers: Watchers,
    #[command(flatten)]
    waiting: Waiting,
}

impl ChangeArguments {
    pub(super) fn change(self) -> (Change, Waiting) {
        let change = Change {
            selection: self.watchers.selection(),
            wait: self.waiting.wait(),
        };
        (change, self.waiting)
    }
}

/// What `incr` and `decr` are told.
#[derive(Debug, Args)]
pub(super) struct StepArguments {
    #[command(flatten)]
    watchers: SomeWatchers,
    /// By how many (1); as in circusctl, a number behind the names says so too
    #[arg(long)]
    by: Option<u32>,
    #[command(flatten)]
    waiting: Waiting,
}

impl StepArguments {
    pub(super) fn step(mut self) -> (Step, Waiting) {
        let names = &mut self.watchers.names;
        let by = self.by.or_else(|| {
            let by = names.last().filter(|_| names.len() > 1)?.parse().ok()?;
            names.pop();
            Some(by)
        });
        let step = Step {
            selection: self.watchers.selection(),
            by: by.unwrap_or(1),
            wait: self.waiting.wait(),
        };
        (step, self.waiting)
    }
}

/// A time as people write it; a number alone counts seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a number is needed, such as 10s".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

/// Sends a command and shows its answer.
pub(super) fn send(command: &Command, waiting: &Waiting, dir: &Path) -> Outcome {
    let client = ManagerClient::new(dir)?;
    let value = client.command_value(command, waiting.patience())?;
    let answer: Answer = serde_json::from_value(value.clone()).map_err(|error| {
        Failure::failed(format!("the manager's answer is not understood: {error}"))
    })?;
    if waiting.json {
        print_json(&value)?;
    } else {
        print(&describe(&answer))?;
    }
    Ok(verdict(&answer))
}

/// The exit code of an answer.
pub(super) fn verdict(answer: &Answer) -> Exit {
    let (Answer::Changed { watchers } | Answer::Plan { watchers, .. }) = answer else {
        return Exit::Done;
    };
    if watchers.is_empty() {
        return Exit::Done;
    }
    let failed = watchers
        .iter()
        .filter(|w| w.result == WatcherResult::Failed)
        .count();
    let superseded = watchers
        .iter()
        .any(|w| w.result == WatcherResult::Superseded);
    if failed == 0 && !superseded {
        Exit::Done
    } else if failed == watchers.len() {
        Exit::Failed
    } else {
        Exit::Unfinished
    }
}

/// An answer for people, a line end behind each line.
pub(super) fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Changed { watchers } if watchers.is_empty() => "nothing to do\n".to_owned(),
        Answer::Changed { watchers } => watchers.iter().map(describe_watcher).collect(),
        Answer::Signaled { pids } if pids.is_empty() => "no process to signal\n".to_owned(),
        Answer::Signaled { pids } => format!("signalled: {}\n", list(pids)),
        Answer::Leaving => "the manager leaves\n".to_owned(),
        Answer::Plan {
            lines,
            applied,
            watchers,
            plan: _,
        } => {
            let would = if *applied { "" } else { "would change:\n" };
            let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let outcomes: String = watchers.iter().map(describe_watcher).collect();
            format!("{would}{lines}{outcomes}")
        }
        Answer::Status(_)
        | Answer::States { .. }
        | Answer::List { .. }
        | Answer::Pids { .. }
        | Answer::Number { .. }
        | Answer::Options { .. }
        | Answer::Stats { .. }
        | Answer::Dstats { .. }
        | Answer::Runs { .. }
        | Answer::History { .. }
        | Answer::Sockets { .. } => String::new(),
    }
}

fn describe_watcher(outcome: &WatcherOutcome) -> String {
    let result = match outcome.result {
        WatcherResult::Accepted => "accepted",
        WatcherResult::Done => "done",
        WatcherResult::Failed => "failed",
        WatcherResult::Superseded => "superseded by a later command",
        WatcherResult::Unchanged => "unchanged",
    };
    let mut text = format!("{}: {result}", outcome.watcher);
    if let Some(reason) = &outcome.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    let numbers = outcome.numprocesses;
    text.push_str(&format!(" ({numbers} wanted"));
    for (what, pids) in [
        ("started", &outcome.started),
        ("stopped", &outcome.stopped),
        ("kept", &outcome.kept),
    ] {
        if !pids.is_empty() {
            text.push_str(&format!("; {what} {}", list(pids)));
        }
    }
    text.push_str(")\n");
    text
}

fn list(pids: &[Pid]) -> String {
    let pids: Vec<String> = pids.iter().map(Pid::to_string).collect();
    pids.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: WatcherResult) -> WatcherOutcome {
        WatcherOutcome {
            watcher: "web".into(),
            result,
            reason: None,
            numprocesses: 3,
            started: vec![Pid(7), Pid(8)],
            stopped: vec![],
            kept: vec![Pid(6)],
        }
    }

    #[test]
    fn one_failure_among_many_is_partly_done() {
        let changed = |results: &[WatcherResult]| Answer::Changed {
            watchers: results.iter().map(|result| outcome(*result)).collect(),
        };
        use WatcherResult::{Accepted, Done, Failed, Superseded, Unchanged};
        assert_eq!(verdict(&changed(&[Done, Accepted, Unchanged])), Exit::Done);
        assert_eq!(verdict(&changed(&[Done, Failed])), Exit::Unfinished);
        assert_eq!(verdict(&changed(&[Failed, Failed])), Exit::Failed);
        assert_eq!(verdict(&changed(&[Superseded])), Exit::Unfinished);
        assert_eq!(verdict(&changed(&[])), Exit::Done);
        assert_eq!(
            describe_watcher(&outcome(Done)),
            "web: done (3 wanted; started 7 8; kept 6)\n"
        );
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1", "1y", "inf", "1e999"] {
            parse_duration(wrong).unwrap_err();
        }
    }
}

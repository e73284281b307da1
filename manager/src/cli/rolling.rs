//! What the verbs share that begin rolling runs: how they are to go, and following them to the end,
//! whoever manages meanwhile.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::change::parse_duration;
use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;
use crate::command::{Answer, Command, Matching, RollOptions, RunReport, RunState, Selection};

/// How long a manager may be away in the middle of a run until nobody waits for the next one.
const AWAY_PATIENCE: Duration = Duration::from_secs(60);

/// How long a way back is waited for beyond the time that a process may take to become ready.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

/// How processes are replaced.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Pace {
    /// Never fewer ready processes than this [default: numprocesses, or one less with
    /// --max-surge 0]
    #[arg(long, value_name = "N")]
    min_active: Option<u32>,
    /// At most so many processes more than numprocesses [default: a quarter of it, at least 1]
    #[arg(long, value_name = "N")]
    max_surge: Option<u32>,
    /// Time between two stops of old processes [default: 0]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    skew: Option<Duration>,
    /// Kill old processes at once instead of waiting until they have stopped
    #[arg(long)]
    force: bool,
}

impl Pace {
    pub(super) const fn is_given(&self) -> bool {
        self.min_active.is_some() || self.max_surge.is_some() || self.skew.is_some() || self.force
    }

    pub(super) fn options(self, timeout: Option<Duration>) -> RollOptions {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        RollOptions {
            min_active: self.min_active,
            max_surge: self.max_surge,
            skew_ms: self.skew.map(ms),
            timeout_ms: timeout.map(ms),
            force: self.force,
            workers: None,
        }
    }
}

/// How a run is followed.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Following {
    /// Begin it and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    /// Rolling: how often to look how far it is [default: 0.1]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    check_interval: Option<Duration>,
}

impl Following {
    pub(super) const fn is_given(&self) -> bool {
        self.no_wait || self.check_interval.is_some()
    }
}

/// Gives a command that begins runs, and follows them.
pub(super) fn run(command: &Command, following: &Following, json: bool, dir: &Path) -> Outcome {
    let client = ManagerClient::new(dir)?;
    let runs = runs_of(client.command(command, Patience::Usual)?)?;
    let mut show = Show::new(json);
    let mut begun = BTreeMap::new();
    for run in &runs {
        show.report(run)?;
        begun.insert(run.watcher.clone(), run.run);
    }
    let planned = runs.iter().all(|run| run.state == RunState::Planned);
    if planned || following.no_wait {
        if runs.is_empty() && !json {
            print("nothing to do\n")?;
        }
        return Ok(Exit::Done);
    }
    follow(&client, begun, following, &mut show)
}

fn runs_of(answer: Answer) -> Result<Vec<RunReport>, Failure> {
    match answer {
        Answer::Runs { runs } => Ok(runs),
        other => Err(Failure::failed(format!(
            "the manager's answer is not understood: {other:?}"
        ))),
    }
}

/// Looks until all runs are over. The manager may be replaced or killed meanwhile: the run is the
/// process kernel's to remember, and the next manager's to go on with.
fn follow(
    client: &ManagerClient,
    mut open: BTreeMap<String, u64>,
    following: &Following,
    show: &mut Show,
) -> Outcome {
    let pause = following
        .check_interval
        .unwrap_or(Duration::from_millis(100));
    let mut away: Option<Instant> = None;
    let mut over: Vec<RunState> = Vec::new();
    let mut returning: BTreeMap<String, Instant> = BTreeMap::new();
    while !open.is_empty() {
        thread::sleep(pause);
        let selection = Selection {
            watchers: open.keys().cloned().collect(),
            matching: Matching::Simple,
        };
        let runs = match client.command(&Command::Runs(selection), Patience::Usual) {
            Ok(answer) => runs_of(answer)?,
            Err(failure) if is_away(&failure) => {
                let since = *away.get_or_insert_with(Instant::now);
                if since.elapsed() > AWAY_PATIENCE {
                    return Err(failure);
                }
                show.away()?;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        away = None;
        let mut seen = Vec::new();
        for run in &runs {
            let Some(number) = open.get(&run.watcher) else {
                continue;
            };
            seen.push(run.watcher.clone());
            if run.run != *number {
                show.lost(&run.watcher, *number)?;
                over.push(RunState::Superseded);
                open.remove(&run.watcher);
                continue;
            }
            show.report(run)?;
            let since = (run.state == RunState::Returning).then(|| {
                *returning
                    .entry(run.watcher.clone())
                    .or_insert_with(Instant::now)
            });
            let patience = Duration::from_millis(run.limits.timeout_ms) + RETURN_PATIENCE;
            if run.state.is_over() || since.is_some_and(|since| since.elapsed() > patience) {
                over.push(run.state);
                open.remove(&run.watcher);
            }
        }
        let gone: Vec<String> = open
            .keys()
            .filter(|name| !seen.contains(name))
            .cloned()
            .collect();
        for name in gone.iter().filter(|_| seen.len() == runs.len()) {
            // Removed and added anew, or all was forgotten with the process kernel.
            if let Some(number) = open.remove(name) {
                show.lost(name, number)?;
                over.push(RunState::Superseded);
            }
        }
    }
    Ok(verdict(&over))
}

fn is_away(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::CannotReach | Exit::NotRunning)
        || failure
            .message
            .as_deref()
            .is_some_and(|text| text.contains("is leaving"))
}

/// All done, all failed, or something in between.
fn verdict(over: &[RunState]) -> Exit {
    let failed = |state: &RunState| matches!(state, RunState::Failed | RunState::Returning);
    if over.iter().all(|state| *state == RunState::Done) {
        Exit::Done
    } else if over.iter().all(failed) {
        Exit::Failed
    } else {
        Exit::Unfinished
    }
}

/// Progress, for whoever looks.
struct Show {
    json: bool,
    terminal: bool,
    last: BTreeMap<String, RunReport>,
    told_away: bool,
}

impl Show {
    fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            json: json || !terminal,
            terminal,
            last: BTreeMap::new(),
            told_away: false,
        }
    }

    fn report(&mut self, run: &RunReport) -> Result<(), Failure> {
        self.told_away = false;
        if self.last.get(&run.watcher) == Some(run) {
            return Ok(());
        }
        self.last.insert(run.watcher.clone(), run.clone());
        if self.json {
            let text = serde_json::to_string(run).map_err(|error| {
                Failure::failed(format!("the answer cannot be written: {error}"))
            })?;
            return print(&format!("{text}\n"));
        }
        print(&format!("{}\n", describe(run)))
    }

    fn lost(&self, watcher: &str, number: u64) -> Result<(), Failure> {
        if self.json {
            let line =
                serde_json::json!({"watcher": watcher, "run": number, "state": "superseded"});
            return print(&format!("{line}\n"));
        }
        print(&format!(
            "{watcher}: run {number} was superseded by a later command\n"
        ))
    }

    fn away(&mut self) -> Result<(), Failure> {
        if self.told_away || self.json || !self.terminal {
            return Ok(());
        }
        self.told_away = true;
        print("the manager is away; its successor goes on with it\n")
    }
}

/// One run for people.
pub(super) fn describe(run: &RunReport) -> String {
    let (name, purpose) = (&run.watcher, run.purpose.name());
    let limits = &run.limits;
    let ready = format!(
        "{} ready (never fewer than {})",
        run.ready, limits.min_active
    );
    match run.state {
        RunState::Planned => format!(
            "{name}: would replace {} processes, never fewer than {} of {} ready, at most {} extra, \
             each new one ready within {} s",
            run.to_replace,
            limits.min_active,
            run.numprocesses,
            limits.max_surge,
            Duration::from_millis(limits.timeout_ms).as_secs_f64()
        ),
        RunState::Queued => format!("{name}: {purpose} waits for what was asked for before"),
        RunState::Rolling => format!(
            "{name}: {purpose}, {} of {} replaced, {ready}",
            run.replaced, run.to_replace
        ),
        RunState::Returning => format!("{name}: {purpose} goes back: {}, {ready}", culprit(run)),
        RunState::Done => format!("{name}: {purpose} done, {} replaced", run.replaced),
        RunState::Failed => {
            let mut text = format!("{name}: {purpose} failed: {}; put back", culprit(run));
            for line in &run.output {
                let clean = line.replace(char::is_control, "?");
                text.push_str(&format!("\n{name}: last output | {clean}"));
            }
            text
        }
        RunState::Superseded => {
            let reason = run
                .reason
                .as_deref()
                .unwrap_or("a later command made it pointless");
            format!("{name}: {purpose} ended early: {reason}")
        }
    }
}

fn culprit(run: &RunReport) -> String {
    let Some(trouble) = &run.trouble else {
        return run.reason.clone().unwrap_or_default();
    };
    let worker = trouble
        .worker
        .map_or(String::new(), |it| format!("worker {it} "));
    let pid = trouble
        .pid
        .map_or(String::new(), |pid| format!("(pid {pid}) "));
    format!("{worker}{pid}{}", trouble.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_among_many_is_partly_done() {
        use RunState::{Done, Failed, Superseded};
        assert_eq!(verdict(&[Done, Done]), Exit::Done);
        assert_eq!(verdict(&[Failed]), Exit::Failed);
        assert_eq!(verdict(&[Done, Failed]), Exit::Unfinished);
        assert_eq!(verdict(&[Superseded]), Exit::Unfinished);
    }
}

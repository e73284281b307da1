//! `kingpole vassals reload`: the vassals of a uWSGI emperor are reloaded while enough of them accept
//! requests. Needs neither a manager nor a process kernel: the emperor does the work, and says in its
//! statistics how far it is.

mod file;
mod said;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use nix::fcntl::{AT_FDCWD, Flock, FlockArg};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde_json::json;

use super::change::parse_duration;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;
use file::Addresses;
use said::{Said, State, said_of, statistics, subscribed};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Reload all vassals while enough of them accept requests
    Reload(Reload),
}

#[derive(Debug, Args)]
#[command(
    after_help = "A vassal is reloaded by touching its file, and is back when the emperor says \
that it accepts requests and, with --router-stats, every router has its socket without a death mark. It stops at the \
first that is not back in time.

Examples:
  kingpole vassals reload /etc/uwsgi/vassals --emperor-stats /run/uwsgi/emperor.stats
  kingpole vassals reload /srv/vassals --emperor-stats 127.0.0.1:9191 --min-active 2 --timeout 60"
)]
struct Reload {
    /// Directories of vassals; every *.ini in them is one
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// Where the emperor's statistics are (its emperor-stats): a path or HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    emperor_stats: String,
    /// Where a fastrouter's statistics are (repeat it for several)
    #[arg(long, value_name = "ADDRESS")]
    router_stats: Vec<String>,
    /// Never fewer vassals that accept requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_active: usize,
    /// Each vassal has so long to be back
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60")]
    timeout: Duration,
    /// How often to look
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0.1")]
    check_interval: Duration,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print a line of JSON for each vassal
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Outcome {
    match arguments.verb {
        Verb::Reload(reload) => reload.run(),
    }
}

/// A vassal, as its file and the emperor tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Vassal {
    file: PathBuf,
    /// Where routers find it.
    addresses: Addresses,
}

impl Reload {
    fn run(&self) -> Outcome {
        let _locks = lock(&self.directories)?;
        let vassals = vassals(&self.directories)?;
        if vassals.is_empty() {
            return Err(Failure::failed(
                "no vassals: there is no *.ini in the directories named",
            ));
        }
        let said = self.look(&vassals)?;
        let active = said.iter().filter(|said| said.accepts()).count();
        if active <= self.min_active {
            let idle = vassals.iter().zip(&said).find(|(_, said)| !said.accepts());
            let why = idle.map_or(String::new(), |(vassal, said)| {
                format!(" ({}: {})", vassal.file.display(), said.state)
            });
            return Err(Failure::failed(format!(
                "{active} of {} vassals accept requests{why}, and one of them has to go while it is \
                 reloaded: --min-active {} cannot be kept",
                vassals.len(),
                self.min_active
            )));
        }
        if self.dry_run {
            for vassal in &vassals {
                self.tell(vassal, "planned", None)?;
            }
            return Ok(Exit::Done);
        }
        self.roll(&vassals)
    }

    fn roll(&self, vassals: &[Vassal]) -> Outcome {
        // What each was touched to, and when.
        let mut open: BTreeMap<usize, (i64, Instant)> = BTreeMap::new();
        let mut next = 0;
        let mut done = 0;
        while done < vassals.len() {
            let said = match self.look(vassals) {
                Ok(said) => said,
                // An emperor is silent while it holds back a vassal that fails; time tells then.
                Err(_) if !open.is_empty() => vec![Said::default(); vassals.len()],
                Err(failure) => return Err(failure),
            };
            let back: Vec<usize> = open
                .iter()
                .filter(|(at, (touched, _))| {
                    said.get(**at)
                        .is_some_and(|said| said.accepts() && said.modified >= *touched)
                })
                .map(|(at, _)| *at)
                .collect();
            for at in back {
                if let (Some((_, since)), Some(vassal)) = (open.remove(&at), vassals.get(at)) {
                    done += 1;
                    self.tell(vassal, "done", Some(since.elapsed()))?;
                }
            }
            let late = open
                .iter()
                .find(|(_, (_, since))| since.elapsed() > self.timeout);
            if let Some((vassal, said, (touched, since))) =
                late.and_then(|(at, touched)| Some((vassals.get(*at)?, said.get(*at)?, touched)))
            {
                self.tell(vassal, "failed", Some(since.elapsed()))?;
                let why = if said.accepts() && said.modified < *touched {
                    "the emperor has not noticed that it was touched (for links it needs \
                     emperor-nofollow)"
                        .to_owned()
                } else {
                    said.state.to_string()
                };
                return Err(Failure::failed(format!(
                    "{} was not back within {} s: {why}; {done} of {} were reloaded, the others are \
                     left as they are",
                    vassal.file.display(),
                    self.timeout.as_secs_f64(),
                    vassals.len()
                )));
            }
            // Those that were touched count as gone, whatever the emperor knows of it yet.
            let mut active = said
                .iter()
                .enumerate()
                .filter(|(at, said)| said.accepts() && !open.contains_key(at))
                .count();
            while next < vassals.len() {
                let (Some(vassal), Some(said)) = (vassals.get(next), said.get(next)) else {
                    break;
                };
                let left = active - usize::from(said.accepts()).min(active);
                if left < self.min_active {
                    break;
                }
                active = left;
                open.insert(next, (touch(&vassal.file, said.modified)?, Instant::now()));
                self.tell(vassal, "reloading", None)?;
                next += 1;
            }
            if done < vassals.len() {
                thread::sleep(self.check_interval);
            }
        }
        Ok(Exit::Done)
    }

    /// What emperor and routers say about each vassal now.
    fn look(&self, vassals: &[Vassal]) -> Result<Vec<Said>, Failure> {
        let emperor = statistics(&self.emperor_stats)?;
        let mut nodes = Vec::new();
        for router in &self.router_stats {
            nodes.push(subscribed(&statistics(router)?));
        }
        let of = |vassal: &Vassal| {
            let mut said = said_of(&emperor, vassal);
            let known =
                |alive: &Vec<String>| alive.iter().any(|node| vassal.addresses.are_of(node));
            if said.accepts() && !nodes.iter().all(known) {
                said.state = State::NotRouted;
            }
            said
        };
        Ok(vassals.iter().map(of).collect())
    }

    fn tell(&self, vassal: &Vassal, state: &str, took: Option<Duration>) -> Result<(), Failure> {
        let file = vassal.file.display();
        let seconds = took.map(|took| took.as_secs_f64());
        if self.json {
            let line = json!({"vassal": file.to_string(), "state": state, "seconds": seconds});
            return print(&format!("{line}\n"));
        }
        let took = seconds.map_or(String::new(), |seconds| format!(" after {seconds:.1} s"));
        print(&format!("{file}: {state}{took}\n"))
    }
}

/// One run per directory at a time.
fn lock(directories: &[PathBuf]) -> Result<Vec<Flock<File>>, Failure> {
    let mut locks = Vec::new();
    for directory in directories {
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("{} cannot be used: {error}", directory.display()))
        };
        let file = File::open(directory).map_err(|error| unusable(&error))?;
        let inode = file.metadata().map_err(|error| unusable(&error))?.ino();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => locks.push(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let holder = holder(inode).map_or(String::new(), |pid| format!(" (pid {pid})"));
                return Err(Failure::failed(format!(
                    "{} is being reloaded by another run{holder}; wait for its end",
                    directory.display()
                )));
            }
            Err((_, error)) => return Err(unusable(&error)),
        }
    }
    Ok(locks)
}

/// Who holds a lock on an inode (proc_locks(5)).
fn holder(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let end = format!(":{inode}");
    let line = locks.lines().find(|line| {
        let place = line.split_whitespace().nth(5);
        line.contains("FLOCK") && place.is_some_and(|place| place.ends_with(&end))
    })?;
    line.split_whitespace().nth(4)?.parse().ok()
}

fn vassals(directories: &[PathBuf]) -> Result<Vec<Vassal>, Failure> {
    let mut vassals = Vec::new();
    for directory in directories {
        let unreadable = |error: io::Error| {
            Failure::failed(format!("{} cannot be read: {error}", directory.display()))
        };
        let directory = fs::canonicalize(directory).map_err(unreadable)?;
        for entry in fs::read_dir(&directory).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            if file.extension().is_some_and(|extension| extension == "ini") {
                let text = fs::read_to_string(&file).unwrap_or_default();
                vassals.push(Vassal {
                    addresses: Addresses::of(&file, &text),
                    file,
                });
            }
        }
    }
    vassals.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(vassals)
}

/// Touches a file, or the link that it is, to a time that the emperor has not seen.
fn touch(file: &Path, seen: i64) -> Result<i64, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let time = now.max(seen.saturating_add(1));
    let stamp = TimeSpec::new(time, 0);
    let result = utimensat(
        AT_FDCWD,
        file,
        &stamp,
        &stamp,
        UtimensatFlags::NoFollowSymlink,
    );
    result.map_err(|error| {
        Failure::failed(format!("{} cannot be touched: {error}", file.display()))
    })?;
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vassal_is_found_among_those_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(dir.path()).unwrap();
        fs::write(place.join("b.ini"), "[uwsgi]\nsocket = /run/b.sock\n").unwrap();
        fs::write(place.join("notes.txt"), "").unwrap();
        let vassals = vassals(std::slice::from_ref(&place)).unwrap();
        assert_eq!(vassals.len(), 1);
        assert!(vassals[0].addresses.are_of("/run/b.sock"));
        let other = json!({"id": "b.ini", "monitor": "/", "last_mod": 1, "accepting": 1});
        let own = json!({"id": "b.ini", "monitor": place, "last_mod": 7, "accepting": 1});
        let emperor = json!({ "vassals": [other, own] });
        let expected = Said {
            modified: 7,
            state: State::Accepts,
        };
        assert_eq!(said_of(&emperor, &vassals[0]), expected);
    }

    #[test]
    fn two_runs_at_a_time_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let directories = [dir.path().to_owned()];
        let first = lock(&directories).unwrap();
        let refused = lock(&directories).unwrap_err();
        assert!(
            refused
                .message
                .unwrap()
                .contains(&format!("(pid {})", std::process::id()))
        );
        drop(first);
        lock(&directories).unwrap();
    }

    #[test]
    fn a_touch_is_always_news() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ini");
        fs::write(&file, "").unwrap();
        let far = 4_000_000_000;
        assert_eq!(touch(&file, far).unwrap(), far + 1);
        assert_eq!(fs::metadata(&file).unwrap().mtime(), far + 1);
    }
}

//! CommandReloader: restarts a watcher when the program of its command is replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::spawn_blocking;

use super::{Tools, every};
use crate::command::{Answer, Command, GetOptions, Selection};
use crate::config::plugin_settings::CommandReloaderSettings;

/// Which file a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    modified: Option<SystemTime>,
}

/// The program of a command line, links followed. Circus looked at the whole line, which was a file
/// only where there were no arguments.
fn identify(cmd: &str, search: &str) -> Option<Identity> {
    let words = shlex::split(cmd)?;
    let program = Path::new(words.first()?);
    let path = if program.components().count() > 1 {
        program.to_owned()
    } else {
        let places = std::env::split_paths(search).map(|place| place.join(program));
        places.into_iter().find(|path| path.is_file())?
    };
    let path = path.canonicalize().ok()?;
    let modified = path.metadata().and_then(|data| data.modified()).ok();
    Some(Identity { path, modified })
}

/// Whether a program is another one than before. One that cannot be found is about to be replaced, so
/// the earlier one is remembered until its successor is there.
fn replaced(before: &mut BTreeMap<String, Identity>, watcher: &str, now: Option<Identity>) -> bool {
    let Some(now) = now else {
        return false;
    };
    let earlier = before.insert(watcher.to_owned(), now.clone());
    earlier.is_some_and(|earlier| earlier != now)
}

pub(super) async fn run(settings: CommandReloaderSettings, tools: Tools) -> Result<(), String> {
    let mut ticks = every(settings.period);
    let search: Arc<str> = std::env::var("PATH").unwrap_or_default().into();
    let mut before = BTreeMap::new();
    loop {
        let list = Command::List(Selection::default());
        let watchers = match tools.asker.ask(list).await {
            Ok(Answer::List { watchers }) => watchers,
            Ok(_) | Err(_) => Vec::new(),
        };
        before.retain(|watcher, _| watchers.contains(watcher));
        for watcher in watchers.iter().filter(|name| !name.starts_with("plugin:")) {
            let get = Command::Get(GetOptions {
                watcher: watcher.clone(),
                keys: vec!["cmd".to_owned()],
            });
            let Ok(Answer::Options { options }) = tools.asker.ask(get).await else {
                continue;
            };
            let Some(cmd) = options.get("cmd").and_then(|cmd| cmd.as_str()) else {
                continue;
            };
            let (cmd, search) = (cmd.to_owned(), Arc::clone(&search));
            let found = spawn_blocking(move || identify(&cmd, &search)).await;
            if replaced(&mut before, watcher, found.ok().flatten()) {
                tools.log.info(format!(
                    "command_reloader: the program of watcher {watcher:?} is another; restarting it"
                ));
                if let Err(reason) = tools.restart(watcher).await {
                    tools.log.warning(format!("command_reloader: {reason}"));
                }
            }
        }
        ticks.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_file_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let search = dir.path().display().to_string();
        let write = |name: &str| std::fs::write(dir.path().join(name), name).unwrap();
        write("one");
        write("two");
        let link = dir.path().join("program");
        let point = |to: &str| {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(dir.path().join(to), &link).unwrap();
        };
        let mut before = BTreeMap::new();
        let mut look = |cmd: &str| replaced(&mut before, "web", identify(cmd, &search));
        point("one");
        assert!(!look("program --option"), "the first look");
        assert!(
            !look(&format!("{} --option", link.display())),
            "the same file"
        );
        std::fs::remove_file(&link).unwrap();
        assert!(!look("program --option"), "gone is not replaced yet");
        point("two");
        assert!(look("program --option"));
        assert!(!look("program"));
        assert!(!look("'unclosed"));
    }
}

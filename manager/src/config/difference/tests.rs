use std::io;
use std::path::Path;

use super::super::load::{Files, load};
use super::*;

struct One(&'static str);

impl Files for One {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.as_bytes().to_vec())
    }

    fn list(&self, _: &Path) -> Vec<String> {
        Vec::new()
    }

    fn exists(&self, _: &Path) -> bool {
        false
    }
}

fn read(text: &'static str) -> Configuration {
    load(Path::new("web.ini"), &One(text), &BTreeMap::new()).expect("the configuration is good")
}

fn changes(old: &'static str, new: &'static str) -> Difference {
    difference(&read(old), &read(new))
}

fn of_watcher(old: &'static str, new: &'static str) -> WatcherChange {
    changes(old, new)
        .watchers
        .remove("w")
        .expect("there is a watcher w")
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const OLD: &str = "[watcher:w]\ncmd = x\nnumprocesses = 2\n[socket:s]\nport = 1\n";

#[test]
fn other_lines_orders_and_comments_are_no_difference() {
    let new = "# moved\n[socket:S]\nport : 1\n\n[watcher:w]\nnumprocesses = 2\ncmd = x ; same\n";
    let found = changes(OLD, new);
    assert!(found.is_empty(), "{found}");
    assert_eq!(found.to_string(), "nothing changes\n");
}

#[test]
fn the_count_alone_is_adjusted() {
    let new = "[watcher:w]\ncmd = x\nnumprocesses = 5\n";
    assert_eq!(
        of_watcher(OLD, new),
        WatcherChange::Count { from: 2, to: 5 }
    );
}

#[test]
fn an_added_key_is_noticed_which_circus_overlooks() {
    let new = "[watcher:w]\ncmd = x\nnumprocesses = 3\nmax_age = 60\nstdout_stream.class = StdoutStream\n";
    let expected = keys(&["numprocesses", "max_age", "stdout_stream"]);
    assert_eq!(
        of_watcher(OLD, new),
        WatcherChange::Settings { keys: expected }
    );
}

#[test]
fn what_makes_another_process_asks_for_a_restart() {
    let new = "[watcher:w]\ncmd = y\nnumprocesses = 3\n[env:w]\nA = 1\n";
    let expected = keys(&["cmd", "env", "numprocesses"]);
    assert_eq!(
        of_watcher(OLD, new),
        WatcherChange::Restart { keys: expected }
    );
}

#[test]
fn a_changed_socket_restarts_those_who_use_it_and_nobody_else() {
    let old = "[socket:s]\nport = 1\n[socket:t]\nport = 2\n[watcher:w]\ncmd = x $(circus.sockets.s)\n\
               [watcher:v]\ncmd = x $(circus.sockets.t)\n[watcher:all]\ncmd = x\nuse_sockets = 1\n";
    let new = "[socket:s]\nport = 3\n[socket:t]\nport = 2\n[watcher:w]\ncmd = x $(circus.sockets.s)\n\
               [watcher:v]\ncmd = x $(circus.sockets.t)\n[watcher:all]\ncmd = x\nuse_sockets = 1\n";
    let found = changes(old, new);
    let restart = WatcherChange::Restart {
        keys: keys(&["socket s"]),
    };
    assert_eq!(found.sockets["s"], SocketChange::Rebind);
    assert_eq!(found.sockets["t"], SocketChange::Unchanged);
    assert_eq!(found.watchers["w"], restart);
    assert_eq!(found.watchers["all"], restart);
    assert_eq!(found.watchers["v"], WatcherChange::Unchanged);
}

#[test]
fn added_and_removed_things_are_named_and_the_plan_can_be_read() {
    let new = "[circus]\numask = 022\n[watcher:v]\ncmd = x\n[socket:t]\nport = 1\n";
    let found = changes(OLD, new);
    assert!(!found.is_empty());
    assert_eq!(
        found.to_string(),
        "[circus]: umask changed\nsocket \"s\": closed\nsocket \"t\": bound\n\
         watcher \"v\": added\nwatcher \"w\": stopped and removed\n"
    );
}

#[test]
fn a_name_in_other_letters_is_the_same_watcher() {
    let new = "[watcher:W]\ncmd = x\nnumprocesses = 2\n[socket:s]\nport = 1\n";
    assert_eq!(
        of_watcher(OLD, new),
        WatcherChange::Settings {
            keys: keys(&["name"])
        }
    );
}

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::super::load::{Files, load};
use super::*;

struct One(String);

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

fn loaded(text: &str) -> Result<Configuration, LoadError> {
    load(
        Path::new("web.ini"),
        &One(text.to_owned()),
        &BTreeMap::new(),
    )
}

const GOOD: &str = "[socket:web]\nhost = ::1\nport = 80\nfamily = AF_INET6\n\n\
                    [watcher:web]\ncmd = serve --fd $(circus.sockets.web)\nnumprocesses = 3\n\
                    stop_signal = quit\ncolour = red\nrlimit_core =\n\n\
                    [watcher:back ground]\ncmd = work\nstdout_stream.filename = /log\n\n\
                    [env:web]\nPASSWORD = hush\n";

#[test]
fn what_is_understood_is_shown_in_the_order_of_the_file() {
    assert_eq!(
        render_check(&loaded(GOOD)),
        "socket \"web\"  (web.ini:1)\n\
         \x20 at           [::1]:80\n\
         \x20 kind         stream, backlog 2048\n\n\
         watcher \"web\"  (web.ini:6)\n\
         \x20 runs         serve --fd $(circus.sockets.web)\n\
         \x20 processes    3\n\
         \x20 stops        SIGQUIT, SIGKILL after 30 s\n\
         \x20 environment  PASSWORD\n\
         \x20 limits       core infinity\n\
         \x20 sockets      web\n\n\
         watcher \"back ground\"  (web.ini:13)\n\
         \x20 runs         work\n\
         \x20 processes    1\n\
         \x20 stops        SIGTERM, SIGKILL after 30 s\n\
         \x20 stdout       /log\n\n\
         web.ini:10:1: warning: watcher \"web\": \"colour\" is unknown and has no effect\n\
         web.ini: good: 2 watchers, 1 socket, 0 plugins; 1 warning\n"
    );
}

#[test]
fn what_is_wrong_is_shown_as_compilers_show_it() {
    let text = "[watcher:web]\ncmd = x\ncolour = red\nnumprocesses = three\nrespawn = never\n";
    assert_eq!(
        render_check(&loaded(text)),
        "web.ini:3:1: warning: watcher \"web\": \"colour\" is unknown and has no effect\n\
         web.ini:4:16: error: watcher \"web\": numprocesses is not an integer such as 5: \"three\"\n\
         web.ini:5:11: error: watcher \"web\": respawn is not yes or no (true, on, 1; false, off, \
         0): \"never\"\n\
         web.ini: refused: 2 errors; 1 warning\n"
    );
}

#[test]
fn the_machine_s_form_has_places_and_seconds_but_no_secrets() {
    let loaded = loaded(GOOD);
    let json = serde_json::to_value(check_report(&loaded)).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["warnings"][0]["location"]["line"], 10);
    let web = &json["configuration"]["watchers"][1];
    assert_eq!(web["name"], "web");
    assert_eq!(web["graceful_timeout"], 30.0);
    assert_eq!(web["environment"], serde_json::json!(["PASSWORD"]));
    assert!(!json.to_string().contains("hush"));
}

#[test]
fn control_characters_of_a_file_never_reach_the_terminal() {
    let text = "[watcher:w]\ncmd = x \x1b[2J\nhooks.\x1b[2J = a.b\nstdout_stream.filename = \x07\n\
                [\x1bweird]\nx = 1\n[env:\x1b]\nA = 1\n";
    let shown = render_check(&loaded(text));
    assert!(
        shown.chars().all(|c| c == '\n' || !c.is_control()),
        "{shown:?}"
    );
    assert!(shown.contains("\\u{1b}[2J"), "{shown}");
    let shown = render_check(&loaded(&format!(
        "{text}[watcher:\x1bx]\ncmd = y\nbroken\x1b\n"
    )));
    assert!(
        shown.chars().all(|c| c == '\n' || !c.is_control()),
        "{shown:?}"
    );
}

#[test]
fn a_huge_key_makes_no_huge_message() {
    let text = format!("[watcher:w]\ncmd = x\nhooks.{} = a\n", "k".repeat(100_000));
    let Ok(configuration) = loaded(&text) else {
        panic!("a long key is no error")
    };
    assert!(
        configuration
            .warnings
            .iter()
            .all(|w| w.message.len() < 1000)
    );
}

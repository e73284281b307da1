use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::disk::load_file;
use crate::engine::{HookName, HookSubject, Level, Moment, Pid, WorkerId};

fn configuration(target: &str) -> Configuration {
    let text = format!(
        "[circus]\nendpoint = tcp://127.0.0.1:1\n[socket:web]\nhost = 127.0.0.1\nport = 80\n\
         [watcher:Web]\ncmd = serve\nnumprocesses = 2\nstats_base_port = 8090\n\
         hooks.after_spawn = {target}\nhooks.extended_stats = {target}\n\
         [env:Web]\nPYTHONPATH = {}\n",
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/shells/hooks/fixtures")
            .display()
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("t.ini");
    std::fs::write(&file, text).expect("written");
    load_file(&file).expect("good")
}

fn runner() -> HookRunner {
    HookRunner::new(Circumstances::read())
}

fn request(id: u64, subject: HookSubject) -> HookRequest {
    HookRequest {
        id: HookId(id),
        watcher: WatcherKey::of("web"),
        hook: HookName::AfterSpawn,
        limit: Duration::from_secs(60),
        subject,
        processes: vec![HookProcess {
            pid: Pid(4711),
            worker: WorkerId(3),
            started: Moment(1),
        }],
        numprocesses: 2,
    }
}

/// The answer of one call, and what was logged until then.
async fn call(runner: &mut HookRunner, target: &str) -> (HookAnswer, Vec<(Level, String)>) {
    let configuration = configuration(target);
    runner.call(&request(1, HookSubject::Process(Pid(4711))), &configuration);
    let mut logged = Vec::new();
    loop {
        let news = tokio::time::timeout(Duration::from_secs(120), runner.next());
        match news.await.expect("in time") {
            HookNews::Answer(hook, answer) => {
                assert_eq!(hook, HookId(1));
                return (answer, logged);
            }
            HookNews::Log(level, text) => logged.push((level, text)),
        }
    }
}

#[tokio::test]
async fn the_exit_status_of_a_command_is_the_answer() {
    let mut runner = runner();
    let (answer, _) = call(&mut runner, "/bin/sh -c 'exit 0'").await;
    assert_eq!(answer, HookAnswer::Yes);
    let (answer, _) = call(&mut runner, "/bin/sh -c 'exit 1'").await;
    assert_eq!(answer, HookAnswer::No);
    for (target, word) in [
        ("/bin/sh -c 'exit 3'", "status 3"),
        ("/bin/sh -c 'kill -9 $$'", "signal: 9"),
        ("/no/such/program", "No such file"),
    ] {
        match call(&mut runner, target).await.0 {
            HookAnswer::Failed(error) => assert!(error.contains(word), "{error}"),
            other => panic!("{target}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_has_the_facts_in_its_environment_and_on_its_input() {
    let script = "/bin/sh -c 'head -n 1; \
                  echo $KINGPOLE_HOOK $KINGPOLE_WATCHER $KINGPOLE_PID'";
    let (answer, logged) = call(&mut runner(), script).await;
    assert_eq!(answer, HookAnswer::Yes);
    let texts: Vec<&str> = logged.iter().map(|(_, text)| text.as_str()).collect();
    let prefix = "watcher \"Web\": hook after_spawn: ";
    let facts = texts[0].strip_prefix(prefix).expect("the prefix");
    let facts: Value = serde_json::from_str(facts).expect("JSON");
    assert_eq!(facts["arguments"], json!({ "pid": 4711 }));
    assert_eq!(facts["watcher"]["processes"][0]["wid"], 3);
    assert_eq!(texts[1], format!("{prefix}after_spawn Web 4711"));
}

#[tokio::test]
async fn a_command_that_leaves_a_child_behind_has_answered() {
    let mut runner = runner();
    let (answer, _) = call(&mut runner, "/bin/sh -c 'sleep 300 & exit 0'").await;
    assert_eq!(answer, HookAnswer::Yes);
}

#[tokio::test]
async fn a_cancelled_command_ends_with_its_children() {
    let directory = tempfile::tempdir().expect("a directory");
    let fifo = directory.path().join("held");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let mut runner = runner();
    // The child of the shell holds the writing end until it is killed.
    let script = format!(
        "/bin/sh -c '(echo up; exec sleep 300) > {} & wait'",
        fifo.display()
    );
    let configuration = configuration(&script);
    runner.call(&request(7, HookSubject::Process(Pid(1))), &configuration);
    let (up, began) = tokio::sync::oneshot::channel();
    let reader = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(&fifo).expect("opened");
        let mut word = [0; 3];
        file.read_exact(&mut word).expect("a word");
        up.send(word).expect("somebody waits");
        file.read_to_end(&mut Vec::new()).expect("an end");
    });
    assert_eq!(&began.await.expect("the child runs"), b"up\n");
    runner.cancel(HookId(7));
    tokio::time::timeout(Duration::from_secs(60), reader)
        .await
        .expect("the child was killed")
        .expect("an end");
}

/// Whether there is a Python. CI has one.
fn has_python() -> bool {
    let found = std::process::Command::new(PYTHON)
        .arg("--version")
        .output()
        .is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "CI needs python3"
    );
    if !found {
        eprintln!("skipped: there is no {PYTHON}");
    }
    found
}

#[tokio::test]
async fn python_hooks_see_what_circus_showed_them() {
    if !has_python() {
        return;
    }
    let (answer, logged) = call(&mut runner(), "hooks_for_tests.look").await;
    assert_eq!(answer, HookAnswer::Yes, "{logged:?}");
    let said = |level: Level, text: &str| {
        logged.contains(&(level, format!("watcher \"Web\": hook after_spawn: {text}")))
    };
    assert!(said(Level::Info, "Web 3 2 8090"), "{logged:?}");
}

#[tokio::test]
async fn python_hooks_that_say_no_raise_or_print_are_told_apart() {
    if !has_python() {
        return;
    }
    let mut runner = runner();
    assert_eq!(
        call(&mut runner, "hooks_for_tests.nothing").await.0,
        HookAnswer::No
    );
    for (target, words) in [
        ("hooks_for_tests.fail", "ValueError: not today"),
        ("hooks_for_tests.absent", "has no attribute"),
        ("no_such_module.f", "No module named"),
        ("hooks_for_tests.leave", "SystemExit"),
    ] {
        match call(&mut runner, target).await.0 {
            HookAnswer::Failed(error) => assert!(error.contains(words), "{error}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    let (answer, _) = call(&mut runner, "hooks_for_tests.chatter").await;
    assert_eq!(answer, HookAnswer::Yes);
}

#[tokio::test]
async fn a_host_that_dies_fails_its_call_and_the_next_one_gets_another() {
    if !has_python() {
        return;
    }
    let mut runner = runner();
    match call(&mut runner, "hooks_for_tests.die").await.0 {
        HookAnswer::Failed(error) => assert!(error.contains("host ended"), "{error}"),
        other => panic!("{other:?}"),
    }
    let (answer, _) = call(&mut runner, "hooks_for_tests.look").await;
    assert_eq!(answer, HookAnswer::Yes);
}

#[tokio::test]
async fn a_stuck_host_is_replaced_when_its_call_is_cancelled() {
    if !has_python() {
        return;
    }
    let mut runner = runner();
    let stuck = configuration("hooks_for_tests.stick");
    runner.call(&request(5, HookSubject::Process(Pid(1))), &stuck);
    runner.cancel(HookId(5));
    let (answer, _) = call(&mut runner, "hooks_for_tests.look").await;
    assert_eq!(answer, HookAnswer::Yes);
}

#[tokio::test]
async fn extended_stats_changes_the_statistics() {
    if !has_python() {
        return;
    }
    let mut runner = runner();
    let configuration = configuration("hooks_for_tests.extend");
    let watcher = configuration.watcher("web").expect("it");
    let stats = json!({ "pid": 4711, "cpu": 0.5 });
    let reply = runner.extend(watcher, &configuration, &[], 4711, &stats);
    let stats = reply
        .expect("a hook")
        .await
        .expect("an answer")
        .expect("good");
    assert_eq!(stats, json!({ "pid": 4711, "cpu": 0.5, "load": 4711 }));
}

//! Promise: other people's servers are replaced in every way there is, under a load generator at full
//! speed, and no request fails; at no time are fewer of them ready than were asked for. Runs only with
//! `KINGPOLE_STACKS` set.

use kingpole_tests::python::scripts;
use kingpole_tests::rolling::{Counting, replace_everything, wait_ready};
use kingpole_tests::stacks::{
    Generator, are_wanted, copy_with, example, free_port, python_programs, wait_answer,
};
use kingpole_tests::{Kernel, Manager, binaries};
use std::fs;

/// How many processes there are, and never fewer ready ones.
const PROCESSES: usize = 3;

/// How many clients ask at a time.
const CLIENTS: usize = 4;

/// How often everything is reloaded before worse things happen.
const RELOADS: usize = 10;

/// Replaces a server in every way while `generator` asks it. The command writes to `$MARK` as long
/// as it is ready.
fn replaced_under_load(cmd: &str, more: &str, generator: fn(&Kernel, &str) -> Generator) {
    let kernel = Kernel::start();
    let scratch = kernel.scratch();
    for directory in [example(), scripts().join("stacks")] {
        copy_with(scratch, &directory, &[]);
    }
    for name in ["ready", "var"] {
        fs::create_dir(scratch.join(name)).expect("a directory");
    }
    let port = free_port();
    let mark = format!("{}/ready/$(circus.wid)", scratch.path().display());
    let file = scratch.write(
        "web.ini",
        format!(
            "[socket:web]\nhost = 127.0.0.1\nport = {port}\n\
             [watcher:web]\ncmd = env MARK={mark} {cmd}\nnumprocesses = {PROCESSES}\n\
             copy_env = true\nready = exec test -e {mark}\nready_interval = 0.1\n{more}\n"
        ),
    );
    let mut manager = Manager::start(scratch, &file);
    wait_ready(scratch, PROCESSES);
    wait_answer(port, "/");
    let generator = generator(&kernel, &format!("http://127.0.0.1:{port}/"));
    let generator = std::cell::RefCell::new(generator);
    let counting = Counting::begin(scratch.join("ready"));
    replace_everything(&kernel, &mut manager, PROCESSES, RELOADS, &|after| {
        generator.borrow_mut().check(after);
        let fewest = counting.fewest();
        assert!(fewest >= PROCESSES, "{fewest} were ready, {after}");
    });
    let (answered, looks) = (generator.into_inner().end(), counting.end());
    println!("{answered} requests, none failed; {looks} looks, never fewer than {PROCESSES} ready");
    assert!(
        answered > 100 && looks > 100,
        "{answered} requests, {looks} looks"
    );
}

#[test]
fn gunicorn_is_replaced_under_wrk_and_no_request_fails() {
    if !are_wanted(&["wrk"]) {
        return;
    }
    let gunicorn = python_programs().join("gunicorn");
    replaced_under_load(
        &format!(
            "{} --bind fd://$(circus.sockets.web) --no-control-socket --config marked.py app",
            gunicorn.display()
        ),
        "",
        |kernel, url| Generator::wrk(kernel.scratch(), CLIENTS, url),
    );
}

#[test]
fn uwsgi_is_replaced_under_ab_and_no_request_fails() {
    if !are_wanted(&["ab", "uwsgi"]) {
        return;
    }
    replaced_under_load(
        "uwsgi --plugin python3 --master --workers 2 --disable-logging --wsgi-file marked.py \
         --http-socket fd://$(circus.sockets.web) --stats var/uwsgi-stats-$(circus.wid).sock",
        "stop_signal = QUIT\nhooks.before_signal = marked.pause",
        |kernel, url| Generator::ab(kernel.scratch(), CLIENTS, url),
    );
}

#[test]
fn the_example_is_replaced_under_ab_and_no_request_fails() {
    if !are_wanted(&["ab", "python3"]) {
        return;
    }
    let web = binaries::workspace().join("docs/examples/web.py");
    replaced_under_load(
        &format!(
            "python3 marked.py {} --fd $(circus.sockets.web)",
            web.display()
        ),
        "",
        |kernel, url| Generator::ab(kernel.scratch(), CLIENTS, url),
    );
}

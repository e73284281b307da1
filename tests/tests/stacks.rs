//! Configurations as people have them, with the programs that they have: web servers behind nginx,
//! and all of it reloaded under load. Runs only with `KINGPOLE_STACKS` set, because the programs are
//! not ours and come from Debian and PyPI.

use kingpole_tests::manager::{describe, json, kingpole};
use kingpole_tests::python::{environment_of, scripts};
use kingpole_tests::{Kernel, Manager, Scratch, http, wait};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const BACKENDS: [&str; 3] = ["gunicorn", "uvicorn", "uwsgi"];

/// What has to be there, or nothing if the stacks are not to be tried.
fn python() -> Option<PathBuf> {
    if std::env::var_os("KINGPOLE_STACKS").is_none() {
        eprintln!("SKIPPED: set KINGPOLE_STACKS=1 to try the stacks");
        return None;
    }
    for program in ["nginx", "redis-server", "uwsgi"] {
        let found = Command::new(program).arg("--version").output();
        assert!(found.is_ok(), "{program} is missing: {found:?}");
    }
    let requirements = scripts().join("stacks/requirements.txt");
    let python = environment_of(&requirements, "stacks-python");
    Some(python.expect("an environment with gunicorn and uvicorn"))
}

fn configuration(scratch: &Scratch, python: &Path) -> String {
    let bin = python.parent().expect("bin").display();
    let here = scratch.path().display();
    let scripts = scripts().join("stacks");
    let scripts = scripts.display();
    let web = |name: &str, cmd: &str, more: &str| {
        format!(
            "[socket:{name}]\nhost = 127.0.0.1\nport = 0\n\
             [watcher:{name}]\ncmd = {cmd}\nworking_dir = {scripts}\nuse_sockets = true\n\
             copy_env = true\n{more}\n"
        )
    };
    let gunicorn = web(
        "gunicorn",
        &format!("{bin}/gunicorn --bind fd://$(circus.sockets.gunicorn) --workers 2 app"),
        "",
    );
    let uvicorn = web(
        "uvicorn",
        &format!("{bin}/uvicorn --fd $(circus.sockets.uvicorn) --no-access-log app:asgi"),
        "numprocesses = 2",
    );
    let uwsgi = web(
        "uwsgi",
        &format!(
            "uwsgi --plugin python3 --master --workers 2 --disable-logging --wsgi-file app.py \
             --http-socket fd://$(circus.sockets.uwsgi) --stats {here}/stats-$(circus.wid)"
        ),
        &format!(
            "stop_signal = QUIT\nstats_directory = {here}\n\
             hooks.after_spawn = lossless.started\nhooks.before_signal = lossless.pause\n\
             hooks.extended_stats = lossless.count_workers"
        ),
    );
    format!(
        "{gunicorn}{uvicorn}{uwsgi}\
         [watcher:nginx]\ncmd = nginx -p {here} -c {here}/nginx.conf\nautostart = false\n\
         copy_env = true\nsingleton = true\nsend_hup = true\nstop_signal = QUIT\n\
         [watcher:redis]\ncmd = redis-server --port 0 --unixsocket {here}/redis.sock --save ''\n\
         copy_env = true\nsingleton = true\n\
         [env:uwsgi]\nPYTHONPATH = {scripts}\n"
    )
}

/// nginx in front of what was bound where.
fn nginx(scratch: &Scratch) -> String {
    let here = scratch.path().display();
    let sockets = json(scratch, &["listsockets", "--json"]).expect("sockets");
    let list = sockets["sockets"]
        .as_array()
        .or_else(|| sockets.as_array())
        .unwrap_or_else(|| panic!("no sockets: {sockets}"));
    let mut servers = String::new();
    let mut locations = String::new();
    for backend in BACKENDS {
        let socket = list.iter().find(|socket| socket["name"] == backend);
        let port = socket.and_then(|socket| socket["port"].as_u64());
        let port = port.unwrap_or_else(|| panic!("no port of {backend}: {sockets}"));
        // Twice, so that a connection which a leaving server took and dropped is tried again.
        servers.push_str(&format!(
            "upstream {backend} {{ server 127.0.0.1:{port} max_fails=0; \
             server 127.0.0.1:{port} max_fails=0; }}\n"
        ));
        locations.push_str(&format!(
            "location /{backend} {{ proxy_pass http://{backend}/; }}\n"
        ));
    }
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {here}/temp_{kind};\n"))
        .concat();
    format!(
        "daemon off;\npid {here}/nginx.pid;\nerror_log stderr;\nworker_processes 1;\n\
         events {{ }}\nhttp {{\naccess_log off;\n{temporary}{servers}\
         server {{ listen unix:{here}/front.sock;\n{locations}}}\n}}\n"
    )
}

fn get(front: &Path, backend: &str) -> io::Result<String> {
    let mut connection = UnixStream::connect(front)?;
    connection.set_read_timeout(Some(wait::PATIENCE))?;
    write!(
        connection,
        "GET /{backend} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    match http::parse(&answer) {
        Some((200, body)) => Ok(body.trim().to_owned()),
        _ => Err(io::Error::other(
            String::from_utf8_lossy(&answer).into_owned(),
        )),
    }
}

/// Everybody who answered, or the first failure.
fn load(front: &Path, backend: &str, stop: &AtomicBool) -> Result<BTreeSet<String>, String> {
    let mut answered = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let pid = get(front, backend).map_err(|error| format!("{backend}: {error}"))?;
        answered.insert(pid);
    }
    Ok(answered)
}

#[track_caller]
fn done(scratch: &Scratch, arguments: &[&str]) {
    let output = kingpole(scratch, arguments);
    assert!(output.status.success(), "{}", describe(&output));
}

#[test]
fn everything_is_reloaded_under_load_and_no_request_fails() {
    let Some(python) = python() else { return };
    let kernel = Kernel::start();
    let scratch = kernel.scratch();
    let file = scratch.write("stack.ini", configuration(scratch, &python));
    let manager = Manager::start(scratch, &file);
    for watcher in ["gunicorn", "uvicorn", "uwsgi", "redis"] {
        wait::until("the watcher is up", || manager.pids(watcher));
    }
    scratch.write("nginx.conf", nginx(scratch));
    done(scratch, &["start", "nginx", "--wait"]);
    let front = scratch.join("front.sock");
    let mut first = BTreeSet::new();
    for backend in BACKENDS {
        first.insert(wait::until("it answers through nginx", || {
            get(&front, backend)
        }));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = BACKENDS
        .into_iter()
        .map(|backend| {
            let (front, stop) = (front.clone(), Arc::clone(&stop));
            thread::spawn(move || load(&front, backend, &stop))
        })
        .collect();
    let before = manager.pids("uwsgi").expect("up");
    for _ in 0..2 {
        done(scratch, &["reload", "--wait"]);
    }
    assert_ne!(manager.pids("uwsgi").expect("up"), before);
    // The new ones have answered before the load ends.
    for backend in BACKENDS {
        wait::until("somebody new answers", || {
            let pid = get(&front, backend).map_err(|error| error.to_string())?;
            if first.contains(&pid) {
                Err(pid)
            } else {
                Ok(())
            }
        });
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let answered = client.join().expect("the client ends");
        let answered = answered.unwrap_or_else(|error| panic!("{error}\n{}", manager.log()));
        assert!(answered.len() > 1, "{answered:?}");
    }
    let log = manager.log();
    assert!(log.contains("hook before_signal: paused"), "{log}");

    let mut redis = UnixStream::connect(scratch.join("redis.sock")).expect("redis listens");
    redis.write_all(b"PING\r\n").expect("sent");
    let mut pong = [0; 7];
    redis.read_exact(&mut pong).expect("an answer");
    assert_eq!(&pong, b"+PONG\r\n");
}

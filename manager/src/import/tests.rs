//! What comes out is read with our own reader: a configuration is right if it means the right thing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::*;
use crate::config::load::Files;
use crate::config::{Configuration, load};

struct One(String);

impl Files for One {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }

    fn list(&self, _: &Path) -> Vec<String> {
        Vec::new()
    }

    fn exists(&self, _: &Path) -> bool {
        true
    }
}

#[track_caller]
fn loaded(stack: &Stack) -> Configuration {
    let ini = stack.render("a file");
    match load(
        Path::new("imported.ini"),
        &One(ini.clone()),
        &BTreeMap::new(),
    ) {
        Ok(configuration) => configuration,
        Err(error) => panic!("{error:?}\n{ini}"),
    }
}

fn noted(stack: &Stack, words: &str) -> bool {
    stack.notes().iter().any(|note| note.text.contains(words))
}

#[test]
fn a_supervisor_program_keeps_its_command_limits_and_logs() {
    let stack = import_supervisor(
        "[supervisord]\nlogfile = /tmp/s.log\n\
         [program:web]\n\
         command = %(here)s/bin/serve --port 80%(process_num)02d ; a comment\n\
         numprocs = 3\nstopsignal = QUIT\nstopwaitsecs = 4\nuser = root\npriority = 10\n\
         killasgroup = true\nautorestart = true # always\n\
         environment = A=\"one,two\",B=three\n\
         stdout_logfile = /var/log/web.log\nstdout_logfile_maxbytes = 5MB\n",
        "/srv/app",
    )
    .unwrap();
    let configuration = loaded(&stack);
    let watcher = &configuration.watchers[0];
    assert_eq!(watcher.name, "web");
    assert_eq!(watcher.cmd, "/srv/app/bin/serve --port 80$(circus.wid)",);
    let text = stack.render("s.conf");
    for line in [
        "numprocesses = 3",
        "stop_signal = QUIT",
        "graceful_timeout = 4",
        "priority = 989",
        "stop_children = True",
        "A = one,two",
        "B = three",
        "stdout_stream.max_bytes = 5242880",
        "stdout_stream.backup_count = 10",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}:\n{text}");
    }
    assert!(!text.contains("respawn"), "{text}");
    assert!(noted(&stack, "counts from 0"));
}

#[test]
fn what_supervisor_alone_can_do_is_said() {
    let stack = import_supervisor(
        "[program:once]\ncommand=/bin/true\nstartsecs=10\n[eventlistener:e]\ncommand=x\n\
         [group:all]\nprograms=once\n[unix_http_server]\nfile=/x\n",
        "/",
    )
    .unwrap();
    assert!(noted(&stack, "autorestart=unexpected"));
    assert!(noted(&stack, "startsecs=10"));
    let about: Vec<_> = stack
        .notes()
        .iter()
        .map(|note| note.about.as_str())
        .collect();
    assert!(about.contains(&"group \"all\"") && about.contains(&"[eventlistener:e]"));
    assert!(stack.notes().iter().all(|note| note.line > 0));
}

#[test]
fn a_fastcgi_program_gets_its_socket_as_standard_input() {
    let stack = import_supervisor(
        "[fcgi-program:php]\ncommand=/usr/bin/php-cgi\nsocket=tcp://localhost:9000\n",
        "/",
    )
    .unwrap();
    let configuration = loaded(&stack);
    assert_eq!(configuration.sockets[0].name, "php");
    let text = stack.render("s.conf");
    assert!(text.contains("stdin_socket = php\n") && text.contains("port = 9000\n"));
    assert!(!text.contains("umask"), "{text}");
    let stack = import_supervisor(
        "[fcgi-program:php]\ncommand=php-cgi\nsocket=unix:///run/php.sock\n",
        "/",
    );
    // Nobody else may use it, as under Supervisor.
    let text = stack.unwrap().render("s.conf");
    assert!(text.contains("umask = 63\n"), "{text}");
}

#[test]
fn the_log_of_several_supervisor_processes_is_one_file_with_one_limit() {
    let stack = import_supervisor(
        "[program:web]\ncommand=serve\nnumprocs=2\nredirect_stderr=true\n\
         stdout_logfile=/var/log/%(program_name)s_%(process_num)02d.log\n\
         stdout_logfile_maxbytes=1MB\nstdout_logfile_backups=2\n",
        "/",
    )
    .unwrap();
    let text = stack.render("s.conf");
    for stream in ["stdout", "stderr"] {
        for option in [
            "filename = /var/log/web.log",
            "max_bytes = 1048576",
            "backup_count = 2",
        ] {
            let line = format!("{stream}_stream.{option}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
    let told = stack
        .notes()
        .iter()
        .filter(|note| note.text.contains("one file"));
    assert_eq!(told.count(), 1, "{text}");
}

#[test]
fn variables_of_supervisor_in_an_environment_are_replaced() {
    let stack = import_supervisor(
        "[program:web]\ncommand=serve\nenvironment=PATH=\"/opt/bin:%(ENV_PATH)s\",A=%(here)s\n",
        "/srv",
    )
    .unwrap();
    let text = stack.render("s.conf");
    assert!(text.contains("PATH = /opt/bin:$PATH\nA = /srv\n"), "{text}");
    assert!(!noted(&stack, "$NAME"), "{text}");
}

#[test]
fn included_files_are_named_from_the_directory_of_the_main_one() {
    let text = "[include]\nfiles = conf.d/*.conf %(here)s/more.conf\n  /etc/x.conf\n";
    let found = included_by_supervisor(text, "/srv");
    let found: Vec<_> = found.iter().map(|(_, pattern)| pattern.as_str()).collect();
    assert_eq!(
        found,
        ["/srv/conf.d/*.conf", "/srv/more.conf", "/etc/x.conf"]
    );
    let mut stack = import_supervisor(text, "/srv").unwrap();
    let more = import_supervisor("[program:a]\ncommand=b\nserverurl=AUTO\n", "/srv").unwrap();
    stack.append("conf.d/a.conf", more);
    let text = stack.render("s.conf");
    assert!(
        text.contains("; note: conf.d/a.conf, line 3, program \"a\": serverurl"),
        "{text}"
    );
    assert_eq!(loaded(&stack).watchers[0].name, "a");
}

#[test]
fn a_procfile_runs_a_shell_only_where_one_is_needed() {
    let stack = import_procfile(
        "# types\nweb: gunicorn app:main\nworker: cd jobs && exec run 'a b' ; true\n\
         release: ./migrate\nclock: FOO=1 tick\n",
        "/srv/app",
    )
    .unwrap();
    let configuration = loaded(&stack);
    let command = |name: &str| {
        let found = configuration.watchers.iter().find(|w| w.name == name);
        shlex::split(&found.unwrap().cmd).unwrap()
    };
    assert_eq!(command("web"), ["gunicorn", "app:main"]);
    assert_eq!(
        command("worker"),
        ["sh", "-c", "cd jobs && exec run 'a b' ; true"]
    );
    assert_eq!(command("clock"), ["sh", "-c", "FOO=1 tick"]);
    assert_eq!(configuration.watchers.len(), 3);
    assert!(noted(&stack, "once per deployment"));
    assert!(
        stack
            .render("Procfile")
            .contains("[env:clock]\nPORT = 5200\n")
    );
}

#[test]
fn a_procfile_without_sense_is_refused_with_its_line() {
    let error = import_procfile("web: run\n\nnonsense\n", "/").unwrap_err();
    assert_eq!(error.line, 3);
}

#[test]
fn pm2_apps_keep_their_interpreter_counts_and_environment() {
    let stack = import_pm2(
        r#"{"apps": [{"name": "api", "script": "server.js", "args": ["--name", "a b"],
            "node_args": "--max-old-space-size=200", "instances": 4, "exec_mode": "cluster",
            "env": {"NODE_ENV": "production", "PORT": 3000}, "kill_timeout": 1600,
            "max_memory_restart": "300M", "out_file": "/var/log/api.log",
            "env_staging": {"A": "b"}, "watch": false, "cron_restart": "0 0 * * *"},
          {"script": "./tool", "interpreter": "none", "instances": "max"}]}"#,
        "/srv",
    )
    .unwrap();
    let configuration = loaded(&stack);
    let words = shlex::split(&configuration.watchers[0].cmd).unwrap();
    let wanted = [
        "node",
        "--max-old-space-size=200",
        "server.js",
        "--name",
        "a b",
    ];
    assert_eq!(configuration.watchers[0].name, "api");
    assert_eq!(words, wanted);
    assert_eq!(configuration.watchers[1].cmd, "./tool");
    let text = stack.render("e.json");
    for line in [
        "numprocesses = 4",
        "graceful_timeout = 1.6",
        "max_rss = 314572800",
        "PORT = 3000",
        "stdout_stream.filename = /var/log/api.log",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}:\n{text}");
    }
    for words in [
        "cluster mode",
        "env_staging",
        "cron_restart",
        "number of processors",
    ] {
        assert!(noted(&stack, words), "{words}");
    }
    assert!(!noted(&stack, "watch"));
}

#[test]
fn a_pm2_app_is_stopped_and_logged_as_pm2_did_it() {
    let stack = import_pm2(
        r#"[{"name": "api", "script": "server.js", "cwd": "./api", "out_file": "./out.log",
            "err_file": "/var/log/err.log", "exp_backoff_restart_delay": 150, "wait_ready": true}]"#,
        "/srv",
    )
    .unwrap();
    loaded(&stack);
    let text = stack.render("e.json");
    for line in [
        "working_dir = /srv/api",
        "stdout_stream.filename = /srv/api/out.log",
        "stderr_stream.filename = /var/log/err.log",
        "stop_signal = INT",
        "graceful_timeout = 1.6",
        "backoff_min = 0.15",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}:\n{text}");
    }
    assert!(noted(&stack, "wait_ready: see `ready`"));
}

#[test]
fn a_procfile_line_without_words_is_left_to_the_shell() {
    for line in ["\\", "it's", "\"\"", "\"\" x"] {
        let stack = import_procfile(&format!("p: {line}\n"), "/").unwrap();
        let words = shlex::split(&loaded(&stack).watchers[0].cmd).unwrap();
        assert_eq!(words, ["sh", "-c", line]);
    }
}

#[test]
fn what_an_ini_file_cannot_hold_is_left_out_and_said() {
    let stack = import_pm2(
        r#"[{"script": "x", "interpreter": "none", "env": {"A": "b ;c", "D": "e\nf", "G": "h"}}]"#,
        "/",
    )
    .unwrap();
    let text = stack.render("x");
    assert!(text.contains("[env:app-1]\nG = h\n"), "{text}");
    assert!(noted(&stack, "A cannot be written") && noted(&stack, "D cannot be written"));
    loaded(&stack);
}

#[test]
fn a_program_instead_of_json_is_told_how_to_print_it() {
    let error = import_pm2("module.exports = {apps: []}", "/").unwrap_err();
    assert!(error.reason.contains("JSON.stringify"));
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,80}(\n\\PC{0,40}){0,5}") {
        for stack in [
            import_supervisor(&text, "/").ok(),
            import_procfile(&text, "/").ok(),
            import_pm2(&text, "/").ok(),
        ].into_iter().flatten() {
            let _ = stack.render("fuzz");
        }
    }

    #[test]
    fn a_shell_line_of_a_procfile_arrives_whole(line in "[ -~]{1,60}") {
        proptest::prop_assume!(line.trim() == line);
        let stack = import_procfile(&format!("p: {line}\n"), "/").unwrap();
        let command = &loaded(&stack).watchers[0].cmd;
        if command.starts_with("sh -c ") {
            let words = shlex::split(command).unwrap();
            proptest::prop_assert_eq!(words, ["sh", "-c", line.as_str()]);
        } else {
            proptest::prop_assert_eq!(command, &line);
        }
    }
}

//! Promise: every command that the documentation shows works as it is shown. Each page has a kernel and a manager of its
//! own with the example that most pages are about; what cannot be run here says why, and is counted.

use kingpole_tests::documents::{self, Page, Shown};
use kingpole_tests::shell::{Shell, path_with_programs};
use kingpole_tests::{Scratch, binaries, python, wait};
use serde_json::Value;
use std::path::Path;

/// What stands for something else in a synopsis, and what it is here.
const PLACEHOLDERS: [(&str, &str); 11] = [
    ("NAME", "web"),
    ("N", "1"),
    ("TIME", "1s"),
    ("SIGNAL", "CONT"),
    ("ORDER", "cpu"),
    ("T", "group"),
    ("REGEX", "."),
    ("K=V", "A=b"),
    ("DIR", "out"),
    ("FILE", "web.ini"),
    ("PATH", "/usr/local/bin/kingpole-manager"),
];

/// Directories of a machine on which kingpole is installed; here below the test's directory.
const PLACES: [&str; 3] = ["/etc/", "/srv/", "/usr/local/bin/"];

/// Programs that are tried where there are.
const PERHAPS: [&str; 4] = ["nc", "telnet", "socat", "node"];

/// A page with the machine on which its commands are run.
struct Bench {
    // In this order: what the shell has started ends before its directory goes.
    shell: Shell,
    scratch: Scratch,
    manager: i64,
    ran: usize,
    named: usize,
    skipped: Vec<String>,
}

impl Bench {
    fn new(page: &str) -> Self {
        let scratch = Scratch::new();
        let environment = [
            ("PATH", path(page)),
            ("HOME", scratch.path().display().to_string()),
            ("KINGPOLE_DEFAULT_ENDPOINTS", "off".to_owned()),
            ("NO_COLOR", "1".to_owned()),
        ];
        install(&scratch);
        let mut shell = Shell::start(&scratch, scratch.path(), &environment);
        let log = scratch.join("kernel.log");
        shell.start_terminal("exec kingpole-kernel", &log);
        let mut bench = Self {
            shell,
            scratch,
            manager: 0,
            ran: 0,
            named: 0,
            skipped: Vec::new(),
        };
        bench.start_manager();
        bench
    }

    /// The manager of the page, until it has all its processes.
    #[track_caller]
    fn start_manager(&mut self) {
        let log = self.scratch.join("manager.log");
        self.manager = self
            .shell
            .start_terminal("exec kingpole-manager web.ini", &log);
        self.until_active("");
    }

    #[track_caller]
    fn until_active(&mut self, environment: &str) {
        wait::until("everything is active", || {
            let command = format!("{environment} kingpole status --json");
            let (code, text) = self.shell.run(&command);
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            let watchers = status["watchers"].as_array().cloned().unwrap_or_default();
            let active = |it: &Value| it["state"] == "active" || it["state"] == "stopped";
            let active = !watchers.is_empty() && watchers.iter().all(active);
            match code == 0 && active {
                true => Ok(()),
                false => Err(format!("{text}\n{}", self.log())),
            }
        });
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.scratch.join(name));
        let logs = ["kernel.log", "manager.log", "run.log"].map(|it| read(it).unwrap_or_default());
        logs.join("\n---\n")
    }

    /// With the places of this machine.
    fn placed(&self, text: &str) -> String {
        let here = self.scratch.path().display();
        let runtime = self.scratch.runtime_dir().display().to_string();
        let mut placed = text.replace("/run/kingpole", &runtime);
        for place in PLACES {
            placed = placed.replace(place, &format!("{here}{place}"));
        }
        placed
    }

    /// With placeholders of synopses filled in.
    fn filled(&mut self, command: &str) -> String {
        let mut words: Vec<String> = Vec::new();
        for word in command.split(' ') {
            let placeholder = PLACEHOLDERS.iter().find(|(name, _)| *name == word);
            let before = words.last().map(String::as_str);
            let fill = match (before, placeholder) {
                (Some("--pid"), Some(_)) => self.first_process("pid"),
                (Some("--worker"), Some(_)) => self.first_process("worker"),
                (Some("supervisor"), Some(_)) => "/etc/supervisor/supervisord.conf".to_owned(),
                (Some("procfile"), Some(_)) => "Procfile".to_owned(),
                (Some("pm2"), Some(_)) => "pm2.json".to_owned(),
                (Some("--kernel"), Some(_)) => "/usr/local/bin/kingpole-kernel".to_owned(),
                (_, Some((_, fill))) => (*fill).to_owned(),
                (_, None) => word.replace("NAME", "web"),
            };
            words.push(fill);
        }
        words.join(" ")
    }

    /// What status says of a process of the example, once nothing is being replaced.
    fn first_process(&mut self, member: &str) -> String {
        wait::until("the example is settled", || {
            let (_, text) = self.shell.run("kingpole status --json web");
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            let web = &status["watchers"][0];
            let all = web["actual"].is_u64() && web["actual"] == web["numprocesses"];
            match all && web["operation"].is_null() {
                true => Ok(web["processes"][0][member].to_string()),
                false => Err(text),
            }
        })
    }

    #[track_caller]
    fn try_out(&mut self, page: &str, shown: &Shown) {
        let command = self.filled(&shown.command);
        let command = self.placed(&command);
        let words: Vec<&str> = command.split_whitespace().collect();
        let program = words[0];
        if PERHAPS.contains(&program) && !self.has(program) {
            self.skipped
                .push(format!("{command}: there is no {program}"));
            return;
        }
        if !self.shell.is_isolated() && (program == "telnet" || program == "circusctl") {
            self.skipped
                .push(format!("{command}: no ports of its own here"));
            return;
        }
        if program == "circusctl" && !self.start_circusd() {
            self.skipped.push(format!("{command}: there is no Circus"));
            return;
        }
        let has = |word: &str| words.contains(&word);
        let verb = words.get(1).copied().unwrap_or_default();
        let told = format!("{page}: {command}");
        match (program, verb) {
            ("kingpole", "run") if words.len() > 2 => return self.run_in_front(&told, &command),
            ("kingpole", "top") if !has("--once") && has("--json") => self.follow(&command),
            ("kingpole", "top") if !has("--once") => {
                self.in_terminal(&told, &command, &[("web", "q")])
            }
            ("kingpole", "shell") => {
                let stages = [(">", "status web\r"), ("kingpole> ", "exit\r")];
                self.in_terminal(&told, &command, &stages);
            }
            ("telnet", _) => {
                let stages = [("home", "list p\r"), ("> ", "quit\r")];
                self.in_terminal(&told, &command, &stages);
            }
            ("kingpole", _) if has("-f") && !has("|") => self.follow(&command),
            ("nc" | "socat", _) if shown.typed.is_empty() => {
                let done = self.shell.finish(&command, "help\nquit\n");
                assert!(done.out.contains("Papa is home"), "{told}: {done:?}");
                self.ran += 1;
            }
            _ => self.finish(&told, &command, shown),
        }
        match verb {
            "quit" | "detach" if program == "kingpole" => {
                self.shell.wait_terminal(self.manager);
                self.start_manager();
            }
            "profile" if words.len() > 2 => {
                self.shell.run("kingpole rm web-profile --wait");
            }
            _ => {}
        }
    }

    #[track_caller]
    fn finish(&mut self, told: &str, command: &str, shown: &Shown) {
        let mut typed = self.placed(&shown.typed);
        if !typed.is_empty() {
            // What is shown of a conversation is not its end.
            typed.push_str("quit\n");
        }
        let done = self.shell.finish(command, &typed);
        // A verb alone is its name, where it needs something to do.
        let only_verbs = command
            .split(' ')
            .all(|word| word.chars().all(|c| c.is_ascii_lowercase()));
        if done.code == 2 && only_verbs && shown.output.is_empty() && done.err.contains("Usage:") {
            self.named += 1;
            return;
        }
        self.ran += 1;
        assert_eq!(done.code, 0, "{told}: {done:?}\n{}", self.log());
        // What is shown is there, in this order; there may be more.
        let written = format!("{}\n{}", done.err, done.out);
        let mut lines = written.lines().map(documents::shape);
        for line in &shown.output {
            let wanted = documents::shape(&self.placed(line));
            assert!(
                lines.any(|line| line.trim_start_matches("> ") == wanted),
                "{told}: no {line:?}, at this place, in {done:?}"
            );
        }
    }

    #[track_caller]
    fn in_terminal(&mut self, told: &str, command: &str, stages: &[(&str, &str)]) {
        let done = self.shell.terminal(command, stages);
        assert_eq!(done.code, 0, "{told}: {done:?}");
        assert!(done.out.contains("web"), "{told}: {done:?}");
        self.ran += 1;
    }

    #[track_caller]
    fn follow(&mut self, command: &str) {
        self.shell.follow(command);
        self.ran += 1;
    }

    /// `kingpole run`, with a kernel of its own, until Ctrl-C.
    #[track_caller]
    fn run_in_front(&mut self, told: &str, command: &str) {
        let runtime = self.scratch.fresh("front");
        let environment = format!("KINGPOLE_RUNTIME_DIR={}", runtime.display());
        let log = self.scratch.join("run.log");
        let command = format!("trap : INT; {environment} {command}");
        let leader = self.shell.start_terminal(&command, &log);
        self.until_active(&environment);
        self.shell.run(&format!("kill -INT -{leader}"));
        let code = self.shell.wait_terminal(leader);
        assert_eq!(code, 0, "{told}: {}", self.log());
        self.ran += 1;
    }

    fn has(&mut self, program: &str) -> bool {
        self.shell.run(&format!("command -v {program}")).0 == 0
    }

    /// Circus's own daemon, as it is there for those who come from it.
    fn start_circusd(&mut self) -> bool {
        if !self.has("circusd") {
            return false;
        }
        let log = self.scratch.join("circusd.log");
        self.shell.start_terminal("exec circusd circus.ini", &log);
        wait::until("circusd answers", || {
            match self.shell.run("circusctl status") {
                (0, _) => Ok(()),
                (code, text) => {
                    let log = std::fs::read_to_string(&log).unwrap_or_default();
                    Err(format!("{code}: {text}\n{log}"))
                }
            }
        });
        true
    }
}

/// `PATH` of a page: the one about Circus has Circus's programs, where they can be had.
fn path(page: &str) -> String {
    let ours = path_with_programs();
    if page != "docs/coming-from.md" {
        return ours;
    }
    match python::environment() {
        Ok(python) => {
            let programs = python.parent().expect("a directory").display().to_string();
            format!("{ours}:{programs}")
        }
        Err(why) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "without Circus, with CI set: {why}"
            );
            ours
        }
    }
}

/// The files that pages speak of.
fn install(scratch: &Scratch) {
    let examples = binaries::workspace().join("docs/examples");
    let link = |from: &Path, to: &str| {
        let to = scratch.join(to);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("directories");
        std::os::unix::fs::symlink(from, to).expect("a link");
    };
    link(&examples, "docs/examples");
    for program in [binaries::kernel(), binaries::manager()] {
        let name = program.file_name().expect("a name").to_string_lossy();
        link(program, &format!("usr/local/bin/{name}"));
    }
    // The usual port may be somebody's.
    let web = std::fs::read_to_string(examples.join("web.ini")).expect("the example");
    let web = web.replace("port = 8888", "port = 0");
    // A group of Supervisor's has names with dots.
    let group = "\n[watcher:web.api]\ncmd = sleep 1000000\n";
    scratch.write("web.ini", format!("{web}{group}"));
    scratch.write(
        "circus.ini",
        "[watcher:web]\ncmd = sleep 1000000\ncopy_env = True\n",
    );
    std::fs::create_dir_all(scratch.join("etc/supervisor")).expect("directories");
    scratch.write(
        "etc/supervisor/supervisord.conf",
        "[program:web]\ncommand=/bin/sleep 1000000\nautorestart=true\n",
    );
    scratch.write("Procfile", "web: exec sleep 1000000\n");
    scratch.write(
        "ecosystem.config.js",
        "module.exports = {apps: [{name: 'web', script: 'sleep 1000000'}]}\n",
    );
    let pm2 = r#"{"apps": [{"name": "web", "script": "serve.js"}]}"#;
    scratch.write("ecosystem.json", pm2);
    scratch.write("pm2.json", pm2);
    std::fs::create_dir_all(scratch.join("srv/web-2.1")).expect("directories");
    scratch.program("srv/web-2.1/serve", b"#!/bin/sh\nexec sleep 1000000\n");
}

fn try_page(name: &str) {
    let text = std::fs::read_to_string(binaries::workspace().join(name)).expect("a page");
    let page = Page::read(&text);
    assert!(page.unclear.is_empty(), "{name}: {:#?}", page.unclear);
    for (command, why) in &page.excepted {
        println!("{name}: not run: {command}: {why}");
    }
    if page.commands.is_empty() {
        return;
    }
    let mut bench = Bench::new(name);
    for shown in &page.commands {
        bench.try_out(name, shown);
    }
    for skipped in &bench.skipped {
        println!("{name}: SKIPPED: {skipped}");
    }
    println!(
        "{name}: {} commands run, {} verbs named, {} not run, {} skipped",
        bench.ran,
        bench.named,
        page.excepted.len(),
        bench.skipped.len()
    );
    assert!(bench.ran + bench.named + bench.skipped.len() >= page.commands.len());
}

/// A test for each page, and one that there is a test for each page.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        $(
            #[test]
            fn $test() {
                try_page($page);
            }
        )*

        #[test]
        fn every_page_is_tried() {
            let tried = [$($page),*];
            let pages = documents::pages(binaries::workspace());
            let pages: Vec<String> = pages.iter().map(|it| it.display().to_string()).collect();
            assert_eq!(pages, tried, "pages! has them sorted");
        }
    };
}

pages! {
    readme: "README.md",
    architecture: "docs/architecture.md",
    circus_compatibility: "docs/circus-compatibility.md",
    coming_from: "docs/coming-from.md",
    configuration: "docs/configuration.md",
    control_api: "docs/control-api.md",
    crash_points: "docs/crash-points.md",
    decision_codec: "docs/decisions/codec.md",
    decision_guard_link: "docs/decisions/guard-link.md",
    decision_log_once: "docs/decisions/log-once.md",
    decision_manager_upgrade: "docs/decisions/manager-upgrade.md",
    deploying: "docs/deploying.md",
    hooks: "docs/hooks.md",
    operations: "docs/operations.md",
    performance: "docs/performance.md",
    plugins: "docs/plugins.md",
    protocol: "docs/protocol.md",
    readiness: "docs/readiness.md",
    security: "docs/security.md",
    telnet: "docs/telnet.md",
    testing: "docs/testing.md",
    upgrade: "docs/upgrade.md",
}

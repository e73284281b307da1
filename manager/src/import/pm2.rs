//! PM2's ecosystem files, in JSON.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::text::{bytes, quoted};
use super::{Section, Stack, Unreadable};

#[derive(Deserialize)]
#[serde(untagged)]
enum Ecosystem {
    Apps { apps: Vec<Map<String, Value>> },
    List(Vec<Map<String, Value>>),
    One(Map<String, Value>),
}

/// What runs a script by its ending, as PM2 chooses.
const INTERPRETERS: [(&str, &str); 9] = [
    (".js", "node"),
    (".mjs", "node"),
    (".cjs", "node"),
    (".ts", "bun"),
    (".py", "python3"),
    (".rb", "ruby"),
    (".sh", "bash"),
    (".php", "php"),
    (".pl", "perl"),
];

/// How PM2 asks a process to stop, and how long it waits (milliseconds).
const STOP_SIGNAL: &str = "INT";
const KILL_TIMEOUT: &str = "1600";

/// Options that only choose a look or a place of PM2's own.
const SILENT: [&str; 8] = [
    "name",
    "namespace",
    "vizion",
    "pmx",
    "source_map_support",
    "time",
    "automation",
    "treekill",
];

/// Reads one: `{"apps": [...]}`, a list of apps, or one app. `directory` is where it lies.
///
/// # Errors
/// No such JSON. (A `.js` file is a program: PM2's own `node` prints it as JSON.)
pub fn import(text: &str, directory: &str) -> Result<Stack, Unreadable> {
    let parsed: Ecosystem = serde_json::from_str(text).map_err(|error| Unreadable {
        line: u32::try_from(error.line()).unwrap_or(u32::MAX),
        reason: format!(
            "no ecosystem in JSON ({error}); print a .js file with \
             node -p 'JSON.stringify(require(\"./ecosystem.config.js\"))'"
        ),
    })?;
    let apps = match parsed {
        Ecosystem::Apps { apps } | Ecosystem::List(apps) => apps,
        Ecosystem::One(app) => vec![app],
    };
    let mut stack = Stack::default();
    for (number, app) in (1_u32..).zip(&apps) {
        App::new(app, number, directory).carry(&mut stack);
    }
    Ok(stack)
}

struct App<'a> {
    options: &'a Map<String, Value>,
    name: String,
    about: String,
    directory: &'a str,
}

impl<'a> App<'a> {
    fn new(options: &'a Map<String, Value>, number: u32, directory: &'a str) -> Self {
        let named = options.get("name").and_then(Value::as_str);
        let name = named.map_or_else(|| format!("app-{number}"), str::to_owned);
        Self {
            options,
            about: format!("app \"{name}\""),
            name,
            directory,
        }
    }

    fn text(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| match self.options.get(*key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        })
    }

    /// Words, from a list or from a text.
    fn words(&self, keys: &[&str]) -> String {
        let listed = keys.iter().find_map(|key| match self.options.get(*key)? {
            Value::Array(words) => Some(
                words
                    .iter()
                    .map(|word| match word {
                        Value::String(word) => quoted(word),
                        other => quoted(&other.to_string()),
                    })
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
            _ => None,
        });
        listed.or_else(|| self.text(keys)).unwrap_or_default()
    }

    fn carry(&self, stack: &mut Stack) {
        let mut watcher = Section::new(format!("watcher:{}", self.name));
        match self.command() {
            Some(command) => watcher.set("cmd", command),
            None => stack.note(0, &self.about, "script is missing"),
        }
        watcher.set("working_dir", self.working_directory());
        watcher.set("copy_env", "True");
        self.carry_count(&mut watcher, stack);
        self.carry_restarts(&mut watcher, stack);
        self.carry_output(&mut watcher);
        for (theirs, ours) in [("uid", "uid"), ("gid", "gid")] {
            if let Some(value) = self.text(&[theirs]) {
                watcher.set(ours, value);
            }
        }
        stack.push(0, watcher);
        if let Some(Value::Object(variables)) = self.options.get("env") {
            let mut section = Section::new(format!("env:{}", self.name));
            for (name, value) in variables {
                match value {
                    Value::String(text) => section.set(name, text),
                    other => section.set(name, other.to_string()),
                }
            }
            stack.push(0, section);
        }
        self.note_the_rest(stack);
    }

    fn command(&self) -> Option<String> {
        let script = self.text(&["script"])?;
        let chosen = self.text(&["interpreter", "exec_interpreter"]);
        let by_ending = || {
            let found = INTERPRETERS.iter().find(|(end, _)| script.ends_with(end));
            found.map(|(_, program)| (*program).to_owned())
        };
        let interpreter = match chosen.as_deref() {
            Some("none") => None,
            Some(_) => chosen,
            None => by_ending(),
        };
        let flags = self.words(&["node_args", "interpreter_args", "interpreterArgs"]);
        let words = [
            interpreter.as_deref().map(quoted).unwrap_or_default(),
            flags,
            // A command line in `script` is taken as such.
            if script.contains(' ') {
                script.clone()
            } else {
                quoted(&script)
            },
            self.words(&["args"]),
        ];
        let words = words.iter().filter(|word| !word.is_empty());
        Some(words.cloned().collect::<Vec<_>>().join(" "))
    }

    fn working_directory(&self) -> String {
        let within = self.text(&["cwd"]).unwrap_or_default();
        absolute(self.directory, &within)
    }

    fn carry_count(&self, watcher: &mut Section, stack: &mut Stack) {
        let instances = self.text(&["instances"]);
        match instances.as_deref().map(str::parse::<u32>) {
            None => {}
            Some(Ok(count @ 1..)) => watcher.set("numprocesses", count.to_string()),
            Some(_) => stack.note(
                0,
                &self.about,
                "instances depends on the number of processors: set numprocesses",
            ),
        }
        let mode = self.text(&["exec_mode"]).unwrap_or_default();
        if mode.starts_with("cluster") {
            let text = "PM2's cluster mode shares the port inside node; here it is a [socket:NAME]: \
                        hand $(circus.sockets.NAME) to the script and listen({fd: NUMBER})";
            stack.note(0, &self.about, text);
        }
    }

    fn carry_restarts(&self, watcher: &mut Section, stack: &mut Stack) {
        if self.text(&["autorestart"]).as_deref() == Some("false") {
            watcher.set("respawn", "False");
        }
        if let Some(times) = self.text(&["max_restarts"]) {
            watcher.set("max_retry", times);
        }
        watcher.set("stop_signal", STOP_SIGNAL);
        for (theirs, ours, default) in [
            ("kill_timeout", "graceful_timeout", Some(KILL_TIMEOUT)),
            ("exp_backoff_restart_delay", "backoff_min", None),
        ] {
            let written = self.text(&[theirs]);
            let Some(milliseconds) = written.as_deref().or(default) else {
                continue;
            };
            match milliseconds.parse::<f64>() {
                Ok(time) => watcher.set(ours, (time / 1000.0).to_string()),
                Err(_) => stack.note(0, &self.about, format!("{theirs} is no number")),
            }
        }
        if self.options.contains_key("max_memory_restart") {
            match self
                .text(&["max_memory_restart"])
                .as_deref()
                .and_then(bytes)
            {
                Some(limit) => watcher.set("max_rss", limit.to_string()),
                None => stack.note(0, &self.about, "max_memory_restart is no size"),
            }
        }
    }

    fn carry_output(&self, watcher: &mut Section) {
        let joined = self.text(&["log_file", "log"]);
        for (stream, keys) in [
            ("stdout", ["out_file", "output", "out"]),
            ("stderr", ["error_file", "error", "err_file"]),
        ] {
            if let Some(path) = self.text(&keys).or_else(|| joined.clone()) {
                if path == "/dev/null" || path == "NULL" {
                    watcher.set(&format!("close_child_{stream}"), "True");
                    continue;
                }
                watcher.set(&format!("{stream}_stream.class"), "FileStream");
                // Ours would be relative to the manager's directory.
                let path = absolute(&self.working_directory(), &path);
                watcher.set(&format!("{stream}_stream.filename"), path);
            }
        }
    }

    fn note_the_rest(&self, stack: &mut Stack) {
        const CARRIED: [&str; 26] = [
            "script",
            "args",
            "cwd",
            "interpreter",
            "exec_interpreter",
            "node_args",
            "interpreter_args",
            "interpreterArgs",
            "instances",
            "exec_mode",
            "autorestart",
            "max_restarts",
            "kill_timeout",
            "exp_backoff_restart_delay",
            "max_memory_restart",
            "uid",
            "gid",
            "env",
            "out_file",
            "output",
            "out",
            "error_file",
            "error",
            "err_file",
            "log_file",
            "log",
        ];
        for (key, value) in self.options {
            let known = CARRIED.contains(&key.as_str()) || SILENT.contains(&key.as_str());
            let off = value == &Value::Bool(false) || value.is_null();
            if !known && !off {
                let text = match key.as_str() {
                    "watch" => "watch: see the CommandReloader plugin".to_owned(),
                    "wait_ready" | "listen_timeout" => {
                        format!("{key}: see `ready` and `ready_timeout` in docs/readiness.md")
                    }
                    _ if key.starts_with("env_") => {
                        format!("{key}: copy what you need of it into [env:{}]", self.name)
                    }
                    _ => format!("{key} has no equivalent"),
                };
                stack.note(0, &self.about, text);
            }
        }
    }
}

/// A path that is relative to a directory.
fn absolute(directory: &str, path: &str) -> String {
    let path = path.trim_start_matches("./");
    match path {
        "" | "." => directory.to_owned(),
        _ if path.starts_with('/') => path.to_owned(),
        _ => format!("{}/{path}", directory.trim_end_matches('/')),
    }
}

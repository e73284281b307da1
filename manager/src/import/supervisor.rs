//! Supervisor's `supervisord.conf`.

use super::text::bytes;
use super::{Section, Stack, Unreadable};
use crate::config::ini::{self, IniSection};

/// Supervisor's defaults where ours differ.
const STOP_WAIT_SECONDS: &str = "10";
const LOG_BYTES: &str = "50MB";
const LOG_BACKUPS: &str = "10";
const SOCKET_MODE: &str = "0700";
/// Supervisor starts low numbers first, Circus high ones; this is Supervisor's default.
const PRIORITY: i64 = 999;

/// Reads one. `directory` is where it lies (`%(here)s`).
///
/// # Errors
/// Not the format.
pub fn import(text: &str, directory: &str) -> Result<Stack, Unreadable> {
    let (file, errors) = ini::parse("supervisord.conf", text.as_bytes());
    if let Some(error) = errors.first() {
        return Err(Unreadable {
            line: error.location.line,
            reason: error.message.clone(),
        });
    }
    let mut stack = Stack::default();
    for section in &file.sections {
        let line = section.location.line;
        let (kind, name) = section.name.split_once(':').unwrap_or((&section.name, ""));
        match kind {
            "program" => Program::new(section, name, directory).carry(&mut stack),
            "fcgi-program" => {
                let program = Program::new(section, name, directory);
                program.carry_socket(&mut stack);
                program.carry(&mut stack);
            }
            "supervisord" => carry_daemon(section, &mut stack),
            // How its own clients reach it says nothing about the programs.
            "unix_http_server" | "inet_http_server" | "supervisorctl" | "rpcinterface" => {}
            // See `included`.
            "include" => {}
            "group" => stack.note(
                line,
                &format!("group \"{name}\""),
                "watchers have no groups: patterns such as 'web.*' select several",
            ),
            _ => stack.note(line, &format!("[{}]", section.name), "has no equivalent"),
        }
    }
    note_restarts(&file.sections, &mut stack);
    Ok(stack)
}

/// What `[include]` of such a file names: patterns of paths, each with the line it stands in.
#[must_use]
pub fn included(text: &str, directory: &str) -> Vec<(u32, String)> {
    let (file, _) = ini::parse("supervisord.conf", text.as_bytes());
    let entries = file
        .sections
        .iter()
        .filter(|section| section.name == "include")
        .flat_map(|section| &section.entries)
        .filter(|entry| entry.key == "files");
    entries
        .flat_map(|entry| {
            let patterns = uncommented(&entry.value).split_whitespace();
            patterns.map(|pattern| {
                let pattern = pattern.replace("%(here)s", directory);
                let pattern = match pattern.starts_with('/') {
                    true => pattern,
                    false => format!("{directory}/{pattern}"),
                };
                (entry.key_location.line, pattern)
            })
        })
        .collect()
}

/// Most programs do not say `autorestart`, so that what they mean by it is said once for all.
fn note_restarts(sections: &[IniSection], stack: &mut Stack) {
    let left = sections.iter().filter_map(|section| {
        let (kind, name) = section.name.split_once(':')?;
        let program = Program::new(section, name, "");
        let value = program.get("autorestart").unwrap_or("unexpected");
        let meant = ["program", "fcgi-program"].contains(&kind) && value == "unexpected";
        meant.then(|| (program.line("autorestart"), format!("\"{name}\"")))
    });
    let (lines, names): (Vec<u32>, Vec<String>) = left.unzip();
    if let Some(line) = lines.first() {
        stack.note(
            *line,
            &format!("program {}", names.join(", ")),
            "autorestart=unexpected, which is Supervisor's default, leaves a program that ended with \
             an expected code; ours restarts it (respawn = False would never restart)",
        );
    }
}

fn carry_daemon(section: &IniSection, stack: &mut Stack) {
    let line = section.location.line;
    let mut circus = Section::new("circus");
    for entry in &section.entries {
        match entry.key.as_str() {
            "umask" => circus.set("umask", uncommented(&entry.value)),
            "environment" => carry_environment(
                uncommented(&entry.value),
                Section::new("env"),
                "[supervisord]",
                entry.key_location.line,
                stack,
            ),
            "user" | "minfds" | "minprocs" => stack.note(
                entry.key_location.line,
                "[supervisord]",
                format!(
                    "{} is for whoever starts kingpole to set (the systemd unit)",
                    entry.key
                ),
            ),
            _ => {}
        }
    }
    stack.push(line, circus);
}

struct Program<'a> {
    section: &'a IniSection,
    name: &'a str,
    about: String,
    directory: &'a str,
}

impl<'a> Program<'a> {
    fn new(section: &'a IniSection, name: &'a str, directory: &'a str) -> Self {
        Self {
            section,
            name,
            about: format!("program \"{name}\""),
            directory,
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.section.entries.iter().find(|entry| entry.key == key);
        found.map(|entry| uncommented(&entry.value))
    }

    fn is_true(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, |value| {
            ["true", "yes", "on", "1"].contains(&value.to_ascii_lowercase().as_str())
        })
    }

    fn line(&self, key: &str) -> u32 {
        let found = self.section.entries.iter().find(|entry| entry.key == key);
        found.map_or(self.section.location.line, |entry| entry.key_location.line)
    }

    fn note(&self, stack: &mut Stack, key: &str, text: impl Into<String>) {
        stack.note(self.line(key), &self.about, text);
    }

    /// Supervisor's `%(...)s` in our words.
    fn expanded(&self, value: &str) -> String {
        let count = self.get("numprocs").unwrap_or("1");
        let mut out = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                out.push('%');
                rest = after;
                continue;
            }
            let word = after
                .strip_prefix('(')
                .and_then(|inside| inside.split_once(')'));
            let Some((word, after)) = word else {
                out.push('%');
                rest = after;
                continue;
            };
            // The conversion: `s`, `d`, `02d`.
            let behind = after.trim_start_matches(|c: char| c.is_ascii_digit());
            rest = behind.strip_prefix(['s', 'd']).unwrap_or(behind);
            match word {
                "program_name" | "group_name" => out.push_str(self.name),
                "process_num" => out.push_str("$(circus.wid)"),
                "numprocs" => out.push_str(count),
                "here" => out.push_str(self.directory),
                _ => {
                    let variable = word.strip_prefix("ENV_").unwrap_or(word);
                    out.push_str(&format!("$(circus.env.{})", variable.to_ascii_lowercase()));
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn carry(&self, stack: &mut Stack) {
        let mut watcher = Section::new(format!("watcher:{}", self.name));
        self.carry_command(&mut watcher, stack);
        watcher.set("copy_env", "True");
        if let Some(directory) = self.get("directory") {
            watcher.set("working_dir", self.expanded(directory));
        }
        if let Some(user) = self.get("user") {
            watcher.set("uid", user);
        }
        if let Some(number) = self.get("priority").and_then(|p| p.parse::<i64>().ok()) {
            watcher.set("priority", PRIORITY.saturating_sub(number).to_string());
        }
        if !self.is_true("autostart", true) {
            watcher.set("autostart", "False");
        }
        self.carry_restarts(&mut watcher, stack);
        self.carry_stop(&mut watcher);
        self.carry_output(&mut watcher, "stdout", stack);
        self.carry_output(&mut watcher, "stderr", stack);
        if self.section.name.starts_with("fcgi-program") {
            watcher.set("stdin_socket", self.name.to_ascii_lowercase());
        }
        stack.push(self.section.location.line, watcher);
        if let Some(variables) = self.get("environment") {
            carry_environment(
                &self.expanded(&dollars(variables)),
                Section::new(format!("env:{}", self.name)),
                &self.about,
                self.line("environment"),
                stack,
            );
        }
        for (key, text) in [
            (
                "umask",
                "umask can be set for all watchers only, in [circus]",
            ),
            ("serverurl", "serverurl has no equivalent"),
            (
                "stdout_events_enabled",
                "events about output have no equivalent",
            ),
            (
                "stderr_events_enabled",
                "events about output have no equivalent",
            ),
            (
                "stdout_syslog",
                "see stdout_stream.class in docs/configuration.md for syslog",
            ),
            (
                "stderr_syslog",
                "see stderr_stream.class in docs/configuration.md for syslog",
            ),
        ] {
            if self.get(key).is_some() {
                self.note(stack, key, text);
            }
        }
    }

    fn carry_command(&self, watcher: &mut Section, stack: &mut Stack) {
        match self.get("command") {
            Some(command) => watcher.set("cmd", self.expanded(command)),
            None => self.note(stack, "command", "command is missing"),
        }
        let count = self.get("numprocs").unwrap_or("1");
        watcher.set("numprocesses", count);
        if self
            .get("command")
            .is_some_and(|c| c.contains("%(process_num)"))
        {
            let text = "%(process_num) counts from 0 (or numprocs_start), $(circus.wid) from 1, \
                        and a replacement gets a new number";
            self.note(stack, "command", text);
        }
    }

    fn carry_restarts(&self, watcher: &mut Section, stack: &mut Stack) {
        let restarts = self.get("autorestart").unwrap_or_default();
        if ["false", "no", "off", "0"].contains(&restarts.to_ascii_lowercase().as_str()) {
            watcher.set("respawn", "False");
        }
        if let Some(tries) = self.get("startretries") {
            watcher.set("max_retry", tries);
        }
        if let Some(seconds) = self.get("startsecs")
            && seconds != "1"
        {
            let text = format!(
                "startsecs={seconds}: a process counts as started at once; one that keeps dying \
                 is started later and later (backoff_min, backoff_max)"
            );
            self.note(stack, "startsecs", text);
        }
    }

    fn carry_stop(&self, watcher: &mut Section) {
        if let Some(signal) = self.get("stopsignal") {
            let first = signal.split(',').next().unwrap_or(signal).trim();
            watcher.set("stop_signal", first);
        }
        let wait = self.get("stopwaitsecs").unwrap_or(STOP_WAIT_SECONDS);
        watcher.set("graceful_timeout", wait);
        if self.is_true("stopasgroup", false) || self.is_true("killasgroup", false) {
            watcher.set("stop_children", "True");
        }
    }

    fn carry_output(&self, watcher: &mut Section, stream: &str, stack: &mut Stack) {
        // What both write into one file has one limit.
        let joined = stream == "stderr" && self.is_true("redirect_stderr", false);
        let source = if joined { "stdout" } else { stream };
        let set = |watcher: &mut Section, option: &str, value: &str| {
            watcher.set(&format!("{stream}_stream.{option}"), value);
        };
        let key = |name: &str| format!("{source}_{name}");
        match self.get(&key("logfile")) {
            None | Some("AUTO") => {}
            Some("NONE" | "/dev/null") => watcher.set(&format!("close_child_{stream}"), "True"),
            Some("/dev/stdout" | "/dev/stderr" | "/dev/fd/1" | "/dev/fd/2") => {
                set(watcher, "class", "StdoutStream");
            }
            Some(path) => {
                let path = self.expanded(&without_number(path));
                if path != self.expanded(self.get(&key("logfile")).unwrap_or_default()) && !joined {
                    let text = "all processes of a watcher write to one file; `time_format` puts the \
                                pid before each line";
                    self.note(stack, &key("logfile"), text);
                }
                set(watcher, "class", "FileStream");
                set(watcher, "filename", &path);
                let limit = self.get(&key("logfile_maxbytes")).unwrap_or(LOG_BYTES);
                match bytes(limit) {
                    Some(limit) => set(watcher, "max_bytes", &limit.to_string()),
                    None => self.note(stack, &key("logfile_maxbytes"), "is no size"),
                }
                let backups = self.get(&key("logfile_backups")).unwrap_or(LOG_BACKUPS);
                set(watcher, "backup_count", backups);
            }
        }
    }

    /// `[fcgi-program:x]`: its socket becomes the programs' standard input.
    fn carry_socket(&self, stack: &mut Stack) {
        let mut socket = Section::new(format!("socket:{}", self.name));
        let written = self.get("socket").map(|written| self.expanded(written));
        let written = written.unwrap_or_default();
        if let Some(path) = written.strip_prefix("unix://") {
            socket.set("path", path);
        } else if let Some((host, port)) = written
            .strip_prefix("tcp://")
            .and_then(|address| address.rsplit_once(':'))
        {
            socket.set("host", host);
            socket.set("port", port);
        } else {
            self.note(stack, "socket", "socket is neither unix:// nor tcp://");
        }
        if let Some(backlog) = self.get("socket_backlog") {
            socket.set("backlog", backlog);
        }
        if socket.has("path") {
            let mode = self.get("socket_mode").unwrap_or(SOCKET_MODE);
            match u32::from_str_radix(mode, 8) {
                // Decimal, as Circus reads it.
                Ok(mode) => socket.set("umask", (0o777 & !mode).to_string()),
                Err(_) => self.note(stack, "socket_mode", "socket_mode is no octal number"),
            }
        }
        if self.get("socket_owner").is_some() {
            let text = "socket_owner has no equivalent: the socket belongs to the kernel's user";
            self.note(stack, "socket_owner", text);
        }
        stack.push(self.section.location.line, socket);
    }
}

/// `A="b,c",D=e` as a section of its own.
fn carry_environment(text: &str, mut section: Section, about: &str, line: u32, stack: &mut Stack) {
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, behind) = match after.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inside = after.get(1..).unwrap_or_default();
                match inside.split_once(quote) {
                    Some((value, behind)) => (value, behind),
                    None => (inside, ""),
                }
            }
            _ => {
                let end = after.find([',', '\n']).unwrap_or(after.len());
                let (value, behind) = after.split_at(end);
                (value.trim(), behind)
            }
        };
        if value.contains('$') && !value.contains("$(circus.env.") {
            let text = format!(
                "{}: a $NAME in its value is replaced from the manager's environment",
                name.trim()
            );
            stack.note(line, about, text);
        }
        section.set(name.trim(), value.replace(MEANT, "$"));
        rest = behind.trim_start_matches([',', ' ', '\n', '\t']);
    }
    stack.push(line, section);
}

/// A path without the part that tells processes of one program apart.
fn without_number(path: &str) -> String {
    let Some((before, after)) = path.split_once("%(process_num)") else {
        return path.to_owned();
    };
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let after = after.strip_prefix(['s', 'd']).unwrap_or(after);
    let before = before.strip_suffix(['_', '-', '.']).unwrap_or(before);
    format!("{before}{after}")
}

/// A dollar sign that is to be replaced.
const MEANT: char = '\u{1}';

/// In `[env:...]` a variable of the manager is `$NAME`.
fn dollars(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("%(ENV_") {
        out.push_str(before);
        match after.split_once(")s") {
            Some((name, after)) => {
                out.push(MEANT);
                out.push_str(name);
                rest = after;
            }
            None => {
                out.push_str("%(ENV_");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Supervisor takes `#` behind a space for a comment, too.
fn uncommented(value: &str) -> &str {
    value.split(" #").next().unwrap_or(value).trim()
}

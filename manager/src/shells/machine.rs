//! What a configuration names and this machine does not have: users, directories, programs. Only `kingpole check` asks; the
//! machine on which the configuration will run may be another.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kingpole_protocol::peer::Guests;
use nix::unistd::User;

use super::launch::{PrepareError, resolve_ids};
use crate::config::model::{Configuration, Diagnostic, Location, WatcherConfig};
use crate::config::words;

/// Warnings about all that is missing here.
#[must_use]
pub fn look(configuration: &Configuration) -> Vec<Diagnostic> {
    let mut found = of_users(configuration);
    for watcher in &configuration.watchers {
        found.extend(of_watcher(watcher));
    }
    found
}

fn of_users(configuration: &Configuration) -> Vec<Diagnostic> {
    let global = &configuration.global;
    let mut problems = Vec::new();
    if let Err(error) = Guests::new(0, &global.allow_users) {
        problems.push(format!("allow_users: {error}"));
    }
    if let Some(name) = &global.endpoint_owner
        && name.parse::<u32>().is_err()
        && matches!(User::from_name(name), Ok(None))
    {
        problems.push(format!("endpoint_owner: {name}: there is no such user"));
    }
    let warning = |problem| {
        // Which file the section is in is not kept.
        let file = configuration.path.to_string_lossy();
        let text = format!("[circus]: {problem} on this machine");
        Diagnostic::warning(Location::new(&file, 1, 1), text)
    };
    problems.into_iter().map(warning).collect()
}

fn of_watcher(watcher: &WatcherConfig) -> Vec<Diagnostic> {
    let mut problems: Vec<(&str, String)> = Vec::new();
    if let Err(PrepareError::Identity {
        what, name, reason, ..
    }) = resolve_ids(watcher)
    {
        problems.push((what, format!("{name:?} {reason}")));
    }
    let directories = [
        ("working_dir", &watcher.working_dir),
        ("virtualenv", &watcher.virtualenv),
    ];
    for (key, path) in directories {
        if let Some(path) = path.as_deref().filter(|path| path.is_absolute())
            && !path.is_dir()
        {
            let text = format!("is no directory of this machine: {}", path.display());
            problems.push((key, text));
        }
    }
    let program = match &watcher.executable {
        Some(program) => Some(("executable", program.clone())),
        None => first_word(&watcher.cmd).map(|word| ("cmd", word)),
    };
    if let Some((key, program)) = program
        && let Some(problem) = about_program(&program)
    {
        problems.push((key, problem));
    }
    let place = |key: &str| watcher.place_of(key).unwrap_or(&watcher.origin).clone();
    let warning = |(key, problem): (&str, String)| {
        let text = format!("watcher {:?}: {key} {problem}", watcher.name);
        Diagnostic::warning(place(key), text)
    };
    problems.into_iter().map(warning).collect()
}

fn first_word(command: &str) -> Option<String> {
    words::split(command).ok()?.into_iter().next()
}

/// What is wrong with a program that is named by its whole path; others depend on a PATH that only the manager has.
fn about_program(program: &str) -> Option<String> {
    let path = Path::new(program);
    if !path.is_absolute() || program.contains("$(") || program.contains("((") {
        return None;
    }
    match path.metadata() {
        Err(_) => Some(format!("is not there on this machine: {program}")),
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => None,
        Ok(_) => Some(format!("is no program that may be executed: {program}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_does_not_have_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.ini");
        let text = "[circus]\nallow_users = nobody-here\n\
                    [watcher:good]\ncmd = /bin/sh -c true\nworking_dir = /\nuid = 0\ngid = 0\n\
                    [watcher:bad]\ncmd = /nowhere/x --y\nworking_dir = /nowhere\nuid = nobody-here\n\
                    [watcher:file]\ncmd = /etc/passwd\n\
                    [watcher:later]\ncmd = $(circus.env.NOWHERE)/x\n";
        std::fs::write(&path, text).unwrap();
        let configuration = crate::config::load_file(&path).unwrap();
        let found: Vec<_> = look(&configuration)
            .into_iter()
            .map(|it| (it.location.line, it.message))
            .collect();
        let expected = [
            (
                1,
                "[circus]: allow_users: nobody-here: there is no such user on this machine",
            ),
            (
                11,
                "watcher \"bad\": uid \"nobody-here\" is no user of this machine",
            ),
            (
                10,
                "watcher \"bad\": working_dir is no directory of this machine: /nowhere",
            ),
            (
                9,
                "watcher \"bad\": cmd is not there on this machine: /nowhere/x",
            ),
            (
                13,
                "watcher \"file\": cmd is no program that may be executed: /etc/passwd",
            ),
        ];
        let expected = expected.map(|(line, text)| (line, text.to_owned()));
        assert_eq!(found, expected);
    }
}

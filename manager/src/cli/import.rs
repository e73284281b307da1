//! `kingpole import`: what another process manager runs, as a configuration of ours.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::{print, print_json};
use crate::config::disk::Disk;
use crate::config::load::Files;
use crate::config::pattern::expand_paths;
use crate::import::{
    Note, Stack, Unreadable, import_pm2, import_procfile, import_supervisor, included_by_supervisor,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kingpole import supervisor /etc/supervisor/supervisord.conf > app.ini
  kingpole import procfile Procfile --output app.ini
  kingpole import pm2 ecosystem.json --json

Nothing is started. What cannot be carried is said on standard error and in the result; look it over
with `kingpole check app.ini`.")]
pub(super) struct Arguments {
    /// What the file is for
    #[arg(value_enum)]
    format: Format,
    /// The file
    file: PathBuf,
    /// Write to a new file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON: the configuration and the notes
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// supervisord.conf
    Supervisor,
    /// Procfile
    Procfile,
    /// PM2's ecosystem file, as JSON
    Pm2,
}

#[derive(Serialize)]
struct Report<'a> {
    ini: String,
    notes: &'a [Note],
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let file = arguments.file.display().to_string();
    let (text, mut stack) = read(arguments.format, &arguments.file)?;
    if matches!(arguments.format, Format::Supervisor) {
        add_included(&arguments.file, &text, &mut stack)?;
    }
    let ini = stack.render(&file);
    if arguments.json {
        let notes = stack.notes();
        return print_json(&Report { ini, notes });
    }
    match &arguments.output {
        Some(path) => create(path, &ini)?,
        None => print(&ini)?,
    }
    let mut errors = std::io::stderr().lock();
    for note in stack.notes() {
        let file = note.file.as_ref().unwrap_or(&file);
        let place = match note.line {
            0 => file.clone(),
            line => format!("{file}:{line}"),
        };
        // With standard error gone the notes are still in the result.
        let _ = writeln!(errors, "{place}: {}: {}", note.about, note.text);
    }
    Ok(Exit::Done)
}

/// A file's text and what it becomes.
fn read(format: Format, path: &Path) -> Result<(String, Stack), Failure> {
    let file = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("{file} cannot be read: {error}")))?;
    let directory = directory_of(path);
    let stack = match format {
        Format::Supervisor => import_supervisor(&text, &directory),
        Format::Procfile => import_procfile(&text, &directory),
        Format::Pm2 => import_pm2(&text, &directory),
    };
    let stack = stack.map_err(|Unreadable { line, reason }| {
        Failure::failed(format!("{file}:{line}: {reason}"))
    })?;
    Ok((text, stack))
}

/// Where programs usually are: beside `supervisord.conf`, in files that it includes.
fn add_included(main: &Path, text: &str, stack: &mut Stack) -> Result<(), Failure> {
    for (line, pattern) in included_by_supervisor(text, &directory_of(main)) {
        let found = expand_paths(&pattern, &|path| Disk.list(path), &|path| Disk.exists(path));
        if found.is_empty() {
            let text = format!("{pattern} leads to no file");
            stack.note(line, "[include]", text);
        }
        for path in found {
            let (_, included) = read(Format::Supervisor, &path)?;
            stack.append(&path.display().to_string(), included);
        }
    }
    Ok(())
}

fn directory_of(file: &Path) -> String {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    directory.display().to_string()
}

/// Never over an existing file.
fn create(path: &Path, text: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::failed(format!("{} cannot be written: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_in_included_files_are_imported_and_missing_files_named() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("supervisord.conf");
        std::fs::create_dir(directory.path().join("conf.d")).unwrap();
        std::fs::write(&main, "[include]\nfiles = conf.d/*.conf gone/*.conf\n").unwrap();
        let included = directory.path().join("conf.d/a.conf");
        std::fs::write(included, "[program:a]\ncommand = %(here)s/a\n").unwrap();
        let (text, mut stack) = read(Format::Supervisor, &main).unwrap();
        add_included(&main, &text, &mut stack).unwrap();
        let ini = stack.render("x");
        let command = format!("cmd = {}/conf.d/a\n", directory.path().display());
        assert!(ini.contains(&command), "{ini}");
        let gone = "gone/*.conf leads to no file";
        assert!(stack.notes().iter().any(|note| note.text.ends_with(gone)));
    }
}

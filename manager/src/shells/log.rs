//! The manager's own log: one line per event on standard error, or in a file that may be moved away
//! at any time. It is told sentences; what may be said (no environment, no secrets) is decided by
//! those who say it.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::model::LogLevel;
use crate::engine::Level;

/// Where the log goes.
#[derive(Debug)]
enum Sink {
    Stderr,
    Stdout,
    /// Opened again when the path stands for another file (moved, or deleted).
    File {
        path: PathBuf,
        file: Option<File>,
    },
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoration {
    /// `TIME kingpole[PID] [LEVEL] TEXT`, as Circus wrote them.
    Full,
    /// `kingpole | TEXT`, beside the output of children on a terminal; coloured if it is one.
    Console,
}

#[derive(Debug)]
struct Inner {
    sink: Sink,
    least: Level,
    decoration: Decoration,
    color: bool,
}

/// A handle on the log; clones write to the same one.
#[derive(Clone, Debug)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
}

impl Log {
    /// A log on standard error.
    #[must_use]
    pub fn stderr(least: Level, decoration: Decoration) -> Self {
        let color = decoration == Decoration::Console
            && std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let inner = Inner {
            sink: Sink::Stderr,
            least,
            decoration,
            color,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// Moves the log to where `logoutput` of the configuration says.
    ///
    /// # Errors
    /// What is wrong, as a sentence; the log stays where it was.
    pub fn redirect(&self, output: &str) -> Result<(), String> {
        let sink = match output {
            "" => return Ok(()),
            "-" | "stdout" => Sink::Stdout,
            "stderr" => Sink::Stderr,
            _ if output.starts_with("syslog:") => {
                return Err(format!(
                    "logoutput {output}: syslog is not supported yet, the log stays on standard error"
                ));
            }
            path => {
                let path = PathBuf::from(path);
                let file = open(&path)
                    .map_err(|error| format!("logoutput {}: {error}", path.display()))?;
                Sink::File {
                    path,
                    file: Some(file),
                }
            }
        };
        let mut inner = self.lock();
        inner.sink = sink;
        inner.color = false;
        Ok(())
    }

    /// Lets only lines of this level and above through.
    pub fn set_least(&self, least: Level) {
        self.lock().least = least;
    }

    /// Writes a line. A log that cannot be written to is no reason to stop anything.
    pub fn write(&self, level: Level, text: &str) {
        let mut inner = self.lock();
        if level < inner.least {
            return;
        }
        let line = render(&inner, level, text);
        inner.write(line.as_bytes());
    }

    /// [`Level::Debug`].
    pub fn debug(&self, text: impl AsRef<str>) {
        self.write(Level::Debug, text.as_ref());
    }

    /// [`Level::Info`].
    pub fn info(&self, text: impl AsRef<str>) {
        self.write(Level::Info, text.as_ref());
    }

    /// [`Level::Warning`].
    pub fn warning(&self, text: impl AsRef<str>) {
        self.write(Level::Warning, text.as_ref());
    }

    /// [`Level::Error`].
    pub fn error(&self, text: impl AsRef<str>) {
        self.write(Level::Error, text.as_ref());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, line: &[u8]) {
        let _ = match &mut self.sink {
            Sink::Stderr => std::io::stderr().lock().write_all(line),
            Sink::Stdout => std::io::stdout().lock().write_all(line),
            Sink::File { path, file } => {
                if file.as_ref().is_none_or(|file| !is_at(file, path)) {
                    // With no way to open it the old file is still better than nothing.
                    *file = open(path).ok().or_else(|| file.take());
                }
                file.as_mut().map_or(Ok(()), |file| file.write_all(line))
            }
        };
    }
}

fn render(inner: &Inner, level: Level, text: &str) -> String {
    // One line per event, whatever a name or an error holds.
    let text = text.replace('\n', "\\n").replace(char::is_control, "?");
    match inner.decoration {
        Decoration::Full => {
            let time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
            let word = word(level);
            format!("{time} kingpole[{}] [{word}] {text}\n", std::process::id())
        }
        Decoration::Console => {
            let (on, off) = match (inner.color, level) {
                (false, _) => ("", ""),
                (true, Level::Error) => ("\x1b[31m", "\x1b[0m"),
                (true, Level::Warning) => ("\x1b[33m", "\x1b[0m"),
                (true, Level::Info | Level::Debug) => ("\x1b[2m", "\x1b[0m"),
            };
            let word = match level {
                Level::Error => "error: ",
                Level::Warning => "warning: ",
                Level::Info | Level::Debug => "",
            };
            format!("{on}kingpole | {word}{text}{off}\n")
        }
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warning => "WARNING",
        Level::Error => "ERROR",
    }
}

/// The engine's levels for the configuration's.
#[must_use]
pub const fn least_level(level: LogLevel) -> Level {
    match level {
        LogLevel::Critical | LogLevel::Error => Level::Error,
        LogLevel::Warning => Level::Warning,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_that_was_moved_away_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manager.log");
        let log = Log::stderr(Level::Info, Decoration::Full);
        log.redirect(path.to_str().unwrap()).unwrap();
        log.info("one");
        log.debug("hidden");
        std::fs::rename(&path, dir.path().join("old.log")).unwrap();
        log.warning("two\nlines");
        let new = std::fs::read_to_string(&path).unwrap();
        assert!(
            new.ends_with("[WARNING] two\\nlines\n") && new.lines().count() == 1,
            "{new}"
        );
        let old = std::fs::read_to_string(dir.path().join("old.log")).unwrap();
        assert!(
            old.contains("[INFO] one\n") && !old.contains("hidden"),
            "{old}"
        );
    }

    #[test]
    fn a_log_that_cannot_be_opened_stays_where_it_was() {
        let log = Log::stderr(Level::Info, Decoration::Full);
        let error = log.redirect("/nonexistent/dir/x.log").unwrap_err();
        assert!(error.contains("/nonexistent/dir/x.log"), "{error}");
        assert!(log.redirect("syslog:udp").unwrap_err().contains("syslog"));
    }
}

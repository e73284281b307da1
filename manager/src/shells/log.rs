//! The manager's own log: one line per event on standard error, or in a file that may be moved away
//! at any time. It is told sentences; what may be said (no environment, no secrets) is decided by
//! those who say it.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::syslog::Syslog;
use crate::config::model::LogLevel;
use crate::config::syslog::SyslogOutput;
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
    Syslog(Syslog),
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
            output => match SyslogOutput::parse(output) {
                Some(parsed) => {
                    let opened = parsed.and_then(|it| Syslog::open(&it).map_err(|e| e.to_string()));
                    Sink::Syslog(opened.map_err(|error| format!("logoutput {output}: {error}"))?)
                }
                None => file_sink(output)?,
            },
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
        inner.write(level, text);
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
    fn write(&mut self, level: Level, text: &str) {
        let line = render(self, level, text);
        let line = line.as_bytes();
        let _ = match &mut self.sink {
            Sink::Syslog(syslog) => syslog.send(level, &one_line(text)),
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

/// One line per event, whatever a name or an error holds.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace(char::is_control, "?")
}

fn render(inner: &Inner, level: Level, text: &str) -> String {
    let text = one_line(text);
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

fn file_sink(path: &str) -> Result<Sink, String> {
    let path = PathBuf::from(path);
    let file = open(&path).map_err(|error| format!("logoutput {}: {error}", path.display()))?;
    Ok(Sink::File {
        path,
        file: Some(file),
    })
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

    #[test]
    fn lines_reach_syslog_again_after_its_daemon_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let daemon = || std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let heard = |daemon: &std::os::unix::net::UnixDatagram| {
            let mut buffer = [0; 200];
            let count = daemon.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        let first = daemon();
        let log = Log::stderr(Level::Info, Decoration::Full);
        let output = format!("syslog://{}?local0", path.display());
        log.redirect(&output).unwrap();
        log.warning("one\nline");
        let line = heard(&first);
        let own = format!(" kingpole[{}]: one\\nline", std::process::id());
        assert!(line.starts_with("<132>") && line.ends_with(&own), "{line}");
        drop(first);
        std::fs::remove_file(&path).unwrap();
        log.info("nobody hears this");
        let second = daemon();
        log.error("two");
        assert!(heard(&second).starts_with("<131>"));
    }
}

//! Where contestants say what they do.

use kingpole_tests::Scratch;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// See `contestant.rs`.
pub(super) struct Bell {
    socket: UnixDatagram,
    path: PathBuf,
    _scratch: Scratch,
}

/// Something that was said.
#[derive(Clone, Debug)]
pub(super) struct Rung {
    /// When it was heard.
    pub(super) at: Instant,
    /// By whom.
    pub(super) pid: i32,
    /// What.
    pub(super) word: String,
}

impl Bell {
    /// One that nobody has rung.
    pub(super) fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.join("bell");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self {
            socket,
            path,
            _scratch: scratch,
        }
    }

    /// Its address, as an argument.
    pub(super) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Lets a contestant that waits begin; when.
    pub(super) fn let_begin(&self, pid: i32) -> Instant {
        let gate = format!("{}.{pid}", self.path.display());
        let at = Instant::now();
        self.socket.send_to(b"go", gate).expect("it waits");
        at
    }

    /// What is said next, if it is said in time.
    pub(super) fn next(&self, until: Instant) -> Option<Rung> {
        let mut text = [0; 64];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("an option");
            match self.socket.recv(&mut text) {
                Ok(count) => {
                    let at = Instant::now();
                    let text = String::from_utf8_lossy(&text[..count]).into_owned();
                    let (pid, word) = text.split_once(' ')?;
                    let (pid, word) = (pid.parse().ok()?, word.to_owned());
                    return Some(Rung { at, pid, word });
                }
                Err(_) if Instant::now() >= until => return None,
                Err(_) => {}
            }
        }
    }

    /// The next `word`, whoever says it; others are passed over.
    pub(super) fn wait_for(&self, word: &str, until: Instant) -> Option<Rung> {
        loop {
            let rung = self.next(until)?;
            if rung.word == word {
                return Some(rung);
            }
        }
    }
}

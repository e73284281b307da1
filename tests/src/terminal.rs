//! A terminal of a test's own: a program runs on it, keys are typed, and the test reads the screen as
//! its user would see it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::pty::{Winsize, openpty};

use crate::wait;

/// Size of the screen.
const ROWS: u16 = 30;
const COLUMNS: u16 = 110;

/// A program on a terminal. It is killed when this is dropped.
pub struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts a program.
    ///
    /// # Panics
    /// When there is no such program, or no terminal to be had.
    #[must_use]
    #[track_caller]
    pub fn start(command: Command) -> Self {
        Self::with_rows(ROWS, command)
    }

    /// Starts a program on a terminal so high that what it says does not leave the screen.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    #[track_caller]
    pub fn with_rows(rows: u16, mut command: Command) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).expect("a terminal");
        let side = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("the program starts");
        // The terminal ends with the last program on it, and that should not be the test.
        drop(command);
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, COLUMNS, 0)));
        let mut output = File::from(pair.master.try_clone().expect("a descriptor"));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The reading fails when nobody has the terminal any more.
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                let mut screen = shown.lock().unwrap_or_else(PoisonError::into_inner);
                screen.process(&bytes[..read]);
            }
        });
        Self {
            child,
            keys: File::from(pair.master),
            screen,
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the program has gone.
    #[track_caller]
    pub fn keys(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .expect("keys are taken");
    }

    /// What the screen shows.
    #[must_use]
    pub fn screen(&self) -> String {
        self.with(|parser| parser.screen().contents())
    }

    /// Whether the first place where this text stands on the screen has a colour; nothing if it stands nowhere.
    #[must_use]
    pub fn is_coloured(&self, text: &str) -> Option<bool> {
        self.with(|parser| {
            let screen = parser.screen();
            let rows = screen.rows(0, COLUMNS);
            let (row, column) = (0..)
                .zip(rows)
                .find_map(|(row, shown)| Some((row, shown.find(text)?)))?;
            let cell = screen.cell(row, u16::try_from(column).ok()?)?;
            Some(cell.fgcolor() != vt100::Color::Default)
        })
    }

    /// Whether the program has put its own screen over the shell's.
    #[must_use]
    pub fn is_alternate(&self) -> bool {
        self.with(|parser| parser.screen().alternate_screen())
    }

    fn with<T>(&self, look: impl FnOnce(&vt100::Parser) -> T) -> T {
        look(&self.screen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the screen has this text, and gives the screen.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        wait::until(&format!("the screen shows {text:?}"), || {
            let screen = self.screen();
            if screen.contains(text) {
                Ok(screen)
            } else {
                Err(format!("\n{screen}"))
            }
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has ended.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        wait::until("the program on the terminal ends", || {
            match self.child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(io::Error::other(format!("\n{}", self.screen()))),
                Err(error) => Err(error),
            }
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended only needs the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

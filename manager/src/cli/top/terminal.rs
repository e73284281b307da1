//! The terminal of `kingpole top`: keys, samples, answers and output lines come in over one channel,
//! screens go out.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{
    Attribute, Color as Paint, Print, ResetColor, SetAttribute, SetForegroundColor,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use tokio::signal::unix::{SignalKind, signal};

use super::reading::Reading;
use super::sample::Sample;
use super::screen::{self, Line, Style};
use super::view::{Key, Mode, View, Wish};
use crate::cli::change::describe;
use crate::cli::client::{ManagerClient, Patience, exact_pattern};
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Outcome};
use crate::command::{Command, Selection};
use crate::shells::console::Color;

/// Messages that wait for the screen; whoever brings more waits.
const CHANNEL_LEN: usize = 64;

/// At most so often is the screen drawn while output pours in.
const FRAME_TIME: Duration = Duration::from_millis(40);

/// Longest line of output that is kept; the screen shows less.
const LOG_LINE_BYTES_MAX: usize = 4096;

/// What wakes the screen.
enum Message {
    Event(Event),
    Sample(Result<Sample, String>),
    Answer(String),
    /// A line of output, and of which follower it is.
    Output(u64, String),
    /// Keys cannot be read any more, or a signal says that it is over.
    Leave,
}

/// Shows the view until its user leaves.
pub(super) fn run(
    view: View,
    selection: Selection,
    interval: Duration,
    color: Color,
    dir: &Path,
) -> Outcome {
    let (to_screen, messages) = sync_channel(CHANNEL_LEN);
    watch(dir.to_owned(), selection, interval, to_screen.clone());
    let mut top = Top {
        view,
        color,
        dir: dir.to_owned(),
        to_screen,
        follower: None,
        followers: 0,
    };
    let screen = Screen::take().map_err(|error| unusable(&error))?;
    read_keys(top.to_screen.clone());
    leave_on_signals(top.to_screen.clone());
    let outcome = top.serve(&messages);
    drop(screen);
    outcome.map_err(|error| unusable(&error))?;
    Ok(Exit::Done)
}

fn unusable(error: &io::Error) -> Failure {
    Failure::failed(format!("the terminal cannot be used: {error}"))
}

/// The terminal while it is ours. It is given back however this ends.
struct Screen;

impl Screen {
    fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on the drop undoes it.
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Brings samples until the screen has gone.
fn watch(dir: PathBuf, selection: Selection, interval: Duration, to_screen: SyncSender<Message>) {
    std::thread::spawn(move || {
        let client = match ManagerClient::new(&dir) {
            Ok(client) => client,
            Err(failure) => {
                let _ = to_screen.send(Message::Sample(Err(sentence(failure))));
                return;
            }
        };
        let mut before: Option<Reading> = None;
        loop {
            let sample = match Reading::take(&client, &selection) {
                Ok(now) => {
                    let sample = Sample::new(before.as_ref(), &now);
                    before = Some(now);
                    Ok(sample)
                }
                Err(failure) => Err(sentence(failure)),
            };
            if to_screen.send(Message::Sample(sample)).is_err() {
                return;
            }
            std::thread::sleep(interval);
        }
    });
}

fn sentence(failure: Failure) -> String {
    failure.message.unwrap_or_else(|| "failed".to_owned())
}

/// Brings keys and changes of size. The thread ends with the process.
fn read_keys(to_screen: SyncSender<Message>) {
    std::thread::spawn(move || {
        loop {
            let message = event::read().map_or(Message::Leave, Message::Event);
            let last = matches!(message, Message::Leave);
            if to_screen.send(message).is_err() || last {
                return;
            }
        }
    });
}

/// SIGTERM and SIGHUP would leave the terminal as it is.
fn leave_on_signals(to_screen: SyncSender<Message>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            let mut hangup = signal(SignalKind::hangup()).ok()?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            to_screen.send(Message::Leave).ok()
        })
    });
}

struct Top {
    view: View,
    color: Color,
    dir: PathBuf,
    to_screen: SyncSender<Message>,
    follower: Option<Follower>,
    /// How many followers there have been: lines of earlier ones are not shown.
    followers: u64,
}

impl Top {
    fn serve(&mut self, messages: &Receiver<Message>) -> io::Result<()> {
        self.draw()?;
        while let Ok(message) = messages.recv() {
            if !self.take(message) {
                return Ok(());
            }
            // What came at the same time is one picture.
            let until = std::time::Instant::now() + FRAME_TIME;
            loop {
                let left = until.saturating_duration_since(std::time::Instant::now());
                let Ok(message) = messages.recv_timeout(left) else {
                    break;
                };
                if !self.take(message) {
                    return Ok(());
                }
            }
            self.draw()?;
        }
        Ok(())
    }

    /// Whether to go on.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Event(Event::Key(key)) => {
                if let Some(key) = meaning(key) {
                    return self.key(key);
                }
            }
            Message::Event(_) => {}
            Message::Sample(sample) => self.view.sampled(sample),
            Message::Answer(text) => self.view.message = text,
            Message::Output(follower, line) => {
                if follower == self.followers && matches!(self.view.mode, Mode::Log { .. }) {
                    self.view.logged(line);
                }
            }
            Message::Leave => return false,
        }
        true
    }

    fn key(&mut self, key: Key) -> bool {
        let height = screen_size().map_or(24, |(_, height)| height);
        match self.view.key(key, screen::rows_on(height)) {
            None => {}
            Some(Wish::Quit) => return false,
            Some(Wish::Tell(command)) => self.tell(command),
            Some(Wish::Follow(watcher)) => self.follow(&watcher),
            Some(Wish::Unfollow) => self.follower = None,
        }
        true
    }

    fn tell(&mut self, command: Command) {
        let (dir, to_screen) = (self.dir.clone(), self.to_screen.clone());
        self.view.message = format!("{} ...", command.verb());
        std::thread::spawn(move || {
            let answer = ManagerClient::new(&dir)
                .and_then(|client| client.command(&command, Patience::Usual));
            let text = match answer {
                Ok(answer) => describe(&answer).trim_end().replace('\n', ", "),
                Err(failure) => sentence(failure),
            };
            // Without a screen nobody wants to know.
            let _ = to_screen.send(Message::Answer(text));
        });
    }

    fn follow(&mut self, watcher: &str) {
        self.followers += 1;
        match Follower::start(watcher, &self.dir, self.followers, self.to_screen.clone()) {
            Ok(follower) => self.follower = Some(follower),
            Err(error) => self
                .view
                .logged(format!("cannot follow {watcher}: {error}")),
        }
    }

    fn draw(&self) -> io::Result<()> {
        let (width, height) = screen_size()?;
        let mut out = Vec::new();
        queue!(out, BeginSynchronizedUpdate)?;
        let lines = screen::draw(&self.view, width, height);
        for (row, line) in (0u16..).zip(&lines) {
            queue!(out, MoveTo(0, row))?;
            self.write(&mut out, line)?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        let mut terminal = io::stdout().lock();
        terminal.write_all(&out)?;
        terminal.flush()
    }

    fn write(&self, out: &mut Vec<u8>, line: &Line) -> io::Result<()> {
        for (style, text) in &line.pieces {
            match style {
                Style::Plain => {}
                Style::Bold => queue!(out, SetAttribute(Attribute::Bold))?,
                Style::Chosen => queue!(out, SetAttribute(Attribute::Reverse))?,
                Style::Dim => queue!(out, SetAttribute(Attribute::Dim))?,
                Style::Good => self.paint(out, Paint::DarkGreen)?,
                Style::Busy => self.paint(out, Paint::DarkYellow)?,
                Style::Bad => self.paint(out, Paint::DarkRed)?,
            }
            queue!(out, Print(text))?;
            if *style != Style::Plain {
                queue!(out, SetAttribute(Attribute::Reset), ResetColor)?;
            }
        }
        Ok(())
    }

    fn paint(&self, out: &mut Vec<u8>, paint: Paint) -> io::Result<()> {
        match self.color {
            Color::Yes => queue!(out, SetForegroundColor(paint)),
            Color::No => Ok(()),
        }
    }
}

fn meaning(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    Some(match event.code {
        KeyCode::Char('c') if control => Key::Interrupt,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

/// A `kingpole logs -f` of our own: it can be ended at any moment, and it is the same output that
/// its user would see.
struct Follower {
    child: Child,
}

impl Follower {
    fn start(
        watcher: &str,
        dir: &Path,
        number: u64,
        to_screen: SyncSender<Message>,
    ) -> io::Result<Self> {
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg("--runtime-dir")
            .arg(dir)
            .args(["logs", "--follow", "--lines", "100", "--"])
            .arg(exact_pattern(watcher))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output.into_iter().next()?);
            let mut line = Vec::new();
            // A reading error is an end, too.
            while lines
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                line.truncate(LOG_LINE_BYTES_MAX);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                to_screen.send(Message::Output(number, text)).ok()?;
                line.clear();
            }
            Some(())
        });
        Ok(Self { child })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // One that has ended by itself only needs the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Columns and rows. A terminal that does not know (a serial line, some containers) has the usual ones.
fn screen_size() -> io::Result<(usize, usize)> {
    let (width, height) = size()?;
    let or = |known: u16, usual: usize| match known {
        0 => usual,
        known => usize::from(known),
    };
    Ok((or(width, 80), or(height, 24)))
}

//! A child that does what it is told: one command for each argument, or one for each line on a
//! control socket.
//!
//! | command | effect |
//! |---|---|
//! | `control PATH` | connects there and takes further commands, each answered by one line of JSON |
//! | `report` | answers what it sees of itself |
//! | `text out\|err WORDS` | writes the words and a newline |
//! | `lines out\|err TAG FROM COUNT PER_SECOND` | numbered lines; COUNT 0: for ever; rate 0: at once |
//! | `enough` | ends `lines` that run in the background; answers how many lines each tag has |
//! | `flood out\|err FROM BYTES BLOCK` | the byte pattern from an offset on, a block per write |
//! | `same out\|err BYTES BLOCK` | one block over and over: as fast as can be |
//! | `close FD` | closes a descriptor |
//! | `exit CODE`, `die SIGNAL` | ends |
//! | `ignore SIGNAL`, `default SIGNAL` | sets what a signal does |
//! | `fork A; B` | starts a child of its own with that script; answers its pid |
//! | `orphan A; B` | the same, but the child's parent ends at once |
//! | `session` | a session of its own (in a forked child) |
//! | `serve FD` | answers its pid to every connection or datagram on an inherited socket |
//! | `web FD FILE` | answers HTTP requests on an inherited unix socket with its pid, while FILE is there; SIGTERM removes FILE, and it ends after the request that it has begun |
//! | `eof FD` | waits until nobody has the other end of a pipe or connection any more |
//! | `notify TEXT` | sends TEXT to `$NOTIFY_SOCKET`, with a line end for each `,`; waits while there is no room |
//! | `notify-every MS TEXT` | does that over and over, on a thread of its own |
//! | `said` | answers how often that was done |
//! | `background COMMAND` | does something on a thread of its own |
//! | `wait` | does nothing until it is ended |
//!
//! A failed command ends the script with code 96; a failed write (EPIPE above all) ends the puppet
//! with code 97, so that a test can tell whether its output was ever refused.

use kingpole_tests::sys::{self, Disposition};
use kingpole_tests::{lines, pattern, process};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{self, MsgFlags, SockType, sockopt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const COMMAND_FAILED: i32 = 96;
const WRITE_FAILED: i32 = 97;

/// Lines shall end.
static ENOUGH: AtomicBool = AtomicBool::new(false);

/// How often `notify-every` has sent something.
static SAID: AtomicU64 = AtomicU64::new(0);

/// Held by whoever writes lines: the number after the last one, by tag.
static LINES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

fn main() {
    // Asked whether it could be the next kernel, it never answers.
    if std::env::args()
        .nth(1)
        .is_some_and(|word| word == "--rehearse")
    {
        nix::unistd::pause();
    }
    // Before anything is opened here.
    let found = Found {
        descriptors: own_descriptors(),
    };
    for command in std::env::args().skip(1) {
        match found.obey(&command) {
            Ok(answer) if answer.is_null() => {}
            Ok(answer) => println!("{answer}"),
            Err(error) => {
                eprintln!("puppet: {command:?}: {error}");
                std::process::exit(COMMAND_FAILED);
            }
        }
    }
}

/// Says something of itself (sd_notify(3)).
fn notify(text: &str) -> Result<()> {
    let place = std::env::var_os("NOTIFY_SOCKET").ok_or("NOTIFY_SOCKET is not set")?;
    let text = text.replace(',', "\n");
    UnixDatagram::unbound()?.send_to(text.as_bytes(), place)?;
    Ok(())
}

fn own_descriptors() -> BTreeMap<i32, String> {
    let mut found = process::descriptors(std::process::id().cast_signed()).unwrap_or_default();
    // The one that the listing itself needed.
    found.retain(|_, target| !target.starts_with(&format!("/proc/{}/fd", std::process::id())));
    found
}

/// What the puppet found when it was started.
struct Found {
    descriptors: BTreeMap<i32, String>,
}

impl Found {
    fn obey(&self, command: &str) -> Result<Value> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (verb, words.as_slice()) {
            ("control", [path]) => self.control(Path::new(path))?,
            ("report", []) => return self.report(),
            ("text", [to, ..]) => {
                let text = rest.strip_prefix(to).unwrap_or("").trim_start();
                write_all(stream(to)?, format!("{text}\n").as_bytes());
            }
            ("lines", [to, tag, from, count, rate]) => {
                write_lines(
                    stream(to)?,
                    tag,
                    from.parse()?,
                    count.parse()?,
                    rate.parse()?,
                );
            }
            ("flood", [to, from, bytes, block]) => {
                flood(stream(to)?, from.parse()?, bytes.parse()?, block.parse()?);
            }
            ("same", [to, bytes, block]) => {
                same(stream(to)?, bytes.parse()?, block.parse()?);
            }
            ("notify", [text]) => notify(text)?,
            ("notify-every", [pause, text]) => {
                let pause = Duration::from_millis(pause.parse()?);
                let text = (*text).to_owned();
                std::thread::spawn(move || {
                    while notify(&text).is_ok() {
                        SAID.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(pause);
                    }
                });
            }
            ("said", []) => return Ok(json!(SAID.load(Ordering::Relaxed))),
            ("close", [fd]) => sys::close_inherited(fd.parse()?)?,
            ("enough", []) => {
                ENOUGH.store(true, Ordering::Relaxed);
                return Ok(json!(*LINES.lock().map_err(|e| e.to_string())?));
            }
            ("exit", [code]) => std::process::exit(code.parse()?),
            ("die", [signal]) => return die(signal.parse()?),
            ("ignore", [signal]) => sys::set_disposition(signal.parse()?, Disposition::Ignore)?,
            ("default", [signal]) => sys::set_disposition(signal.parse()?, Disposition::Default)?,
            ("fork", [_, ..]) => return Ok(json!(fork(rest)?)),
            ("orphan", [_, ..]) => {
                let status = Command::new(std::env::current_exe()?)
                    .args([format!("fork {rest}"), "exit 0".to_owned()])
                    .status()?;
                return Ok(json!(status.code()));
            }
            ("session", []) => return Ok(json!(nix::unistd::setsid()?.as_raw())),
            ("serve", [fd]) => {
                let socket = sys::inherited(fd.parse()?)?;
                std::thread::spawn(move || serve(socket));
            }
            ("web", [fd, file]) => web(sys::inherited(fd.parse()?)?, Path::new(file))?,
            ("eof", [fd]) => wait_for_eof(sys::inherited(fd.parse()?)?)?,
            ("background", [_, ..]) => {
                let command = rest.to_owned();
                let found = Self {
                    descriptors: BTreeMap::new(),
                };
                std::thread::spawn(move || {
                    if let Err(error) = found.obey(&command) {
                        eprintln!("puppet: {command:?}: {error}");
                        std::process::exit(COMMAND_FAILED);
                    }
                });
            }
            ("wait", []) => loop {
                nix::unistd::pause();
            },
            _ => return Err("no such command".into()),
        }
        Ok(Value::Null)
    }

    fn control(&self, path: &Path) -> Result<()> {
        let connection = UnixStream::connect(path)?;
        for line in BufReader::new(&connection).lines() {
            let answer = match self.obey(&line?) {
                Ok(value) => json!({ "ok": value }),
                Err(error) => json!({ "error": error.to_string() }),
            };
            writeln!(&connection, "{answer}")?;
        }
        Ok(())
    }

    fn report(&self) -> Result<Value> {
        let number = |id: u32| json!(id);
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .map(|(k, v)| (k.to_string_lossy().into(), v.to_string_lossy().into()))
            .collect();
        let groups: Vec<u32> = nix::unistd::getgroups()?
            .iter()
            .map(|g| g.as_raw())
            .collect();
        let user = nix::unistd::getresuid()?;
        let group = nix::unistd::getresgid()?;
        Ok(json!({
            "pid": std::process::id(),
            "parent": nix::unistd::getppid().as_raw(),
            "group": nix::unistd::getpgrp().as_raw(),
            "session": nix::unistd::getsid(None)?.as_raw(),
            "uids": [number(user.real.as_raw()), user.effective.as_raw(), user.saved.as_raw()],
            "gids": [number(group.real.as_raw()), group.effective.as_raw(), group.saved.as_raw()],
            "groups": groups,
            "cwd": std::env::current_dir()?,
            "arguments": std::env::args().collect::<Vec<_>>(),
            "environment": environment,
            "descriptors": self.descriptors,
            "status": process::status_fields(Path::new("/proc/self/status"))?,
            "limits": limits()?,
        }))
    }
}

/// Soft and hard limits by Linux's numbers, `null` for none.
fn limits() -> Result<BTreeMap<u32, [Option<u64>; 2]>> {
    use nix::sys::resource::{Resource, getrlimit};
    let all = [
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_AS,
    ];
    let finite = |limit: u64| (limit != u64::MAX).then_some(limit);
    let mut found = BTreeMap::new();
    for resource in all {
        let (soft, hard) = getrlimit(resource)?;
        found.insert(resource as u32, [finite(soft), finite(hard)]);
    }
    Ok(found)
}

fn stream(name: &str) -> Result<BorrowedFd<'static>> {
    match name {
        "out" => Ok(sys::inherited(1)?),
        "err" => Ok(sys::inherited(2)?),
        other => Err(format!("no stream {other:?}").into()),
    }
}

/// Past the buffers of the standard library, so that one call is one write.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(nix::Error::EINTR) => {}
            Err(_) => std::process::exit(WRITE_FAILED),
        }
    }
}

fn write_lines(to: BorrowedFd<'_>, tag: &str, from: u64, count: u64, per_second: u32) {
    let begun = Instant::now();
    let mut written = 0;
    while count == 0 || written < count {
        if per_second > 0 {
            let due = Duration::from_secs_f64(written as f64 / f64::from(per_second));
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let Ok(mut all) = LINES.lock() else { return };
        if ENOUGH.load(Ordering::Relaxed) {
            return;
        }
        write_all(to, lines::line(tag, from + written).as_bytes());
        written += 1;
        all.insert(tag.to_owned(), from + written);
    }
}

fn flood(to: BorrowedFd<'_>, from: u64, bytes: u64, block: usize) {
    let mut buffer = vec![0; block];
    let mut done = 0;
    while done < bytes {
        let count = usize::try_from(bytes - done).unwrap_or(block).min(block);
        let now = &mut buffer[..count];
        pattern::fill(now, from + done);
        write_all(to, now);
        done += count as u64;
    }
}

fn same(to: BorrowedFd<'_>, bytes: u64, block: usize) {
    let buffer = vec![b'x'; block];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(block).min(block);
        write_all(to, &buffer[..count]);
        left -= count as u64;
    }
}

fn die(signal: i32) -> Result<Value> {
    // SIGKILL and SIGSTOP cannot be set, and need not be.
    let _ = sys::set_disposition(signal, Disposition::Default);
    nix::sys::signal::raise(nix::sys::signal::Signal::try_from(signal)?)?;
    Err(format!("signal {signal} did not end it").into())
}

fn fork(script: &str) -> Result<u32> {
    let script = script.split(';').map(str::trim);
    Ok(Command::new(std::env::current_exe()?)
        .args(script)
        .spawn()?
        .id())
}

fn serve(socket: BorrowedFd<'static>) {
    let pid = format!("{}\n", std::process::id());
    loop {
        // The socket may be set not to wait, and another process may take what has come.
        let mut set = [nix::poll::PollFd::new(socket, nix::poll::PollFlags::POLLIN)];
        if nix::poll::poll(&mut set, nix::poll::PollTimeout::NONE).is_err() {
            continue;
        }
        if socket::getsockopt(&socket, sockopt::SockType) == Ok(SockType::Datagram) {
            let mut buffer = [0; 64];
            let from = socket::recvfrom::<socket::SockaddrStorage>(socket.as_raw_fd(), &mut buffer);
            if let Ok((_, Some(from))) = from {
                let _ =
                    socket::sendto(socket.as_raw_fd(), pid.as_bytes(), &from, MsgFlags::empty());
            }
        } else if let Ok(accepted) = socket::accept(socket.as_raw_fd()) {
            // A sequenced-packet connection is written and read like any other.
            if let Ok(connection) = sys::inherited(accepted) {
                let _ = nix::unistd::write(connection.as_fd(), pid.as_bytes());
            }
            let _ = sys::close_inherited(accepted);
        }
    }
}

/// A web server as a reload without a failed request needs it: what it has accepted it answers.
fn web(socket: BorrowedFd<'static>, ready: &Path) -> Result<()> {
    let listener: UnixListener = socket.try_clone_to_owned()?.into();
    listener.set_nonblocking(true)?;
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block()?;
    let signals = SignalFd::with_flags(&terminate, SfdFlags::SFD_CLOEXEC)?;
    std::fs::write(ready, b"")?;
    let body = std::process::id().to_string();
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    loop {
        let mut set = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        nix::poll::poll(&mut set, nix::poll::PollTimeout::NONE)?;
        if set[0].any() == Some(true) {
            std::fs::remove_file(ready)?;
            std::process::exit(0);
        }
        // Another process may have taken what has come.
        let Ok((mut connection, _)) = listener.accept() else {
            continue;
        };
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            match connection.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => request.extend_from_slice(&buffer[..read]),
            }
        }
        // A client that has gone is its own affair.
        let _ = connection.write_all(answer.as_bytes());
    }
}

fn wait_for_eof(fd: BorrowedFd<'_>) -> Result<()> {
    let mut buffer = [0; 4096];
    while nix::unistd::read(fd, &mut buffer)? > 0 {}
    Ok(())
}

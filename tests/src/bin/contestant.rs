//! The child that every supervisor of the rivals' benchmark runs, so that all are measured with the same one.
//!
//! - `contestant hello SOCKET`: says that it runs and rests;
//! - `contestant blocks SOCKET MIB`, `contestant lines SOCKET COUNT`: says `begin`, waits for a datagram at `SOCKET.PID`, writes
//!   64 KiB blocks of lines or one 100-byte line per write, says `done`, and rests;
//! - `contestant ticks SOCKET COUNT`: writes a line every 10 ms, at once;
//! - `contestant copy FILE`: standard input to a file, a loop of read and write;
//! - `contestant sink`: standard input to nowhere.
//!
//! What it says is a datagram, `PID WORD`, to the benchmark's socket.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Bytes of a line.
const LINE: usize = 100;
/// Bytes of a block, about: whole lines.
const BLOCK: usize = 64 << 10;
/// Between the lines of `ticks`.
const TICK: Duration = Duration::from_millis(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hello", socket] => {
            say(socket, "hello");
            rest()
        }
        ["blocks", socket, mebibytes] => work(socket, || blocks(number(mebibytes))),
        ["lines", socket, count] => work(socket, || lines(number(count))),
        ["ticks", socket, count] => {
            say(socket, "begin");
            ticks(number(count));
            rest()
        }
        ["copy", path] => copy(&mut File::create(path).expect("a file")),
        ["sink"] => copy(&mut std::io::sink()),
        other => panic!("what shall {other:?} mean? See the top of contestant.rs"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn say(socket: &str, word: &str) {
    let own = UnixDatagram::unbound().expect("a socket");
    let text = format!("{} {word}", std::process::id());
    // The benchmark may have gone.
    let _ = own.send_to(text.as_bytes(), socket);
}

fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

fn work(socket: &str, write: impl FnOnce()) {
    let path = format!("{socket}.{}", std::process::id());
    let gate = UnixDatagram::bind(path).expect("a socket");
    say(socket, "begin");
    gate.recv(&mut [0; 8]).expect("a word");
    write();
    say(socket, "done");
    rest()
}

/// Standard output without a buffer between.
fn out() -> File {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    File::from(out.expect("standard output"))
}

fn line() -> Vec<u8> {
    let mut line = vec![b'x'; LINE];
    line[LINE - 1] = b'\n';
    line
}

fn blocks(mebibytes: u64) {
    let (mut out, block) = (out(), line().repeat(BLOCK / LINE));
    for _ in 0..(mebibytes << 20) / block.len() as u64 {
        out.write_all(&block).expect("a reader");
    }
}

fn lines(count: u64) {
    let (mut out, line) = (out(), line());
    for _ in 0..count {
        out.write_all(&line).expect("a reader");
    }
}

fn ticks(count: u64) {
    let (mut out, line, begun) = (out(), line(), Instant::now());
    for number in 1..=count {
        out.write_all(&line).expect("a reader");
        let due = TICK * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}

fn copy(to: &mut impl Write) {
    let mut input = std::io::stdin().lock();
    let mut buffer = vec![0; BLOCK];
    loop {
        match input.read(&mut buffer).expect("standard input") {
            0 => return,
            count => to.write_all(&buffer[..count]).expect("written"),
        }
    }
}

//! A ZeroMQ client of few lines: what a DEALER or SUB socket says and hears (ZMTP 3.0), so that tests and benchmarks see
//! the server and not a library between.

use crate::wait;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

/// Most that is read at once.
const READ_BYTES: usize = 64 << 10;

/// Signature, version 3.0, NULL, a client.
fn greeting() -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[..10].copy_from_slice(b"\xff\0\0\0\0\0\0\0\x01\x7f");
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// What the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks and is answered.
    Dealer,
    /// Hears what is published.
    Subscriber,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Dealer => "DEALER",
            Self::Subscriber => "SUB",
        }
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    stream: Stream,
    received: Vec<u8>,
    /// How much of it was given out.
    taken: usize,
}

impl Peer {
    /// Connects to `ipc://PATH` or `tcp://HOST:PORT` and shakes hands.
    ///
    /// # Errors
    /// When nobody listens, or not to this user, or what listens is no ZeroMQ.
    pub fn connect(endpoint: &str, kind: Kind) -> io::Result<Self> {
        let stream = match endpoint.split_once("://") {
            Some(("ipc", path)) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(wait::PATIENCE))?;
                Stream::Unix(stream)
            }
            Some(("tcp", address)) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(wait::PATIENCE))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, endpoint)),
        };
        let mut peer = Self {
            stream,
            received: Vec::new(),
            taken: 0,
        };
        peer.shake_hands(kind)?;
        Ok(peer)
    }

    fn shake_hands(&mut self, kind: Kind) -> io::Result<()> {
        self.stream.write_all(&greeting())?;
        let name = kind.name();
        let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
        ready.push(u8::try_from(name.len()).expect("short"));
        ready.extend_from_slice(name.as_bytes());
        let mut frame = vec![4, u8::try_from(ready.len()).expect("short")];
        frame.extend(ready);
        self.stream.write_all(&frame)?;
        while self.received.len() < greeting().len() {
            self.read_more()?;
        }
        self.taken = greeting().len();
        match self.receive()? {
            (4, body) if body.starts_with(b"\x05READY") => Ok(()),
            other => Err(unexpected(format!("no READY but {other:?}"))),
        }
    }

    /// Sends a message of one part.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(body.len() + 9);
        match u8::try_from(body.len()) {
            Ok(length) => frame.extend([0, length]),
            Err(_) => {
                frame.push(2);
                frame.extend_from_slice(&(body.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(body);
        self.stream.write_all(&frame)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame: its flags and its body.
    ///
    /// # Errors
    /// When the connection is gone, or nothing comes.
    pub fn receive(&mut self) -> io::Result<(u8, &[u8])> {
        let (flags, header, length) = loop {
            let rest = &self.received[self.taken..];
            let parsed = match rest {
                [flags, rest @ ..] if flags & 2 != 0 => rest.first_chunk().map(|length| {
                    let length = u64::from_be_bytes(*length);
                    (*flags, 9, usize::try_from(length).expect("fits"))
                }),
                [flags, length, ..] => Some((*flags, 2, usize::from(*length))),
                _ => None,
            };
            match parsed {
                Some(parsed) if rest.len() >= parsed.1 + parsed.2 => break parsed,
                _ => self.read_more()?,
            }
        };
        let body = self.taken + header;
        self.taken = body + length;
        Ok((flags & !2, &self.received[body..body + length]))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the connection is gone, or nothing comes, or it is no JSON.
    pub fn ask(&mut self, request: &str) -> io::Result<serde_json::Value> {
        self.send(request.as_bytes())?;
        self.answer()
    }

    /// The next message, as JSON.
    ///
    /// # Errors
    /// When the connection is gone, or nothing comes, or it is no JSON.
    pub fn answer(&mut self) -> io::Result<serde_json::Value> {
        let (_, body) = self.receive()?;
        serde_json::from_slice(body).map_err(|error| unexpected(error.to_string()))
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.taken > 0 {
            self.received.drain(..self.taken);
            self.taken = 0;
        }
        let length = self.received.len();
        self.received.resize(length + READ_BYTES, 0);
        let read = self.stream.read(&mut self.received[length..]);
        self.received
            .truncate(length + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn unexpected(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

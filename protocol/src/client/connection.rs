//! One session with a kernel as a state machine: bytes in, messages out, and back.
//!
//! Order of use: send [`Connection::take_outgoing`]; give what is read to [`Connection::space`] and
//! [`Connection::advance`] (or [`Connection::handle_bytes`]); call [`Connection::poll_incoming`]
//! until it has nothing. The greeting and the hello happen inside, so requests may be queued at
//! once.

use crate::codec::CodecError;
use crate::decoder::Decoder;
use crate::error::ErrorReply;
use crate::event::{Event, OUTPUT_KIND};
use crate::frame::{self, FrameError, KIND_EVENT_FIRST, KIND_REPLY_FIRST};
use crate::hello::{ATTACH_LINE, ATTACHED_PREFIX, Hello, VERSION_MAX, VERSION_MIN, Welcome};
use crate::ids::{Fence, RequestId};
use crate::record::OutputFrame;
use crate::reply::Reply;
use crate::request::Request;
use thiserror::Error;

/// The text before the first frame may be so long; a kernel sends some 100 bytes.
const PREAMBLE_BYTES_MAX: usize = 4096;

/// Why a session cannot go on.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The kernel said no in its text protocol, before any frame.
    #[error("the kernel refuses: {0}")]
    Refused(String),
    /// The other side is no kernel, or one that does not know frames.
    #[error("the other side does not speak kingpole's frames; it says {0:?}")]
    NotAKernel(String),
    /// The hello was answered with an error.
    #[error("the kernel refuses the hello: {0}")]
    Hello(ErrorReply),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame's body is not what its kind says.
    #[error("frame of kind {kind:#06x}: {source}")]
    Body {
        /// The frame's kind.
        kind: u16,
        /// What is wrong.
        source: CodecError,
    },
}

/// Something the kernel sent.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// The session is open. Comes once, before everything else.
    Welcome(Welcome),
    /// The answer to a request.
    Reply {
        /// Whose answer.
        request: RequestId,
        /// It, or why not.
        result: Result<Reply, ErrorReply>,
    },
    /// Something happened.
    Event(Event),
    /// Output of a followed process.
    Output(OutputFrame<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preamble,
    Hello,
    Open,
}

/// The state of one session.
#[derive(Debug)]
pub struct Connection {
    phase: Phase,
    decoder: Decoder,
    outgoing: Vec<u8>,
    last_request: u64,
    fence: Fence,
}

impl Connection {
    /// Begins a session in which this program calls itself `client` ("name/version").
    ///
    /// # Errors
    /// When the name is too long for a frame.
    pub fn new(client: &str, capabilities: u64) -> Result<Self, CodecError> {
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            capabilities,
            client: client.to_owned(),
        };
        let mut outgoing = ATTACH_LINE.as_bytes().to_vec();
        outgoing.extend(frame::encode(&hello, RequestId(1), Fence::NONE)?);
        Ok(Self {
            phase: Phase::Preamble,
            decoder: Decoder::new(),
            outgoing,
            last_request: 1,
            fence: Fence::NONE,
        })
    }

    /// For a session that follows much output: reads ask for so many bytes at least. To be called
    /// before anything has been received.
    pub fn read_in_pieces_of(&mut self, bytes: usize) {
        self.decoder = Decoder::reading(bytes);
    }

    /// The lease under which all further requests act.
    pub fn set_fence(&mut self, fence: Fence) {
        self.fence = fence;
    }

    /// The lease under which requests act.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Queues a request; its answer will carry the number returned. [`Request::Grant`] is not
    /// answered and gets number 0.
    ///
    /// # Errors
    /// When the request is too long for a frame; nothing is queued then.
    pub fn send(&mut self, request: &Request) -> Result<RequestId, CodecError> {
        let id = match request {
            Request::Grant(_) => RequestId(0),
            _ => RequestId(self.last_request.saturating_add(1)),
        };
        let bytes = request.encode(id, self.fence)?;
        self.outgoing.extend(bytes);
        self.last_request = self.last_request.max(id.0);
        Ok(id)
    }

    /// Takes what is to be written to the kernel.
    #[must_use]
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Whether [`Self::take_outgoing`] would give anything.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Room to read into; follow with [`Self::advance`].
    pub fn space(&mut self) -> &mut [u8] {
        self.decoder.space()
    }

    /// `count` bytes were read into [`Self::space`].
    pub fn advance(&mut self, count: usize) {
        self.decoder.advance(count);
    }

    /// Takes bytes that were read elsewhere.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.decoder.extend(bytes);
    }

    /// The next thing that the kernel said, if it has arrived whole. Kinds that this build does not
    /// know are passed over.
    ///
    /// # Errors
    /// The session is of no further use then.
    pub fn poll_incoming(&mut self) -> Result<Option<Incoming<'_>>, ConnectionError> {
        if self.phase == Phase::Preamble && !self.finish_preamble()? {
            return Ok(None);
        }
        // The loop that passes over unknown kinds keeps no borrow: it looks at a header first.
        while let Some(kind) = self.peek_kind()? {
            let known = kind == OUTPUT_KIND
                || Event::KINDS
                    .iter()
                    .chain(Reply::KINDS)
                    .any(|(known, _)| *known == kind);
            if known {
                break;
            }
            // A reply of an unknown kind is still the answer to a request; its asker must hear.
            if kind >= KIND_REPLY_FIRST {
                return self.unknown_reply();
            }
            self.decoder.next_frame()?;
        }
        self.next_known()
    }

    fn peek_kind(&self) -> Result<Option<u16>, FrameError> {
        use crate::frame::{HEADER_BYTES, Header};
        let Some((head, rest)) = self.decoder.pending().split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::parse(head)?;
        Ok((rest.len() >= header.body_length()).then_some(header.kind))
    }

    fn unknown_reply(&mut self) -> Result<Option<Incoming<'_>>, ConnectionError> {
        let Some(frame) = self.decoder.next_frame()? else {
            return Ok(None);
        };
        let text = format!("answer of unknown kind {:#06x}", frame.header.kind);
        let error = ErrorReply::new(crate::ErrorCode::UNKNOWN_KIND, text);
        Ok(Some(Incoming::Reply {
            request: frame.header.request,
            result: Err(error),
        }))
    }

    fn next_known(&mut self) -> Result<Option<Incoming<'_>>, ConnectionError> {
        let Some(frame) = self.decoder.next_frame()? else {
            return Ok(None);
        };
        let kind = frame.header.kind;
        let body = |source| ConnectionError::Body { kind, source };
        let short = || CodecError::Decode("body is too short".to_owned());
        if kind == OUTPUT_KIND {
            let output = OutputFrame::parse(frame.body)
                .ok_or_else(short)
                .map_err(body)?;
            return Ok(Some(Incoming::Output(output)));
        }
        if (KIND_EVENT_FIRST..KIND_REPLY_FIRST).contains(&kind) {
            return Ok(Event::decode(kind, frame.body)
                .map_err(body)?
                .map(Incoming::Event));
        }
        let Some(reply) = Reply::decode(kind, frame.body).map_err(body)? else {
            return Ok(None);
        };
        let request = frame.header.request;
        if self.phase == Phase::Hello {
            return match reply {
                Reply::Welcome(welcome) => {
                    self.phase = Phase::Open;
                    Ok(Some(Incoming::Welcome(welcome)))
                }
                Reply::ErrorReply(error) => Err(ConnectionError::Hello(error)),
                other => Err(ConnectionError::NotAKernel(other.name().to_owned())),
            };
        }
        let result = match reply {
            Reply::ErrorReply(error) => Err(error),
            reply => Ok(reply),
        };
        Ok(Some(Incoming::Reply { request, result }))
    }

    /// Passes over the greeting and the line that answers [`ATTACH_LINE`]. The prompt `> ` stands
    /// before that line when greeting and answer share a line.
    fn finish_preamble(&mut self) -> Result<bool, ConnectionError> {
        loop {
            let pending = self.decoder.pending();
            let Some(end) = pending.iter().position(|byte| *byte == b'\n') else {
                if pending.len() > PREAMBLE_BYTES_MAX {
                    return Err(ConnectionError::NotAKernel(preview(pending)));
                }
                return Ok(false);
            };
            let line = String::from_utf8_lossy(pending.get(..end).unwrap_or_default());
            let line = line
                .strip_prefix("> ")
                .unwrap_or(&line)
                .trim_end()
                .to_owned();
            self.decoder.consume(end.saturating_add(1));
            if line.starts_with(ATTACHED_PREFIX) {
                self.phase = Phase::Hello;
                return Ok(true);
            }
            if let Some(reason) = line.strip_prefix("Error:") {
                return Err(ConnectionError::Refused(reason.trim().to_owned()));
            }
            if !line.starts_with("Papa is home") && !line.is_empty() {
                return Err(ConnectionError::NotAKernel(preview(line.as_bytes())));
            }
        }
    }
}

fn preview(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..80).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Done;
    use proptest::prelude::*;

    fn welcome() -> Welcome {
        Welcome {
            version: 1,
            capabilities: 0,
            release: "0.1.0".into(),
            pid: 7,
            generation: 1,
            epoch: 1,
            instance: 3,
            started_ns: 5,
            session: 1,
            newest_fence: Fence(0),
        }
    }

    fn kernel_says() -> Vec<u8> {
        let mut bytes =
            b"Papa is home. Type \"help\" for commands.\n> Attached (1 to 1).\n".to_vec();
        bytes.extend(frame::encode(&welcome(), RequestId(1), Fence::NONE).unwrap());
        bytes.extend(frame::encode(&Done {}, RequestId(2), Fence::NONE).unwrap());
        bytes
    }

    #[test]
    fn greeting_hello_and_first_reply_arrive_however_they_are_cut() {
        for cut in 1..kernel_says().len() {
            let mut connection = Connection::new("test/1", 0).unwrap();
            let mut seen = Vec::new();
            for part in kernel_says().chunks(cut) {
                connection.handle_bytes(part);
                while let Some(incoming) = connection.poll_incoming().unwrap() {
                    seen.push(
                        format!("{incoming:?}")
                            .split('(')
                            .next()
                            .unwrap()
                            .to_owned(),
                    );
                }
            }
            assert_eq!(seen.len(), 2, "cut at {cut}: {seen:?}");
        }
    }

    #[test]
    fn an_answer_of_a_later_kernel_is_an_error_of_its_request_only() {
        let mut connection = Connection::new("test/1", 0).unwrap();
        connection.handle_bytes(&kernel_says());
        connection
            .handle_bytes(&frame::encode_kind(0xfff0, &1_u64, RequestId(3), Fence::NONE).unwrap());
        connection
            .handle_bytes(&frame::encode_kind(0x7ff0, &1_u64, RequestId(0), Fence::NONE).unwrap());
        connection.handle_bytes(&frame::encode(&Done {}, RequestId(4), Fence::NONE).unwrap());
        let mut requests = Vec::new();
        while let Some(incoming) = connection.poll_incoming().unwrap() {
            if let Incoming::Reply { request, result } = incoming {
                requests.push((request.0, result.is_ok()));
            }
        }
        assert_eq!(requests, [(2, true), (3, false), (4, true)]);
    }

    #[test]
    fn a_refusal_in_text_is_told_in_its_words() {
        let mut connection = Connection::new("test/1", 0).unwrap();
        connection.handle_bytes(b"Error: permission denied\n");
        let error = connection.poll_incoming().unwrap_err();
        assert_eq!(error.to_string(), "the kernel refuses: permission denied");
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for start in [Vec::new(), kernel_says()] {
                let mut connection = Connection::new("test/1", 0).unwrap();
                connection.handle_bytes(&start);
                connection.handle_bytes(&bytes);
                for _ in 0..100 {
                    if !matches!(connection.poll_incoming(), Ok(Some(_))) { break; }
                }
            }
        }
    }
}

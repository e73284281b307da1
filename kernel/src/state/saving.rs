//! A session as it is carried into the next image of the kernel, and back.

use super::text::{
    Batch, EndTold, LineEnd, Tail, TextMode, TextSession, Watch, WatchStart, Watched,
};
use super::{Access, Follow, Peer, Phase, Session, SessionId, Subscribed};
use crate::input::Room;
use crate::memory::cursor::{EofBits, Stream};
use crate::memory::ring::ReadMark;
use crate::text::command::TailMode;
use crate::upgrade::saved_state::{
    SavedBatch, SavedCourse, SavedDescriptor, SavedFollow, SavedLine, SavedMode, SavedSession,
    SavedSpeech,
};
use kingpole_protocol::ids::ProcessId;
use std::collections::BTreeSet;

/// What could not be carried of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    None,
    /// The rest of a long listing.
    Listing,
}

impl Session {
    /// Everything but what its connection knows.
    #[must_use]
    pub fn save(&self, line: SavedLine) -> SavedSession {
        SavedSession {
            session: self.id.0,
            socket: SavedDescriptor {
                tag: 0,
                number: -1,
                device: 0,
                inode: 0,
            },
            address: self.peer.address.clone(),
            uid: self.peer.uid,
            pid: self.peer.pid,
            client: self.client.clone(),
            connected_ns: self.connected_ns,
            speech: match self.phase {
                Phase::Hello => SavedSpeech::Hello,
                Phase::Open => SavedSpeech::Frames,
                Phase::Text => SavedSpeech::Text {
                    line,
                    mode: save_mode(&self.text.mode),
                    held: self.text.held.clone(),
                },
            },
            course: SavedCourse::Open,
            is_subscribed: self.subscribed == Subscribed::Yes,
            follows: self.follows.iter().map(save_follow).collect(),
            received: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// The session of a saved one. Everything that it follows is looked at anew.
    #[must_use]
    pub fn restore(saved: SavedSession, queue: Room, active_ns: u64) -> (Self, Loss) {
        let follows = saved
            .follows
            .iter()
            .map(restore_follow)
            .collect::<std::collections::BTreeMap<_, _>>();
        let pending = follows.keys().copied().collect::<BTreeSet<_>>();
        let mut loss = Loss::None;
        let (phase, mode, held) = match saved.speech {
            SavedSpeech::Hello => (Phase::Hello, TextMode::Prompt, None),
            SavedSpeech::Frames => (Phase::Open, TextMode::Prompt, None),
            SavedSpeech::Text { mode, held, .. } => {
                if mode == SavedMode::Listing {
                    loss = Loss::Listing;
                }
                (Phase::Text, restore_mode(mode), held)
            }
        };
        let session = Self {
            id: SessionId(saved.session),
            peer: Peer {
                address: saved.address,
                uid: saved.uid,
                pid: saved.pid,
            },
            client: saved.client,
            connected_ns: saved.connected_ns,
            phase,
            subscribed: if saved.is_subscribed {
                Subscribed::Yes
            } else {
                Subscribed::No
            },
            follows,
            rings: std::collections::BTreeMap::new(),
            pending,
            serve_next: ProcessId(0),
            queue,
            text: TextSession {
                mode,
                active_ns,
                held,
            },
        };
        (session, loss)
    }
}

fn save_follow((process, follow): (&ProcessId, &Follow)) -> SavedFollow {
    SavedFollow {
        process: *process,
        next: follow.mark.seq,
        position: follow.mark.position,
        credit: follow.credit,
        stdout_told: follow.told.has(Stream::Stdout),
        stderr_told: follow.told.has(Stream::Stderr),
    }
}

fn restore_follow(saved: &SavedFollow) -> (ProcessId, Follow) {
    let mut told = EofBits::NONE;
    if saved.stdout_told {
        told = told.with(Stream::Stdout);
    }
    if saved.stderr_told {
        told = told.with(Stream::Stderr);
    }
    let mark = ReadMark {
        seq: saved.next,
        position: saved.position,
    };
    let follow = Follow {
        mark,
        credit: saved.credit,
        told,
        access: Access::Sent,
    };
    (saved.process, follow)
}

fn save_mode(mode: &TextMode) -> SavedMode {
    match mode {
        // Requests are answered before a step ends.
        TextMode::Prompt | TextMode::Awaiting(_) => SavedMode::Prompt,
        TextMode::Listing(_) => SavedMode::Listing,
        TextMode::Watching(watch) => SavedMode::Watching {
            watched: watch
                .watched
                .iter()
                .map(|(process, watched)| {
                    (*process, watched.name.clone(), watched.end == EndTold::Yes)
                })
                .collect(),
            batch: match watch.batch {
                Batch::Empty => SavedBatch::Empty,
                Batch::Open(bytes) => SavedBatch::Open(bytes),
                Batch::Sent => SavedBatch::Sent,
            },
            parted: watch.parted.iter().copied().collect(),
        },
        TextMode::Tailing(tail) => SavedMode::Tailing {
            process: tail.process,
            name: tail.name.clone(),
            goes_on: tail.mode == TailMode::Follow,
            within_line: tail.line == LineEnd::Within,
        },
    }
}

fn restore_mode(saved: SavedMode) -> TextMode {
    match saved {
        SavedMode::Prompt | SavedMode::Listing => TextMode::Prompt,
        SavedMode::Watching {
            watched,
            batch,
            parted,
        } => TextMode::Watching(Box::new(Watch {
            watched: watched
                .into_iter()
                .map(|(process, name, told)| {
                    let end = if told { EndTold::Yes } else { EndTold::No };
                    (process, Watched { name, end })
                })
                .collect(),
            batch: match batch {
                SavedBatch::Empty => Batch::Empty,
                SavedBatch::Open(bytes) => Batch::Open(bytes),
                SavedBatch::Sent => Batch::Sent,
            },
            parted: parted.into_iter().collect(),
            start: WatchStart::Begun,
        })),
        SavedMode::Tailing {
            process,
            name,
            goes_on,
            within_line,
        } => TextMode::Tailing(Box::new(Tail {
            process,
            name,
            mode: if goes_on {
                TailMode::Follow
            } else {
                TailMode::Once
            },
            line: if within_line {
                LineEnd::Within
            } else {
                LineEnd::AtStart
            },
        })),
    }
}

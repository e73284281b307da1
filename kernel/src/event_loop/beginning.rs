//! How a kernel is put together: the first one, one after a kill, and one after an upgrade.

use super::adopt::{self, AdoptError, Beginning, Inheritance, Succession};
use super::gathering::Gathering;
use super::guarding::Heirloom;
use super::hands::{Hands, HandsError};
use super::listeners::Listener;
use super::polled::{Interest, Polled, Token};
use super::upgrading::Resumption;
use super::{Code, Detail, Kernel, Listening, Waiting};
use crate::crash::{crash_point, resume_stage};
use crate::guard::client::GuardLink;
use crate::log::{Backlog, Log};
use crate::memory::held::Tag;
use crate::peer::Guests;
use crate::state::{About, State};
use crate::sys::kept::Kept;
use crate::sys::title::ProcessTitle;
use nix::errno::Errno;
use nix::sys::signalfd::SignalFd;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

/// Bytes read from a session at once.
const SCRATCH_BYTES: usize = 64 << 10;

/// What a kernel needs from its start.
pub struct Parts {
    /// Who it is.
    pub about: About,
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// Who may.
    pub guests: Guests,
    /// SIGCHLD, SIGTERM, SIGINT, SIGQUIT; blocked.
    pub signals: SignalFd,
    /// Where lines go.
    pub log: Log,
    /// How many.
    pub detail: Detail,
    /// What `ps` shows, if there is room.
    pub title: Option<ProcessTitle>,
    /// The link, if there is a guard.
    pub link: Option<OwnedFd>,
    /// What this process needs to take the guard's place, if there is one.
    pub heirloom: Option<Heirloom>,
    /// What the image before left, if there was one.
    pub resumption: Option<Resumption>,
    /// The epoll that children's pipes hang on already, if that image has handed it over.
    pub polled: Option<OwnedFd>,
}

/// Why the loop cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// Shared memory and the like.
    #[error(transparent)]
    Hands(#[from] HandsError),
    /// What another kernel left.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// Readiness.
    #[error("cannot wait for descriptors: {0}")]
    Poll(#[from] Errno),
    /// The runtime.
    #[error("cannot wait for descriptors: {0}")]
    Runtime(#[from] std::io::Error),
    /// The journal took not even its first record.
    #[error("cannot begin the journal: {0}")]
    Journal(Box<kingpole_protocol::ErrorReply>),
}

impl Kernel {
    /// Puts a kernel together that goes on where another one stopped; the first one goes on with
    /// nothing. Also gives the tags of
    /// descriptors that belong to nothing any more. Calls `point_of_no_return` when nothing can fail any
    /// more, before anybody hears of anything.
    ///
    /// # Errors
    /// What was inherited makes no sense, or Linux refuses something.
    pub fn adopt(
        parts: Parts,
        inheritance: Inheritance,
        succession: Succession,
        point_of_no_return: impl FnOnce(),
    ) -> Result<(Self, Vec<Tag>), LoopError> {
        // Nothing that was inherited may be closed by a failure: another program may go on with it.
        // What can fail comes first, and after that nobody hears of anything before all is well.
        let mut parts = Kept::new(parts);
        let inheritance = Kept::new(inheritance);
        let polled = match parts.polled.take() {
            Some(polled) => Polled::resume(polled),
            None => Polled::new()?,
        };
        let polled = Rc::new(RefCell::new(polled));
        let waiting = Waiting::new(&polled.borrow())?;
        let about = parts.about.clone();
        let resumption = Kept::new(parts.resumption.take());
        let sent = resumption.as_ref().map_or(0, |r| r.saved.head.link_sent);
        let guard = GuardLink::new(parts.link.take(), sent);
        resume_stage("resume: loop")?;
        let inheritance = Kept::into_inner(inheritance);
        let adopted = adopt::adopt(inheritance, about, succession, Rc::clone(&polled), guard)?;
        let parts = Kept::into_inner(parts);
        let kernel = Self::assemble(parts, adopted.state, adopted.hands, polled, waiting);
        let mut kernel = Kept::new(kernel);
        if adopted.beginning == Beginning::First {
            let Self { hands, state, .. } = &mut *kernel;
            hands.begin(state).map_err(LoopError::Journal)?;
        }
        kernel.poll_own()?;
        kernel.begin_guarded(&adopted.dropped)?;
        resume_stage("resume: sessions")?;
        let resumed = match Kept::into_inner(resumption) {
            Some(resumption) => Some(kernel.resume_connections(resumption)?),
            None => None,
        };
        resume_stage("resume: ready")?;
        point_of_no_return();
        // Too late to fail, but not to hang or to die.
        let _ = resume_stage("resume: no return");
        let mut kernel = Kept::into_inner(kernel);
        for note in adopted.notes {
            kernel.log_line(&note);
        }
        for input in adopted.inputs {
            kernel.drive(input);
        }
        if let Some(resumed) = resumed {
            kernel.resume_sessions(resumed);
        }
        kernel.look_for_ends();
        crash_point("adopt: before ready");
        Ok((kernel, adopted.dropped))
    }

    /// Ends that somebody else published since we last looked.
    pub(super) fn look_for_ends(&mut self) {
        for input in self.hands.published_ends(&self.state) {
            self.drive(input);
        }
    }

    fn assemble(
        parts: Parts,
        state: State,
        hands: Hands,
        polled: Rc<RefCell<Polled>>,
        waiting: Waiting,
    ) -> Self {
        Self {
            waiting: Some(waiting),
            state,
            hands,
            polled,
            connections: BTreeMap::new(),
            unparsed: BTreeSet::new(),
            holding: BTreeSet::new(),
            listeners: parts.listeners,
            listening: Listening::Yes,
            code: Code::Used,
            gathering: Gathering::default(),
            guests: parts.guests,
            signals: parts.signals,
            log: parts.log,
            log_polled: Backlog::Empty,
            detail: parts.detail,
            title: parts.title,
            shown_title: None,
            last_refusal: String::new(),
            inbox: VecDeque::new(),
            effects: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            spare_text: Vec::new(),
            clock: Instant::now(),
            leaving: false,
            heirloom: parts.heirloom,
            order: None,
            preparing: None,
            unchecked: Vec::new(),
            rehearsing: None,
            decided: None,
            resumed: None,
        }
    }

    fn poll_own(&self) -> Result<(), Errno> {
        let polled = self.polled.borrow();
        polled.add(&self.signals, Token::Signals, Interest::Read)?;
        for (index, listener) in (0..).zip(&self.listeners) {
            let token = Token::Listener(index);
            polled.add(listener.descriptor(), token, Interest::Read)?;
        }
        Ok(())
    }
}

//! A reader of output that trusts nobody: whatever it is sent must fit what it was sent before.

use crate::wait::PATIENCE;
use kingpole_protocol::client::blocking::{Client, Notice};
use kingpole_protocol::client::{Copied, MappedRing};
use kingpole_protocol::event::{Event, Gap, MappedOutput, StreamEnded};
use kingpole_protocol::record::{RecordHeader, Records, Stream};
use kingpole_protocol::request::{Commit, OutputAcknowledgement};
use kingpole_protocol::status::End;
use kingpole_protocol::{ProcessId, Sequence};
use std::collections::BTreeMap;
use std::time::Instant;

/// Credit that a follower keeps open, bytes.
const CREDIT: u64 = 1 << 20;

/// Whether a follower acknowledges what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// Each record as it comes.
    Each,
    /// Nothing.
    Never,
}

/// Follows one process on a session of its own.
pub struct Follower {
    client: Client,
    process: ProcessId,
    acknowledge: Acknowledge,
    next: Sequence,
    offsets: BTreeMap<Stream, u64>,
    newest_ns: u64,
    /// Bytes of each stream as far as they came, gaps left out.
    pub bytes: BTreeMap<Stream, Vec<u8>>,
    /// Every record header.
    pub headers: Vec<RecordHeader>,
    /// Every gap.
    pub gaps: Vec<Gap>,
    /// Streams that are complete.
    pub ended: Vec<StreamEnded>,
    /// The end of the process, if it was told.
    pub end: Option<End>,
    /// Its ring, once it was passed.
    pub ring: Option<MappedRing>,
    /// What was announced, and was read in place.
    pub read_in_place: Vec<MappedOutput>,
    /// How often it was not there any more.
    pub overtaken: u64,
}

impl Follower {
    /// Follows `process` from its first kept record on.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn new(client: Client, process: ProcessId, acknowledge: Acknowledge) -> Self {
        Self::from(client, process, Sequence(0), acknowledge)
    }

    /// Follows `process` from a record on, whose stream offsets are not known.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn from(
        mut client: Client,
        process: ProcessId,
        from: Sequence,
        acknowledge: Acknowledge,
    ) -> Self {
        client.subscribe().expect("subscribe");
        client.follow(process, from, CREDIT).expect("follow");
        Self::with(client, process, from, acknowledge)
    }

    /// Follows `process` from its first kept record on, and reads its ring in place where that is offered.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn in_place(mut client: Client, process: ProcessId, acknowledge: Acknowledge) -> Self {
        client.subscribe().expect("subscribe");
        let from = Sequence(0);
        client.follow_mapped(process, from, CREDIT).expect("follow");
        Self::with(client, process, from, acknowledge)
    }

    fn with(client: Client, process: ProcessId, next: Sequence, acknowledge: Acknowledge) -> Self {
        Self {
            client,
            process,
            acknowledge,
            next,
            offsets: BTreeMap::new(),
            newest_ns: 0,
            bytes: Stream::ALL.map(|s| (s, Vec::new())).into(),
            headers: Vec::new(),
            gaps: Vec::new(),
            ended: Vec::new(),
            end: None,
            ring: None,
            read_in_place: Vec::new(),
            overtaken: 0,
        }
    }

    /// The session, for further requests.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Bytes of one stream so far.
    #[must_use]
    pub fn of(&self, stream: Stream) -> &[u8] {
        self.bytes.get(&stream).map_or(&[], Vec::as_slice)
    }

    /// Reads until `done`.
    ///
    /// # Panics
    /// When that does not come, or what comes does not fit.
    #[track_caller]
    pub fn read_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self
                .client
                .next_notice(Some(left))
                .expect("the session holds")
            {
                Some(notice) => self.take(notice),
                None => panic!(
                    "{what}: not within {PATIENCE:?}; so far {} records, {} + {} bytes, gaps {:?}, \
                     ended {:?}",
                    self.headers.len(),
                    self.of(Stream::Stdout).len(),
                    self.of(Stream::Stderr).len(),
                    self.gaps,
                    self.ended
                ),
            }
        }
    }

    /// Reads until both streams are complete.
    ///
    /// # Panics
    /// As [`Self::read_until`].
    #[track_caller]
    pub fn read_to_end(&mut self) {
        self.read_until("both streams are complete", |f| f.ended.len() == 2);
    }

    #[track_caller]
    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Output {
                process,
                header,
                data,
            } if process == self.process => {
                self.take_record(header, &data);
            }
            Notice::Event(Event::Gap(gap)) if gap.process == self.process => self.take_gap(gap),
            Notice::Event(Event::RingPassed(passed)) => {
                self.ring = Some(self.client.take_ring(&passed).expect("a ring"));
            }
            Notice::Event(Event::MappedOutput(output)) => self.take_announced(output),
            Notice::Event(Event::StreamEnded(end)) if end.process == self.process => {
                let seen = self.offsets.get(&end.stream).copied().unwrap_or_default();
                assert_eq!(end.bytes, seen, "bytes of {:?} at its end", end.stream);
                assert!(
                    self.ended.iter().all(|e| e.stream != end.stream),
                    "{:?} ended twice",
                    end.stream
                );
                self.ended.push(end);
            }
            Notice::Event(Event::ProcessEnded(event)) if event.process == self.process => {
                assert_eq!(self.end, None, "the end was told twice");
                self.end = Some(event.end);
            }
            Notice::Event(_) | Notice::Output { .. } => {}
        }
    }

    #[track_caller]
    fn take_record(&mut self, header: RecordHeader, data: &[u8]) {
        if self.next != Sequence(0) {
            assert_eq!(
                header.sequence, self.next,
                "sequence numbers have no holes without a gap"
            );
        }
        if let Some(&offset) = self.offsets.get(&header.stream) {
            assert_eq!(
                header.stream_offset, offset,
                "offset within {:?}",
                header.stream
            );
        }
        assert_eq!(header.length as usize, data.len(), "length of a record");
        assert!(!data.is_empty(), "an empty record");
        assert!(
            self.ended.iter().all(|e| e.stream != header.stream),
            "a record of {:?} after its end",
            header.stream
        );
        self.next = header.sequence.next();
        self.offsets.insert(
            header.stream,
            header.stream_offset + u64::from(header.length),
        );
        self.newest_ns = self.newest_ns.max(header.time_ns);
        self.bytes
            .entry(header.stream)
            .or_default()
            .extend_from_slice(data);
        self.headers.push(header);
        self.client
            .grant(self.process, header.credit_bytes())
            .expect("grant");
        if self.acknowledge == Acknowledge::Each {
            self.acknowledge_through(header.sequence);
        }
    }

    #[track_caller]
    fn take_announced(&mut self, output: MappedOutput) {
        assert_eq!(output.process, self.process, "announced to who did not ask");
        let ring = self.ring.as_ref().expect("a ring comes first");
        let mut bytes = Vec::new();
        let copied = ring.copy(self.client.descriptor(), &output, &mut bytes);
        match copied.expect("it can be read") {
            Copied::Whole => {
                for record in Records::new(&bytes) {
                    self.take_record(record.header, record.data);
                }
                assert_eq!(self.next, output.next);
                self.read_in_place.push(output);
            }
            Copied::Overtaken => {
                self.overtaken += 1;
                self.ring = None;
                let asked = self.client.follow_mapped(self.process, output.from, CREDIT);
                asked.expect("followed anew");
            }
        }
    }

    #[track_caller]
    fn take_gap(&mut self, gap: Gap) {
        if self.next != Sequence(0) {
            assert_eq!(gap.from, self.next, "a gap begins where the reader is");
        }
        assert!(gap.to > gap.from, "a gap of nothing: {gap:?}");
        self.next = gap.to;
        for (stream, to) in [
            (Stream::Stdout, gap.stdout_offset),
            (Stream::Stderr, gap.stderr_offset),
        ] {
            let at = self.offsets.entry(stream).or_default();
            assert!(to >= *at, "a gap goes back in {stream:?}: {gap:?}");
            *at = to;
        }
        self.gaps.push(gap);
    }

    /// Acknowledges everything up to a record.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn acknowledge_through(&mut self, through: Sequence) {
        let outputs = vec![OutputAcknowledgement {
            process: self.process,
            through,
        }];
        self.client
            .commit(Commit {
                outputs,
                ..Commit::default()
            })
            .expect("acknowledge");
    }
}

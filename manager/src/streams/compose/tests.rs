use super::*;
use kingpole_protocol::record::Stream;
use kingpole_protocol::{ProcessId, Sequence};
use proptest::prelude::*;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

fn source(process: u64, stream: Stream) -> Source {
    let child = Child {
        process: ProcessId(process),
        epoch: 1,
    };
    Source { child, stream }
}

/// Records of one stream: (sequence, second, bytes).
fn records(records: &[(u64, u64, &[u8])]) -> VecDeque<Chunk> {
    let mut at = 0;
    let chunk = |(sequence, second, data): &(u64, u64, &[u8])| {
        let block = Arc::new(data.to_vec());
        let length = data.len();
        let chunk = Chunk::new(Sequence(*sequence), second * SECOND, at, block, 0, length);
        at = chunk.end();
        chunk
    };
    records.iter().map(chunk).collect()
}

fn part(source: Source, chunks: &VecDeque<Chunk>, extent: Extent) -> Part<'_> {
    Part {
        source,
        pid: 100 + source.child.process.0 as u32,
        name: "w.1",
        from: Position::START,
        gap: None,
        chunks,
        extent,
    }
}

const WIDE: Bounds = Bounds {
    batch_bytes: usize::MAX,
    line_bytes: 8,
    file_bytes: 0,
    max_bytes: None,
    deadline_ns: None,
};

fn run(parts: Vec<Part<'_>>, bounds: Bounds, style: Style) -> (String, Composed) {
    let batch = Batch {
        lead: Lead::Nothing,
        notices: &[],
        parts,
    };
    let mut out = Vec::new();
    let composed = compose(
        &batch,
        &bounds,
        &Format::new(style),
        None,
        &mut out,
        &mut (),
    );
    (String::from_utf8_lossy(&out).into_owned(), composed)
}

fn seconds() -> Style {
    Style::Prefixed("%S".to_owned())
}

const OPEN: Extent = Extent::Available(None);

#[test]
fn a_prefix_never_cuts_a_line_and_has_the_time_of_the_record_that_ended_it() {
    let chunks = records(&[(1, 5, b"be"), (2, 6, b"gun\nwh"), (3, 7, b"ole\nopen")]);
    let (text, composed) = run(
        vec![part(source(1, Stream::Stdout), &chunks, OPEN)],
        WIDE,
        seconds(),
    );
    assert_eq!(text, "06 [101] | begun\n07 [101] | whole\n");
    assert_eq!(composed.moved[0].1.at, 12);
    assert_eq!(composed.stopped, Stopped::Complete);
}

#[test]
fn lines_of_both_streams_and_all_children_stand_in_the_order_of_their_ends() {
    let out = records(&[(1, 1, b"a"), (3, 3, b"b\n")]);
    let err = records(&[(2, 2, b"e\n")]);
    let other = records(&[(1, 2, b"o\n"), (2, 9, b"p\n")]);
    let parts = vec![
        part(source(1, Stream::Stdout), &out, OPEN),
        part(source(1, Stream::Stderr), &err, OPEN),
        part(source(2, Stream::Stdout), &other, OPEN),
    ];
    assert_eq!(run(parts, WIDE, Style::Raw).0, "e\no\nab\np\n");
}

#[test]
fn a_line_that_reaches_the_limit_is_cut_there_and_marked() {
    let chunks = records(&[(1, 1, b"1234567"), (2, 2, b"8abc\n12345678")]);
    let out = source(1, Stream::Stdout);
    let (text, composed) = run(vec![part(out, &chunks, OPEN)], WIDE, seconds());
    assert_eq!(
        text,
        "02 [101] | 12345678 [+]\n02 [101] +| abc\n02 [101] | 12345678 [+]\n"
    );
    assert_eq!(composed.moved[0].1.joint, Joint::Continues);
}

#[test]
fn an_unfinished_line_is_written_only_for_a_reason_and_for_the_one_that_waited() {
    let chunks = records(&[(1, 1, b"x\nopen")]);
    let out = source(1, Stream::Stdout);
    let forced = |why, at| {
        let extent = Extent::Available(Some((why, at)));
        run(vec![part(out, &chunks, extent)], WIDE, seconds()).0
    };
    assert_eq!(forced(Forced::TimedOut, 0), "01 [101] | x\n");
    assert_eq!(
        forced(Forced::TimedOut, 2),
        "01 [101] | x\n01 [101] | open [+]\n"
    );
    assert_eq!(
        forced(Forced::Gap, 0),
        "01 [101] | x\n01 [101] | open [+]\n"
    );
    assert_eq!(forced(Forced::Ended, 0), "01 [101] | x\n01 [101] | open\n");
}

#[test]
fn a_file_is_rotated_as_circus_does_before_it_reaches_its_size() {
    let chunks = records(&[(1, 1, b"12345\n12345\n12345\n")]);
    let out = source(1, Stream::Stdout);
    let at = |file_bytes| {
        let bounds = Bounds {
            file_bytes,
            max_bytes: Some(15),
            ..WIDE
        };
        let (text, composed) = run(vec![part(out, &chunks, OPEN)], bounds, Style::Raw);
        (text.len(), composed.stopped)
    };
    assert_eq!(at(0), (12, Stopped::Full));
    assert_eq!(at(6), (6, Stopped::Full));
    assert_eq!(at(9), (0, Stopped::RotateFirst));
}

struct Switch(u64);

impl Zone for Switch {
    fn at(&mut self, second: u64) -> (i32, String) {
        if second < self.0 {
            (3600, "CET".to_owned())
        } else {
            (7200, "CEST".to_owned())
        }
    }
}

#[test]
fn a_batch_ends_where_the_zone_changes() {
    let chunks = records(&[(1, 59, b"a\n"), (2, 60, b"b\n")]);
    let batch = Batch {
        lead: Lead::Nothing,
        notices: &[],
        parts: vec![part(source(1, Stream::Stdout), &chunks, OPEN)],
    };
    let format = Format::new(Style::Prefixed("%H:%M:%S %Z".to_owned()));
    let mut out = Vec::new();
    let zone: Option<&mut dyn Zone> = Some(&mut Switch(60));
    let composed = compose(&batch, &WIDE, &format, zone, &mut out, &mut ());
    assert_eq!(out, b"01:00:59 CET [101] | a\n");
    assert_eq!(composed.format.offset_seconds, 3600);
    assert_eq!(composed.stopped, Stopped::Full);
}

proptest! {
    /// The promise of composing again: whatever has arrived since, the same bytes come out.
    #[test]
    fn composing_again_gives_the_same_bytes_whatever_has_arrived_since(
        pieces in proptest::collection::vec(
            (0_usize..4, "[ab\n]{1,12}", 0_u64..4), 1..30),
        seen in 0_usize..30,
        batch_bytes in 1_usize..80,
        raw: bool,
    ) {
        let sources = [
            source(1, Stream::Stdout), source(1, Stream::Stderr),
            source(2, Stream::Stdout), source(3, Stream::Stderr),
        ];
        // Clocks may step back.
        let gather = |count: usize| {
            let mut all: [Vec<(u64, u64, &[u8])>; 4] = Default::default();
            for (sequence, (which, text, second)) in (1..).zip(pieces.iter().take(count)) {
                all[*which].push((sequence, *second, text.as_bytes()));
            }
            all.map(|list| records(&list))
        };
        let style = if raw { Style::Raw } else { seconds() };
        let bounds = Bounds { batch_bytes, ..WIDE };
        let early = gather(seen);
        let parts = sources.iter().zip(&early).map(|(s, chunks)| part(*s, chunks, OPEN));
        let (text, composed) = run(parts.collect(), bounds, style.clone());
        let late = gather(pieces.len());
        let again = composed.moved.iter().map(|&(index, to, forced)| {
            part(sources[index], &late[index], Extent::Exactly(to, forced))
        });
        let (repeated, _) = run(again.collect(), WIDE, style);
        prop_assert_eq!(text, repeated);
    }

    /// Copying many lines at once is a shortcut, not another rendering.
    #[test]
    fn the_shortcut_for_raw_lines_changes_nothing(
        pieces in proptest::collection::vec("[ab\n]{1,20}", 1..20),
        batch_bytes in 1_usize..200,
    ) {
        let list: Vec<(u64, u64, &[u8])> =
            (1..).zip(&pieces).map(|(n, text)| (n, n, text.as_bytes())).collect();
        let chunks = records(&list);
        let batch = || Batch {
            lead: Lead::Nothing,
            notices: &[],
            parts: vec![part(source(1, Stream::Stdout), &chunks, OPEN)],
        };
        let bounds = Bounds { batch_bytes, ..WIDE };
        let format = Format::new(Style::Raw);
        let (mut fast, mut slow) = (Vec::new(), Vec::new());
        compose(&batch(), &bounds, &format, None, &mut fast, &mut ());
        // Whoever wants to know of each unit gets them one by one.
        let mut marks: Vec<(usize, Unit)> = Vec::new();
        compose(&batch(), &bounds, &format, None, &mut slow, &mut marks);
        prop_assert_eq!(fast, slow);
    }
}

use super::*;
use proptest::prelude::*;

fn source(process: u64, stream: Stream) -> Source {
    Source {
        child: Child {
            process: ProcessId(process),
            epoch: 9,
        },
        stream,
    }
}

fn sample() -> SinkValue {
    let position = |sequence, offset, at, joint| Position {
        sequence: Sequence(sequence),
        offset,
        at,
        joint,
    };
    let gap = Gap {
        from: Sequence(4),
        to: Sequence(9),
        from_at: 100,
        to_at: 170,
    };
    SinkValue {
        target: Target::File(PathBuf::from("/var/log/web.log")),
        file: FileId {
            device: 2049,
            inode: 131,
            born_ns: 1_700_000_000_123_456_789,
        },
        length: 5000,
        anchor: b"the last bytes\n".to_vec(),
        positions: vec![(
            source(3, Stream::Stdout),
            position(17, 5, 900, Joint::Continues),
        )],
        notices: vec![
            Notice {
                kind: NoticeKind::Torn,
                source: source(3, Stream::Stderr),
                pid: 4711,
                time_ns: 1_700_000_001_000_000_000,
                from_at: 10,
                to_at: 30,
            },
            Notice {
                kind: NoticeKind::MayRepeat(PathBuf::from("/var/log/old.log")),
                source: source(4, Stream::Stdout),
                pid: 4712,
                time_ns: 1_700_000_002_000_000_000,
                from_at: 0,
                to_at: 7,
            },
        ],
        deadline_ns: Some(1_700_086_400_000_000_000),
        intention: Some(Intention {
            length: 321,
            hash: 0x0123_4567_89ab_cdef,
            mtime_ns: 1_700_000_003_000_000_000,
            room_bytes: 0,
            lead: Lead::LineEnd,
            notices: 1,
            moves: vec![Move {
                source: source(4, Stream::Stdout),
                pid: 4712,
                name: "".into(),
                from: position(4, 0, 100, Joint::Fresh),
                gap: Some((gap, 1_700_000_004_000_000_000)),
                to: position(11, 3, 260, Joint::Fresh),
                forced: Some(Forced::TimedOut),
            }],
            format: Format {
                version: 1,
                style: Style::Prefixed("%H:%M".to_owned()),
                offset_seconds: -3600,
                zone: "AZOT".to_owned(),
            },
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        let line: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        line + "\n"
    });
    lines.collect()
}

#[test]
fn values_of_the_first_version_are_read_for_ever() {
    assert_eq!(
        hex(&encode(&sample())),
        include_str!("golden/version-1.hex")
    );
    assert_eq!(decode(&encode(&sample())), Ok(sample()));
}

#[test]
fn what_a_later_manager_added_is_passed_over() {
    let mut bytes = encode(&sample());
    bytes.extend_from_slice(&[200, 3, 0, 0, 0, 1, 2, 3]);
    assert_eq!(decode(&bytes), Ok(sample()));
    bytes[0] = 2;
    assert_eq!(decode(&bytes), Err(ValueError::Version(2)));
    assert_eq!(decode(&[]), Err(ValueError::Damaged));
}

#[test]
fn a_style_of_a_later_manager_leaves_everything_else_readable() {
    let bytes = encode(&sample());
    let pattern = b"\x05\0\0\0%H:%M";
    let at = memchr::memmem::find(&bytes, pattern).expect("the pattern is in it");
    let mut later = bytes;
    later[at - 1] = 77;
    let value = decode(&later).expect("readable");
    let intention = value.intention.expect("there");
    assert_eq!(intention.format.version, u8::MAX);
    assert_eq!((intention.length, intention.moves.len()), (321, 1));
}

#[test]
fn keys_are_the_same_in_every_release() {
    let file = Target::File(PathBuf::from("/var/log/web.log"));
    assert_eq!(key(&file), "log/1/be703ece3bed673309397f1d9f618321");
    assert_eq!(key(&Target::Console), "log/1/console");
    assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
}

prop_compose! {
    fn any_position()(sequence: u64, offset: u32, at: u64, open: bool) -> Position {
        let joint = if open { Joint::Continues } else { Joint::Fresh };
        Position { sequence: Sequence(sequence), offset, at, joint }
    }
}

prop_compose! {
    fn any_source()(process: u64, epoch: u64, err: bool) -> Source {
        let stream = if err { Stream::Stderr } else { Stream::Stdout };
        Source { child: Child { process: ProcessId(process), epoch }, stream }
    }
}

fn any_style() -> impl Strategy<Value = Style> {
    prop_oneof![
        Just(Style::Raw),
        Just(Style::Json),
        Just(Style::Labelled),
        ".{0,9}".prop_map(Style::Prefixed),
        (0..8_u8, ".{0,9}").prop_map(|(color, pattern)| Style::Colored(color, pattern)),
    ]
}

fn any_target() -> impl Strategy<Value = Target> {
    let path = || "/[a-z./]{0,40}".prop_map(PathBuf::from);
    prop_oneof![
        Just(Target::Console),
        Just(Target::ErrorConsole),
        path().prop_map(Target::File),
        any_style().prop_map(Target::StyledConsole),
        (".{0,9}", any_style())
            .prop_map(|(command, style)| { Target::Command(CommandLine { command, style }) }),
        (path(), 0..24_u8, ".{0,9}").prop_map(|(socket, facility, ident)| {
            Target::Syslog(SyslogAddress {
                socket,
                facility,
                ident,
            })
        }),
        (path(), ".{0,9}")
            .prop_map(|(socket, ident)| { Target::Journal(JournalAddress { socket, ident }) }),
    ]
}

proptest! {
    #[test]
    fn every_value_survives(
        target in any_target(),
        style in any_style(),
        name in "[a-z.]{0,5}",
        numbers: [u64; 6],
        anchor in proptest::collection::vec(any::<u8>(), 0..40),
        positions in proptest::collection::vec((any_source(), any_position()), 0..5),
        moved in proptest::collection::vec((any_source(), any_position(), any_position()), 0..5),
        deadline: Option<i64>,
        intends: bool,
    ) {
        let moves = moved.into_iter().map(|(source, from, to)| Move {
            source, pid: 7, name: name.as_str().into(), from, gap: None, to, forced: None,
        });
        let mut intention = sample().intention.expect("some");
        intention.moves = moves.collect();
        intention.format.style = style;
        let value = SinkValue {
            target,
            file: FileId { device: numbers[0], inode: numbers[1], born_ns: numbers[2] as i64 },
            length: numbers[3],
            anchor,
            positions,
            notices: Vec::new(),
            deadline_ns: deadline,
            intention: intends.then_some(intention),
        };
        prop_assert_eq!(decode(&encode(&value)), Ok(value));
    }

    #[test]
    fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_cut_or_changed_value_never_panics(cut in 0_usize..700, at in 0_usize..700, by: u8) {
        let mut bytes = encode(&sample());
        let length = bytes.len();
        bytes[at % length] ^= by;
        bytes.truncate(cut);
        let _ = decode(&bytes);
    }
}

use super::*;
use kingpole_protocol::status::EndStatus;
use proptest::prelude::*;

/// One of everything.
fn example() -> Saved {
    let descriptor = |tag, number| SavedDescriptor {
        tag,
        number,
        device: 9,
        inode: 1000 + u64::from(number.unsigned_abs()),
    };
    let follow = SavedFollow {
        process: ProcessId(7),
        next: Sequence(12),
        position: 4096,
        credit: -5,
        stdout_told: true,
        stderr_told: false,
    };
    let session = |session: u64, speech| SavedSession {
        session,
        socket: descriptor(0, 20 + i32::try_from(session).unwrap()),
        address: "unix".to_owned(),
        uid: 1000,
        pid: 4321,
        client: "manager/1".to_owned(),
        connected_ns: 5,
        speech,
        course: SavedCourse::Open,
        is_subscribed: true,
        follows: vec![follow],
        received: b"half a req".to_vec(),
        unsent: b"half an ans".to_vec(),
    };
    let text = |mode| SavedSpeech::Text {
        line: SavedLine {
            bytes: b"list pro".to_vec(),
            telnet: 2,
            option: 253,
            after_return: true,
            stuck: false,
        },
        mode,
        held: Some(b"held".to_vec()),
    };
    let end = End {
        status: EndStatus::Exited(3),
        time_ns: 8,
        user_us: 1,
        system_us: 2,
        max_rss_kib: 3,
    };
    let watching = SavedMode::Watching {
        watched: vec![(ProcessId(7), "web".to_owned(), true)],
        batch: SavedBatch::Open(77),
        parted: vec![(ProcessId(8), end)],
    };
    let tailing = SavedMode::Tailing {
        process: ProcessId(7),
        name: "web".to_owned(),
        goes_on: true,
        within_line: true,
    };
    Saved {
        head: Head {
            release: "0.1.0".to_owned(),
            generation: 3,
            saved_ns: 99,
            newest_session: 6,
            link_sent: 17,
            previous: descriptor(0, 3),
            holders: vec![("manager".to_owned(), 1)],
            asker: Some(2),
            path: "/usr/bin/kingpole-kernel".to_owned(),
        },
        held: vec![descriptor(7 << 8 | 1, 10), descriptor(7 << 8 | 3, 11)],
        counts: vec![SavedCounts {
            process: ProcessId(7),
            dropped_records: 1,
            dropped_bytes: 2,
        }],
        sessions: vec![
            session(1, SavedSpeech::Frames),
            session(2, text(SavedMode::Prompt)),
            session(3, text(watching)),
            session(4, text(tailing)),
            session(5, text(SavedMode::Listing)),
            session(6, SavedSpeech::Hello),
        ],
    }
}

const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/golden/saved-state-1.bin"
);

#[test]
fn version_1_is_read_and_written_as_it_was_released() {
    if std::env::var_os("KINGPOLE_WRITE_GOLDEN").is_some() && !std::path::Path::new(GOLDEN).exists()
    {
        std::fs::write(GOLDEN, example().encode().unwrap()).unwrap();
    }
    let golden = std::fs::read(GOLDEN).unwrap();
    assert_eq!(Saved::decode(&golden).unwrap(), example());
    assert_eq!(example().encode().unwrap(), golden);
}

#[test]
fn a_later_version_is_refused_by_number() {
    let mut bytes = example().encode().unwrap();
    bytes[8] = 2;
    let error = Saved::decode(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("version 2; this kernel reads up to 1"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn a_cut_or_changed_state_is_refused_or_read_and_never_a_panic(cut in 0_usize..2000, bit in 0_usize..16_000) {
        let whole = example().encode().unwrap();
        let cut = cut.min(whole.len());
        let read = Saved::decode(&whole[..cut]);
        prop_assert_eq!(read.is_ok_and(|saved| saved == example()), cut == whole.len());
        let mut changed = whole.clone();
        let at = bit / 8 % whole.len();
        changed[at] ^= 1 << (bit % 8);
        let _ = Saved::decode(&changed);
    }
}

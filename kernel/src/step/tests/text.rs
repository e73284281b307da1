//! Text sessions, at random and by name.

use super::{World, end, stream};
use crate::input::Input;
use crate::limits::COUNTED_PER_PAGE;
use crate::state::text::{Batch, TextMode};
use crate::step::simulation::RECORDS_MAX;
use crate::step::simulation::text_sessions::{Move, SESSIONS, Scene, play};
use kingpole_protocol::ids::ProcessId;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn moves() -> impl Strategy<Value = Move> {
    let line = prop_oneof![
        6 => "(q|)",
        3 => "make process (a|b|c)( watch=1)? /bin/true",
        1 => "m p a uid=ann /bin/true",
        1 => "make process (a|b) uid=eve env.X=1 /bin/false",
        4 => "w p( (a|b\\*|\\*|hosted|1001))?",
        2 => "tail (-f )?(a|b|hosted|1002)( 3)?",
        1 => "(l p|stats|sessions|leases|version|l s|l v|help watch)",
        1 => "r p (a|b|\\*)",
        1 => "signal (a|\\*) (TERM|9)( tree)?",
        1 => "(set|get) v( 1 2)?",
        1 => "(make socket|r s) s( host=web)?",
        1 => "\\PC{0,8}",
    ];
    prop_oneof![
        16 => (0..SESSIONS, line).prop_map(|(s, line)| Move::Line(s, line)),
        1 => (0..SESSIONS).prop_map(Move::Interrupt),
        1 => (0..SESSIONS).prop_map(Move::Reconnect),
        1 => (0_u8..2).prop_map(Move::Host),
        1 => (0_u64..8).prop_map(Move::Follow),
        1 => (0_u64..8).prop_map(Move::Unfollow),
        2 => (0_u64..8, 0_u64..8, any::<bool>()).prop_map(|(p, n, e)| Move::Acknowledge(p, n, e)),
        10 => (0_u64..8, any::<bool>()).prop_map(|(p, err)| Move::Write(p, err)),
        2 => (0_u64..8, any::<bool>()).prop_map(|(p, err)| Move::EndStream(p, err)),
        2 => (0_u64..8).prop_map(Move::End),
        2 => (0..SESSIONS, any::<bool>()).prop_map(|(s, on)| Move::Congest(s, on)),
        1 => any::<bool>().prop_map(Move::Fail),
        8 => Just(Move::Turn),
        3 => Just(Move::Time),
    ]
}

#[test]
fn end_of_a_removed_process_reaches_a_watcher_that_could_not_be_sent_it_at_once() {
    let mut world = World::new();
    let (watcher, other) = (world.connect(), world.connect());
    let say = |world: &mut World, session, line: &str| {
        let line = line.as_bytes().to_vec();
        world.input(Input::Line { session, line });
    };
    say(&mut world, watcher, "make process a watch=1 /bin/true");
    world.clock += 3_000_000_000;
    world.input(Input::TimeReached);
    world.write(ProcessId(1));
    world.congested.insert(watcher);
    world.turns();
    say(&mut world, watcher, "");
    say(&mut world, other, "remove processes a");
    world.input(Input::Ended {
        process: ProcessId(1),
        end: end(),
    });
    world.turns();
    world.congested.clear();
    world.input(Input::Drained { session: watcher });
    world.turns();
    let text = &world.heard[&watcher].text;
    assert!(
        text.contains("closed:a:") && text.ends_with("] "),
        "{text:?}"
    );
    say(&mut world, watcher, "");
    let text = &world.heard[&watcher].text;
    assert!(text.ends_with("Nothing left to watch\n> "), "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn text_sessions_release_only_what_was_acknowledged_and_always_come_back_to_a_prompt(
        moves in proptest::collection::vec(moves(), 1..150),
    ) {
        let mut scene = Scene::new();
        for step in moves {
            scene.play(step);
        }
        scene.finish();
    }

    #[test]
    fn any_bytes_are_a_list_of_operations(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        play(&bytes);
    }

    #[test]
    fn records_of_a_watch_come_in_order_and_each_once(
        writes in proptest::collection::vec((1_u64..3, any::<bool>(), 0_u8..4), 1..60),
    ) {
        let mut world = World::new();
        let session = world.connect();
        for name in ["a", "b"] {
            let line = format!("make process {name} /bin/true").into_bytes();
            world.input(Input::Line { session, line });
        }
        world.input(Input::Line { session, line: b"w p".to_vec() });
        let from = world.heard[&session].text.len();
        for (process, err, turns) in writes {
            world.input(Input::Readable { process: ProcessId(process), stream: stream(err) });
            for _ in 0..turns {
                world.clock += 10_000_000;
                world.input(Input::TimeReached);
                world.turns();
                let sent = matches!(
                    &world.state.sessions[&session].text.mode,
                    TextMode::Watching(watch) if watch.batch == Batch::Sent
                );
                if sent {
                    world.input(Input::Line { session, line: b"-".to_vec() });
                }
            }
        }
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for line in world.heard[&session].text[from..].lines() {
            let Some((_, record)) = line.split_once("record:") else { continue };
            let (process, number) = record.split_once(':').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = last.insert(process.to_owned(), number);
            prop_assert!(before.is_none_or(|before| before < number), "{before:?} then {number}");
        }
    }
}

#[test]
fn stats_adds_up_and_comes_page_by_page() {
    let mut world = World::new();
    let session = world.connect();
    let line = |world: &mut World, line: &str| {
        let from = world.heard[&session].text.len();
        let line = line.as_bytes().to_vec();
        world.input(Input::Line { session, line });
        world.heard[&session].text[from..].to_owned()
    };
    line(&mut world, "make process a /bin/true");
    for _ in 0..RECORDS_MAX + 2 {
        world.input(Input::Readable {
            process: ProcessId(1),
            stream: stream(false),
        });
    }
    let stats = line(&mut world, "stats a");
    let account = " in=60+0 acknowledged=0 dropped=20 unread=40\n> ";
    assert!(stats.ends_with(account), "{stats}");
    for number in 0..COUNTED_PER_PAGE * 2 {
        line(&mut world, &format!("make process b{number:03} /bin/true"));
    }
    let stats = line(&mut world, "stats b*");
    assert_eq!(stats.lines().count(), COUNTED_PER_PAGE * 2 + 1);
    assert!(stats.ends_with("unread=0\n> "), "{stats}");
    let sessions = line(&mut world, "sessions");
    assert!(sessions.contains(" follows=0 queued=0\n> "), "{sessions}");
}

#[test]
fn what_the_fuzzer_has_kept_still_holds() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fuzz/corpus/text_sessions"
    );
    let mut played = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        eprintln!("{}", path.display());
        play(&std::fs::read(path).unwrap());
        played += 1;
    }
    assert!(played > 100, "{played}");
}

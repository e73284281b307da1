//! Values of other managers: what cannot be read, or not be rendered, is not guessed at.

use super::access::Access;
use super::exhaustive::scenarios;
use super::{LIMITS, Run};
use crate::streams::disk::Target;
use crate::streams::notice::NoticeKind;
use crate::streams::sink::Event;
use crate::streams::value::{decode, encode};
use crate::streams::writer::{Label, Now, Writer};

/// The kernel's values after a run that was cut right behind the write of a batch.
fn cut_behind_a_write() -> Run {
    let scenario = &scenarios()[0];
    let cuts = super::exhaustive::cuts(scenario, 1000);
    // A write that happened whole, and of which the kernel was not told.
    let cut = cuts
        .into_iter()
        .rfind(|cut| cut.part == 44)
        .expect("a long write");
    let mut run = Run::new(scenario, 1).cut_at(&[cut]);
    assert!(run.live().is_err(), "it is cut");
    run.world.borrow_mut().bury();
    run
}

#[test]
fn a_batch_in_an_unknown_rendering_is_recognised_by_its_hash() {
    let mut run = cut_behind_a_write();
    {
        let mut world = run.world.borrow_mut();
        for value in world.values.values_mut() {
            let mut changed = decode(value).expect("ours");
            if let Some(intention) = &mut changed.intention {
                intention.format.version = 99;
            }
            *value = encode(&changed);
        }
    }
    run = run.exact();
    let outcome = run.finish(|_, _| {});
    assert_eq!(
        outcome.violations,
        Vec::<String>::new(),
        "{}",
        outcome.story
    );
}

#[test]
fn a_value_of_an_unknown_version_is_passed_over_and_its_lines_come_with_a_warning() {
    let run = cut_behind_a_write();
    let mut world = run.world.borrow_mut();
    for value in world.values.values_mut() {
        value[0] = 2;
    }
    let values: Vec<_> = world.values.clone().into_iter().collect();
    let alive = world.alive();
    drop(world);
    let now = Now {
        monotonic_ns: 1,
        wall_ns: 1,
    };
    let mut writer: Writer<<Access as crate::streams::disk::Disk>::File> =
        Writer::new(LIMITS, &values, &alive);
    let sink = &run.setup.sinks[0];
    let label = Label {
        pid: alive[0].pid,
        name: "".into(),
    };
    writer.attach(alive[0].child, label, sink, sink, now);
    let events: Vec<Event> = std::iter::from_fn(|| writer.poll_event()).collect();
    assert!(matches!(events[0], Event::ValueUnusable(..)), "{events:?}");
    let warnings = events.iter().filter(|event| {
        matches!(event, Event::Noticed(Target::File(_), notice)
            if matches!(notice.kind, NoticeKind::MayRepeat(_)))
    });
    assert_eq!(warnings.count(), 2, "one for each stream: {events:?}");
}

//! What somebody is told who asks why.

use super::*;
use crate::command::{Change, Wait};

fn told(command: fn(Change) -> Command) -> Command {
    command(Change {
        selection: Selection::one("web"),
        wait: Wait::No,
    })
}

#[test]
fn ends_that_nobody_asked_for_are_told_by_the_next_manager_too() {
    let mut bench = Bench::new(vec![watcher("web")]);
    assert_eq!(bench.status("web").ends, []);
    bench.exit("circus.web.1", 3);
    bench.advance(Duration::from_secs(2));
    let mut bench = bench.next_manager(configuration(vec![watcher("web")]));
    let ends = bench.status("web").ends;
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!((ends[0].exit_code, ends[0].worker), (3, WorkerId(1)));
    assert!(ends[0].ago_ms >= 2000, "{ends:?}");
    bench.command(told(Command::Stop));
    assert_eq!(bench.status("web").ends.len(), 1, "that was asked for");
}

#[test]
fn what_happens_next_is_said_in_each_state() {
    let mut bench = Bench::new(vec![watcher("web")]);
    assert!(bench.status("web").next.starts_with("nothing"));
    bench.die("circus.web.1");
    bench.die("circus.web.1");
    let status = bench.status("web");
    assert!(status.retry_in_ms.is_some(), "{status:?}");
    assert!(status.next.contains("when the time is over"), "{status:?}");
    bench.command(told(Command::Stop));
    let next = bench.status("web").next;
    assert_eq!(next, "it stays stopped until: kingpole start web");
    bench.command(told(Command::Start));
    assert!(bench.status("web").next.starts_with("nothing"));

    let mut bench = Bench::new(vec![written("web", &[("autostart", "false")])]);
    assert!(bench.status("web").next.ends_with("kingpole start web"));
    bench.command(told(Command::Start));
    assert!(bench.status("web").next.starts_with("nothing"));

    let ready = [("ready", "tcp 127.0.0.1:1")];
    let mut bench = Bench::new(vec![written("web", &ready)]);
    assert!(bench.status("web").next.contains("ready_timeout"));
}

#[test]
fn without_the_process_kernel_nothing_is_promised() {
    let mut bench = Bench::new(vec![watcher("web")]);
    bench.tell(Input::KernelLost);
    let next = bench.status("web").next;
    assert_eq!(
        next,
        "nothing until the process kernel can be reached again"
    );
    bench.connect();
    assert_eq!(
        bench.status("web").next,
        "nothing: it has what it shall have"
    );
}

use super::*;
use crate::command::{
    Change, Reload, ReloadMethod, SignalRequest, Wait, WatcherResult, WatcherState,
};
use crate::config::model::HookConfig;

fn hooked(name: &str, hooks: &[&str]) -> WatcherConfig {
    let mut config = watcher(name);
    for hook in hooks {
        let call = HookConfig {
            target: "hooks.call".to_owned(),
            ignore_failure: false,
            origin: Location::new("test.ini", 1, 1),
        };
        config.hooks.insert((*hook).to_owned(), call);
    }
    config
}

impl Bench {
    /// Names of the hooks that wait for an answer.
    fn called(&self) -> Vec<&'static str> {
        self.called.iter().map(|call| call.hook.name()).collect()
    }

    /// Answers the call that waits.
    fn answer(&mut self, hook: HookName, answer: HookAnswer) -> HookRequest {
        let place = self.called.iter().position(|call| call.hook == hook);
        let place = place.unwrap_or_else(|| panic!("{hook:?} is not called: {:?}", self.called));
        let request = self.called.remove(place);
        let hook = request.id;
        self.tell(Input::HookAnswered { hook, answer });
        request
    }

    fn result(&self, command: u64) -> (WatcherResult, String) {
        match &self.replies[&command] {
            Ok(Answer::Changed { watchers }) => (
                watchers[0].result,
                watchers[0].reason.clone().unwrap_or_default(),
            ),
            other => panic!("{other:?}"),
        }
    }
}

const EVERY: [&str; 10] = [
    "before_start",
    "after_start",
    "before_spawn",
    "after_spawn",
    "before_stop",
    "after_stop",
    "before_signal",
    "after_signal",
    "before_reap",
    "after_reap",
];

fn stop(wait: Wait) -> Command {
    Command::Stop(Change {
        selection: Selection::one("web"),
        wait,
    })
}

fn start() -> Command {
    Command::Start(Change {
        selection: Selection::one("web"),
        wait: Wait::Done,
    })
}

#[test]
fn a_life_calls_all_hooks_in_the_order_of_circus() {
    let mut bench = Bench::new(vec![hooked("web", &EVERY)]);
    for hook in [
        HookName::BeforeStart,
        HookName::BeforeSpawn,
        HookName::AfterSpawn,
        HookName::AfterStart,
    ] {
        assert_eq!(bench.called(), [hook.name()]);
        assert_eq!(bench.status("web").state, WatcherState::Starting);
        bench.answer(hook, HookAnswer::Yes);
    }
    let success = "web.hook_success";
    assert_eq!(
        bench.take_events(),
        [success, success, success, "web.spawn", success, "web.start"]
    );
    let command = bench.command(stop(Wait::Done));
    bench.answer(HookName::BeforeStop, HookAnswer::Yes);
    bench.answer(HookName::BeforeSignal, HookAnswer::Yes);
    bench.answer(HookName::AfterSignal, HookAnswer::Yes);
    assert_eq!(bench.take_events(), [success, success, "web.kill", success]);
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.take_events(), ["web.reap", "web.stop"]);
    bench.answer(HookName::BeforeReap, HookAnswer::Yes);
    bench.answer(HookName::AfterReap, HookAnswer::Yes);
    assert!(!bench.replies.contains_key(&command), "after_stop is due");
    bench.answer(HookName::AfterStop, HookAnswer::Yes);
    assert_eq!(bench.result(command).0, WatcherResult::Done);
}

#[test]
fn before_start_that_says_no_leaves_it_stopped_without_events_of_a_start() {
    let mut bench = Bench::new(vec![hooked("web", &["before_start"])]);
    bench.answer(HookName::BeforeStart, HookAnswer::No);
    assert_eq!(bench.take_events(), ["web.hook_success"]);
    let status = bench.status("web");
    assert_eq!(status.state, WatcherState::Stopped);
    assert!(status.reason.expect("a reason").contains("before_start"));
    bench.advance(Duration::from_secs(600));
    assert!(bench.called.is_empty() && bench.live().is_empty());
    let command = bench.command(start());
    bench.answer(HookName::BeforeStart, HookAnswer::Failed("oops".to_owned()));
    let (result, reason) = bench.result(command);
    assert_eq!(result, WatcherResult::Failed);
    assert!(reason.contains("oops"), "{reason}");
}

#[test]
fn a_refusal_is_remembered_by_the_next_manager_until_the_hooks_change() {
    let config = configuration(vec![hooked("web", &["before_start"])]);
    let mut bench = Bench::with(config.clone(), SimKernel::new(CALM));
    bench.answer(HookName::BeforeStart, HookAnswer::No);
    let mut bench = bench.next_manager(config);
    assert!(bench.called.is_empty() && bench.live().is_empty());
    let changed = Box::new(configuration(vec![watcher("web")]));
    bench.tell(Input::ConfigurationChanged(changed));
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn after_start_that_fails_stops_the_watcher_unless_failures_are_ignored() {
    for ignore in [false, true] {
        let mut config = hooked("web", &["after_start"]);
        config
            .hooks
            .get_mut("after_start")
            .expect("it")
            .ignore_failure = ignore;
        let mut bench = Bench::new(vec![config]);
        bench.answer(HookName::AfterStart, HookAnswer::Failed("oops".to_owned()));
        bench.advance(Duration::from_secs(3));
        assert_eq!(bench.live().len(), usize::from(ignore));
        assert!(bench.take_events().contains(&"web.hook_failure".to_owned()));
    }
}

#[test]
fn a_slow_hook_delays_no_other_watcher() {
    let mut first = hooked("web", &["before_start"]);
    first.priority = 9;
    let mut bench = Bench::new(vec![first, watcher("other")]);
    assert_eq!(bench.live(), ["circus.other.1"]);
    assert_eq!(bench.status("other").state, WatcherState::Active);
    bench.answer(HookName::BeforeStart, HookAnswer::Yes);
    assert_eq!(bench.live(), ["circus.other.1", "circus.web.1"]);
}

#[test]
fn a_hook_without_an_answer_counts_as_failed_after_its_time() {
    let mut config = hooked("web", &["before_spawn"]);
    config.hook_timeout = Duration::from_secs(3);
    let mut bench = Bench::new(vec![config]);
    assert_eq!(bench.called(), ["before_spawn"]);
    bench.advance(Duration::from_secs(2));
    assert_eq!(bench.called(), ["before_spawn"]);
    bench.advance(Duration::from_secs(2));
    assert!(bench.called.is_empty(), "it is cancelled");
    assert_eq!(bench.take_events(), ["web.hook_failure", "web.stop"]);
    assert!(bench.status("web").reason.expect("why").contains("3 s"));
}

#[test]
fn stop_does_not_wait_for_the_hooks_of_a_start() {
    let mut bench = Bench::new(vec![hooked("web", &["after_spawn"])]);
    assert_eq!(bench.called(), ["after_spawn"]);
    let command = bench.command(stop(Wait::Done));
    assert!(bench.called.is_empty(), "it is cancelled");
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.result(command).0, WatcherResult::Done);
}

#[test]
fn graceful_reload_keeps_the_old_ones_until_after_spawn_has_said_yes() {
    let mut bench = Bench::new(vec![hooked("web", &["after_spawn"])]);
    bench.answer(HookName::AfterSpawn, HookAnswer::Yes);
    bench.take_signals();
    let reload = Command::Reload(Reload {
        selection: Selection::one("web"),
        method: ReloadMethod::Graceful,
        wait: Wait::Done,
    });
    let command = bench.command(reload.clone());
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.live(), ["circus.web.1", "circus.web.2"]);
    assert_eq!(bench.take_signals(), [], "nobody is asked to stop");
    let request = bench.answer(HookName::AfterSpawn, HookAnswer::Yes);
    assert_eq!((request.processes.len(), request.numprocesses), (2, 1));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.web.2"]);
    assert_eq!(bench.result(command).0, WatcherResult::Done);

    // A new one that is refused goes, the old one stays.
    let command = bench.command(reload);
    bench.answer(HookName::AfterSpawn, HookAnswer::No);
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), ["circus.web.2"]);
    let (result, reason) = bench.result(command);
    assert_eq!(result, WatcherResult::Failed);
    assert!(reason.contains("after_spawn"), "{reason}");
    assert_eq!(bench.status("web").state, WatcherState::Active);
}

#[test]
fn the_next_manager_asks_after_spawn_for_those_it_had_not_answered_for() {
    let mut config = hooked("web", &["before_start", "after_spawn", "after_start"]);
    config.numprocesses = 2;
    let config = configuration(vec![config]);
    let mut bench = Bench::with(config.clone(), SimKernel::new(CALM));
    bench.answer(HookName::BeforeStart, HookAnswer::Yes);
    bench.answer(HookName::AfterSpawn, HookAnswer::Yes);
    let mut bench = bench.next_manager(config.clone());
    let request = bench.answer(HookName::AfterSpawn, HookAnswer::Yes);
    let second = bench.kernel.processes[&bench.id("circus.web.2")].held.pid;
    assert_eq!(request.subject, HookSubject::Process(second));
    bench.answer(HookName::AfterStart, HookAnswer::Yes);
    let bench = bench.next_manager(config);
    assert!(bench.called.is_empty(), "{:?}", bench.called);
    assert_eq!(bench.live().len(), 2);
}

#[test]
fn before_signal_that_says_no_leaves_the_process_its_time_and_then_it_is_killed() {
    let mut bench = Bench::new(vec![hooked("web", &["before_signal"])]);
    bench.command(stop(Wait::No));
    bench.advance(Duration::from_secs(30));
    assert_eq!(bench.take_signals(), [], "its time has not begun");
    bench.answer(HookName::BeforeSignal, HookAnswer::No);
    bench.advance(Duration::from_secs(4));
    assert_eq!(bench.take_signals(), []);
    bench.advance(Duration::from_secs(2));
    assert_eq!(bench.take_signals(), [(9, SignalTarget::Group)]);
    assert_eq!(bench.called(), ["before_signal"], "it is told of SIGKILL");
}

#[test]
fn a_signal_of_an_operator_goes_through_the_hooks() {
    let mut bench = Bench::new(vec![hooked("web", &["before_signal", "after_signal"])]);
    let signal = |signal| {
        Command::Signal(SignalRequest {
            selection: Selection::one("web"),
            signal,
            pid: None,
            worker: None,
            child_pid: None,
            target: SignalTarget::Process,
        })
    };
    bench.command(signal(1));
    assert_eq!(bench.take_signals(), []);
    bench.answer(HookName::BeforeSignal, HookAnswer::Yes);
    assert_eq!(bench.take_signals(), [(1, SignalTarget::Process)]);
    bench.answer(HookName::AfterSignal, HookAnswer::Yes);
    bench.command(signal(1));
    bench.answer(HookName::BeforeSignal, HookAnswer::No);
    assert_eq!(bench.take_signals(), []);
    bench.answer(HookName::AfterSignal, HookAnswer::Yes);
}

#[test]
fn restart_is_a_stop_and_a_start_with_all_their_hooks() {
    let hooks = ["before_start", "after_start", "before_stop", "after_stop"];
    let mut bench = Bench::new(vec![hooked("web", &hooks)]);
    bench.answer(HookName::BeforeStart, HookAnswer::Yes);
    bench.answer(HookName::AfterStart, HookAnswer::Yes);
    let command = bench.command(Command::Restart(Change {
        selection: Selection::one("web"),
        wait: Wait::Done,
    }));
    bench.advance(Duration::from_secs(3));
    assert_eq!(
        bench.live(),
        ["circus.web.1"],
        "before_stop has not answered"
    );
    bench.answer(HookName::BeforeStop, HookAnswer::Yes);
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.called(), ["after_stop"]);
    bench.answer(HookName::AfterStop, HookAnswer::Yes);
    assert_eq!(bench.live(), [""; 0]);
    bench.answer(HookName::BeforeStart, HookAnswer::Yes);
    bench.answer(HookName::AfterStart, HookAnswer::Yes);
    assert_eq!(bench.result(command).0, WatcherResult::Done);
    assert_eq!(bench.live(), ["circus.web.1"]);
}

#[test]
fn what_a_lost_connection_cut_off_is_asked_again() {
    let mut bench = Bench::new(vec![hooked("web", &["before_start", "before_stop"])]);
    bench.tell(Input::KernelLost);
    assert!(bench.called.is_empty());
    bench.connect();
    bench.answer(HookName::BeforeStart, HookAnswer::Yes);
    bench.command(stop(Wait::No));
    bench.tell(Input::KernelLost);
    bench.connect();
    bench.answer(HookName::BeforeStop, HookAnswer::Failed("oops".to_owned()));
    bench.advance(Duration::from_secs(3));
    assert_eq!(bench.live(), [""; 0]);
}

//! What a manager says once it has done what it came for: how many children it adopted, how many it
//! started, and how long that took. Pure but for the clock.

use std::time::Instant;

use crate::command::{Answer, Command, Response, Selection, WatcherState};
use crate::engine::{Input, labels};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For the kernel, or for whatever happens next.
    Waiting,
    /// Something happened since the last question.
    Curious,
    /// Somebody is still starting, and something has failed: who waits for the next try has settled, too.
    Doubtful,
    Told,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Greeting {
    since: Instant,
    stage: Stage,
    namespace: String,
    adopted: usize,
    started: usize,
    /// Spawns that were asked for and not answered. While there are any nothing has settled, and asking how
    /// things are after each of ten thousand would take ten thousand looks at ten thousand processes.
    outstanding: usize,
    connected: bool,
    /// Something has failed since that was asked about.
    failed: bool,
}

impl Greeting {
    /// For children of a namespace; time counts from `since`.
    #[must_use]
    pub fn new(namespace: &str, since: Instant) -> Self {
        Self {
            since,
            stage: Stage::Waiting,
            namespace: namespace.to_owned(),
            adopted: 0,
            started: 0,
            outstanding: 0,
            connected: false,
            failed: false,
        }
    }

    /// A spawn is asked for.
    pub fn note_spawn(&mut self) {
        self.outstanding += 1;
    }

    /// The engine is told something.
    pub fn note_input(&mut self, input: &Input) {
        if self.stage == Stage::Told {
            return;
        }
        match input {
            Input::KernelConnected(facts) => {
                let ours =
                    |labels| labels::Identity::from_labels(labels, &self.namespace).is_some();
                let running = facts
                    .processes
                    .iter()
                    .filter(|process| process.ended.is_none());
                self.adopted = running.filter(|process| ours(&process.labels)).count();
                self.connected = true;
            }
            Input::KernelLost => {
                self.outstanding = 0;
                self.connected = false;
            }
            Input::Spawned { .. } => {
                self.started += 1;
                self.outstanding = self.outstanding.saturating_sub(1);
            }
            Input::SpawnFailed { .. } => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.failed = true;
            }
            Input::ProcessEnded { .. }
            | Input::SocketFailed { .. }
            | Input::ActionFailed { .. }
            | Input::HookAnswered { .. } => self.failed = true,
            Input::SocketReady { .. }
            | Input::ConnectionWaits { .. }
            | Input::Probed { .. }
            | Input::Notified(_)
            | Input::LineSeen { .. }
            | Input::ConfigurationRead { .. }
            | Input::ConfigurationChanged(_) => {}
            // What a command changes shows in what follows from it; its own question is one, too.
            Input::CommandReceived { .. }
            | Input::LeaseLost
            | Input::OutputDrained { .. }
            | Input::ValueStored { .. }
            | Input::ValueRefused { .. }
            | Input::MemoryMeasured { .. } => return,
        }
        self.stage = Stage::Curious;
    }

    /// A deadline of the engine has come: a process has been up for long enough, or is waited for no longer.
    pub fn note_deadline(&mut self) {
        if self.stage != Stage::Told {
            self.failed = true;
            self.stage = Stage::Curious;
        }
    }

    /// What it wants to know from the engine now.
    pub fn poll_question(&mut self) -> Option<Command> {
        if !self.connected || self.outstanding > 0 {
            return None;
        }
        match self.stage {
            Stage::Waiting | Stage::Told => None,
            Stage::Curious => {
                self.stage = Stage::Waiting;
                Some(Command::States(Selection::default()))
            }
            Stage::Doubtful => {
                self.stage = Stage::Waiting;
                Some(Command::Status(Selection::default()))
            }
        }
    }

    /// The answer; what is to be said, once everything has settled.
    pub fn handle_answer(&mut self, answer: Option<Response>) -> Option<String> {
        match answer {
            Some(Ok(Answer::States { watchers })) => {
                let mut states = watchers.iter().map(|(_, state)| *state);
                if states.any(|state| state == WatcherState::Starting) {
                    if std::mem::take(&mut self.failed) {
                        self.stage = Stage::Doubtful;
                    }
                    return None;
                }
            }
            Some(Ok(Answer::Status(report))) => {
                let unsettled = report.watchers.iter().any(|watcher| {
                    watcher.state == WatcherState::Starting && watcher.retry_in_ms.is_none()
                });
                if unsettled {
                    return None;
                }
            }
            _ => return None,
        }
        self.stage = Stage::Told;
        let took = self.since.elapsed().as_millis();
        let adopted = match self.adopted {
            1 => "1 child".to_owned(),
            number => format!("{number} children"),
        };
        Some(format!(
            "{adopted} adopted, {} started, {took} ms",
            self.started
        ))
    }

    /// The manager leaves: what could be said now would only confuse.
    pub fn cancel(&mut self) {
        self.stage = Stage::Told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{KernelLink, StatusReport};
    use crate::engine::{
        Epoch, Generation, HookAnswer, HookId, KernelFacts, Moment, Pid, ProcessId, Ticket,
    };

    fn spawned() -> Input {
        let (ticket, process, pid) = (Ticket(1), ProcessId(1), Pid(7));
        Input::Spawned {
            ticket,
            process,
            pid,
            started: Moment(1),
        }
    }

    fn connected() -> Greeting {
        let mut greeting = Greeting::new("x", Instant::now());
        greeting.note_input(&Input::KernelConnected(KernelFacts {
            epoch: Epoch(1),
            generation: Generation(1),
            processes: vec![],
            sockets: vec![],
            values: [].into(),
        }));
        greeting
    }

    fn states(state: WatcherState) -> Option<Response> {
        let watchers = vec![("web".to_owned(), state)];
        Some(Ok(Answer::States { watchers }))
    }

    fn asks_for_states(greeting: &mut Greeting) -> bool {
        matches!(greeting.poll_question(), Some(Command::States(_)))
    }

    #[test]
    fn nothing_is_asked_while_spawns_are_outstanding_or_there_is_no_kernel() {
        let mut greeting = connected();
        (0..3).for_each(|_| greeting.note_spawn());
        for _ in 0..2 {
            greeting.note_input(&spawned());
            assert_eq!(greeting.poll_question(), None);
        }
        greeting.note_input(&spawned());
        assert!(asks_for_states(&mut greeting));
        // What a lost kernel owes is asked for anew.
        greeting.note_spawn();
        greeting.note_input(&Input::KernelLost);
        greeting.note_deadline();
        assert_eq!(greeting.poll_question(), None);
        let mut greeting = Greeting::new("x", Instant::now());
        greeting.note_deadline();
        assert_eq!(greeting.poll_question(), None);
    }

    #[test]
    fn whatever_may_settle_a_start_is_a_reason_to_ask_again() {
        let mut greeting = connected();
        assert!(asks_for_states(&mut greeting));
        assert_eq!(greeting.handle_answer(states(WatcherState::Starting)), None);
        assert_eq!(greeting.poll_question(), None);
        greeting.note_input(&Input::HookAnswered {
            hook: HookId(1),
            answer: HookAnswer::Yes,
        });
        assert!(asks_for_states(&mut greeting));
        assert_eq!(greeting.handle_answer(states(WatcherState::Starting)), None);
        // It may have failed, and wait.
        assert!(matches!(greeting.poll_question(), Some(Command::Status(_))));
        assert_eq!(greeting.handle_answer(None), None);
        assert_eq!(greeting.poll_question(), None);
        greeting.note_deadline();
        assert!(asks_for_states(&mut greeting));
        assert!(
            greeting
                .handle_answer(states(WatcherState::Stopped))
                .is_some()
        );
    }

    #[test]
    fn who_waits_for_the_next_try_has_settled() {
        let mut greeting = connected();
        greeting.note_deadline();
        assert!(asks_for_states(&mut greeting));
        assert_eq!(greeting.handle_answer(states(WatcherState::Starting)), None);
        assert!(greeting.poll_question().is_some());
        let (kernel, watchers, sockets) = (KernelLink::Lost, vec![], vec![]);
        let report = StatusReport {
            kernel,
            watchers,
            sockets,
            foreign_processes: 0,
        };
        let told = greeting.handle_answer(Some(Ok(Answer::Status(report))));
        assert!(told.is_some());
    }

    #[test]
    fn it_is_said_once_when_everything_has_settled() {
        let mut greeting = connected();
        greeting.note_input(&spawned());
        assert!(asks_for_states(&mut greeting));
        assert_eq!(greeting.poll_question(), None);
        let text = greeting
            .handle_answer(states(WatcherState::Active))
            .unwrap();
        assert!(
            text.starts_with("0 children adopted, 1 started, "),
            "{text}"
        );
        greeting.note_input(&spawned());
        greeting.note_deadline();
        assert_eq!(greeting.poll_question(), None);
    }
}

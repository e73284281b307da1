//! What a manager says once it has done what it came for: how many children it adopted, how many it
//! started, and how long that took. Pure but for the clock.

use std::time::Instant;

use crate::command::{Answer, Command, Response, Selection, WatcherState};
use crate::engine::{Input, labels};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Something happened since the last question.
    Curious,
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
                self.stage = Stage::Curious;
            }
            Input::KernelLost => self.outstanding = 0,
            Input::Spawned { .. } => {
                self.started += 1;
                self.outstanding = self.outstanding.saturating_sub(1);
                self.stage = Stage::Curious;
            }
            Input::SpawnFailed { .. } => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.stage = Stage::Curious;
            }
            Input::ProcessEnded { .. } => self.stage = Stage::Curious,
            _ => {}
        }
    }

    /// What it wants to know from the engine now.
    pub fn poll_question(&mut self) -> Option<Command> {
        if self.stage != Stage::Curious || self.outstanding > 0 {
            return None;
        }
        self.stage = Stage::Waiting;
        Some(Command::Status(Selection::default()))
    }

    /// The answer; what is to be said, once everything has settled.
    pub fn handle_answer(&mut self, answer: Option<Response>) -> Option<String> {
        let Some(Ok(Answer::Status(report))) = answer else {
            return None;
        };
        let unsettled = report.watchers.iter().any(|watcher| {
            watcher.state == WatcherState::Starting && watcher.retry_in_ms.is_none()
        });
        if unsettled {
            return None;
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
    use crate::engine::{Moment, Pid, ProcessId, Ticket};

    fn spawned() -> Input {
        let (ticket, process, pid) = (Ticket(1), ProcessId(1), Pid(7));
        Input::Spawned {
            ticket,
            process,
            pid,
            started: Moment(1),
        }
    }

    fn report() -> Response {
        let (kernel, watchers, sockets) = (KernelLink::Lost, vec![], vec![]);
        Ok(Answer::Status(StatusReport {
            kernel,
            watchers,
            sockets,
            foreign_processes: 0,
        }))
    }

    #[test]
    fn nothing_is_asked_while_spawns_are_outstanding() {
        let mut greeting = Greeting::new("x", Instant::now());
        (0..3).for_each(|_| greeting.note_spawn());
        for _ in 0..2 {
            greeting.note_input(&spawned());
            assert_eq!(greeting.poll_question(), None);
        }
        greeting.note_input(&spawned());
        assert!(greeting.poll_question().is_some());
        // What a lost kernel owes is asked for anew.
        greeting.note_spawn();
        greeting.note_input(&Input::KernelLost);
        greeting.note_input(&spawned());
        assert!(greeting.poll_question().is_some());
    }

    #[test]
    fn it_is_said_once_when_everything_has_settled() {
        let mut greeting = Greeting::new("x", Instant::now());
        assert_eq!(greeting.poll_question(), None);
        greeting.note_input(&spawned());
        assert!(greeting.poll_question().is_some());
        assert_eq!(greeting.poll_question(), None);
        let text = greeting.handle_answer(Some(report())).unwrap();
        assert!(
            text.starts_with("0 children adopted, 1 started, "),
            "{text}"
        );
        greeting.note_input(&spawned());
        assert_eq!(greeting.poll_question(), None);
    }
}

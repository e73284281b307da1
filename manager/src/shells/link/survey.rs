//! Everything that a kernel holds, read page by page while it goes on living: what the kernel says
//! happened in between is worked into the pages. Pure.

use std::collections::BTreeMap;

use kingpole_protocol::event::Event;
use kingpole_protocol::reply::Reply;
use kingpole_protocol::request::{ListProcesses, ListSockets, ListValues, Request};
use kingpole_protocol::status::ProcessInfo;
use kingpole_protocol::{Fence, ProcessId};

use super::translate;
use crate::engine::{Epoch, Generation, KernelFacts};
use crate::shells::clock::Clocks;

/// What is read at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Processes,
    Sockets,
    Values,
    Complete,
}

/// What the kernel has said so far.
#[derive(Debug)]
pub(super) struct Survey {
    stage: Stage,
    prefix: String,
    processes: BTreeMap<ProcessId, ProcessInfo>,
    /// Where the next page of processes begins; ids never go back.
    read_through: ProcessId,
    sockets: Vec<String>,
    values: BTreeMap<String, String>,
    /// Keys whose bytes are no text; nobody of ours wrote them.
    pub(super) unreadable: Vec<String>,
}

impl Survey {
    pub(super) fn new(values_prefix: &str) -> Self {
        Self {
            stage: Stage::Processes,
            prefix: values_prefix.to_owned(),
            processes: BTreeMap::new(),
            read_through: ProcessId(0),
            sockets: Vec::new(),
            values: BTreeMap::new(),
            unreadable: Vec::new(),
        }
    }

    /// The next page to ask for, or nothing when all is known.
    pub(super) fn poll_request(&self) -> Option<Request> {
        let limit = u32::MAX;
        match self.stage {
            Stage::Processes => Some(
                ListProcesses {
                    after: self.read_through,
                    limit,
                }
                .into(),
            ),
            Stage::Sockets => {
                let after = self.sockets.last().cloned().unwrap_or_default();
                Some(ListSockets { after, limit }.into())
            }
            Stage::Values => {
                let after = self.values.keys().chain(&self.unreadable).max().cloned();
                let prefix = self.prefix.clone();
                Some(
                    ListValues {
                        prefix,
                        after: after.unwrap_or_default(),
                        limit,
                    }
                    .into(),
                )
            }
            Stage::Complete => None,
        }
    }

    /// A page arrived. `false` if it is none that was asked for.
    pub(super) fn handle_page(&mut self, reply: Reply) -> bool {
        let more = match (self.stage, reply) {
            (Stage::Processes, Reply::Processes(page)) => {
                for info in page.items {
                    self.read_through = self.read_through.max(info.process);
                    self.processes.insert(info.process, info);
                }
                page.more
            }
            (Stage::Sockets, Reply::Sockets(page)) => {
                self.sockets
                    .extend(page.items.into_iter().map(|socket| socket.spec.name));
                page.more
            }
            (Stage::Values, Reply::Values(page)) => {
                for info in page.items {
                    match String::from_utf8(info.value.0) {
                        Ok(value) => {
                            self.values.insert(info.key, value);
                        }
                        Err(_) => self.unreadable.push(info.key),
                    }
                }
                page.more
            }
            _ => return false,
        };
        if !more {
            self.stage = match self.stage {
                Stage::Processes => Stage::Sockets,
                Stage::Sockets => Stage::Values,
                Stage::Values | Stage::Complete => Stage::Complete,
            };
        }
        true
    }

    /// Something happened meanwhile. What is not listed yet will be listed with it.
    pub(super) fn handle_event(&mut self, event: Event) {
        match event {
            Event::ProcessStarted(started) if self.stage != Stage::Processes => {
                self.processes
                    .insert(started.process.process, started.process);
            }
            Event::ProcessEnded(ended) => {
                if let Some(info) = self.processes.get_mut(&ended.process) {
                    info.end = Some(ended.end);
                }
            }
            Event::ProcessRemoved(removed) => {
                self.processes.remove(&removed.process);
            }
            _ => {}
        }
    }

    /// The facts, once [`Self::poll_request`] has nothing to ask.
    pub(super) fn into_facts(self, fence: Fence, generation: u64, clocks: Clocks) -> KernelFacts {
        let processes = self.processes.into_values();
        KernelFacts {
            epoch: Epoch(fence.0),
            generation: Generation(generation),
            processes: processes
                .map(|info| translate::held(info, clocks))
                .collect(),
            sockets: self.sockets,
            values: self.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kingpole_protocol::event::{ProcessEnded, ProcessRemoved, ProcessStarted};
    use kingpole_protocol::reply::{Processes, Sockets, Values};
    use kingpole_protocol::status::{End, EndStatus, OutputInfo, ValueInfo};

    fn process(id: u64) -> ProcessInfo {
        ProcessInfo {
            process: ProcessId(id),
            name: format!("p{id}"),
            key: String::new(),
            pid: i32::MAX,
            started_ns: 1,
            arguments: Vec::new(),
            uid: 0,
            gid: 0,
            labels: BTreeMap::new(),
            end: None,
            output: OutputInfo::default(),
        }
    }

    fn end(id: u64) -> Event {
        let end = End {
            status: EndStatus::Exited(3),
            time_ns: 2,
            user_us: 0,
            system_us: 0,
            max_rss_kib: 0,
        };
        Event::ProcessEnded(ProcessEnded {
            process: ProcessId(id),
            end,
        })
    }

    #[test]
    fn what_happens_between_the_pages_is_in_the_facts_once() {
        let mut survey = Survey::new("m/");
        assert!(
            survey.handle_page(
                Processes {
                    items: vec![process(1), process(2)],
                    more: true
                }
                .into()
            )
        );
        survey.handle_event(end(1));
        // Started while pages are read: it will be on a later page.
        survey.handle_event(Event::ProcessStarted(ProcessStarted {
            process: process(9),
        }));
        survey.handle_event(Event::ProcessRemoved(ProcessRemoved {
            process: ProcessId(2),
        }));
        assert!(matches!(
            survey.poll_request(),
            Some(Request::ListProcesses(ListProcesses {
                after: ProcessId(2),
                ..
            }))
        ));
        assert!(
            survey.handle_page(
                Processes {
                    items: vec![process(9)],
                    more: false
                }
                .into()
            )
        );
        survey.handle_event(Event::ProcessStarted(ProcessStarted {
            process: process(10),
        }));
        assert!(
            !survey.handle_page(
                Processes {
                    items: vec![],
                    more: false
                }
                .into()
            )
        );
        assert!(
            survey.handle_page(
                Sockets {
                    items: vec![],
                    more: false
                }
                .into()
            )
        );
        let value = |key: &str, bytes: &[u8]| ValueInfo {
            key: key.into(),
            value: bytes.into(),
        };
        let items = vec![value("m/a", b"1"), value("m/b", b"\xff")];
        assert!(survey.handle_page(Values { items, more: true }.into()));
        let Some(Request::ListValues(next)) = survey.poll_request() else {
            panic!("more values")
        };
        assert_eq!(next.after, "m/b");
        assert!(
            survey.handle_page(
                Values {
                    items: vec![],
                    more: false
                }
                .into()
            )
        );
        assert_eq!(survey.poll_request(), None);
        assert_eq!(survey.unreadable, ["m/b"]);
        let facts = survey.into_facts(Fence(4), 2, Clocks::read());
        let seen: Vec<_> = facts
            .processes
            .iter()
            .map(|p| (p.id.0, p.ended.is_some()))
            .collect();
        assert_eq!(seen, [(1, true), (9, false), (10, false)]);
        assert_eq!(facts.values.get("m/a").map(String::as_str), Some("1"));
        assert_eq!(facts.epoch, Epoch(4));
    }
}

//! Processes that outgrow `max_rss`: their resident memory is asked for every `check_delay`, and one
//! that has more than its watcher allows is stopped and replaced, as one that is too old is.

use super::action::{Action, Level};
use super::context::Context;
use super::ids::{Moment, Pid, ProcessId};
use super::limits::MEASURE_WAIT_MIN;
use super::remember::{StopCause, StopRecord};
use super::watcher::Watcher;

impl Watcher {
    /// Asks for the memory of its processes, if it is time.
    pub(super) fn measure(&mut self, cx: &mut Context) {
        if !self.measures() || self.measure_at > cx.now {
            return;
        }
        self.measure_at = cx.now + cx.check_delay.max(MEASURE_WAIT_MIN);
        let settled = self.children.iter().filter(|(_, child)| !child.stopping());
        let processes: Vec<(ProcessId, Pid)> = settled.map(|(id, child)| (id, child.pid)).collect();
        if !processes.is_empty() {
            cx.push(Action::MeasureMemory { processes });
        }
    }

    /// When to ask next, if there is anything to ask.
    pub(super) fn next_measure(&self) -> Option<Moment> {
        self.measures().then_some(self.measure_at)
    }

    fn measures(&self) -> bool {
        self.config.max_rss.is_some() && self.wanted() && !self.children.is_empty()
    }

    /// So much memory a process has.
    pub(super) fn handle_measured(&mut self, cx: &mut Context, process: ProcessId, bytes: u64) {
        let Some(limit) = self.config.max_rss.filter(|limit| bytes > *limit) else {
            return;
        };
        let stopping = self
            .children
            .get(process)
            .is_none_or(|child| child.stopping());
        if stopping || !self.wanted() {
            return;
        }
        cx.log(
            Level::Warning,
            format!(
                "watcher {:?}: the kernel's process {process} has {bytes} bytes of memory, more \
                 than max_rss allows ({limit}); it is replaced",
                self.config.name
            ),
        );
        self.stop_process(cx, process, StopRecord::plain(StopCause::Outgrown));
    }
}

//! What is told about rolling runs.

use super::Order;
use crate::command::rolling::{Purpose, Roll, RunLimits, RunReport, RunState};
use crate::command::{Answer, Response, Selection};
use crate::engine::context::Context;
use crate::engine::manager::Engine;
use crate::engine::operation::Operation;
use crate::engine::watcher::Watcher;

impl Engine {
    /// The run of each watcher that has one, or had one.
    pub(in crate::engine) fn runs(&self, selection: &Selection) -> Response {
        let keys = self.select(selection)?;
        let watchers = keys.iter().filter_map(|key| self.watchers.get(key));
        let runs = watchers.filter_map(|watcher| watcher.run_report(&self.cx));
        Ok(Answer::Runs {
            runs: runs.collect(),
        })
    }
}

impl Watcher {
    /// The run that goes on or waits, else the last one.
    pub(in crate::engine) fn run_report(&self, cx: &Context) -> Option<RunReport> {
        let memory = self.memory();
        if let Some(rolling) = &memory.rolling {
            let state = if rolling.back.is_some() {
                RunState::Returning
            } else {
                RunState::Rolling
            };
            let mut report = self.report_of(cx, &rolling.order, rolling.limits, state);
            report.to_replace = rolling.to_replace;
            report.replaced = self.replaced_by(rolling);
            report.trouble.clone_from(&rolling.back);
            report.reason = rolling.back.as_ref().map(|trouble| trouble.why.clone());
            return Some(report);
        }
        let waiting = memory.current.iter().chain(&memory.queue);
        let waiting = waiting.filter_map(|operation| match operation {
            Operation::Roll(order) => Some(order),
            _ => None,
        });
        // One that has ended is the current operation until it is answered.
        let over = memory.rolled.as_ref().map(|rolled| rolled.order.run);
        let waiting = waiting.filter(|order| Some(order.run) > over);
        if let Some(order) = waiting.into_iter().next() {
            let limits = self.limits_of(order.options);
            return Some(self.report_of(cx, order, limits, RunState::Queued));
        }
        let rolled = memory.rolled.as_ref()?;
        let mut report = self.report_of(cx, &rolled.order, rolled.limits, rolled.state);
        report.ended = Some(rolled.ended);
        report.to_replace = rolled.to_replace;
        report.replaced = rolled.replaced;
        report.trouble.clone_from(&rolled.trouble);
        let trouble = rolled.trouble.as_ref().map(|trouble| trouble.why.clone());
        report.reason = rolled.reason.clone().or(trouble);
        Some(report)
    }

    /// A run that nobody has asked for yet.
    pub(super) fn planned_run(&self, cx: &Context, limits: RunLimits, request: &Roll) -> RunReport {
        let order = Order {
            run: 0,
            purpose: Purpose::Reload,
            by: request.by.clone(),
            at: cx.now,
            options: request.options,
            changes: crate::config::amend::Changes::new(),
        };
        self.report_of(cx, &order, limits, RunState::Planned)
    }

    fn report_of(
        &self,
        cx: &Context,
        order: &Order,
        limits: RunLimits,
        state: RunState,
    ) -> RunReport {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        RunReport {
            watcher: self.config.name.clone(),
            run: order.run,
            purpose: order.purpose,
            version: self.version_of(order.run),
            state,
            by: order.by.clone(),
            began: order.at,
            ended: None,
            limits,
            to_replace: self.to_replace(order).1,
            replaced: 0,
            ready: number(self.ready_in_run_count(cx)),
            numprocesses: self.count(),
            reason: None,
            trouble: None,
            output: Vec::new(),
        }
    }
}

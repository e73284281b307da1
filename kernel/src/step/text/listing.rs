//! `list`, `stats`, `sessions`, `leases`: pages that the client reads one after the other, so that a
//! long listing needs no more memory than a short one.

use super::Step;
use crate::effect::{Countable, Effect};
use crate::limits::{COUNTED_PER_PAGE, PAGE_BYTES};
use crate::state::text::{Listed, Listing, TextMode};
use crate::state::{Process, SessionId, State};
use crate::text::render;
use crate::text::selector::Selection;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::status::SessionInfo;
use std::ops::Bound::{self, Excluded, Unbounded};

impl Step<'_> {
    pub(super) fn list(&mut self, id: SessionId, what: Listed, selection: Selection) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        session.text.mode = TextMode::Listing(Box::new(Listing {
            what,
            selection,
            after: None,
            pages: 0,
        }));
        self.continue_listing(id);
    }

    /// One page of a listing. The next one comes when the client has read this one.
    pub(in crate::step) fn continue_listing(&mut self, id: SessionId) {
        let Some(mut listing) = self.take_listing(id) else {
            return;
        };
        let what = match listing.what {
            Listed::Stats => Countable::Unread(self.processes_of_page(&mut listing)),
            Listed::Sessions => Countable::Queued(self.sessions_of_page(&mut listing)),
            Listed::Processes | Listed::Sockets | Listed::Values | Listed::Leases => {
                let page = self.page(&mut listing);
                return self.send_page(id, listing, page);
            }
        };
        if let Some(session) = self.state.sessions.get_mut(&id) {
            session.text.mode = TextMode::Listing(listing);
        }
        self.effects.push(Effect::Count { session: id, what });
    }

    /// The same for what only the event loop can count.
    pub(in crate::step) fn handle_counted(&mut self, id: SessionId, counts: &[(u64, u64)]) {
        let Some(listing) = self.take_listing(id) else {
            return;
        };
        let now_ns = self.now.unix_ns;
        let mut page = Page::default();
        for (number, bytes) in counts {
            let line = match listing.what {
                Listed::Stats => {
                    let process = self.state.processes.get(&ProcessId(*number));
                    process.map(|process| render::stats_line(&process.info(), *bytes, now_ns))
                }
                _ => {
                    let session = self.state.sessions.get(&SessionId(*number));
                    session.map(|session| {
                        let info = SessionInfo {
                            queued_bytes: *bytes,
                            ..session.info()
                        };
                        render::session_line(&info, id.0, now_ns)
                    })
                }
            };
            if let Some(line) = line {
                page.add(|text| text.extend_from_slice(line.as_bytes()));
            }
        }
        page.more = listing.after.is_some();
        self.send_page(id, listing, page);
    }

    fn take_listing(&mut self, id: SessionId) -> Option<Box<Listing>> {
        let session = self.state.sessions.get_mut(&id)?;
        match std::mem::take(&mut session.text.mode) {
            TextMode::Listing(listing) => Some(listing),
            other => {
                session.text.mode = other;
                None
            }
        }
    }

    fn send_page(&mut self, id: SessionId, mut listing: Box<Listing>, page: Page) {
        let is_first = listing.pages == 0;
        if page.more {
            self.text(id, page.text);
            listing.pages = listing.pages.saturating_add(1);
            if let Some(session) = self.state.sessions.get_mut(&id) {
                session.text.mode = TextMode::Listing(listing);
            }
            self.effects.push(Effect::TellWhenDrained { session: id });
            return;
        }
        if page.text.is_empty() && !is_first {
            self.text(id, crate::text::PROMPT);
        } else {
            self.text_reply(id, page.text);
        }
        self.effects.push(Effect::TakeRequests { session: id });
    }

    /// Those that are selected, behind the last one shown, with their names.
    fn processes_behind<'a>(
        &'a self,
        selection: &'a Selection,
        after: Option<(String, u64)>,
    ) -> impl Iterator<Item = (&'a str, &'a Process)> {
        let from = match after {
            Some((name, number)) => Excluded((name, ProcessId(number))),
            None => Unbounded,
        };
        let names = self.state.names.range((from, Unbounded));
        names.filter_map(move |(name, number)| {
            let process = self.state.processes.get(number)?;
            let is_name = |name: &str| self.is_process_name(name);
            let shown =
                Self::visible(process) && selection.matches(name, Some(process.pid), is_name);
            shown.then_some((name.as_str(), &**process))
        })
    }

    /// Those of the next page of `stats`.
    fn processes_of_page(&self, listing: &mut Listing) -> Vec<ProcessId> {
        let mut page = Vec::new();
        let after = listing.after.take();
        for (name, process) in self.processes_behind(&listing.selection, after) {
            page.push(process.id);
            if page.len() >= COUNTED_PER_PAGE {
                listing.after = Some((name.to_owned(), process.id.0));
                break;
            }
        }
        page
    }

    /// Those of the next page of `sessions`.
    fn sessions_of_page(&self, listing: &mut Listing) -> Vec<SessionId> {
        let after = listing.after.take().map_or(0, |(_, number)| number);
        let sessions = self
            .state
            .sessions
            .range((Excluded(SessionId(after)), Unbounded));
        let page = sessions
            .map(|(id, _)| *id)
            .take(COUNTED_PER_PAGE)
            .collect::<Vec<_>>();
        if let Some(last) = page.get(COUNTED_PER_PAGE.saturating_sub(1)) {
            listing.after = Some((String::new(), last.0));
        }
        page
    }

    fn page(&self, listing: &mut Listing) -> Page {
        let mut page = Page::default();
        let selection = &listing.selection;
        let after = listing.after.take();
        let name_after = after.as_ref().map(|(name, _)| name.as_str());
        let now_ns = self.now.unix_ns;
        let State {
            sockets,
            values,
            leases,
            ..
        } = &*self.state;
        match listing.what {
            Listed::Processes => {
                let own = self.own_identity();
                for (name, process) in self.processes_behind(selection, after) {
                    let info = process.info();
                    page.add(|text| render::push_process(text, &info, own));
                    if page.is_full() {
                        listing.after = Some((name.to_owned(), process.id.0));
                        return page;
                    }
                }
            }
            Listed::Sockets => {
                let is_name = |name: &str| sockets.contains_key(name);
                for (name, socket) in sockets.range::<str, _>(behind(name_after)) {
                    if selection.matches(name, socket.info.fileno, is_name) {
                        page.add(|text| render::push_socket(text, &socket.info));
                        if page.is_full() {
                            listing.after = Some((name.clone(), 0));
                            return page;
                        }
                    }
                }
            }
            Listed::Values => {
                for (key, value) in values.range::<str, _>(behind(name_after)) {
                    if selection.matches(key, None, |_| false) {
                        page.add(|text| render::push_value(text, key, value));
                        if page.is_full() {
                            listing.after = Some((key.clone(), 0));
                            return page;
                        }
                    }
                }
            }
            Listed::Leases => {
                for (name, lease) in leases.range::<str, _>(behind(name_after)) {
                    let info = lease.info();
                    let line = render::lease_line(&info, now_ns);
                    page.add(|text| text.extend_from_slice(line.as_bytes()));
                    if page.is_full() {
                        listing.after = Some((name.clone(), 0));
                        return page;
                    }
                }
            }
            // Somebody has to count first.
            Listed::Stats | Listed::Sessions => {}
        }
        page.more = false;
        page
    }
}

fn behind(name: Option<&str>) -> (Bound<&str>, Bound<&str>) {
    (name.map_or(Unbounded, Excluded), Unbounded)
}

/// Lines, and whether there may be more behind them.
struct Page {
    text: Vec<u8>,
    more: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            more: true,
        }
    }
}

impl Page {
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.text.push(b'\n');
    }

    fn is_full(&self) -> bool {
        self.text.len() >= PAGE_BYTES
    }
}

//! `list`, `stats`, `sessions`, `leases`: pages that the client reads one after the other, so that a
//! long listing needs no more memory than a short one.

use super::Step;
use crate::effect::Effect;
use crate::limits::PAGE_BYTES;
use crate::state::text::{Listed, Listing, TextMode};
use crate::state::{SessionId, State};
use crate::text::render;
use crate::text::selector::Selection;
use kingpole_protocol::ids::ProcessId;
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
        }));
        self.continue_listing(id);
    }

    /// One page of a listing. The next one comes when the client has read this one.
    pub(in crate::step) fn continue_listing(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.get_mut(&id) else {
            return;
        };
        if !matches!(session.text.mode, TextMode::Listing(_)) {
            return;
        }
        let TextMode::Listing(mut listing) = std::mem::take(&mut session.text.mode) else {
            return;
        };
        let is_first = listing.after.is_none();
        let page = self.page(id, &mut listing);
        if page.more {
            self.text(id, page.text);
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

    fn page(&self, id: SessionId, listing: &mut Listing) -> Page {
        let mut page = Page::default();
        let selection = &listing.selection;
        let after = listing.after.take();
        let name_after = after.as_ref().map(|(name, _)| name.as_str());
        let number_after = after.as_ref().map_or(0, |(_, number)| *number);
        let now_ns = self.now.unix_ns;
        let State {
            sockets,
            values,
            leases,
            sessions,
            ..
        } = &*self.state;
        match listing.what {
            Listed::Processes | Listed::Stats => {
                let from = match &after {
                    Some((name, number)) => Excluded((name.clone(), ProcessId(*number))),
                    None => Unbounded,
                };
                let own = self.own_identity();
                let is_name = |name: &str| self.is_process_name(name);
                for (name, number) in self.state.names.range((from, Unbounded)) {
                    let Some(process) = self.state.processes.get(number) else {
                        continue;
                    };
                    if !Self::visible(process)
                        || !selection.matches(name, Some(process.pid), is_name)
                    {
                        continue;
                    }
                    let info = process.info();
                    page.add(|text| match listing.what {
                        Listed::Processes => render::push_process(text, &info, own),
                        _ => text.extend_from_slice(render::stats_line(&info, now_ns).as_bytes()),
                    });
                    if page.is_full() {
                        listing.after = Some((name.clone(), number.0));
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
            Listed::Sessions => {
                let from = (Excluded(SessionId(number_after)), Unbounded);
                for session in sessions.range(from).map(|(_, session)| session) {
                    let info = session.info();
                    let line = render::session_line(&info, id.0, now_ns);
                    page.add(|text| text.extend_from_slice(line.as_bytes()));
                    if page.is_full() {
                        listing.after = Some((String::new(), info.session));
                        return page;
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

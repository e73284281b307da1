//! Listings, page by page: a reply never has more than [`PAGE_BYTES`] and one item.

use super::{Refusal, Step};
use crate::effect::Asker;
use crate::limits::PAGE_BYTES;
use kingpole_protocol::limits::LIST_PAGE_MAX;
use kingpole_protocol::reply;
use kingpole_protocol::request::{
    ListLeases, ListProcesses, ListSessions, ListSockets, ListValues,
};
use kingpole_protocol::spec::SocketAddress;
use kingpole_protocol::status::{ProcessInfo, SocketInfo, ValueInfo};
use std::ops::Bound::{Excluded, Unbounded};

/// Takes items until the page is full; the second value says whether there are more.
fn page<T>(
    items: impl Iterator<Item = T>,
    limit: u32,
    bytes: impl Fn(&T) -> usize,
) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit.clamp(1, LIST_PAGE_MAX)).unwrap_or(1);
    let mut taken = Vec::new();
    let mut total = 0_usize;
    for item in items {
        if taken.len() >= limit || total >= PAGE_BYTES {
            return (taken, true);
        }
        let more = bytes(&item);
        if !taken.is_empty() && total.saturating_add(more) > PAGE_BYTES {
            return (taken, true);
        }
        total = total.saturating_add(more);
        taken.push(item);
    }
    (taken, false)
}

fn after<T: Ord + ?Sized>(after: &T) -> (std::ops::Bound<&T>, std::ops::Bound<&T>) {
    (Excluded(after), Unbounded)
}

impl Step<'_> {
    pub(super) fn list_processes(
        &mut self,
        asker: Asker,
        list: &ListProcesses,
    ) -> Result<(), Refusal> {
        let infos = self
            .state
            .processes
            .range(after(&list.after))
            .map(|(_, p)| p.info());
        let (items, more) = page(infos, list.limit, process_bytes);
        self.reply(asker, reply::Processes { items, more });
        Ok(())
    }

    pub(super) fn list_sockets(&mut self, asker: Asker, list: &ListSockets) -> Result<(), Refusal> {
        let sockets = self
            .state
            .sockets
            .range::<str, _>(after(list.after.as_str()));
        let infos = sockets.map(|(_, socket)| socket.info.clone());
        let (items, more) = page(infos, list.limit, socket_bytes);
        self.reply(asker, reply::Sockets { items, more });
        Ok(())
    }

    pub(super) fn list_values(&mut self, asker: Asker, list: &ListValues) -> Result<(), Refusal> {
        let prefix = list.prefix.as_str();
        // Those of one prefix stand together, so begin at the later of the two.
        let from = if list.after.as_str() < prefix {
            (std::ops::Bound::Included(prefix), Unbounded)
        } else {
            (Excluded(list.after.as_str()), Unbounded)
        };
        let values = self.state.values.range::<str, _>(from);
        let infos = values
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| ValueInfo {
                key: key.clone(),
                value: value.clone(),
            });
        let (items, more) = page(infos, list.limit, |info| {
            info.key.len() + info.value.len() + 16
        });
        self.reply(asker, reply::Values { items, more });
        Ok(())
    }

    pub(super) fn list_sessions(
        &mut self,
        asker: Asker,
        list: &ListSessions,
    ) -> Result<(), Refusal> {
        let after = crate::state::SessionId(list.after);
        let sessions = self.state.sessions.range((Excluded(after), Unbounded));
        let infos = sessions.map(|(_, session)| session.info());
        let (items, more) = page(infos, list.limit, |info| info.client.len() + 128);
        self.reply(asker, reply::Sessions { items, more });
        Ok(())
    }

    pub(super) fn list_leases(&mut self, asker: Asker, list: &ListLeases) -> Result<(), Refusal> {
        let leases = self
            .state
            .leases
            .range::<str, _>(after(list.after.as_str()));
        let infos = leases.map(|(_, lease)| lease.info());
        let (items, more) = page(infos, list.limit, |info| {
            info.name.len() + info.client.len() + 64
        });
        self.reply(asker, reply::Leases { items, more });
        Ok(())
    }
}

fn process_bytes(info: &ProcessInfo) -> usize {
    let arguments = info.arguments.iter().map(|argument| argument.len());
    let labels = info
        .labels
        .iter()
        .map(|(label, text)| label.len().saturating_add(text.len()));
    arguments
        .chain(labels)
        .chain([info.name.len(), info.key.len()])
        .fold(256, |sum: usize, length| {
            sum.saturating_add(length).saturating_add(16)
        })
}

fn socket_bytes(info: &SocketInfo) -> usize {
    let address = match &info.spec.address {
        SocketAddress::Unix { path, .. } => path.len(),
        SocketAddress::Inet { host, .. } | SocketAddress::Inet6 { host, .. } => host.len(),
    };
    info.spec
        .name
        .len()
        .saturating_add(address)
        .saturating_add(128)
}

//! Children: what they write, and when they end.

use super::world::World;
use crate::sys::simulated::{self, Child, Linux, Stage};
use kingpole_protocol::ids::ProcessId;
use nix::unistd::write;

/// What a child writes at an offset of a stream: of eight bytes in a row nobody can be mistaken.
pub(super) fn byte_at(id: ProcessId, stream: usize, offset: u64) -> u8 {
    let word = (offset / 8)
        .wrapping_add(id.0 << 40)
        .wrapping_add((stream as u64) << 39)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (word ^ (word >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bytes = (mixed ^ (mixed >> 32)).to_le_bytes();
    bytes[usize::try_from(offset % 8).unwrap()]
}

/// Whether bytes are what a child wrote from an offset on.
pub(super) fn is_written(id: ProcessId, stream: usize, offset: u64, bytes: &[u8]) -> bool {
    (offset..)
        .zip(bytes)
        .all(|(offset, byte)| byte_at(id, stream, offset) == *byte)
}

fn children(linux: &Linux, which: impl Fn(&Child) -> bool) -> Vec<i32> {
    let children = linux
        .processes
        .iter()
        .filter(|(pid, process)| linux.runs(**pid) && process.child.as_ref().is_some_and(&which));
    children.map(|(pid, _)| *pid).collect()
}

impl World {
    fn any_child(&mut self, which: impl Fn(&Child) -> bool) -> Option<i32> {
        let children = simulated::with(|linux| children(linux, which))?;
        self.random.pick(&children)
    }

    pub(super) fn child_writes(&mut self) {
        let Some(pid) = self.any_child(|child| child.stage == Stage::Decided) else {
            return;
        };
        let stream = usize::from(self.random.one_in(3));
        let length = match self.random.below(12) {
            0 => 60_000,
            1 | 2 => 6000,
            _ => 8 + self.random.below(400),
        };
        let written = simulated::with(|linux| {
            let child = linux.processes.get_mut(&pid)?.child.as_mut()?;
            let end = child.ends[stream].as_ref()?;
            let ledger = linux.ledger.get_mut(&child.id)?;
            let from = ledger.written[stream];
            let bytes = (from..from + length)
                .map(|offset| byte_at(child.id, stream, offset))
                .collect::<Vec<_>>();
            match write(end, &bytes) {
                Ok(count) => ledger.written[stream] += count as u64,
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(cause) => panic!("process {}: a child met {cause}", child.id),
            }
            Some((child.id, ledger.written[stream]))
        });
        if let Some((id, now)) = written.flatten() {
            self.note(format!("process {id} writes to {stream}: {now}"));
        }
    }

    pub(super) fn child_closes(&mut self) {
        let stream = usize::from(self.random.one_in(2));
        let open = |child: &Child| child.stage == Stage::Decided && child.ends[stream].is_some();
        if let Some(pid) = self.any_child(open) {
            self.note(format!("child {pid} closes {stream}"));
            simulated::with(|linux| {
                if let Some(child) = linux.processes.get_mut(&pid).and_then(|p| p.child.as_mut()) {
                    child.ends[stream] = None;
                }
            });
        }
    }

    pub(super) fn child_ends(&mut self) {
        if let Some(pid) = self.any_child(|child| child.stage == Stage::Decided) {
            let status = match self.random.below(4) {
                0 => 9,
                1 => 11 | 0x80,
                code => i32::try_from(code - 2).unwrap() << 8,
            };
            self.end_child(pid, status);
        }
    }

    fn end_child(&mut self, pid: i32, status: i32) {
        self.note(format!("child {pid} ends with {status:#x}"));
        let reaper = self.reaper();
        simulated::with(|linux| linux.end(pid, status, reaper));
    }

    /// One between clone and exec whose parent was killed goes on.
    pub(super) fn child_steps(&mut self) {
        if let Some(pid) = self.any_child(|child| child.stage != Stage::Decided) {
            self.note(format!("child {pid} goes on"));
            let reaper = self.reaper();
            simulated::with(|linux| linux.step_child(pid, reaper));
        }
    }

    /// All of them come to their end.
    pub(super) fn end_children(&mut self) {
        for _ in 0..3 {
            while let Some(pid) = self.any_child(|child| child.stage != Stage::Decided) {
                let reaper = self.reaper();
                simulated::with(|linux| linux.step_child(pid, reaper));
            }
        }
        while let Some(pid) = self.any_child(|_| true) {
            self.end_child(pid, 3 << 8);
        }
    }
}

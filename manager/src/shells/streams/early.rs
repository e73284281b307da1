//! Output that arrives before it is known whose it is: a new manager finds out first where log files
//! stand, and the engine says a moment later which worker a process is. The log has it then; this keeps
//! it for those who look at lines.

use std::collections::BTreeMap;

use kingpole_protocol::ids::ProcessId;

use crate::shells::history::Records;

/// Bytes that are kept of each process; the kernel sends hardly more before it is attached.
const BYTES_MAX: usize = 1 << 20;

/// Records by process.
#[derive(Debug, Default)]
pub(super) struct Early {
    kept: BTreeMap<ProcessId, (Vec<Records>, usize)>,
}

impl Early {
    /// Keeps some. What is too much is in the log file only.
    pub(super) fn keep(&mut self, process: ProcessId, records: Records) {
        let (kept, bytes) = self.kept.entry(process).or_default();
        let more: usize = records.iter().map(|(_, chunk)| chunk.data().len()).sum();
        if bytes.saturating_add(more) <= BYTES_MAX {
            *bytes += more;
            kept.push(records);
        }
    }

    /// Those of a process that is known now, or gone.
    pub(super) fn take(&mut self, process: ProcessId) -> Vec<Records> {
        self.kept
            .remove(&process)
            .map_or_else(Vec::new, |(records, _)| records)
    }

    /// A new session brings them again.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::feed::Chunk;
    use kingpole_protocol::Sequence;
    use kingpole_protocol::record::Stream;
    use std::sync::Arc;

    #[test]
    fn what_is_kept_is_bounded_and_comes_back_once_and_in_order() {
        let records = |sequence: u64, length: usize| {
            let block = Arc::new(vec![b'x'; length]);
            let chunk = Chunk::new(Sequence(sequence), 0, 0, block, 0, length);
            Arc::new(vec![(Stream::Stdout, chunk)])
        };
        let mut early = Early::default();
        early.keep(ProcessId(1), records(1, 10));
        early.keep(ProcessId(1), records(2, BYTES_MAX));
        early.keep(ProcessId(1), records(3, 10));
        early.keep(ProcessId(2), records(1, BYTES_MAX));
        let first = early.take(ProcessId(1));
        let sequences: Vec<_> = first.iter().map(|one| one[0].1.sequence.0).collect();
        assert_eq!(sequences, [1, 3]);
        assert!(early.take(ProcessId(1)).is_empty());
        early.clear();
        assert!(early.take(ProcessId(2)).is_empty());
    }
}

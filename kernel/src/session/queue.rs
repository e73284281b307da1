//! What waits to be read by one client: a bounded ring of bytes that takes no memory while empty.

use crate::limits::{SESSION_HIGH_WATER_BYTES, SESSION_QUEUE_BYTES};
use ringbuf::HeapRb;
use ringbuf::traits::Observer;

/// The queue of one session.
#[derive(Default)]
pub struct Queue {
    ring: Option<HeapRb<u8>>,
}

/// It does not fit: the client does not read what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Queue {
    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.as_ref().map_or(0, Observer::occupied_len)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no further request should be read.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.len() > SESSION_HIGH_WATER_BYTES
    }

    /// Adds all of `parts`, or nothing.
    ///
    /// # Errors
    /// There is no room.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<(), Full> {
        let bytes = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if self.len().saturating_add(bytes) > SESSION_QUEUE_BYTES {
            return Err(Full);
        }
        if bytes == 0 {
            return Ok(());
        }
        let ring = self
            .ring
            .get_or_insert_with(|| HeapRb::new(SESSION_QUEUE_BYTES));
        for part in parts {
            ring.push_slice(part);
        }
        Ok(())
    }

    /// The oldest bytes, in two pieces.
    pub fn front(&mut self) -> [&[u8]; 2] {
        match &mut self.ring {
            Some(ring) => {
                let (first, second) = ring.as_slices();
                [first, second]
            }
            None => [&[], &[]],
        }
    }

    /// All of it, to be carried.
    #[must_use]
    pub fn to_vec(&mut self) -> Vec<u8> {
        self.front().concat()
    }

    /// The oldest `bytes` were written to the client.
    pub fn consume(&mut self, bytes: usize) {
        if let Some(ring) = &mut self.ring {
            ring.skip(bytes);
            if ring.is_empty() {
                self.ring = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let mut queue = Queue::default();
        let big = vec![7; SESSION_QUEUE_BYTES - 3];
        assert_eq!(queue.push(&[&big]), Ok(()));
        assert_eq!(queue.push(&[b"ab", b"cd"]), Err(Full));
        assert_eq!(queue.len(), big.len());
        assert_eq!(queue.push(&[b"abc"]), Ok(()));
        queue.consume(SESSION_QUEUE_BYTES);
        assert!(queue.is_empty() && queue.ring.is_none(), "memory goes back");
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order(steps in proptest::collection::vec((any::<bool>(), 0_usize..20_000), 1..40)) {
            let mut queue = Queue::default();
            let (mut pushed, mut popped) = (0_u64, 0_u64);
            for (push, amount) in steps {
                if push {
                    let bytes = (0..amount as u64).map(|i| (pushed + i) as u8).collect::<Vec<_>>();
                    if queue.push(&[&bytes]).is_ok() {
                        pushed += amount as u64;
                    }
                } else {
                    let front = queue.front().concat();
                    let taken = amount.min(front.len());
                    for byte in &front[..taken] {
                        prop_assert_eq!(*byte, popped as u8);
                        popped += 1;
                    }
                    queue.consume(taken);
                }
                prop_assert_eq!(queue.len() as u64, pushed - popped);
            }
        }
    }
}

//! What one subscriber wants to hear.

use std::collections::BTreeMap;

use super::limits::SUBSCRIPTIONS_MAX;

/// Prefixes of topics, each with how often it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    prefixes: BTreeMap<Vec<u8>, u32>,
}

/// A peer has asked for more than [`SUBSCRIPTIONS_MAX`] topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {SUBSCRIPTIONS_MAX} subscriptions")]
pub struct TooMany;

impl Subscriptions {
    /// Adds one.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn add(&mut self, prefix: Vec<u8>) -> Result<(), TooMany> {
        let full = self.prefixes.len() >= SUBSCRIPTIONS_MAX;
        if full && !self.prefixes.contains_key(&prefix) {
            return Err(TooMany);
        }
        let count = self.prefixes.entry(prefix).or_insert(0);
        *count = count.saturating_add(1);
        Ok(())
    }

    /// What another program had counted.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(super) fn resumed(counts: Vec<(Vec<u8>, u32)>) -> Result<Self, TooMany> {
        let prefixes: BTreeMap<Vec<u8>, u32> = counts.into_iter().collect();
        match prefixes.len() > SUBSCRIPTIONS_MAX {
            true => Err(TooMany),
            false => Ok(Self { prefixes }),
        }
    }

    /// Each with how often it was asked for.
    pub(super) fn counts(&self) -> Vec<(Vec<u8>, u32)> {
        let counts = self.prefixes.iter();
        counts
            .map(|(prefix, count)| (prefix.clone(), *count))
            .collect()
    }

    /// Takes one back; one that is not there is no matter.
    pub fn remove(&mut self, prefix: &[u8]) {
        if let Some(count) = self.prefixes.get_mut(prefix) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.prefixes.remove(prefix);
            }
        }
    }

    /// Whether a message of this topic is wanted.
    #[must_use]
    pub fn wants(&self, topic: &[u8]) -> bool {
        self.prefixes.keys().any(|prefix| topic.starts_with(prefix))
    }

    /// Whether some topic that begins with `beginning` may be wanted.
    #[must_use]
    pub fn may_want(&self, beginning: &[u8]) -> bool {
        self.prefixes
            .keys()
            .any(|prefix| beginning.starts_with(prefix) || prefix.starts_with(beginning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_and_are_counted() {
        let mut some = Subscriptions::default();
        assert!(!some.wants(b"watcher.web.spawn"));
        some.add(b"watcher.".to_vec()).unwrap();
        some.add(b"watcher.".to_vec()).unwrap();
        some.remove(b"watcher.");
        some.remove(b"never");
        assert!(some.wants(b"watcher.web.spawn"));
        assert!(!some.wants(b"stat.web"));
        assert!(some.may_want(b"watcher.web") && some.may_want(b"wat") && !some.may_want(b"stat."));
        some.remove(b"watcher.");
        assert!(!some.wants(b"watcher.web.spawn"));
        some.add(Vec::new()).unwrap();
        assert!(some.wants(b"") && some.wants(b"anything") && some.may_want(b"stat."));
    }

    #[test]
    fn there_is_a_bound() {
        let mut some = Subscriptions::default();
        for number in 0..SUBSCRIPTIONS_MAX {
            some.add(number.to_string().into_bytes()).unwrap();
        }
        assert_eq!(some.add(b"one more".to_vec()), Err(TooMany));
        some.add(b"1".to_vec()).unwrap();
    }
}

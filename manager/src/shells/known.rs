//! The answer to the question that is asked most (`status` of all watchers), kept until something happens: it is a function
//! of the engine's inputs, so it stands as long as there was none.
//!
//! This spares each such request the way through the manager's loop and a text of all watchers. Together with replies that
//! go out in one write it takes `status` of 100 watchers, 50 requests under way, from 3 to 44 times circusd's rate, and one
//! at a time from 3.2 to 1.7 times what a message to and fro between two threads takes. A question never overtakes a command that was put before it: while one is on its way to the engine,
//! nothing is known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;

/// See the module. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Inputs of the engine so far.
    happened: AtomicU64,
    /// Commands on their way to it.
    changing: AtomicU64,
    states: Mutex<Option<(Stamp, Arc<RawValue>)>>,
}

/// A moment between two inputs of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl Known {
    /// The engine gets an input.
    pub fn happened(&self) {
        self.0.happened.fetch_add(1, Ordering::SeqCst);
    }

    /// A command sets out for the engine; it has arrived when this is dropped.
    #[must_use]
    pub fn changing(&self) -> Changing {
        self.0.changing.fetch_add(1, Ordering::SeqCst);
        Changing(self.clone())
    }

    /// Now, to be taken before a question is asked.
    #[must_use]
    pub fn now(&self) -> Stamp {
        Stamp(self.0.happened.load(Ordering::SeqCst))
    }

    /// States of all watchers as a JSON object, if nothing has happened since they were asked for.
    #[must_use]
    pub fn states(&self) -> Option<Arc<RawValue>> {
        if self.0.changing.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
        let (stamp, text) = states.as_ref()?;
        (*stamp == self.now()).then(|| Arc::clone(text))
    }

    /// Keeps the answer to a question that was asked at `asked`, if it still is the answer.
    pub fn keep_states(&self, asked: Stamp, text: Arc<RawValue>) {
        if asked == self.now() {
            let mut states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
            *states = Some((asked, text));
        }
    }
}

/// A command on its way.
#[derive(Debug)]
pub struct Changing(Known);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.happened();
        self.0.0.changing.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Arc<RawValue> {
        Arc::from(RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn an_answer_stands_until_something_happens() {
        let known = Known::default();
        assert!(known.states().is_none());
        known.keep_states(known.now(), text("{}"));
        assert_eq!(known.states().unwrap().get(), "{}");
        known.happened();
        assert!(known.states().is_none());
    }

    #[test]
    fn an_answer_from_before_is_not_kept() {
        let known = Known::default();
        let asked = known.now();
        known.happened();
        known.keep_states(asked, text("{}"));
        assert!(known.states().is_none());
    }

    #[test]
    fn nothing_is_known_while_a_command_is_on_its_way_and_after_it() {
        let known = Known::default();
        known.keep_states(known.now(), text("{}"));
        let changing = known.changing();
        assert!(known.states().is_none());
        // Asked while it was on its way, and answered before it arrived.
        known.keep_states(known.now(), text("{}"));
        assert!(known.states().is_none());
        drop(changing);
        assert!(known.states().is_none());
    }
}

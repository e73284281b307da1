//! Values, and the commit that stores them together with acknowledgements.

use super::{Refusal, Step, refusal};
use crate::effect::{After, Asker, Effect};
use crate::entry::{Entry, ValuesChanged};
use crate::limits::{VALUES_BYTES_MAX, value_weight as weight};
use crate::state::flags;
use kingpole_protocol::error::ErrorCode;
use kingpole_protocol::ids::ProcessId;
use kingpole_protocol::limits::{VALUE_BYTES_MAX, VALUE_KEY_BYTES_MAX};
use kingpole_protocol::reply;
use kingpole_protocol::request::{Commit, ValueChange};
use std::collections::BTreeMap;

impl Step<'_> {
    pub(super) fn get_value(&mut self, asker: Asker, key: &str) -> Result<(), Refusal> {
        check_key(key)?;
        let value = self.state.values.get(key).cloned();
        self.reply(asker, reply::Value { value });
        Ok(())
    }

    pub(super) fn commit(&mut self, asker: Asker, commit: Commit) -> Result<(), Refusal> {
        self.check_values(&commit.values)?;
        self.check_acknowledgements(&commit)?;
        if commit.values.is_empty() {
            self.handle_values_stored(asker, commit);
            return Ok(());
        }
        let changes = ValuesChanged {
            changes: commit.values.clone(),
        };
        let entry = Box::new(Entry::ValuesChanged(changes));
        let after = Box::new(After::Commit { asker, commit });
        self.effects.push(Effect::Record { entry, after });
        Ok(())
    }

    /// Second half of a commit: the values are safe, so the output and ends they account for may go.
    pub(super) fn handle_values_stored(&mut self, asker: Asker, commit: Commit) {
        for ValueChange { key, value } in commit.values {
            if let Some(old) = self.state.values.remove(&key) {
                let freed = weight(&key, &old);
                self.state.values_bytes = self.state.values_bytes.saturating_sub(freed);
            }
            if let Some(value) = value {
                let taken = weight(&key, &value);
                self.state.values_bytes = self.state.values_bytes.saturating_add(taken);
                self.state.values.insert(key, value);
            }
        }
        for output in commit.outputs {
            let process = output.process;
            if let Some(held) = self.state.processes.get(&process)
                && output.through >= held.output.oldest
                && !held.output.cursor.is_empty()
            {
                self.effects.push(Effect::Acknowledge {
                    process,
                    through: output.through,
                });
            }
        }
        // After the acknowledgements, whose outcomes decide whether a process can be forgotten.
        for process in commit.ends {
            self.acknowledge_end(process);
        }
        self.reply(asker, reply::Done {});
    }

    pub(super) fn acknowledge_end(&mut self, id: ProcessId) {
        let Some(process) = self.state.processes.get_mut(&id) else {
            return;
        };
        if process.flags & flags::END_ACKNOWLEDGED == 0 {
            process.flags |= flags::END_ACKNOWLEDGED;
            let flags = process.flags;
            self.effects.push(Effect::SetFlags { process: id, flags });
        }
        self.forget_if_done(id);
    }

    fn check_values(&self, changes: &[ValueChange]) -> Result<(), Refusal> {
        let mut total = self.state.values_bytes;
        // A key may stand there twice; the last one counts.
        let mut changed: BTreeMap<&str, u64> = BTreeMap::new();
        for change in changes {
            check_key(&change.key)?;
            let length = change.value.as_ref().map_or(0, |value| value.len());
            if length > VALUE_BYTES_MAX {
                let text = format!(
                    "value {:?} has {length} bytes; at most {VALUE_BYTES_MAX} are allowed",
                    change.key
                );
                return Err(refusal(ErrorCode::LIMIT, text));
            }
            let old = match changed.get(change.key.as_str()) {
                Some(weight) => *weight,
                None => self
                    .state
                    .values
                    .get(&change.key)
                    .map_or(0, |v| weight(&change.key, v)),
            };
            let new = change
                .value
                .as_ref()
                .map_or(0, |value| weight(&change.key, value));
            total = total.saturating_sub(old).saturating_add(new);
            changed.insert(&change.key, new);
        }
        if total > VALUES_BYTES_MAX && total > self.state.values_bytes {
            let text = format!("all values together may have {VALUES_BYTES_MAX} bytes");
            return Err(refusal(ErrorCode::LIMIT, text));
        }
        Ok(())
    }

    fn check_acknowledgements(&self, commit: &Commit) -> Result<(), Refusal> {
        for output in &commit.outputs {
            let Some(process) = self.state.processes.get(&output.process) else {
                continue;
            };
            let next = process.output.cursor.next_seq;
            if output.through >= next {
                let text = format!(
                    "process {}: record {} was acknowledged before it was there; the next is {next}",
                    output.process, output.through
                );
                return Err(refusal(ErrorCode::INVALID, text));
            }
        }
        for id in &commit.ends {
            if self
                .state
                .processes
                .get(id)
                .is_some_and(|process| process.end.is_none())
            {
                let text = format!("process {id} has not ended, so its end cannot be acknowledged");
                return Err(refusal(ErrorCode::INVALID, text));
            }
        }
        Ok(())
    }
}

fn check_key(key: &str) -> Result<(), Refusal> {
    let reason = if key.is_empty() {
        "a value needs a key".to_owned()
    } else if key.len() > VALUE_KEY_BYTES_MAX {
        format!(
            "the key has {} bytes; at most {VALUE_KEY_BYTES_MAX} are allowed",
            key.len()
        )
    } else if key.chars().any(char::is_control) {
        format!("the key {key:?} has a control character")
    } else {
        return Ok(());
    };
    Err(refusal(ErrorCode::INVALID, reason))
}

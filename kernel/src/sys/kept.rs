//! What must not be closed by whoever cannot use it.

use std::mem::{ManuallyDrop, forget};
use std::ops::{Deref, DerefMut};

/// A value that is left as it is when it goes out of scope: another program may go on with its
/// descriptors.
///
/// In a simulation it is dropped: nothing stays open of a process that was killed, and what the program
/// before goes on with are copies.
#[derive(Debug)]
pub struct Kept<T>(ManuallyDrop<T>);

impl<T> Kept<T> {
    /// Keeps a value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    /// The value, to be dropped as usual again.
    #[must_use]
    pub fn into_inner(mut kept: Self) -> T {
        // SAFETY: `kept` is forgotten below, so nobody meets the value there again.
        let value = unsafe { ManuallyDrop::take(&mut kept.0) };
        forget(kept);
        value
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        #[cfg(test)]
        if super::simulated::with(|_| ()).is_some() {
            // SAFETY: nothing follows in which the value could be met.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

//! How many visitors a door has room for, and who has to leave when more come: whoever has been inside
//! longest without asking for anything, then whoever does not take an answer. Nobody leaves whose
//! request is being answered: a command that waits, or lines that are followed.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who has not taken a byte of an answer for so long may be asked to leave.
const NOT_TAKEN: Duration = Duration::from_secs(30);

/// While all places are taken by those who may stay, how often that is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The places of one door.
#[derive(Debug)]
pub(super) struct Places {
    room: Arc<Semaphore>,
    visitors: Arc<Mutex<Vec<Arc<Standing>>>>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(count)),
            visitors: Arc::default(),
        }
    }

    /// A place for the next visitor. Waits while all are taken by those who may stay.
    pub(super) async fn take(&self) -> Place {
        loop {
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                let standing = Arc::new(Standing::new(Instant::now()));
                locked(&self.visitors).push(Arc::clone(&standing));
                return Place {
                    standing,
                    visitors: Arc::clone(&self.visitors),
                    _permit: permit,
                };
            }
            dismiss_one(&locked(&self.visitors), Instant::now());
            // Given back at once, to be taken above: this only waits until there is one.
            let freed = self.room.acquire();
            let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        }
    }
}

/// Asks one to leave, if there is one that should.
fn dismiss_one(visitors: &[Arc<Standing>], now: Instant) {
    let first = visitors
        .iter()
        .filter_map(|standing| Some((standing.useless_since(now)?, standing)))
        .min_by_key(|(since, _)| *since);
    if let Some((_, standing)) = first {
        standing.dismiss();
    }
}

/// One visitor's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    standing: Arc<Standing>,
    visitors: Arc<Mutex<Vec<Arc<Standing>>>>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(super) const fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.visitors).retain(|standing| !Arc::ptr_eq(standing, &self.standing));
    }
}

/// What a visitor is doing.
#[derive(Debug)]
pub(super) struct Standing(Mutex<Doing>);

#[derive(Debug)]
struct Doing {
    /// Requests that have arrived whole and are not answered to the end.
    under_way: usize,
    /// Requests whose answers are complete.
    answered: u64,
    /// Since when there are none.
    idle_since: Instant,
    /// Since when no byte of an answer was taken, if one waits.
    not_taken_since: Option<Instant>,
    dismissed: bool,
    /// Who reads and who writes: to be woken when dismissed.
    wakers: [Option<Waker>; 2],
}

/// Which half of a connection waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Half {
    Reading,
    Writing,
}

impl Standing {
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Doing {
            under_way: 0,
            answered: 0,
            idle_since: now,
            not_taken_since: None,
            dismissed: false,
            wakers: [None, None],
        }))
    }

    /// A request has arrived whole; it is under way until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        locked(&self.0).under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// A request has begun; its answer is complete when what is returned is dropped.
    pub(super) fn answering(self: &Arc<Self>) -> Answered {
        Answered(Arc::clone(self))
    }

    /// How many requests have been answered to the end.
    pub(super) fn answered(&self) -> u64 {
        locked(&self.0).answered
    }

    pub(super) fn is_dismissed(&self) -> bool {
        locked(&self.0).dismissed
    }

    /// This half waits for the visitor, and is to be woken when the visitor is dismissed.
    pub(super) fn waits(&self, half: Half, cx: &Context<'_>) {
        let mut doing = locked(&self.0);
        doing.wakers[half as usize] = Some(cx.waker().clone());
        if let Half::Writing = half {
            doing.not_taken_since.get_or_insert_with(Instant::now);
        }
    }

    /// Some of an answer was taken.
    pub(super) fn takes(&self) {
        locked(&self.0).not_taken_since = None;
    }

    /// Since when this visitor keeps a place for nothing.
    fn useless_since(&self, now: Instant) -> Option<Instant> {
        let doing = locked(&self.0);
        match doing {
            _ if doing.dismissed => None,
            _ if doing.under_way == 0 => Some(doing.idle_since),
            _ => doing
                .not_taken_since
                .filter(|since| now.saturating_duration_since(*since) >= NOT_TAKEN)
                // After all who ask for nothing.
                .map(|_| now),
        }
    }

    fn dismiss(&self) {
        let wakers = {
            let mut doing = locked(&self.0);
            doing.dismissed = true;
            std::mem::take(&mut doing.wakers)
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A request whose answer is not complete, whether or not the request is.
#[derive(Debug)]
pub(super) struct Answered(Arc<Standing>);

impl Drop for Answered {
    fn drop(&mut self) {
        let reader = {
            let mut doing = locked(&self.0.0);
            doing.answered += 1;
            doing.wakers[Half::Reading as usize].take()
        };
        // Who reads may be waiting for just this, to hand over the next request.
        reader.into_iter().for_each(Waker::wake);
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Standing>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut doing = locked(&self.0.0);
        doing.under_way -= 1;
        doing.idle_since = Instant::now();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_nothing_leaves_first_and_who_is_answered_stays() {
        let places = Places::new(3);
        let (first, second, third) = (
            places.take().await,
            places.take().await,
            places.take().await,
        );
        let answered = first.standing().begin();
        let dismissed = |place: &Place| place.standing().is_dismissed();

        dismiss_one(&locked(&places.visitors), Instant::now());
        assert_eq!(
            [&first, &second, &third].map(dismissed),
            [false, true, false]
        );
        drop(second);
        // There is room: nobody has to leave.
        let fourth = places.take().await;
        assert_eq!([&first, &third, &fourth].map(dismissed), [false; 3]);

        // Whose answer is complete is the last to have asked.
        drop(answered);
        dismiss_one(&locked(&places.visitors), Instant::now());
        dismiss_one(&locked(&places.visitors), Instant::now());
        assert_eq!(
            [&first, &third, &fourth].map(dismissed),
            [false, true, true]
        );
    }

    #[tokio::test]
    async fn one_waits_while_all_are_answered_and_take_their_answers() {
        let places = Places::new(1);
        let only = places.take().await;
        let answered = only.standing().begin();
        only.standing()
            .waits(Half::Writing, &Context::from_waker(Waker::noop()));
        let next = tokio::time::timeout(Duration::from_millis(50), places.take());
        assert!(next.await.is_err());
        assert!(!only.standing().is_dismissed());

        let later = Instant::now() + NOT_TAKEN;
        dismiss_one(&locked(&places.visitors), later);
        assert!(only.standing().is_dismissed());
        drop((answered, only));
        places.take().await;
    }
}

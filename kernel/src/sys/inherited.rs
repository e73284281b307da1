//! Descriptors that a predecessor left open for us through exec.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::process::duplicate_from;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Numbers of what is open. There may be thousands, and a client waits: Linux 6.2 tells how many, and
/// where each run of them ends takes one call to find, which looks at none of their files.
fn open_numbers() -> Result<Vec<i32>, Errno> {
    let count = open_count().ok_or(Errno::ENOENT)?;
    let mut numbers = Vec::with_capacity(count);
    if count != 0 {
        let mut first = 0;
        while numbers.len() < count && first < NUMBERS_MAX {
            let looked_at = open_among(first);
            first += NUMBERS_AT_ONCE;
            let reaches_on = looked_at.last().is_some_and(|last| *last == first - 1);
            numbers.extend(looked_at);
            if reaches_on
                && numbers.len() < count
                && let Some(open) = numbers.last()
                && let Some(free) = first_free_from(*open, first)
            {
                numbers.extend(first..free);
                first = free;
            }
        }
        if numbers.len() == count {
            return Ok(numbers);
        }
        numbers.clear();
    }
    let directory = fs::read_dir("/proc/self/fd").map_err(|_| Errno::ENOENT)?;
    // Read to the end first: the directory has a descriptor of its own while it is read.
    let listed = directory
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .collect::<Vec<_>>();
    numbers.extend(listed.into_iter().filter(|number| is_open(*number)));
    Ok(numbers)
}

/// The first number from `first` on under which nothing is open: where a copy of `open` would go. `None`
/// where there is no room for one.
fn first_free_from(open: i32, first: i32) -> Option<i32> {
    // SAFETY: makes a copy under a number that nobody has, and closes it again; no memory is involved.
    unsafe {
        let copy = libc::fcntl(open, libc::F_DUPFD_CLOEXEC, first);
        (copy >= 0).then(|| {
            libc::close(copy);
            copy
        })
    }
}

/// Far above every number that one of us uses.
const NUMBERS_MAX: i32 = 1 << 20;

/// As many as one `poll` looks at; Linux refuses more than may be open (RLIMIT_NOFILE).
const NUMBERS_AT_ONCE: i32 = 64;

/// How many descriptors this process has open; `None` without `/proc`, 0 before Linux 6.2.
#[must_use]
pub fn open_count() -> Option<usize> {
    let counted = fs::metadata("/proc/self/fd").ok()?;
    usize::try_from(counted.len()).ok()
}

/// Those of the next [`NUMBERS_AT_ONCE`] that are open: `poll` says of each that is not.
fn open_among(first: i32) -> Vec<i32> {
    let numbers = first..first.saturating_add(NUMBERS_AT_ONCE);
    let mut polled = numbers
        .clone()
        .map(|fd| libc::pollfd {
            fd,
            events: 0,
            revents: 0,
        })
        .collect::<Vec<_>>();
    let count = polled.len() as libc::nfds_t;
    // SAFETY: the array is as long as said and ours; Linux writes only to the answers in it.
    let answered = unsafe { libc::poll(polled.as_mut_ptr(), count, 0) };
    if answered < 0 {
        return numbers.filter(|number| is_open(*number)).collect();
    }
    // It says so as well of one that is open as a mere path.
    let open = |one: &&libc::pollfd| one.revents & libc::POLLNVAL == 0 || is_open(one.fd);
    polled.iter().filter(open).map(|one| one.fd).collect()
}

fn is_open(number: i32) -> bool {
    // SAFETY: the call only looks, and no memory is involved.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Sets close-on-exec on every descriptor from 3 on, at once.
///
/// # Errors
/// Linux is older than 5.11.
pub fn set_all_close_on_exec() -> Result<(), Errno> {
    #[cfg(test)]
    if super::simulated::with(|_| ()).is_some() {
        return Ok(());
    }
    let (first, last) = (3_u32, u32::MAX);
    // SAFETY: changes a flag of open descriptors; no memory is involved.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(result).map(drop)
}

/// Every descriptor from 3 on that this process was started with, by number. Those that are not
/// taken are closed when it is dropped.
#[derive(Debug)]
pub struct Inherited {
    /// The place is the number: there are thousands, with few gaps between them.
    by_number: Vec<Option<OwnedFd>>,
}

impl Inherited {
    /// Takes possession of all of them and sets close-on-exec on each.
    ///
    /// Call it first thing in `main`, before anything else opens descriptors: it cannot tell theirs
    /// from inherited ones. A second call gives nothing.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn claim_all() -> Result<Self, Errno> {
        static CLAIMED: AtomicBool = AtomicBool::new(false);
        if CLAIMED.swap(true, Ordering::SeqCst) {
            return Ok(Self::none());
        }
        let numbers = open_numbers()?;
        let places = numbers
            .iter()
            .max()
            .map_or(0, |most| most.saturating_add(1));
        let mut by_number = Vec::new();
        by_number.resize_with(usize::try_from(places).unwrap_or(0), || None);
        // All of them at once, before Linux 5.11 one by one.
        let at_once = set_all_close_on_exec();
        for number in numbers.into_iter().filter(|number| *number > 2) {
            // SAFETY: open (just seen), inherited rather than opened here (see above), and claimed
            // once, as the flag makes sure: nobody else in this process owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            if at_once.is_err() {
                fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            }
            if let Some(place) = place_of(number).and_then(|place| by_number.get_mut(place)) {
                *place = Some(fd);
            }
        }
        Ok(Self { by_number })
    }

    /// What a simulated process is left.
    #[cfg(test)]
    pub(crate) fn of(some: impl IntoIterator<Item = (i32, OwnedFd)>) -> Self {
        let mut all = Self::none();
        for (number, fd) in some {
            let place = place_of(number).expect("a number");
            if all.by_number.len() <= place {
                all.by_number.resize_with(place + 1, || None);
            }
            all.by_number[place] = Some(fd);
        }
        all
    }

    /// Copies of all, under the same numbers.
    #[cfg(test)]
    pub(crate) fn copies(&self) -> Self {
        let copies = (0..).zip(&self.by_number).filter_map(|(number, fd)| {
            let copy = duplicate_from(fd.as_ref()?.as_fd(), 3);
            Some((number, copy.expect("a descriptor for a copy")))
        });
        Self::of(copies)
    }

    /// One more, under a number that is free.
    #[cfg(test)]
    pub(crate) fn add(&mut self, fd: OwnedFd) -> i32 {
        self.by_number.push(Some(fd));
        i32::try_from(self.by_number.len() - 1).expect("a number")
    }

    /// For a process that was handed nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            by_number: Vec::new(),
        }
    }

    /// Looks at the one with this number.
    #[must_use]
    pub fn get(&self, number: i32) -> Option<BorrowedFd<'_>> {
        let place = self.by_number.get(place_of(number)?)?;
        place.as_ref().map(AsFd::as_fd)
    }

    /// A copy of the one with this number; it stays, so that another program can be handed it.
    ///
    /// # Errors
    /// `EBADF` when there is none, descriptor limits.
    pub fn copy(&self, number: i32) -> Result<OwnedFd, Errno> {
        duplicate_from(self.get(number).ok_or(Errno::EBADF)?, 3)
    }

    /// Takes the one with this number.
    pub fn take(&mut self, number: i32) -> Option<OwnedFd> {
        self.by_number.get_mut(place_of(number)?)?.take()
    }

    /// Numbers of those that were not taken yet.
    pub fn numbers(&self) -> impl Iterator<Item = i32> {
        let open = self.by_number.iter().flatten();
        open.map(AsRawFd::as_raw_fd)
    }
}

fn place_of(number: i32) -> Option<usize> {
    usize::try_from(number).ok()
}

//! The way back of a program that another one has become and that cannot go on: it becomes that one
//! again, with everything that it was handed.

use super::{RELEASE, StartError};
use crate::crash::resume_patience;
use crate::guard::image::Image;
use crate::guard::role::Role;
use crate::sys::alarm::{self, Arranged, arrange};
use crate::sys::inherited::Inherited;
use crate::sys::memfd::create_constant;
use nix::errno::Errno;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};

/// Lets this program become the one before should it hang, from wherever it does.
#[derive(Debug)]
pub(super) struct WayBack {
    // First: the file may be closed only when nobody becomes anything any more.
    _arranged: Arranged,
    _failure: OwnedFd,
}

impl WayBack {
    /// `None` where there is nothing to go back to: then a hung program is ended, and whoever guards it
    /// starts the one before.
    pub(super) fn arrange(
        image: &Image,
        role: &Role,
        inherited: &Inherited,
        numbers: &[i32],
    ) -> Option<Self> {
        let previous = role.previous.filter(|_| role.failure.is_none())?;
        let previous = inherited.copy(previous).ok()?;
        let patience = resume_patience();
        let reason = format!("release {RELEASE}: it did not serve within {patience:?}");
        let failure = create_constant("kingpole-failure", reason.as_bytes()).ok()?;
        let (role, numbers) = role_of_the_one_before(role, numbers, &failure);
        let (arguments, environment) = image.words(&role);
        let arranged = arrange(previous, numbers, arguments, environment).ok()?;
        Some(Self {
            _arranged: arranged,
            _failure: failure,
        })
    }
}

/// What the program before is to be again, and what stays open for it: everything but the epoll, as
/// whoever failed may have changed what hangs on that.
fn role_of_the_one_before(role: &Role, numbers: &[i32], failure: &OwnedFd) -> (Role, Vec<i32>) {
    let stays = |number: &&i32| Some(**number) != role.polled;
    let mut numbers = numbers.iter().filter(stays).copied().collect::<Vec<_>>();
    numbers.push(failure.as_raw_fd());
    let role = Role {
        failure: Some(failure.as_raw_fd()),
        polled: None,
        ..role.clone()
    };
    (role, numbers)
}

/// Becomes the program before again, with the same state. Returns only if that is not possible.
pub(super) fn go_back(
    image: &Image,
    role: &Role,
    inherited: &Inherited,
    numbers: &[i32],
    error: StartError,
) -> StartError {
    // Once: if that one fails as well, its end is told to the guard, which starts it anew.
    let previous = role.previous.filter(|_| role.failure.is_none());
    let Some(Ok(previous)) = previous.map(|number| inherited.copy(number)) else {
        return error;
    };
    let reason = format!("release {RELEASE}: {error}");
    let failed = |cause: Errno| StartError::Resume {
        reason: format!("{error}; nor can the program before: {}", cause.desc()),
    };
    let failure = match create_constant("kingpole-failure", reason.as_bytes()) {
        Ok(failure) => failure,
        Err(cause) => return failed(cause),
    };
    let (role, numbers) = role_of_the_one_before(role, numbers, &failure);
    // That one may hang as well.
    if let Err(cause) = alarm::set(resume_patience()) {
        return failed(cause);
    }
    failed(
        image
            .with_binary(previous)
            .become_it_with_numbers(&role, &numbers),
    )
}

/// Why the program before this one, which is the next one, could not go on.
pub(super) fn read_failure(inherited: &Inherited, number: i32) -> String {
    let mut text = String::new();
    let read = inherited.copy(number).map_err(std::io::Error::from);
    let read = read.and_then(|fd| {
        let mut file = File::from(fd);
        file.rewind()?;
        file.read_to_string(&mut text)
    });
    match read {
        Ok(_) => text,
        Err(error) => format!("its reason is lost: {error}"),
    }
}

//! For tests: what a successor would find if the kernel were killed right now.
//!
//! An image holds the bytes of memory files and pipes; `revive` makes fresh files and pipes with
//! the same content. So every store can be cut between without killing anybody.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, tee};
use nix::unistd::{Whence, lseek, pipe2, write};

use crate::crash::watch::while_watching;
use crate::sys::memfd::{create_sealed, sealed_size};

/// The written parts of a memory file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileImage {
    bytes: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

impl FileImage {
    pub(crate) fn take(fd: impl AsFd) -> Self {
        let bytes = sealed_size(&fd).unwrap();
        let file = File::from(fd.as_fd().try_clone_to_owned().unwrap());
        let mut parts = Vec::new();
        let mut at = 0;
        while let Ok(start) = lseek(&file, at, Whence::SeekData) {
            let end = lseek(&file, start, Whence::SeekHole).unwrap();
            let mut part = vec![0; usize::try_from(end - start).unwrap()];
            file.read_exact_at(&mut part, u64::try_from(start).unwrap())
                .unwrap();
            parts.push((u64::try_from(start).unwrap(), part));
            at = end;
        }
        Self { bytes, parts }
    }

    pub(crate) fn revive(&self) -> OwnedFd {
        let fd = create_sealed("revived", self.bytes).unwrap();
        let file = File::from(fd.try_clone().unwrap());
        for (offset, part) in &self.parts {
            file.write_all_at(part, *offset).unwrap();
        }
        fd
    }
}

/// What is in a pipe, without taking it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PipeImage(Vec<u8>);

impl PipeImage {
    pub(crate) fn take(read_end: impl AsFd) -> Self {
        let (copy_read, copy_write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        match tee(
            read_end.as_fd(),
            copy_write.as_fd(),
            1 << 20,
            SpliceFFlags::SPLICE_F_NONBLOCK,
        ) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(cause) => panic!("tee: {cause}"),
        }
        drop(copy_write);
        let mut bytes = Vec::new();
        File::from(copy_read).read_to_end(&mut bytes).unwrap();
        Self(bytes)
    }

    /// A pipe with that content: (read end, write end).
    pub(crate) fn revive(&self, flags: OFlag) -> (OwnedFd, OwnedFd) {
        let (read_end, write_end) = pipe2(flags | OFlag::O_CLOEXEC).unwrap();
        if !self.0.is_empty() {
            assert_eq!(write(&write_end, &self.0).unwrap(), self.0.len());
        }
        (read_end, write_end)
    }
}

/// Runs `work` and takes an image at every crash point it passes.
pub(crate) fn cut_everywhere<I: 'static, T>(
    mut take: impl FnMut() -> I + 'static,
    work: impl FnOnce() -> T,
) -> (Vec<(&'static str, I)>, T) {
    let images = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&images);
    let result = while_watching(move |name| sink.borrow_mut().push((name, take())), work);
    (images.take(), result)
}

//! The process title that `ps` shows, written over the arguments and environment in place.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;

/// Room for the title, found once at start.
#[derive(Debug)]
pub struct ProcessTitle {
    start: usize,
    bytes: usize,
}

impl ProcessTitle {
    /// Finds the room and moves the environment out of it.
    ///
    /// `std::env::args` reads that memory: collect the arguments before. Call it first thing in
    /// `main`, before there are threads.
    ///
    /// # Errors
    /// `/proc` is not mounted or not as documented in proc(5).
    ///
    /// # Safety
    /// No other thread may exist, and nobody may keep pointers into `environ` or `argv`.
    pub unsafe fn take_over() -> Result<Self, Errno> {
        let stat = std::fs::read_to_string("/proc/self/stat").map_err(|_| Errno::ENOENT)?;
        let (start, end) = title_range(&stat).ok_or(Errno::EINVAL)?;
        let bytes = end
            .checked_sub(start)
            .filter(|bytes| *bytes > 1)
            .ok_or(Errno::EINVAL)?;
        let copy = std::env::vars_os()
            .filter_map(|(key, value)| environment_string(key, value))
            .map(|entry| entry.into_raw())
            .chain([std::ptr::null_mut()])
            .collect::<Vec<_>>();
        // The copy lives as long as the process: libc points into it from now on.
        let copy: &'static mut [*mut libc::c_char] = copy.leak();
        // SAFETY: single thread (contract); the copy is a null-terminated array of C strings that
        // is never freed.
        unsafe { libc::environ = copy.as_mut_ptr() };
        Ok(Self { start, bytes })
    }

    /// Shows `title` (cut to the room there is), and its first 15 bytes as the short name.
    pub fn set(&mut self, title: &str) {
        let room = self.bytes.saturating_sub(1);
        let shown = title
            .as_bytes()
            .get(..room.min(title.len()))
            .unwrap_or_default();
        // SAFETY: the range is the memory Linux laid the arguments and environment out in, which
        // is writable, ours for the life of the process, and used by nobody else since
        // `take_over`. The rest, at least one byte, becomes NUL.
        unsafe {
            let start = self.start as *mut u8;
            std::ptr::copy_nonoverlapping(shown.as_ptr(), start, shown.len());
            std::ptr::write_bytes(start.add(shown.len()), 0, self.bytes - shown.len());
        }
        let short = title.split([':', ' ']).next().unwrap_or(title);
        if let Ok(short) = CString::new(short) {
            // SAFETY: PR_SET_NAME reads a NUL-terminated string and keeps 15 bytes of it.
            unsafe { libc::prctl(libc::PR_SET_NAME, short.as_ptr(), 0, 0, 0) };
        }
    }
}

fn environment_string(key: OsString, value: OsString) -> Option<CString> {
    let mut entry = key.into_vec();
    entry.push(b'=');
    entry.extend(value.into_vec());
    CString::new(entry).ok()
}

/// `arg_start` and `env_end`, fields 48 and 51 of proc(5)'s stat, counted from 1.
fn title_range(stat: &str) -> Option<(usize, usize)> {
    // The second field is in parentheses and may hold anything, so count from behind it.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields = rest.split_ascii_whitespace().collect::<Vec<_>>();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<usize>().ok();
    let (arg_start, arg_end) = (field(48)?, field(49)?);
    let (env_start, env_end) = (field(50)?, field(51)?);
    if arg_start == 0 || arg_end < arg_start {
        return None;
    }
    // Only when the environment follows the arguments without a hole may it be used as well.
    let end = if env_start == arg_end && env_end > env_start {
        env_end
    } else {
        arg_end
    };
    Some((arg_start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let rest = (3..=52)
            .map(|field| (field * 100).to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let stat = format!("7 (a) b (c)) {rest}").replace(" 5000 ", " 4900 ");
        assert_eq!(title_range(&stat), Some((4800, 5100)));
    }

    #[test]
    fn an_environment_elsewhere_is_left_alone() {
        let rest = (3..=52)
            .map(|field| (field * 100).to_string())
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(title_range(&format!("7 (x) {rest}")), Some((4800, 4900)));
    }
}

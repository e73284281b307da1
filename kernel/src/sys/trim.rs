//! Giving back the memory of code that does not run.

use std::fs;

/// Unmaps the program's own code and constants; what is needed again comes back from the page cache.
/// Reading the command line alone touches most of a program that then sleeps for years, and Linux
/// maps what lies around each page that is used.
///
/// Failing to only costs memory.
pub fn release_unused_code() {
    let (Ok(maps), Ok(program)) = (
        fs::read_to_string("/proc/self/maps"),
        fs::read_link("/proc/self/exe"),
    ) else {
        return;
    };
    let Some(program) = program.to_str() else {
        return;
    };
    for (start, end) in maps.lines().filter_map(|line| code_range(line, program)) {
        // SAFETY: the range is a private mapping of a file that was never writable (code, or the
        // constants at the file's beginning, which hold no addresses to be set at the start), so
        // no page of it differs from the file, and every page that is dropped reads the same when
        // it is next used.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// The range of a line of `/proc/PID/maps` if it is code or constants of `program`, never written
/// to. Constants with addresses in them are mapped `r--p` too, but from further into the file.
fn code_range(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let plain = rights == "r-xp" || (rights == "r--p" && offset == "00000000");
    if !plain || !line.ends_with(program) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_given_back() {
        let code = "55d0c8b2e000-55d0c8b7a000 r-xp 00025000 08:01 131 /usr/bin/kingpole-kernel";
        let found = code_range(code, "/usr/bin/kingpole-kernel");
        assert_eq!(found, Some((0x55d0_c8b2_e000, 0x55d0_c8b7_a000)));
        assert_eq!(code_range(code, "/usr/lib/libc.so.6"), None);
        let data = code.replace("r-xp", "r--p");
        assert_eq!(code_range(&data, "/usr/bin/kingpole-kernel"), None);
        let constants = data.replace("00025000", "00000000");
        assert!(code_range(&constants, "/usr/bin/kingpole-kernel").is_some());
        assert_eq!(code_range("", "x"), None);
    }

    #[test]
    fn the_program_runs_on_without_its_mapped_code() {
        release_unused_code();
        assert_eq!("17".parse::<i32>(), Ok(17));
    }
}

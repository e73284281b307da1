//! The end of a log file, for lines that are older than what the manager remembers.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much of a file's end is looked at.
const TAIL_BYTES_MAX: u64 = 256 << 10;

/// The last whole lines of a file, oldest first. A first line that was cut by the limit is left
/// out, and so is a last one that is still being written.
///
/// # Errors
/// As the system gives them.
pub(super) fn last_lines(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut lines: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    lines.pop();
    if from > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_big_file_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, text + "unfinished").unwrap();
        let lines = last_lines(&path).unwrap();
        assert_eq!(lines.last().unwrap(), b"line 99999");
        assert!(lines[0].starts_with(b"line "));
        std::fs::write(&path, "a\n").unwrap();
        assert_eq!(last_lines(&path).unwrap(), [b"a"]);
        std::fs::write(&path, "").unwrap();
        assert!(last_lines(&path).unwrap().is_empty());
    }
}

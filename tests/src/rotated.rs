//! Logs that were rotated: `NAME.2`, `NAME.1`, `NAME`.

use std::path::{Path, PathBuf};

/// The rotated files of a log, oldest first, and the log itself.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn parts(log: &Path) -> Vec<PathBuf> {
    let directory = log.parent().expect("a directory");
    let stem = format!("{}.", log.file_name().unwrap().to_str().unwrap());
    let mut numbered: Vec<(u64, PathBuf)> = std::fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let number = path
                .file_name()?
                .to_str()?
                .strip_prefix(&stem)?
                .parse()
                .ok()?;
            Some((number, path))
        })
        .collect();
    numbered.sort_by(|a, b| b.cmp(a));
    let mut all: Vec<PathBuf> = numbered.into_iter().map(|(_, path)| path).collect();
    all.push(log.to_owned());
    all
}

/// What all of them have, oldest first.
#[must_use]
pub fn content(log: &Path) -> Vec<u8> {
    parts(log)
        .iter()
        .flat_map(|part| std::fs::read(part).unwrap_or_default())
        .collect()
}

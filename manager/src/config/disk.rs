//! Configuration files as they lie on disk: the one place here that touches the system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::limits;
use super::load::{Files, LoadError, load};
use super::model::Configuration;

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte beyond the limit tells that there is more; a device would never end.
        let limit = u64::try_from(limits::FILE_BYTES)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, directory: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.collect()
    }

    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }
}

/// Loads a configuration from disk with this process's environment.
///
/// # Errors
/// See [`load`].
pub fn load_file(path: &Path) -> Result<Configuration, LoadError> {
    load(path, &Disk, &process_environment())
}

/// This process's environment; variables that are no UTF-8 are left out.
#[must_use]
pub fn process_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_are_found_on_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).expect("a file");
        };
        std::fs::create_dir(directory.path().join("conf.d")).expect("a directory");
        write(
            "web.ini",
            "[circus]\ninclude = more*.ini\ninclude_dir = conf.d\n",
        );
        write("more1.ini", "[watcher:a]\ncmd = x\n");
        write("conf.d/b.ini", "[watcher:b]\ncmd = x\n");
        let configuration = load_file(&directory.path().join("web.ini")).expect("it is good");
        let names: Vec<_> = configuration
            .watchers
            .iter()
            .map(|w| w.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let error = load_file(path)
            .expect_err("a directory is no file")
            .to_string();
        assert!(error.contains("cannot be read"), "{error}");
        let error = load_file(&path.join("none.ini"))
            .expect_err("nothing is there")
            .to_string();
        assert!(error.contains("none.ini' does not exist"), "{error}");
    }

    #[test]
    fn a_file_without_end_is_refused_and_not_read_for_ever() {
        let error = load_file(Path::new("/dev/zero")).expect_err("it has no end");
        assert!(error.errors[0].message.contains("more than the"), "{error}");
    }
}

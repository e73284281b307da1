//! From files to a checked configuration: reads the main file and what it includes, and puts
//! what was found out in the order of files and lines.
//!
//! Knows nothing of sections but `[circus] include`. Files and the manager's environment are given;
//! nothing is read here but through [`Files`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::diagnostic::{Diagnostic, Location};
use super::document::Document;
use super::ini::{self, quoted};
use super::interpret::interpret;
use super::limits;
use super::model::Configuration;
use super::pattern;
use super::section::Findings;
use super::toml;
use super::variables::EnvironmentVariables;

/// Where configuration files come from.
pub trait Files {
    /// The bytes of a file; reading may stop behind [`limits::FILE_BYTES`].
    ///
    /// # Errors
    /// As the system gives them.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Names in a directory; nothing for what is none or cannot be read.
    fn list(&self, directory: &Path) -> Vec<String>;
    /// Whether there is anything at a path.
    fn exists(&self, path: &Path) -> bool;
}

/// Why a configuration is refused: everything that is wrong with it, not only the first thing.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{}", summary(.errors))]
pub struct LoadError {
    /// The files that were read, the main one first.
    pub files: Vec<String>,
    /// At least one, in the order of files and lines.
    pub errors: Vec<Diagnostic>,
    /// What else there is to say, in the order of files and lines.
    pub warnings: Vec<Diagnostic>,
}

/// The first error, and how many more there are.
fn summary(errors: &[Diagnostic]) -> String {
    match errors {
        [] => "the configuration is refused".to_owned(),
        [one] => one.to_string(),
        [first, more @ ..] => format!("{first}, and {} more errors", more.len()),
    }
}

/// Loads the configuration in `path` with everything it includes. `environment` is the manager's.
///
/// # Errors
/// A file that cannot be read, and everything in any file that is wrong.
pub fn load(
    path: &Path,
    files: &dyn Files,
    environment: &BTreeMap<String, String>,
) -> Result<Configuration, LoadError> {
    let mut loader = Loader {
        files,
        read: Vec::new(),
        document: Document::default(),
        findings: Findings::default(),
    };
    loader.read_all(path, environment);
    let main_file = path.display().to_string();
    let mut configuration = interpret(
        &loader.document,
        &main_file,
        environment,
        &mut loader.findings,
    );
    super::env_file::read_all(
        &mut configuration.watchers,
        path,
        files,
        &mut loader.findings,
    );
    let Loader {
        read,
        findings: Findings {
            mut errors,
            mut warnings,
        },
        ..
    } = loader;
    let order = |d: &Diagnostic| {
        let file = read.iter().position(|file| *file == d.location.file);
        (file, d.location.line, d.location.column)
    };
    for diagnostics in [&mut errors, &mut warnings] {
        diagnostics.sort_by_key(order);
        truncate(diagnostics);
    }
    if !errors.is_empty() {
        return Err(LoadError {
            files: read,
            errors,
            warnings,
        });
    }
    configuration.path = path.to_owned();
    configuration.files = read;
    configuration.warnings = warnings;
    Ok(configuration)
}

/// Keeps the first of too many diagnostics, and says how many are left out.
fn truncate(diagnostics: &mut Vec<Diagnostic>) {
    let rest = diagnostics.split_off(diagnostics.len().min(limits::DIAGNOSTICS));
    if let Some(first) = rest.first() {
        let message = format!("{} more from here on are not shown", rest.len());
        diagnostics.push(Diagnostic {
            message,
            ..first.clone()
        });
    }
}

struct Loader<'a> {
    files: &'a dyn Files,
    read: Vec<String>,
    document: Document,
    findings: Findings,
}

impl Loader<'_> {
    fn read_all(&mut self, path: &Path, environment: &BTreeMap<String, String>) {
        self.read_file(path, None);
        let directory = path.parent().unwrap_or(Path::new(""));
        let variables = EnvironmentVariables::new(environment);
        for (pattern, location) in self.includes(&variables) {
            let pattern = directory.join(pattern);
            let found = pattern::expand_paths(
                &pattern.to_string_lossy(),
                &|directory| self.files.list(directory),
                &|path| self.files.exists(path),
            );
            if found.is_empty() {
                let message = format!(
                    "[circus]: {} does not lead to any configuration; include paths are relative \
                     to the main file",
                    quoted(&pattern.to_string_lossy())
                );
                self.findings
                    .warnings
                    .push(Diagnostic::warning(location, message));
                continue;
            }
            for file in found {
                if self.read.len() >= limits::FILES {
                    let message = format!("more than {} files are included", limits::FILES);
                    self.findings
                        .errors
                        .push(Diagnostic::error(location, message));
                    return;
                }
                // A pattern such as *.ini beside the main file leads to that file as well.
                if !self.read.contains(&file.display().to_string()) {
                    self.read_file(&file, Some(&location));
                }
            }
        }
        self.document.apply_defaults();
    }

    /// What the main file includes, in order, `include` before `include_dir`.
    fn includes(&self, variables: &EnvironmentVariables) -> Vec<(PathBuf, Location)> {
        let Some(circus) = self.document.section("circus") else {
            return Vec::new();
        };
        let words = |key: &str, then: &str| -> Vec<(PathBuf, Location)> {
            let Some(entry) = circus.get(key) else {
                return Vec::new();
            };
            let value = variables.expand(&entry.value);
            let words = value.split(ini::is_space).filter(|word| !word.is_empty());
            let path = |word: &str| match then {
                "" => PathBuf::from(word),
                then => Path::new(word).join(then),
            };
            words
                .map(|word| (path(word), entry.value_location.clone()))
                .collect()
        };
        [words("include", ""), words("include_dir", "*.ini")].concat()
    }

    fn read_file(&mut self, path: &Path, included_by: Option<&Location>) {
        let name = path.display().to_string();
        self.read.push(name.clone());
        match self.files.read(path) {
            Ok(bytes) => {
                let is_toml = path
                    .extension()
                    .is_some_and(|extension| extension == "toml");
                let (file, errors) = if is_toml {
                    toml::parse(&name, &bytes)
                } else {
                    ini::parse(&name, &bytes)
                };
                self.findings.errors.extend(errors);
                self.document.add(file, &mut self.findings.warnings);
            }
            Err(error) => {
                let message = if error.kind() == io::ErrorKind::NotFound {
                    format!("the configuration file '{name}' does not exist")
                } else {
                    format!("the configuration file '{name}' cannot be read: {error}")
                };
                let location = included_by.cloned().unwrap_or(Location::new(&name, 1, 1));
                self.findings
                    .errors
                    .push(Diagnostic::error(location, message));
            }
        }
    }
}

#[cfg(test)]
mod tests;

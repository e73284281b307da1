//! The grammar of Circus's INI files: bytes in, sections and keys with their places out.
//!
//! Source: reference of Circus 0.19, section 5.1, which describes a reader derived from Python's
//! `ConfigParser`. Knows nothing of what sections and keys mean.

use super::diagnostic::{Diagnostic, Location};
use super::limits;

/// One file, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IniFile {
    /// Section blocks in file order; a section that is written twice appears twice.
    pub sections: Vec<IniSection>,
}

/// One block that a header opens.
#[derive(Clone, Debug, PartialEq)]
pub struct IniSection {
    /// What is between the brackets, verbatim.
    pub name: String,
    /// Place of the opening bracket.
    pub location: Location,
    /// Keys in file order, duplicates included.
    pub entries: Vec<IniEntry>,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct IniEntry {
    /// The key; case matters, and the spaces of a line that is indented below a header stay.
    pub key: String,
    /// Place of the key.
    pub key_location: Location,
    /// The value; continuation lines are joined with newlines.
    pub value: String,
    /// Place of the value's first character, or of the line's end for an empty value.
    pub value_location: Location,
}

/// Reads one file: what could be read, and all errors, so that everything wrong with a file can be
/// said at once. With any error the rest is good for nothing but finding more.
///
/// Errors are every line that is neither header, option, continuation nor comment; bytes that are
/// no UTF-8; NUL characters; files beyond [`limits::FILE_BYTES`].
#[must_use]
pub fn parse(file: &str, bytes: &[u8]) -> (IniFile, Vec<Diagnostic>) {
    let text = match text_of(file, bytes) {
        Ok(text) => text,
        Err(error) => return (IniFile::default(), vec![error]),
    };
    let mut reader = Reader {
        file,
        ..Reader::default()
    };
    for (line_number, line) in (1_u32..).zip(lines(text)) {
        if reader.errors.len() >= limits::DIAGNOSTICS {
            break;
        }
        reader.handle_line(line_number, line);
    }
    (
        IniFile {
            sections: reader.sections,
        },
        reader.errors,
    )
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// It is too large, or no UTF-8.
pub(super) fn text_of<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Diagnostic> {
    let at = |line: u32, column: u32| Location::new(file, line, column);
    if bytes.len() > limits::FILE_BYTES {
        let message = format!(
            "the file has {} bytes, more than the {} that are read",
            bytes.len(),
            limits::FILE_BYTES
        );
        return Err(Diagnostic::error(at(1, 1), message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (valid, rest) = bytes
            .split_at_checked(error.valid_up_to())
            .unwrap_or((bytes, &[]));
        let (line, column) = position_after(&String::from_utf8_lossy(valid));
        let byte = rest.first().copied().unwrap_or_default();
        let message = format!("the file is not UTF-8: byte 0x{byte:02x}");
        Diagnostic::error(at(line, column), message)
    })?;
    // Editors on Windows put a byte order mark first; Python would take it for a part of line 1.
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Lines as Python's universal newlines see them: `\n`, `\r\n` and `\r` end one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        match current.find(['\n', '\r']) {
            None => {
                rest = None;
                Some(current)
            }
            Some(end) => {
                let (line, after) = current.split_at(end);
                rest = after.strip_prefix("\r\n").or_else(|| after.get(1..));
                Some(line)
            }
        }
    })
}

/// Line and column of the character behind `text`.
fn position_after(text: &str) -> (u32, u32) {
    let (line, last) = (1_u32..).zip(lines(text)).last().unwrap_or((1, ""));
    (line, column_after(last))
}

/// Column of the character behind `prefix`, which begins its line.
fn column_after(prefix: &str) -> u32 {
    u32::try_from(prefix.chars().count())
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}

/// Python's `str.isspace`, which has four control characters more than Unicode's White_Space.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Python's `str.strip`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text` in quotation marks, escaped and shortened for a message.
pub(super) fn quoted(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters
        .by_ref()
        .take(limits::QUOTED_CHARACTERS)
        .collect();
    if characters.next().is_none() {
        return format!("{start:?}");
    }
    format!("{start:?}... ({} characters)", text.chars().count())
}

/// Where an indented line would be appended.
#[derive(Default)]
enum Continues {
    /// Nowhere: it would be an option.
    #[default]
    Nothing,
    /// To the last entry of the last section.
    LastEntry,
}

/// What an option belongs to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Inside {
    /// No header has been seen.
    #[default]
    Nothing,
    /// The last section.
    Section,
    /// A header that could not be read; what follows it is left out.
    BrokenHeader,
}

#[derive(Default)]
struct Reader<'a> {
    file: &'a str,
    sections: Vec<IniSection>,
    continues: Continues,
    inside: Inside,
    missing_header_told: bool,
    errors: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn handle_line(&mut self, number: u32, line: &str) {
        let at = |prefix: &str| Location::new(self.file, number, column_after(prefix));
        if let Some((before, _)) = line.split_once('\0') {
            let message = "the line contains a NUL character".to_owned();
            self.errors.push(Diagnostic::error(at(before), message));
            return;
        }
        if strip(line).is_empty() || is_comment(line) {
            return;
        }
        if line.starts_with(is_space)
            && let Continues::LastEntry = self.continues
            && let Some(entry) = self.sections.last_mut().and_then(|s| s.entries.last_mut())
        {
            entry.value.push('\n');
            entry.value.push_str(strip(line));
            return;
        }
        if let Some(name) = section_name(line) {
            let location = at("");
            let name = name.to_owned();
            self.sections.push(IniSection {
                name,
                location,
                entries: Vec::new(),
            });
            self.continues = Continues::Nothing;
            self.inside = Inside::Section;
            return;
        }
        if line.starts_with('[') {
            let message = format!(
                "section header without name or closing bracket: {}",
                quoted(strip(line))
            );
            self.errors.push(Diagnostic::error(at(""), message));
            self.continues = Continues::Nothing;
            self.inside = Inside::BrokenHeader;
            return;
        }
        let Some(separator) = line.find(['=', ':']) else {
            let indent = indentation(line);
            let message = format!("neither [section] nor key = value: {}", quoted(strip(line)));
            self.errors.push(Diagnostic::error(at(indent), message));
            self.continues = Continues::Nothing;
            return;
        };
        let (before, rest) = line.split_at(separator);
        let after = rest.get(1..).unwrap_or_default();
        let lead = &line[..line.len() - after.trim_start_matches(is_space).len()];
        let key = before.trim_end_matches(is_space).to_owned();
        let entry = IniEntry {
            key_location: at(indentation(before)),
            value_location: at(lead),
            value: value_of(after),
            key,
        };
        if self.inside == Inside::Nothing && !self.missing_header_told {
            self.missing_header_told = true;
            let message = format!("{} is in no section", quoted(strip(&entry.key)));
            self.errors
                .push(Diagnostic::error(entry.key_location.clone(), message));
        }
        let Some(section) = self
            .sections
            .last_mut()
            .filter(|_| self.inside == Inside::Section)
        else {
            return;
        };
        // A line such as `= 5` has no name that a continuation could belong to.
        self.continues = if entry.key.is_empty() {
            Continues::Nothing
        } else {
            Continues::LastEntry
        };
        section.entries.push(entry);
    }
}

/// The white space a line begins with.
fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches(is_space).len()]
}

/// Whether the whole line is a comment: `#` or `;` in the first column, or the word `rem` there.
fn is_comment(line: &str) -> bool {
    if line.starts_with(['#', ';']) {
        return true;
    }
    let word = line.split(is_space).next().unwrap_or_default();
    word.eq_ignore_ascii_case("rem")
}

/// The name in a section header; what follows the first closing bracket is ignored.
fn section_name(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix('[')?.split_once(']')?;
    (!name.is_empty()).then_some(name)
}

/// The value in what follows the separator. Only the first semicolon can begin a comment, and
/// only behind white space.
fn value_of(after: &str) -> String {
    let value = match after.split_once(';') {
        Some((before, _)) if before.ends_with(is_space) => before,
        _ => after,
    };
    match strip(value) {
        "\"\"" => String::new(),
        value => value.to_owned(),
    }
}

#[cfg(test)]
mod tests;

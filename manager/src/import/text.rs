//! Words and values between the formats.

/// A value as an INI file holds it; `None` when it cannot: a line break, or a semicolon behind a
/// space, where a comment would begin.
pub(super) fn ini_value(value: &str) -> Option<String> {
    if value.contains(['\n', '\r', '\0']) || value.contains(" ;") || value.contains("\t;") {
        return None;
    }
    let bare = value.trim() == value && value != "\"\"";
    bare.then(|| value.to_owned())
}

/// A command line for a shell, as a command that runs one. Plain words need none.
pub(super) fn shell_command(line: &str) -> String {
    // What a shell would act on. Circus's own `shell` quotes every word, so that none of it works.
    const ACTIVE: &str = "|&;<>()$`*?[]{}~#\n";
    let first = line.split_whitespace().next().unwrap_or_default();
    // With half a pair of quotes there are no words: the shell shall say what is wrong.
    let has_words = || {
        let words = shlex::split(line);
        words.is_some_and(|words| words.first().is_some_and(|word| !word.is_empty()))
    };
    if !line.contains(|c| ACTIVE.contains(c)) && !first.contains('=') && has_words() {
        return line.trim().to_owned();
    }
    // Two quotes before a semicolon mean nothing to the shell, and keep it from the comment.
    let quoted = line.trim().replace('\'', r"'\''");
    let quoted = quoted.replace(" ;", " '';").replace("\t;", "\t'';");
    format!("sh -c '{quoted}'")
}

/// One word of a command line.
pub(super) fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.replace('\0', ""), std::borrow::Cow::into_owned)
}

/// A size such as `50MB` or `300M`, in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

//! Options of a plugin: text from its section.

use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest period of a plugin; less would only keep the manager busy.
const PERIOD_MIN: Duration = Duration::from_millis(10);

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Options(BTreeMap<String, String>);

impl Options {
    pub(super) const fn new(options: BTreeMap<String, String>) -> Self {
        Self(options)
    }

    /// A text that is written and not empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let text = self.0.get(key)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// A text with a default.
    pub(super) fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.get(key).unwrap_or(default)
    }

    /// Anything that is written as text.
    pub(super) fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let parsed = text.parse();
        parsed
            .map(Some)
            .map_err(|_| format!("{key} = {text} is no number of its kind"))
    }

    /// A number with a default.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        match self.parsed(key)? {
            Some(number) if f64::is_finite(number) => Ok(number),
            Some(_) => Err(format!("{key} is no finite number")),
            None => Ok(default),
        }
    }

    /// Seconds with a default.
    pub(super) fn seconds(&self, key: &str, default: f64) -> Result<Duration, String> {
        let seconds = self.number(key, default)?;
        let period = Duration::try_from_secs_f64(seconds)
            .map_err(|_| format!("{key} = {seconds} is no time"))?;
        Ok(period.max(PERIOD_MIN))
    }

    /// A flag that is off unless it is written otherwise.
    pub(super) fn flag(&self, key: &str) -> bool {
        let text = self.text(key, "no").to_lowercase();
        matches!(text.as_str(), "yes" | "true" | "on" | "1")
    }
}

/// A size such as `50M` in bytes; a number alone is none.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text.chars().next_back()?;
    let power = "BKMGTPE".find(unit.to_ascii_uppercase())?;
    let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let bytes = number * 1024_f64.powi(i32::try_from(power).ok()?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range"
    )]
    (0.0..1e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(size("50M"), Some(50 << 20));
        assert_eq!(size("1.5k"), Some(1536));
        assert_eq!(size("7b"), Some(7));
        for wrong in ["50", "", "M", "-1K", "1e30E"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        let options = [
            ("loop_rate", "0.5"),
            ("port", "x"),
            ("active", "True"),
            ("empty", " "),
        ];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let options = Options::new(options.into());
        assert_eq!(
            options.seconds("loop_rate", 60.0),
            Ok(Duration::from_millis(500))
        );
        assert_eq!(options.seconds("other", 60.0), Ok(Duration::from_secs(60)));
        assert!(options.parsed::<u16>("port").is_err());
        assert!(options.flag("active") && options.get("empty").is_none());
    }
}

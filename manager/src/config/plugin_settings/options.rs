//! Options of a plugin: text from its section, and how it is read.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::config::coerce;
use crate::config::ini::quoted;
use crate::config::model::SignalNumber;

/// Shortest period of a plugin; less would only keep the manager busy.
const PERIOD_MIN: Duration = Duration::from_millis(10);

/// All of them.
#[derive(Clone, Debug)]
pub struct PluginOptions(BTreeMap<String, String>);

/// An option that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// Which.
    pub key: &'static str,
    /// What is wrong with it, to be read behind its name.
    pub reason: String,
}

impl OptionError {
    pub(super) fn new(key: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { key, reason }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.reason)
    }
}

impl PluginOptions {
    /// As they are written.
    #[must_use]
    pub const fn new(options: BTreeMap<String, String>) -> Self {
        Self(options)
    }

    /// A text that is written and not empty.
    pub(super) fn get(&self, key: &'static str) -> Option<&str> {
        let text = self.0.get(key)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// A text with a default.
    pub(super) fn text<'a>(&'a self, key: &'static str, default: &'a str) -> &'a str {
        self.get(key).unwrap_or(default)
    }

    /// Anything that is written as text.
    pub(super) fn parsed<T: std::str::FromStr>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, OptionError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let parsed = text.parse();
        parsed.map(Some).map_err(|_| {
            OptionError::new(key, format!("is no number of its kind: {}", quoted(text)))
        })
    }

    /// A number with a default.
    pub(super) fn number(&self, key: &'static str, default: f64) -> Result<f64, OptionError> {
        match self.parsed(key)? {
            Some(number) if f64::is_finite(number) => Ok(number),
            Some(_) => Err(OptionError::new(key, "is no finite number")),
            None => Ok(default),
        }
    }

    /// Seconds with a default.
    pub(super) fn seconds(&self, key: &'static str, default: f64) -> Result<Duration, OptionError> {
        let seconds = self.number(key, default)?;
        let period = Duration::try_from_secs_f64(seconds)
            .map_err(|_| OptionError::new(key, format!("is no number of seconds: {seconds}")))?;
        Ok(period.max(PERIOD_MIN))
    }

    /// A signal, by number or name.
    pub(super) fn signal(&self, key: &'static str) -> Result<Option<i32>, OptionError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || OptionError::new(key, format!("is no signal: {}", quoted(text)));
        let signal = SignalNumber::parse(text).ok_or_else(wrong)?;
        Ok(Some(signal.0))
    }

    /// A flag that is off unless it is written otherwise.
    pub(super) fn flag(&self, key: &'static str) -> Result<bool, OptionError> {
        let Some(text) = self.get(key) else {
            return Ok(false);
        };
        let wrong = || OptionError::new(key, format!("is neither yes nor no: {}", quoted(text)));
        coerce::boolean(text).ok_or_else(wrong)
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
        let options = PluginOptions::new(options.into());
        assert_eq!(
            options.seconds("loop_rate", 60.0),
            Ok(Duration::from_millis(500))
        );
        assert_eq!(options.seconds("other", 60.0), Ok(Duration::from_secs(60)));
        assert!(options.parsed::<u16>("port").is_err());
        assert!(options.flag("active") == Ok(true) && options.get("empty").is_none());
    }
}

//! Text to booleans, numbers and octal masks, with Python's ideas of each (reference, section 5.5).

use std::time::Duration;

use super::ini::strip;
use super::limits;
use super::model::LimitValue;

/// `yes true on 1` or `no false off 0`, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match strip(text).to_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Python's `int()`: a sign, digits, single underscores between digits.
pub(super) fn integer(text: &str) -> Option<i64> {
    plain_number(strip(text))?.parse().ok()
}

/// Python's `float()`, without what is no number of seconds: NaN.
pub(super) fn float(text: &str) -> Option<f64> {
    let number: f64 = plain_number(strip(text))?.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

/// The text without the underscores that Python allows between two digits.
fn plain_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'_' && !(digit(at.checked_sub(1)) && digit(at.checked_add(1))) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

/// Seconds that are neither negative nor beyond [`limits::DURATION`].
pub(super) fn duration(seconds: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    (duration <= limits::DURATION).then_some(duration)
}

/// A number of bytes above 0, with `K`, `M` or `G` behind it for powers of 1024.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = strip(text);
    let text = text.strip_suffix(['B', 'b']).unwrap_or(text);
    let (number, factor) = match text.char_indices().next_back()? {
        (at, 'K' | 'k') => (&text[..at], 1_u64 << 10),
        (at, 'M' | 'm') => (&text[..at], 1 << 20),
        (at, 'G' | 'g') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number = u64::try_from(integer(number)?).ok()?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0)
}

/// A resource limit. Nothing and -1 (what Python calls `RLIM_INFINITY`) are no limit, as in Circus; so are the words that
/// shells and systemd have for it.
pub(super) fn limit(text: &str) -> Option<LimitValue> {
    let text = strip(text);
    let words = ["", "-1", "unlimited", "infinity"];
    if words.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some(LimitValue::Infinity);
    }
    let number = plain_number(text)?.parse().ok()?;
    Some(match number {
        u64::MAX => LimitValue::Infinity,
        number => LimitValue::Limit(number),
    })
}

/// A mask in octal digits, as Python's `int(text, 8)` reads it.
pub(super) fn octal(text: &str) -> Option<u32> {
    let text = strip(text);
    let digits = text
        .strip_prefix("0o")
        .or_else(|| text.strip_prefix("0O"))
        .unwrap_or(text);
    if digits.starts_with(['+', '-']) {
        return None;
    }
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mask| *mask <= 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_four_words_each_and_nothing_else() {
        for text in ["yes", "TRUE", " On ", "1"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["no", "False", "OFF", "0"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["", "y", "2", "enabled", "yes."] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }

    #[test]
    fn integers_are_read_as_python_reads_them() {
        assert_eq!(integer(" +1_000\n"), Some(1000));
        assert_eq!(integer("-1"), Some(-1));
        assert_eq!(integer("007"), Some(7));
        for text in [
            "",
            "1.5",
            "1__0",
            "_1",
            "1_",
            "0x10",
            "three",
            "9999999999999999999",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn floats_are_read_as_python_reads_them() {
        assert_eq!(float("1e1"), Some(10.0));
        assert_eq!(float(" .5 "), Some(0.5));
        assert_eq!(float("1_0.2_5"), Some(10.25));
        assert_eq!(float("inf"), Some(f64::INFINITY));
        for text in ["", "nan", "1_.5", "1,5", "5s"] {
            assert_eq!(float(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_neither_negative_nor_endless() {
        assert_eq!(duration(0.25), Some(Duration::from_millis(250)));
        assert_eq!(duration(-0.1), None);
        assert_eq!(duration(f64::INFINITY), None);
        assert_eq!(duration(1e11), None);
    }

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(size("200M"), Some(200 << 20));
        assert_eq!(size("1 GB"), Some(1 << 30));
        assert_eq!(size("7"), Some(7));
        for text in ["", "0", "-1M", "M", "1.5G", "99999999999G"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn limits_are_numbers_or_none() {
        for text in ["", "-1", " Unlimited ", "INFINITY", "18446744073709551615"] {
            assert_eq!(limit(text), Some(LimitValue::Infinity), "{text}");
        }
        assert_eq!(limit("0"), Some(LimitValue::Limit(0)));
        assert_eq!(limit("1_024"), Some(LimitValue::Limit(1024)));
        for text in ["-2", "1.5", "none", "4k", "18446744073709551616"] {
            assert_eq!(limit(text), None, "{text}");
        }
    }

    #[test]
    fn masks_are_octal() {
        assert_eq!(octal("022"), Some(0o22));
        assert_eq!(octal("0o77"), Some(0o77));
        for text in ["", "8", "1000", "-1", "+2"] {
            assert_eq!(octal(text), None, "{text}");
        }
    }
}

//! How a unit looks in a sink, frozen by number: a batch that was begun by an older manager must be
//! composed again byte for byte by a newer one. A new rendering is a new version; old ones stay.
//!
//! Must not know about clocks or time zones: the offset is part of the format.

use std::fmt::Write as _;

/// Version of the renderings below.
pub const FORMATTER_VERSION: u8 = 1;

/// What a sink makes of a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// The line as it is.
    Raw,
    /// `<time> [<pid>] | ` before each line, the time by this `strftime` pattern.
    Prefixed(String),
    /// An object of JSON for each line.
    Json,
    /// As `Prefixed`, in a colour (0 to 7, as terminals number them) on black.
    Colored(u8, String),
    /// A line's circumstances and then the line, for whoever makes messages of them: see
    /// [`Labelled`](super::render::Labelled).
    Labelled,
}

/// A style at a time zone's offset: everything that decides about bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// See [`FORMATTER_VERSION`]. Another number cannot be rendered, only recognised by its hash.
    pub version: u8,
    /// What the line is made into.
    pub style: Style,
    /// Seconds east of Greenwich.
    pub offset_seconds: i32,
    /// The zone's abbreviation, for `%Z`.
    pub zone: String,
}

impl Format {
    /// A style in Greenwich.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self {
            version: FORMATTER_VERSION,
            style,
            offset_seconds: 0,
            zone: "UTC".to_owned(),
        }
    }
}

/// Renders prefixes, the time once per second rather than once per line.
#[derive(Debug)]
pub struct Stamper {
    format: Format,
    second: Option<u64>,
    text: String,
    by_fraction: bool,
}

impl Stamper {
    /// For one format.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let by_fraction = pattern(&format.style).is_some_and(|pattern| pattern.contains("%f"));
        Self {
            format,
            second: None,
            text: String::new(),
            by_fraction,
        }
    }

    /// What it renders.
    #[must_use]
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// From now on with another offset.
    pub fn set_zone(&mut self, offset_seconds: i32, zone: String) {
        self.format.offset_seconds = offset_seconds;
        self.format.zone = zone;
        self.second = None;
    }

    /// The format as it is now.
    #[must_use]
    pub fn into_format(self) -> Format {
        self.format
    }

    /// The time of a line that was completed at `time_ns`, by the style's pattern; empty for styles
    /// without one. JSON has its seconds only.
    pub fn time(&mut self, time_ns: u64) -> &str {
        if let Some(pattern) = pattern(&self.format.style) {
            let second = time_ns / 1_000_000_000;
            if self.second != Some(second) || self.by_fraction {
                self.second = Some(second);
                self.text.clear();
                strftime(&mut self.text, pattern, time_ns, &self.format);
            }
        }
        &self.text
    }
}

/// How a style writes times.
fn pattern(style: &Style) -> Option<&str> {
    match style {
        Style::Raw | Style::Labelled => None,
        Style::Prefixed(pattern) | Style::Colored(_, pattern) => Some(pattern),
        Style::Json => Some("%Y-%m-%dT%H:%M:%S"),
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment taken apart.
struct Civil {
    year: i64,
    month: usize,
    day: u64,
    yearday: u64,
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

fn civil(seconds: i64) -> Civil {
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400) as u64;
    // Days to year, month, day in the proleptic Gregorian calendar, counted in eras of 400 years
    // that begin on 1 March, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * month_shifted + 2) / 5 + 1) as u64;
    let month = if month_shifted < 10 {
        month_shifted + 2
    } else {
        month_shifted - 10
    } as usize;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month];
    let yearday = before + day + u64::from(leap && month > 1);
    Civil {
        year,
        month,
        day,
        yearday,
        weekday: (days + 4).rem_euclid(7) as u64,
        hour: of_day / 3600,
        minute: of_day / 60 % 60,
        second: of_day % 60,
    }
}

/// The conversions of C's `strftime` in the C locale, and Python's `%f` (microseconds). What is not
/// known is left as it stands.
pub(super) fn strftime(out: &mut String, pattern: &str, time_ns: u64, format: &Format) {
    let seconds = (time_ns / 1_000_000_000) as i64;
    let t = civil(seconds + i64::from(format.offset_seconds));
    let mut rest = pattern.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let conversion = rest.next();
        // Writing to a string cannot fail.
        let _ = match conversion {
            Some('Y') => write!(out, "{}", t.year),
            Some('C') => write!(out, "{:02}", t.year.div_euclid(100)),
            Some('y') => write!(out, "{:02}", t.year.rem_euclid(100)),
            Some('m') => write!(out, "{:02}", t.month + 1),
            Some('d') => write!(out, "{:02}", t.day),
            Some('e') => write!(out, "{:2}", t.day),
            Some('H') => write!(out, "{:02}", t.hour),
            Some('k') => write!(out, "{:2}", t.hour),
            Some('I') => write!(out, "{:02}", (t.hour + 11) % 12 + 1),
            Some('l') => write!(out, "{:2}", (t.hour + 11) % 12 + 1),
            Some('M') => write!(out, "{:02}", t.minute),
            Some('S') => write!(out, "{:02}", t.second),
            Some('f') => write!(out, "{:06}", time_ns % 1_000_000_000 / 1000),
            Some('j') => write!(out, "{:03}", t.yearday),
            Some('p') => write!(out, "{}", if t.hour < 12 { "AM" } else { "PM" }),
            Some('P') => write!(out, "{}", if t.hour < 12 { "am" } else { "pm" }),
            Some('A') => write!(out, "{}", DAYS[t.weekday as usize % 7]),
            Some('a') => write!(out, "{}", &DAYS[t.weekday as usize % 7][..3]),
            Some('B') => write!(out, "{}", MONTHS[t.month]),
            Some('b' | 'h') => write!(out, "{}", &MONTHS[t.month][..3]),
            Some('u') => write!(out, "{}", (t.weekday + 6) % 7 + 1),
            Some('w') => write!(out, "{}", t.weekday),
            Some('U') => write!(out, "{:02}", (t.yearday + 6 - t.weekday) / 7),
            Some('W') => write!(out, "{:02}", (t.yearday + 6 - (t.weekday + 6) % 7) / 7),
            Some('s') => write!(out, "{seconds}"),
            Some('z') => {
                let sign = if format.offset_seconds < 0 { '-' } else { '+' };
                let minutes = format.offset_seconds.unsigned_abs() / 60;
                write!(out, "{sign}{:02}{:02}", minutes / 60, minutes % 60)
            }
            Some('Z') => write!(out, "{}", format.zone),
            Some('n') => write!(out, " "),
            Some('t') => write!(out, "\t"),
            Some('%') => write!(out, "%"),
            Some(composite) => {
                let longer = match composite {
                    'F' => "%Y-%m-%d",
                    'T' | 'X' => "%H:%M:%S",
                    'R' => "%H:%M",
                    'r' => "%I:%M:%S %p",
                    'D' | 'x' => "%m/%d/%y",
                    'c' => "%a %b %e %H:%M:%S %Y",
                    _ => "",
                };
                if longer.is_empty() {
                    write!(out, "%{composite}")
                } else {
                    strftime(out, longer, time_ns, format);
                    Ok(())
                }
            }
            None => write!(out, "%"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(pattern: &str, seconds: u64, offset_seconds: i32) -> String {
        let style = Style::Prefixed(pattern.to_owned());
        let format = Format {
            offset_seconds,
            zone: "CET".to_owned(),
            ..Format::new(style)
        };
        Stamper::new(format)
            .time(seconds * 1_000_000_000 + 123_456_789)
            .to_owned()
    }

    #[test]
    fn times_look_as_in_circus() {
        assert_eq!(
            render("%Y-%m-%d %H:%M:%S", 1_795_228_350, 0),
            "2026-11-21 02:32:30"
        );
        assert_eq!(
            render("%F %T.%f %z %Z", 1_795_228_350, 3600),
            "2026-11-21 03:32:30.123456 +0100 CET"
        );
        assert_eq!(
            render("%a %A %b %B %j %U %W %u %w", 1_795_228_350, 0),
            "Sat Saturday Nov November 325 46 46 6 6"
        );
        assert_eq!(
            render("%I %p %y %% %q %", 1_795_228_350 + 12 * 3600, 0),
            "02 PM 26 % %q %"
        );
        assert_eq!(render("%F", 951_782_400, 0), "2000-02-29");
        assert_eq!(render("%F %j", 1_735_689_599, 0), "2024-12-31 366");
    }

    #[test]
    fn every_week_of_five_centuries_is_the_day_that_the_time_library_says() {
        let mut text = String::new();
        for day in (0..213_000_u64).step_by(7) {
            let seconds = day * 86_400 + day % 86_400;
            let there = jiff::Timestamp::from_second(seconds as i64).expect("in range");
            text.clear();
            let pattern = "%Y-%m-%d %H:%M:%S %j %a %U %W %u";
            strftime(
                &mut text,
                pattern,
                seconds * 1_000_000_000,
                &Format::new(Style::Raw),
            );
            assert_eq!(text, there.strftime(pattern).to_string());
        }
    }
}

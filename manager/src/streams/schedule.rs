//! Rotation by time: when, and what the old file is called. Units and names are Circus's.
//!
//! Nothing here is remembered: a deadline is a function of a moment, and a name one of a deadline.
//! Must not know about files.

use super::compose::Zone;
use super::format::{Format, Style, strftime};

/// Seconds in a day without a change of the clock.
const DAY: i64 = 86_400;

/// Which clock midnight is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clock {
    /// The local one.
    Local,
    /// Greenwich.
    Utc,
}

/// Circus's `rotate_when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// `S`
    Seconds,
    /// `M`
    Minutes,
    /// `H`
    Hours,
    /// `D`: so many times 24 hours after the file began.
    Days,
    /// `MIDNIGHT`
    Midnight,
    /// `W0` (Monday) to `W6`: the midnight that ends this day of the week.
    Weekday(u8),
}

impl Unit {
    /// From `rotate_when` in upper case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "S" => Self::Seconds,
            "M" => Self::Minutes,
            "H" => Self::Hours,
            "D" => Self::Days,
            "MIDNIGHT" => Self::Midnight,
            _ => {
                let day = name.strip_prefix('W')?.parse().ok();
                Self::Weekday(day.filter(|day| *day <= 6)?)
            }
        })
    }

    const fn seconds(self) -> i64 {
        match self {
            Self::Seconds => 1,
            Self::Minutes => 60,
            Self::Hours => 3600,
            Self::Days | Self::Midnight => DAY,
            Self::Weekday(_) => 7 * DAY,
        }
    }

    const fn pattern(self) -> &'static str {
        match self {
            Self::Seconds => "%Y%m%d%H%M%S",
            Self::Minutes => "%Y%m%d%H%M",
            Self::Hours => "%Y%m%d%H",
            Self::Days | Self::Midnight | Self::Weekday(_) => "%Y%m%d",
        }
    }
}

/// When a file is moved out of the way, and how many old ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Schedule {
    /// What is counted.
    pub unit: Unit,
    /// How many of them; at least one.
    pub count: u32,
    /// Whose midnight, and whose time in names.
    pub clock: Clock,
    /// How many old files are kept; 0 for all.
    pub keep: u32,
}

impl Schedule {
    fn interval(&self) -> i64 {
        self.unit.seconds() * i64::from(self.count.max(1))
    }

    fn offset(&self, second: i64, zone: &mut dyn Zone) -> i64 {
        match self.clock {
            Clock::Utc => 0,
            Clock::Local => i64::from(zone.at(second.max(0).cast_unsigned()).0),
        }
    }

    /// The first deadline behind a moment; both in nanoseconds since 1970.
    #[must_use]
    pub fn next(&self, time_ns: u64, zone: &mut dyn Zone) -> i64 {
        let second = (time_ns / 1_000_000_000).cast_signed();
        let days_until = |local: i64| match self.unit {
            Unit::Seconds | Unit::Minutes | Unit::Hours | Unit::Days => None,
            Unit::Midnight => Some(i64::from(self.count.max(1))),
            Unit::Weekday(day) => {
                // 1970 began on a Thursday, which is 3.
                let today = (local.div_euclid(DAY) + 3).rem_euclid(7);
                let wait = (i64::from(day) - today).rem_euclid(7) + 1;
                Some(wait + 7 * (i64::from(self.count.max(1)) - 1))
            }
        };
        let offset = self.offset(second, zone);
        let local = second + offset;
        let deadline = match days_until(local) {
            None => second + self.interval(),
            Some(days) => {
                let midnight = (local.div_euclid(DAY) + days) * DAY;
                let there = self.offset(midnight - offset, zone);
                (midnight - there).max(second + 1)
            }
        };
        deadline.saturating_mul(1_000_000_000)
    }

    /// Whether a deadline lies further ahead than this schedule can have put it: the clock was
    /// wrong, or the schedule was another one.
    #[must_use]
    pub fn is_beyond(&self, deadline_ns: i64, time_ns: u64) -> bool {
        let slack = match self.unit {
            Unit::Seconds | Unit::Minutes | Unit::Hours | Unit::Days => 1,
            Unit::Midnight | Unit::Weekday(_) => DAY,
        };
        let second = (time_ns / 1_000_000_000).cast_signed();
        deadline_ns / 1_000_000_000 > second + self.interval() + slack
    }

    /// What stands behind the dot in the name of the file that a deadline ended: when it began.
    #[must_use]
    pub fn suffix(&self, deadline_ns: i64, zone: &mut dyn Zone) -> String {
        let deadline = deadline_ns.div_euclid(1_000_000_000);
        let local = match self.unit {
            // A day may have 23 hours; its date is found on the calendar.
            Unit::Midnight | Unit::Weekday(_) => {
                deadline + self.offset(deadline, zone) - self.interval()
            }
            Unit::Seconds | Unit::Minutes | Unit::Hours | Unit::Days => {
                let begun = deadline - self.interval();
                begun + self.offset(begun, zone)
            }
        };
        let mut name = String::new();
        let time_ns = local.max(0).cast_unsigned().saturating_mul(1_000_000_000);
        let utc = Format::new(Style::Raw);
        strftime(&mut name, self.unit.pattern(), time_ns, &utc);
        name
    }

    /// The order of old files by the part of their names behind `base.`: its time, and its number
    /// if the time was taken. `None` for what is none of ours.
    #[must_use]
    pub fn order<'n>(&self, behind: &'n str) -> Option<(&'n str, u32)> {
        let (time, number) = match behind.split_once('.') {
            Some((time, number)) => (time, number.parse().ok().filter(|n| *n > 0)?),
            None => (behind, 0),
        };
        let digits = self.unit.pattern().replace("%Y", "9999");
        let length = digits.replace(|letter: char| !letter.is_ascii_digit() && letter != '%', "");
        let length = length.replace('%', "99").len();
        let ours = time.len() == length && time.bytes().all(|byte| byte.is_ascii_digit());
        ours.then_some((time, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Berlin around the last weekend of March 2026, when a day had 23 hours.
    struct Berlin;

    impl Zone for Berlin {
        fn at(&mut self, second: u64) -> (i32, String) {
            let summer = (1_774_746_000..1_792_890_000).contains(&second);
            if summer {
                (7200, "CEST".into())
            } else {
                (3600, "CET".into())
            }
        }
    }

    fn schedule(unit: Unit, count: u32, clock: Clock) -> Schedule {
        Schedule {
            unit,
            count,
            clock,
            keep: 0,
        }
    }

    /// Deadline and name as seconds and text.
    fn run(unit: Unit, count: u32, clock: Clock, second: u64) -> (i64, String) {
        let schedule = schedule(unit, count, clock);
        let deadline = schedule.next(second * 1_000_000_000 + 5, &mut Berlin);
        (
            deadline / 1_000_000_000,
            schedule.suffix(deadline, &mut Berlin),
        )
    }

    #[test]
    fn deadlines_and_names_are_those_of_circus() {
        // 2026-11-21 02:32:30 UTC, a Saturday; computed by Circus 0.17.2's class with
        // TZ=Europe/Berlin. Its weekly deadlines lie in the past, or a week too late, unless the day
        // is still to come this week (W6); the others are those of Python's own handler.
        let now = 1_795_228_350;
        assert_eq!(
            run(Unit::Seconds, 5, Clock::Utc, now),
            (now as i64 + 5, "20261121023230".into())
        );
        assert_eq!(
            run(Unit::Minutes, 1, Clock::Local, now),
            (now as i64 + 60, "202611210332".into())
        );
        assert_eq!(
            run(Unit::Hours, 1, Clock::Utc, now),
            (now as i64 + 3600, "2026112102".into())
        );
        assert_eq!(
            run(Unit::Days, 1, Clock::Local, now),
            (now as i64 + 86_400, "20261121".into())
        );
        assert_eq!(
            run(Unit::Midnight, 1, Clock::Utc, now),
            (1_795_305_600, "20261121".into())
        );
        assert_eq!(
            run(Unit::Midnight, 1, Clock::Local, now),
            (1_795_302_000, "20261121".into())
        );
        for (day, midnight, name) in [
            (0, 1_795_474_800, "20261117"),
            (4, 1_795_820_400, "20261121"),
            (5, 1_795_302_000, "20261115"),
            (6, 1_795_388_400, "20261116"),
        ] {
            assert_eq!(
                run(Unit::Weekday(day), 1, Clock::Local, now),
                (midnight, name.into()),
                "W{day}"
            );
        }
    }

    #[test]
    fn a_short_day_ends_at_its_midnight_and_keeps_its_date() {
        // 2026-03-29 12:00 local: the day began at 23:00 UTC and lasts 23 hours.
        let noon = 1_774_778_400;
        assert_eq!(
            run(Unit::Midnight, 1, Clock::Local, noon),
            (1_774_821_600, "20260329".into())
        );
        assert_eq!(
            run(Unit::Midnight, 1, Clock::Local, 1_774_740_000),
            (1_774_821_600, "20260329".into())
        );
    }

    #[test]
    fn only_names_of_the_right_length_are_old_files() {
        let hours = schedule(Unit::Hours, 1, Clock::Utc);
        assert_eq!(hours.order("2026112102"), Some(("2026112102", 0)));
        assert_eq!(hours.order("2026112102.3"), Some(("2026112102", 3)));
        for other in [
            "20261121",
            "2026112102.gz",
            "2026112102.0",
            "1",
            "",
            "202611210x",
        ] {
            assert_eq!(hours.order(other), None, "{other}");
        }
        assert!(
            schedule(Unit::Seconds, 1, Clock::Utc)
                .order("20261121023230")
                .is_some()
        );
    }

    #[test]
    fn a_deadline_that_the_schedule_cannot_have_set_is_noticed() {
        let hours = schedule(Unit::Hours, 1, Clock::Utc);
        let now = 1_795_228_350_000_000_000;
        assert!(!hours.is_beyond(hours.next(now, &mut Berlin), now));
        assert!(hours.is_beyond(hours.next(now, &mut Berlin), now - 10_000_000_000));
        assert!(hours.is_beyond(
            schedule(Unit::Midnight, 1, Clock::Utc).next(now, &mut Berlin),
            now
        ));
    }
}

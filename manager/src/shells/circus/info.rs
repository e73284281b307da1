//! What a process uses, in Circus's form (its section 12), which circus-top and plugins read.

use super::json::Tree;
use crate::command::ProcessInfo;

/// One process with its direct children.
pub(super) fn info(info: &ProcessInfo) -> Vec<(String, Tree)> {
    let children = info
        .children
        .iter()
        .map(|child| Tree::Object(self::info(child)));
    let children = Tree::List(children.collect());
    let fields: [(&str, Tree); 12] = [
        ("mem_info1", bytes(info.resident_bytes).into()),
        ("mem_info2", bytes(info.virtual_bytes).into()),
        ("cpu", info.cpu.into()),
        ("mem", info.mem.into()),
        ("ctime", cpu_time(info.cpu_seconds).into()),
        ("pid", info.pid.into()),
        ("username", info.username.clone().into()),
        ("nice", info.nice.into()),
        ("create_time", info.create_time.into()),
        ("age", info.age.into()),
        ("cmdline", info.cmdline.clone().into()),
        ("children", children),
    ];
    fields
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// `1.45M`; below a kilobyte `512B`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or('K');
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

/// `M:SS.x`, where `x` is what Circus makes of the fraction: the first two digits of the number of
/// microseconds, so 5 milliseconds end in `.50` and half a second too.
fn cpu_time(seconds: f64) -> String {
    let micros = (seconds.max(0.0) * 1e6).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and no process has used 500,000 years"
    )]
    let micros = micros as u64;
    let seconds = micros / 1_000_000;
    let fraction = (micros % 1_000_000).to_string();
    let digits = fraction.get(..2).unwrap_or(&fraction);
    format!("{}:{:02}.{digits}", seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_circus_writes_them() {
        for (number, shown) in [
            (512, "512B"),
            (1024, "1.00K"),
            (1_457_520, "1.39M"),
            (1_520_435, "1.45M"),
            (121_802_588, "116.16M"),
            (5 << 40, "5.00T"),
            (u64::MAX, "16.00E"),
        ] {
            assert_eq!(bytes(number), shown);
        }
        for (seconds, shown) in [
            (0.0, "0:00.0"),
            (0.005, "0:00.50"),
            (0.4, "0:00.40"),
            (61.25, "1:01.25"),
            (3725.0, "2:05.0"),
        ] {
            assert_eq!(cpu_time(seconds), shown);
        }
    }
}

//! The local time zone, for times in log files.

use crate::streams::compose::Zone;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The system's zone (`TZ`, else `/etc/localtime`), as it was when the manager began.
#[derive(Debug)]
pub struct LocalZone(TimeZone);

impl LocalZone {
    /// Reads it.
    #[must_use]
    pub fn system() -> Self {
        Self(TimeZone::system())
    }
}

impl Zone for LocalZone {
    fn at(&mut self, second: u64) -> (i32, String) {
        let timestamp = i64::try_from(second)
            .ok()
            .and_then(|s| Timestamp::from_second(s).ok());
        let info = self
            .0
            .to_offset_info(timestamp.unwrap_or(Timestamp::UNIX_EPOCH));
        (info.offset().seconds(), info.abbreviation().to_owned())
    }
}

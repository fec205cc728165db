//! Reads the clock for deadlines, and formats the time for the field `Date` and for people.
//!
//! Documents: RFC 9110 section 5.6.7 (`Date`), RFC 3339 (the log, and an image's `created`).
//!
//! The event loop reads the clock once after each poll, and passes the time to the code that it calls, so that a test
//! can choose the time for that code.
//!
//! Deliberately absent: time zones, leap seconds, and fractions of a second.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The last second that RFC 3339 can express: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// The creation time in the image, in seconds since the epoch: the time that was set at build time, and otherwise 0
/// (see <https://reproducible-builds.org/specs/source-date-epoch/>).
pub const BUILT: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    None => 0,
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) if seconds <= LAST => seconds,
        Ok(_) => {
            panic!("SOURCE_DATE_EPOCH must not be after the year 9999: no client could read the image's date")
        }
        Err(_) => panic!("SOURCE_DATE_EPOCH must be a number of seconds"),
    },
};

/// The time of the last reading, for deadlines, for people and for `Date`.
pub struct Clock {
    /// The time of the monotonic clock, for deadlines.
    pub now: Instant,
    /// The seconds since the epoch.
    pub unix: u64,
    /// The time in the form `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub http_date: String,
    /// The time in the form `1994-11-06T08:49:37Z`.
    pub rfc3339: String,
}

impl Clock {
    pub fn start() -> Self {
        Self::at(Instant::now(), since_epoch())
    }

    /// Returns a clock that shows these times: `now` for deadlines, and `since_epoch` for the calendar.
    pub fn at(now: Instant, since_epoch: Duration) -> Self {
        let unix = since_epoch.as_secs();
        Self { now, unix, http_date: http_date(unix), rfc3339: rfc3339(unix) }
    }

    /// Reads the clock again, and formats the dates if the second has changed.
    pub fn tick(&mut self) {
        let since_epoch = since_epoch();
        if since_epoch.as_secs() == self.unix {
            self.now = Instant::now();
        } else {
            *self = Self::at(Instant::now(), since_epoch);
        }
    }
}

/// Returns the time since the epoch. An earlier time counts as the epoch, because the clock of a machine without a
/// battery may be set to 1969.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Formats a time in seconds since the epoch (RFC 3339).
pub fn rfc3339(unix: u64) -> String {
    let Date { year, month, day, hour, minute, second, .. } = date(unix);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn http_date(unix: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let Date { year, month, day, weekday, hour, minute, second } = date(unix);
    let (weekday, month) = (WEEKDAYS[weekday], MONTHS[month - 1]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

struct Date {
    year: u64,
    month: usize,
    day: usize,
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Returns the Gregorian date (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"). Years are counted from
/// March, so that a leap day is the last day of its year, and are grouped into eras of 400 years, which all have the
/// same number of days.
fn date(unix: u64) -> Date {
    const DAYS_PER_ERA: u64 = 146_097;
    const DAYS_BEFORE_EPOCH: u64 = 719_468; // from the first of March of the year 0
    let days = unix / 86_400 + DAYS_BEFORE_EPOCH;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, months of 31 and 30 days alternate so that each group of five months has 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as usize;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    // The first of March of the year 0 was a Wednesday.
    let (weekday, hour, minute, second) = (((days + 3) % 7) as usize, unix / 3600 % 24, unix / 60 % 60, unix % 60);
    Date { year, month: month as usize, day, weekday, hour, minute, second }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @N` prints them.
        for (unix, http, iso) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00Z"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT", "2000-03-01T00:00:00Z"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT", "2024-12-31T23:59:59Z"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT", "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(http_date(unix), http);
            assert_eq!(rfc3339(unix), iso);
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let days_of = |year: u64, month| match month {
            4 | 6 | 9 | 11 => 30,
            2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
            2 => 28,
            _ => 31,
        };
        let mut yesterday = date(0);
        for day in 1..146_097 {
            let today = date(day * 86_400);
            let Date { year, month, day, .. } = yesterday;
            let expected = match (month, day == days_of(year, month)) {
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
                (_, false) => (year, month, day + 1),
            };
            assert_eq!((today.year, today.month, today.day), expected);
            assert_eq!(today.weekday, (yesterday.weekday + 1) % 7);
            yesterday = today;
        }
    }
}

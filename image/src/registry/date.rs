//! Dates as HTTP writes them (RFC 9110, 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that is still sent.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `None` for what is no date, and for what is before 1970.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else {
        return None;
    };
    let number =
        |text: &str, limit: u64| text.parse::<u64>().ok().filter(|number| *number <= limit);
    let day = number(day, 31)?;
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let year = number(year, 9999)?;
    let mut clock = time.split(':');
    let hours = number(clock.next()?, 23)?;
    let minutes = number(clock.next()?, 59)?;
    let seconds = number(clock.next()?, 60)?;
    if year < 1970 || day == 0 || clock.next().is_some() {
        return None;
    }
    // Years that begin in March have their leap day last; 719 468 days lie between 1 March 0 and 1970.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days: u64 =
        year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let seconds = |text: &str| {
            let time = parse(text)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(time.as_secs())
        };
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            seconds("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        for text in [
            "",
            "120",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "x, 1 Foo 2000 1:1:1 GMT",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}

//! Sizes and times as Docker shows them.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};

/// `0B`, `4.27kB`, `123MB`: three digits that count, powers of 1000.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be written as 1000 of the smaller unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        v if unit == 0 || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let mut number = format!("{value:.digits$}");
    if digits > 0 {
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{number}{}", UNITS.get(unit).copied().unwrap_or_default())
}

/// As [`size`] in powers of 1024: `1.5MiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        v if unit == 0 || v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let mut number = format!("{value:.digits$}");
    if digits > 0 {
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{number}{}", UNITS.get(unit).copied().unwrap_or_default())
}

/// `3 hours`, `About a minute`: how much time passed between two moments, in seconds.
pub(crate) fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// `3 hours ago`, or `N/A` where there is no time (or Go's zero time).
pub(crate) fn since(rfc3339: Option<&str>) -> String {
    match moment(rfc3339) {
        Some(then) => format!(
            "{} ago",
            duration(Timestamp::now().as_second() - then.as_second())
        ),
        None => "N/A".to_owned(),
    }
}

/// `2026-11-24 12:00:00 +0000 UTC`, or `N/A`.
pub(crate) fn at(rfc3339: Option<&str>) -> String {
    moment(rfc3339).map_or_else(
        || "N/A".to_owned(),
        |then| then.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
    )
}

/// `2026-11-24T12:00:00Z`, or nothing.
pub(crate) fn rfc3339(rfc3339: Option<&str>) -> String {
    moment(rfc3339).map_or_else(String::new, |then| {
        then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    })
}

fn moment(rfc3339: Option<&str>) -> Option<Timestamp> {
    rfc3339?.parse::<Timestamp>().ok().filter(|then| {
        then.as_second() > Timestamp::MIN.as_second()
            && !rfc3339.is_some_and(|text| text.starts_with("0001-01-01"))
    })
}

/// Reads a moment in the past as Docker's `until=` filters do: `24h`, a Unix time, RFC 3339, or a date with or without a
/// time. Unix seconds.
pub(crate) fn until(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(seconds);
    }
    if let Ok(then) = text.parse::<Timestamp>() {
        return Some(then.as_second());
    }
    // Docker takes the client's zone; here it is UTC, as everywhere.
    if let Ok(then) = text.parse::<DateTime>() {
        return then
            .to_zoned(TimeZone::UTC)
            .ok()
            .map(|then| then.timestamp().as_second());
    }
    if let Some((whole, parts)) = text.split_once('.')
        && parts.bytes().all(|digit| digit.is_ascii_digit())
    {
        return whole.parse().ok();
    }
    seconds(text).map(|ago| Timestamp::now().as_second() - ago)
}

/// Reads a duration: `90m`, `24h`, `30d`, `1h30m`. In seconds.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    (!duration.is_negative()).then_some(duration.as_secs())
}

/// As [`until`], as containers write moments down: RFC 3339 with nine digits after the point.
pub(crate) fn moment_or_duration(flag: &str, text: &str) -> crate::error::Result<String> {
    let exact = text.parse::<Timestamp>().ok();
    let moment = exact.or_else(|| Timestamp::from_second(until(text)?).ok());
    match moment {
        Some(moment) => Ok(format!("{moment:.9}")),
        None => Err(
            crate::error::Error::usage(format!("{flag} `{text}`: not a time"))
                .help("it is `10m`, `2026-01-31`, `2026-01-31T12:00:00Z` or a Unix time"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4274, "4.27kB"),
            (42_740, "42.7kB"),
            (427_400, "427kB"),
            (999_499, "999kB"),
            (999_500, "1MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_are_rough() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (86_400, "24 hours"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (100 * 86_400, "3 months"),
            (1000 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(since(None), "N/A");
        assert_eq!(since(Some("0001-01-01T00:00:00Z")), "N/A");
        assert_eq!(
            at(Some("2026-11-24T12:00:00.5+01:00")),
            "2026-11-24 11:00:00 +0000 UTC"
        );
    }

    #[test]
    fn until_takes_three_forms() {
        assert_eq!(until("1700000000"), Some(1_700_000_000));
        assert_eq!(until("1970-01-01T00:01:00Z"), Some(60));
        let day = Timestamp::now().as_second() - until("24h").unwrap();
        assert!((86_399..=86_401).contains(&day), "{day}");
        assert_eq!(until("1970-01-02"), Some(86_400));
        assert_eq!(until("1970-01-01T00:01:00"), Some(60));
        assert_eq!(until("90.5"), Some(90));
        assert_eq!(until("yesterday"), None);
    }
}

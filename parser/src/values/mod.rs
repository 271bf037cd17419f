//! What the arguments of instructions mean once they are expanded: durations, ports, signals, sizes. Pure functions
//! for whoever builds; nothing here knows variables. Modes, owners and checksums are read where files are copied.

mod ports;

pub use ports::parse_port_spec;

use std::time::Duration;

/// A value that cannot be understood, as a sentence about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    pub message: String,
}

impl ValueError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// Nanoseconds in each unit of Go's duration syntax; longer names first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `-2ms`, `0`. Returns nanoseconds, which may be negative.
pub fn parse_duration(text: &str) -> Result<i64, ValueError> {
    let invalid = || ValueError::new(format!("`{text}` is no duration"));
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if body == "0" {
        return Ok(0);
    }
    if body.is_empty() {
        return Err(invalid());
    }
    let mut rest = body;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_length = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_length);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_length = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_length);
        if unit.is_empty() {
            return Err(ValueError::new(format!("`{text}` has no unit")));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(ValueError::new(format!(
                "`{text}` has the unknown unit `{unit}`"
            )));
        };
        let amount = amount(whole, fraction, *scale).and_then(|amount| total.checked_add(amount));
        total =
            amount.ok_or_else(|| ValueError::new(format!("`{text}` is too long a duration")))?;
        rest = tail;
    }
    let too_long = || ValueError::new(format!("`{text}` is too long a duration"));
    let total = i64::try_from(total).map_err(|_| too_long())?;
    Ok(if negative { -total } else { total })
}

fn amount(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut amount = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        // Digits below a tenth of the last place that matters come to nothing.
        let value = u64::from(digit - b'0');
        amount =
            amount.checked_add(u64::try_from(u128::from(place) * u128::from(value) / 10).ok()?)?;
        place /= 10;
    }
    Some(amount)
}

/// An interval of HEALTHCHECK: a duration of at least a millisecond; zero stands for the default.
pub fn parse_check_interval(text: &str) -> Result<Duration, ValueError> {
    let nanoseconds = parse_duration(text)?;
    if nanoseconds != 0 && nanoseconds < 1_000_000 {
        return Err(ValueError::new(format!(
            "the interval `{text}` is less than 1ms"
        )));
    }
    Ok(Duration::from_nanos(nanoseconds.unsigned_abs()))
}

/// Linux's signals on amd64 and arm64, with the older names that Docker knows.
const SIGNALS: [(&str, i32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", 34),
];

const LAST_SIGNAL: i32 = 64;

/// Reads a signal by name, with or without `SIG`, in any case, or by number. `RTMIN+1` … `RTMAX-14`, `RTMAX` too.
pub fn validate_signal(text: &str) -> Result<i32, ValueError> {
    let invalid = || ValueError::new(format!("`{text}` is no signal"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=LAST_SIGNAL).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let real_time = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(above), _) => above
            .parse()
            .ok()
            .filter(|above| (1..=15).contains(above))
            .map(|above: i32| 34 + above),
        (_, Some(below)) => below
            .parse()
            .ok()
            .filter(|below| (1..=14).contains(below))
            .map(|below: i32| 64 - below),
        _ => (name == "RTMAX").then_some(LAST_SIGNAL),
    };
    real_time.ok_or_else(invalid)
}

/// The signal whose name a mistyped one is most like, without `SIG`.
pub fn nearest_signal(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    crate::suggest::nearest(name, SIGNALS.iter().map(|(known, _)| *known))
}

/// Reads a size like `64m`, `1.5GiB`, `512 kb`: binary multiples, the unit's case and a final `b` of no account.
pub fn parse_bytes(text: &str) -> Result<u64, ValueError> {
    let invalid = || {
        ValueError::new(format!(
            "`{text}` is no size; sizes are written like 64m or 1g"
        ))
    };
    let number_length = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_length);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit
        .strip_suffix('i')
        .filter(|unit| !unit.is_empty())
        .unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(invalid()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return Err(invalid());
    }
    amount(whole, fraction, 1 << shift)
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(invalid)
}

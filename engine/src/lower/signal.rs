//! Names of Linux signals, as STOPSIGNAL accepts them: `SIGTERM`, `term`, `15`, `RTMIN+3`.

/// Returns the signal's number, or `None` where there is no such signal.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (number != 0).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(position) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(position + 1).ok();
    }
    match name {
        "CLD" => Some(17),
        "IOT" => Some(6),
        "POLL" => Some(29),
        "UNUSED" => Some(31),
        "RTMIN" => Some(REALTIME_MIN),
        "RTMAX" => Some(REALTIME_MAX),
        _ => {
            let (start, sign, offset) = name
                .strip_prefix("RTMIN+")
                .map(|offset| (REALTIME_MIN, 1, offset))
                .or_else(|| name.strip_prefix("RTMAX-").map(|offset| (REALTIME_MAX, -1, offset)))?;
            let offset: i32 = offset.parse().ok().filter(|offset| (1..=15).contains(offset))?;
            Some(start + sign * offset)
        }
    }
}

const REALTIME_MIN: i32 = 34;
const REALTIME_MAX: i32 = 64;

/// In the order of their numbers, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals() {
        for (text, expected) in [
            ("SIGKILL", Some(9)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGQUIT", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-15", Some(49)),
            ("0", None),
            ("SIGFOO", None),
            ("RTMIN+-1", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}

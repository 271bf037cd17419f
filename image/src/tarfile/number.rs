//! Numbers in tar headers: octal text, or base 256 where the first bit is set.

/// Reads a numeric field; `None` if it is not a number or does not fit. An empty field is zero.
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field
        .iter()
        .position(|byte| !matches!(byte, b' ' | 0))
        .unwrap_or(field.len());
    let field = field.get(start..)?;
    let end = field
        .iter()
        .position(|byte| matches!(byte, b' ' | 0))
        .unwrap_or(field.len());
    let mut value: i64 = 0;
    for byte in field.get(..end)? {
        if !matches!(byte, b'0'..=b'7') {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?;
    }
    Some(value)
}

/// Two's complement, most significant byte first; the very first bit is a mark and repeats the sign.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field.first()? & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, byte) in field.iter().enumerate() {
        let byte = if i == 0 && !negative {
            byte & 0x7f
        } else {
            *byte
        };
        value = (value << 8) | i128::from(byte);
        if i128::from(i64::MAX) < value || value < i128::from(i64::MIN) {
            return None;
        }
    }
    i64::try_from(value).ok()
}

/// Decimal digits and nothing else, as in PAX records.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A PAX time: seconds since 1970, possibly negative, possibly with a fraction; beyond nanoseconds cut off.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds: u32 = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digits = fraction.iter().copied().chain(std::iter::repeat(b'0'));
        for digit in digits.take(9) {
            nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
        }
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => ((-seconds).checked_sub(1)?, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields() {
        let table: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"    ", Some(0)),
            (b"00000000012 ", Some(10)),
            (b"-0000512", None),
            (b"9", None),
            (b"12x", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x05", Some(5)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\0",
                Some(-512),
            ),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (b"777777777777", Some(0o777_777_777_777)),
        ];
        for (field, value) in table {
            assert_eq!(parse(field), *value, "{field:?}");
        }
    }

    #[test]
    fn times() {
        type Case<'a> = (&'a [u8], Option<(i64, u32)>);
        let table: &[Case<'_>] = &[
            (b"1", Some((1, 0))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.1234567899", Some((1, 123_456_789))),
            (b"-1.5", Some((-2, 500_000_000))),
            (b"-1", Some((-1, 0))),
            (b"", None),
            (b".5", None),
            (b"1.x", None),
            (b"99999999999999999999", None),
        ];
        for (text, value) in table {
            assert_eq!(time(text), *value, "{text:?}");
        }
    }
}

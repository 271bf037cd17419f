//! The functions that templates may call, and how values are written.

use serde_json::Value;

pub(super) const FUNCTIONS: [&str; 23] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "len", "json",
    "join", "split", "lower", "upper", "title", "pad", "print", "println", "printf", "truncate",
];

/// As Go: empty things, zero and false are false.
pub(super) fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}

/// Calls a function by its name.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || {
        let given: Vec<String> = arguments.iter().map(display).collect();
        format!("`{name}` cannot be called with ({})", given.join(", "))
    };
    Ok(match (name, arguments) {
        ("and", [_, ..]) => chosen(arguments, false),
        ("or", [_, ..]) => chosen(arguments, true),
        ("not", [value]) => (!is_true(Some(value))).into(),
        ("eq", [first, others @ ..]) if !others.is_empty() => others.contains(first).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = match (a, b) {
                (Value::String(a), Value::String(b)) => a.cmp(b),
                _ => a
                    .as_f64()
                    .zip(b.as_f64())
                    .and_then(|(a, b)| a.partial_cmp(&b))
                    .ok_or_else(wrong)?,
            };
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        ("index", [value, path @ ..]) => {
            let empty = Value::String(String::new());
            let mut value = value;
            for key in path {
                value = match (value, key) {
                    (Value::Object(map), Value::String(key)) => {
                        // Of texts, as labels are, a missing one is an empty text.
                        let absent = match map.values().all(Value::is_string) {
                            true => &empty,
                            false => &Value::Null,
                        };
                        map.get(key).unwrap_or(absent)
                    }
                    (Value::Array(list), Value::Number(at)) => at
                        .as_u64()
                        .and_then(|at| list.get(usize::try_from(at).ok()?))
                        .ok_or_else(|| {
                            format!("the list has {} elements, not number {at}", list.len())
                        })?,
                    (Value::Null, Value::String(_)) => &empty,
                    (Value::Null, Value::Number(at)) => {
                        return Err(format!("there is no list to take number {at} of"));
                    }
                    _ => return Err(wrong()),
                };
            }
            value.clone()
        }
        ("slice", [Value::String(text), bounds @ ..]) => within(bounds, text.len())
            .and_then(|range| text.get(range))
            .ok_or_else(wrong)?
            .into(),
        ("slice", [Value::Array(list), bounds @ ..]) => within(bounds, list.len())
            .and_then(|range| list.get(range))
            .ok_or_else(wrong)?
            .into(),
        // `pad TEXT BEFORE AFTER`: nothing around what is empty.
        ("pad", [Value::String(text), before, after]) => {
            let spaces = |value: &Value| {
                value
                    .as_u64()
                    .map(|count| " ".repeat(count.min(1000) as usize))
            };
            match text.is_empty() {
                true => "".into(),
                false => spaces(before)
                    .zip(spaces(after))
                    .map(|(before, after)| format!("{before}{text}{after}"))
                    .ok_or_else(wrong)?
                    .into(),
            }
        }
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Array(list)]) => list.len().into(),
        ("len", [Value::Object(map)]) => map.len().into(),
        ("len", [Value::Null]) => 0.into(),
        ("json", [value]) => value.to_string().into(),
        ("join", [Value::Array(list), Value::String(by)]) => {
            list.iter().map(display).collect::<Vec<_>>().join(by).into()
        }
        ("join", [Value::Null, Value::String(_)]) => "".into(),
        ("split", [Value::String(text), Value::String(by)]) if by.is_empty() => {
            let letters = text.chars().map(String::from);
            letters.collect::<Vec<_>>().into()
        }
        ("split", [Value::String(text), Value::String(by)]) => {
            text.split(by.as_str()).collect::<Vec<_>>().into()
        }
        ("lower", [value]) => display(value).to_lowercase().into(),
        ("upper", [value]) => display(value).to_uppercase().into(),
        ("title", [value]) => {
            // The first letter of each word.
            let mut before = ' ';
            let mut titled = String::new();
            for letter in display(value).chars() {
                match before.is_alphanumeric() || before == '_' || before == '\'' {
                    true => titled.push(letter),
                    false => titled.extend(letter.to_uppercase()),
                }
                before = letter;
            }
            titled.into()
        }
        ("truncate", [Value::String(text), Value::Number(length)]) => {
            let length = usize::try_from(length.as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
            text.chars().take(length).collect::<String>().into()
        }
        ("print", values) => {
            // A space between two of which neither is a text.
            let mut text = String::new();
            let mut before_is_text = true;
            for value in values {
                if !before_is_text && !value.is_string() {
                    text.push(' ');
                }
                text.push_str(&display(value));
                before_is_text = value.is_string();
            }
            text.into()
        }
        ("println", values) => format!(
            "{}\n",
            values.iter().map(display).collect::<Vec<_>>().join(" ")
        )
        .into(),
        ("printf", [Value::String(format), values @ ..]) => printf(format, values)?.into(),
        _ => return Err(wrong()),
    })
}

/// `and` and `or`: the first that decides, else the last.
fn chosen(arguments: &[Value], wanted: bool) -> Value {
    arguments
        .iter()
        .find(|value| is_true(Some(value)) == wanted)
        .or(arguments.last())
        .cloned()
        .unwrap_or_default()
}

/// `%s %v %d %q %t %f %x %X %o %b %c %%`, with flags, a width and a precision as in `%-10s`, `%+d` and `%07.2f`.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            flags.push(flag);
        }
        let left = flags.contains('-');
        let width = number(&mut chars);
        let precision = chars.next_if_eq(&'.').map(|_| number(&mut chars));
        let (word, is_number) = match chars.next() {
            Some('%') => ("%".to_owned(), false),
            Some(verb) if "svdqtfxXobc".contains(verb) => {
                let value = values.next().ok_or("`printf` has too few values")?;
                let word = formatted(verb, precision, value);
                (word, value.is_number() && !"svqtc".contains(verb))
            }
            _ => {
                return Err(
                    "`printf` knows %s, %v, %d, %q, %t, %f, %x, %X, %o, %b, %c and %%".to_owned(),
                );
            }
        };
        // The sign stands before the zeros.
        let sign = match word.strip_prefix('-') {
            Some(_) if is_number => "-",
            None if is_number && flags.contains('+') => "+",
            None if is_number && flags.contains(' ') => " ",
            _ => "",
        };
        let digits = word
            .strip_prefix('-')
            .filter(|_| is_number)
            .unwrap_or(&word);
        if flags.contains('0') && !left && is_number {
            let width = width.saturating_sub(sign.len());
            text.push_str(&format!("{sign}{digits:0>width$}"));
        } else if left {
            text.push_str(&format!("{:<width$}", format!("{sign}{digits}")));
        } else {
            text.push_str(&format!("{:>width$}", format!("{sign}{digits}")));
        }
    }
    Ok(text)
}

/// A value by one verb; what the verb is not for is written as it is. Of a list, each element.
fn formatted(verb: char, precision: Option<usize>, value: &Value) -> String {
    let hexadecimal = |text: &str| -> String {
        let bytes = text.bytes().map(|byte| format!("{byte:02x}"));
        bytes.collect()
    };
    match (verb, value, value.as_i64()) {
        ('s' | 'q' | 'x' | 'X', Value::Array(list), _) => {
            let each = list.iter().map(|value| formatted(verb, precision, value));
            format!("[{}]", each.collect::<Vec<_>>().join(" "))
        }
        // What is not there is a list or a map that is empty, mostly.
        ('q', Value::Null, _) => "[]".to_owned(),
        ('q', ..) => format!("{:?}", display(value)),
        ('f', Value::Number(number), _) => {
            let number = number.as_f64().unwrap_or_default();
            format!("{number:.*}", precision.unwrap_or(6))
        }
        ('x', _, Some(number)) => format!("{number:x}"),
        ('X', _, Some(number)) => format!("{number:X}"),
        ('o', _, Some(number)) => format!("{number:o}"),
        ('b', _, Some(number)) => format!("{number:b}"),
        ('x', Value::String(text), _) => hexadecimal(text),
        ('X', Value::String(text), _) => hexadecimal(text).to_uppercase(),
        ('c', _, Some(number)) => {
            let letter = u32::try_from(number).ok().and_then(char::from_u32);
            letter.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('s' | 'v', ..) => {
            let most = precision.unwrap_or(usize::MAX);
            display(value).chars().take(most).collect()
        }
        _ => display(value),
    }
}

fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> usize {
    let mut number = 0usize;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        number = (number * 10 + digit.to_digit(10).unwrap_or_default() as usize).min(1000);
    }
    number
}

/// As Go prints values.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(list) => format!(
            "[{}]",
            list.iter().map(display).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| match value.as_object() {
                    // What says no more than that the key is there, as of a port or a volume.
                    Some(map) if map.is_empty() => format!("{key}:{{}}"),
                    _ => format!("{key}:{}", display(value)),
                })
                .collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// What the bounds of a slice name: from the first on, or to before the second.
fn within(bounds: &[Value], length: usize) -> Option<std::ops::Range<usize>> {
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Some(default),
        Some(value) => usize::try_from(value.as_u64()?).ok(),
    };
    (bounds.len() <= 2).then_some(bound(0, 0)?..bound(1, length)?)
}

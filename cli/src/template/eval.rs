//! Walks a template's tree over a JSON value.

use std::borrow::Cow;

use serde_json::Value;

use super::{Call, Node, Operand, Pipeline, typed};

pub(super) const FUNCTIONS: [&str; 23] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "len", "json",
    "join", "split", "lower", "upper", "title", "pad", "print", "println", "printf", "truncate",
];

/// The one field of a row that takes an argument: `.Label "name"`.
pub(super) fn is_method(path: &[String], operands: &[Operand]) -> bool {
    operands.len() == 2 && matches!(path, [name] if name == "Label")
}

/// `None` is a field that is not there.
type Found<'a> = Option<Cow<'a, Value>>;

struct Scope<'a> {
    root: &'a Value,
    kind: Kind,
    variables: Vec<(String, Value)>,
}

/// What a template is rendered over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A row of a list, all of whose fields are there.
    Row,
    /// A document, of which fields that hold nothing can be left out.
    Document,
}

pub(super) fn render(nodes: &[Node], root: &Value, kind: Kind) -> Result<String, String> {
    let mut scope = Scope {
        root,
        kind,
        variables: Vec::new(),
    };
    let mut text = String::new();
    walk(nodes, root, &mut scope, &mut text)?;
    Ok(text)
}

fn walk(
    nodes: &[Node],
    dot: &Value,
    scope: &mut Scope<'_>,
    text: &mut String,
) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(literal) => text.push_str(literal),
            Node::Print(pipeline) => match run(pipeline, dot, scope)?.as_deref() {
                None | Some(Value::Null) if let Some(nothing) = of_nothing(pipeline) => {
                    text.push_str(nothing);
                }
                Some(value) => text.push_str(&display(value)),
                None => text.push_str("<no value>"),
            },
            Node::Assign(name, pipeline) => {
                let value = owned(run(pipeline, dot, scope)?);
                match scope
                    .variables
                    .iter_mut()
                    .rev()
                    .find(|(known, _)| known == name)
                {
                    Some((_, slot)) => *slot = value,
                    None => scope.variables.push((name.clone(), value)),
                }
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let branch = if is_true(run(condition, dot, scope)?.as_deref()) {
                    then
                } else {
                    otherwise
                };
                walk(branch, dot, scope, text)?;
            }
            Node::With {
                value,
                then,
                otherwise,
            } => {
                let value = owned(run(value, dot, scope)?);
                if is_true(Some(&value)) {
                    walk(then, &value, scope, text)?;
                } else {
                    walk(otherwise, dot, scope, text)?;
                }
            }
            Node::Range {
                key,
                value,
                over,
                body,
                otherwise,
            } => {
                let items = items(owned(run(over, dot, scope)?))?;
                if items.is_empty() {
                    walk(otherwise, dot, scope, text)?;
                }
                for (index, item) in items {
                    let depth = scope.variables.len();
                    if let Some(name) = key {
                        scope.variables.push((name.clone(), index));
                    }
                    if let Some(name) = value {
                        scope.variables.push((name.clone(), item.clone()));
                    }
                    walk(body, &item, scope, text)?;
                    scope.variables.truncate(depth);
                }
            }
        }
    }
    Ok(())
}

/// What is printed for a list or a map that is not there, where the pipeline is a field of which that is known.
fn of_nothing(pipeline: &Pipeline) -> Option<&'static str> {
    match pipeline.0.as_slice() {
        [Call(operands)] => match operands.as_slice() {
            [Operand::Field(path) | Operand::Variable(_, path)] => typed::nothing(path),
            _ => None,
        },
        _ => None,
    }
}

fn owned(found: Found<'_>) -> Value {
    found.map_or(Value::Null, Cow::into_owned)
}

fn items(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => Ok(list
            .into_iter()
            .enumerate()
            .map(|(index, item)| (index.into(), item))
            .collect()),
        Value::Object(map) => {
            let mut entries: Vec<_> = map
                .into_iter()
                .map(|(key, item)| (key.into(), item))
                .collect();
            // As Go: by key.
            entries.sort_by(|(a, _): &(Value, Value), (b, _)| a.as_str().cmp(&b.as_str()));
            Ok(entries)
        }
        other => Err(format!("`range` cannot go over {}", display(&other))),
    }
}

fn run<'a>(pipeline: &Pipeline, dot: &'a Value, scope: &Scope<'a>) -> Result<Found<'a>, String> {
    let mut last: Option<Found<'a>> = None;
    for Call(operands) in &pipeline.0 {
        let found = match operands.as_slice() {
            [Operand::Function(name), arguments @ ..] => {
                let mut values = Vec::new();
                for operand in arguments {
                    values.push(owned(resolve(operand, dot, scope)?));
                }
                if let Some(previous) = last.take() {
                    values.push(owned(previous));
                }
                Some(Cow::Owned(call(name, &values)?))
            }
            [Operand::Field(path), name] if is_method(path, operands) => {
                let name = display(&owned(resolve(name, dot, scope)?));
                Some(Cow::Owned(label(dot, &name).into()))
            }
            [operand, ..] => resolve(operand, dot, scope)?,
            [] => None,
        };
        last = Some(found);
    }
    Ok(last.flatten())
}

/// A row's label; of a row of titles (which has one for `Label`), the label's name.
fn label(row: &Value, name: &str) -> String {
    if row.get("Label").is_some() {
        let last = name.rsplit('.').next().unwrap_or(name);
        return last.replace(['-', '_'], " ");
    }
    let labels = row.get("Labels").and_then(Value::as_str);
    let start = format!("{name}=");
    let mut found: Option<String> = None;
    for part in labels.unwrap_or_default().split(',') {
        match (&mut found, part.strip_prefix(&start)) {
            (None, Some(value)) => found = Some(value.to_owned()),
            // A comma that was part of the value.
            (Some(value), _) if !part.contains('=') => {
                value.push(',');
                value.push_str(part);
            }
            (Some(_), _) => break,
            (None, None) => {}
        }
    }
    found.unwrap_or_default()
}

fn resolve<'a>(operand: &Operand, dot: &'a Value, scope: &Scope<'a>) -> Result<Found<'a>, String> {
    match operand {
        Operand::Field(path) => {
            if let (Kind::Row, true, Some(name)) =
                (scope.kind, std::ptr::eq(dot, scope.root), path.first())
                && let Value::Object(row) = dot
                && !row.contains_key(name)
            {
                let known: Vec<&str> = row.keys().map(String::as_str).collect();
                return Err(format!(
                    "there is no field `{name}`; there are {}",
                    known.join(", ")
                ));
            }
            field(Cow::Borrowed(dot), path, scope.kind)
        }
        Operand::Variable(name, path) if name.is_empty() => {
            field(Cow::Borrowed(scope.root), path, scope.kind)
        }
        Operand::Variable(name, path) => {
            let known = scope
                .variables
                .iter()
                .rev()
                .find(|(known, _)| known == name);
            let (_, value) = known.ok_or_else(|| format!("there is no variable `${name}`"))?;
            field(Cow::Owned(value.clone()), path, scope.kind)
        }
        Operand::Literal(value) => Ok(Some(Cow::Owned(value.clone()))),
        Operand::Function(name) => Ok(Some(Cow::Owned(call(name, &[])?))),
        Operand::Group(inner, path) => match run(inner, dot, scope)? {
            Some(value) => field(value, path, scope.kind),
            None => Ok(None),
        },
    }
}

fn field<'a>(value: Cow<'a, Value>, path: &[String], kind: Kind) -> Result<Found<'a>, String> {
    let mut value = value;
    for (at, name) in path.iter().enumerate() {
        let next = match value {
            Cow::Borrowed(Value::Object(map)) => map.get(name).map(Cow::Borrowed),
            Cow::Owned(Value::Object(mut map)) => map.remove(name).map(Cow::Owned),
            Cow::Borrowed(Value::Null) | Cow::Owned(Value::Null) => None,
            other => return Err(format!("`{}` has no field `{name}`", display(&other))),
        };
        match next {
            Some(next) => value = next,
            None if at + 1 == path.len() && typed::is_text(path) => {
                return Ok(Some(Cow::Owned(Value::String(String::new()))));
            }
            // A typing error shall not pass for an empty field.
            None if kind == Kind::Document
                && !(at + 1 == path.len() && typed::can_be_absent(path)) =>
            {
                return Err(format!("there is no field `{}`", path[..=at].join(".")));
            }
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// As Go: empty things, zero and false are false.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
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
        ("slice", [Value::String(text), bounds @ ..]) if bounds.len() <= 2 => {
            let bound = |at: usize, default: usize| match bounds.get(at) {
                None => Some(default),
                Some(value) => usize::try_from(value.as_u64()?).ok(),
            };
            bound(0, 0)
                .zip(bound(1, text.len()))
                .and_then(|(from, to)| text.get(from..to))
                .ok_or_else(wrong)?
                .into()
        }
        ("slice", [Value::Array(list), bounds @ ..]) if bounds.len() <= 2 => {
            let bound = |at: usize, default: usize| match bounds.get(at) {
                None => Some(default),
                Some(value) => usize::try_from(value.as_u64()?).ok(),
            };
            bound(0, 0)
                .zip(bound(1, list.len()))
                .and_then(|(from, to)| list.get(from..to))
                .ok_or_else(wrong)?
                .into()
        }
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

/// `%s %v %d %q %t %f %x %%`, with a width and a precision as in `%-10s`, `%03d` and `%.2f`.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let left = chars.next_if_eq(&'-').is_some();
        let zeros = chars.next_if_eq(&'0').is_some();
        let width = number(&mut chars);
        let precision = chars.next_if_eq(&'.').map(|_| number(&mut chars));
        let word = match chars.next() {
            Some('%') => "%".to_owned(),
            Some(verb @ ('s' | 'v' | 'd' | 'q' | 't' | 'f' | 'x')) => {
                let value = values.next().ok_or("`printf` has too few values")?;
                match (verb, value.as_f64(), value.as_i64()) {
                    ('q', ..) => format!("{:?}", display(value)),
                    ('f', Some(number), _) => format!("{number:.*}", precision.unwrap_or(6)),
                    ('x', _, Some(number)) => format!("{number:x}"),
                    ('s' | 'v', ..) => {
                        let most = precision.unwrap_or(usize::MAX);
                        display(value).chars().take(most).collect()
                    }
                    _ => display(value),
                }
            }
            _ => return Err("`printf` knows %s, %v, %d, %q, %t, %f, %x and %%".to_owned()),
        };
        if zeros && !left && word.starts_with(|c: char| c.is_ascii_digit()) {
            text.push_str(&format!("{word:0>width$}"));
        } else if left {
            text.push_str(&format!("{word:<width$}"));
        } else {
            text.push_str(&format!("{word:>width$}"));
        }
    }
    Ok(text)
}

fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> usize {
    let mut number = 0usize;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        number = (number * 10 + digit.to_digit(10).unwrap_or_default() as usize).min(1000);
    }
    number
}

/// As Go prints values.
fn display(value: &Value) -> String {
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

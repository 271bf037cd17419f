//! Walks a template's tree over a JSON value.

use std::borrow::Cow;

use serde_json::Value;

use super::functions::{call, display, is_true};
use super::{Call, Node, Operand, Pipeline, typed};

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
                None if is_optional(pipeline) => text.push_str("<nil>"),
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
                name,
                condition,
                then,
                otherwise,
            } => {
                let value = run(condition, dot, scope)?;
                let branch = if is_true(value.as_deref()) {
                    then
                } else {
                    otherwise
                };
                let depth = scope.variables.len();
                if let Some(name) = name {
                    scope.variables.push((name.clone(), owned(value)));
                }
                walk(branch, dot, scope, text)?;
                scope.variables.truncate(depth);
            }
            Node::With {
                name,
                value,
                then,
                otherwise,
            } => {
                let value = owned(run(value, dot, scope)?);
                let depth = scope.variables.len();
                if let Some(name) = name {
                    scope.variables.push((name.clone(), value.clone()));
                }
                if is_true(Some(&value)) {
                    walk(then, &value, scope, text)?;
                } else {
                    walk(otherwise, dot, scope, text)?;
                }
                scope.variables.truncate(depth);
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
    typed::nothing(field_of(pipeline)?)
}

/// Whether it is a field that Docker knows as one that can be absent, other than an element of a map.
fn is_optional(pipeline: &Pipeline) -> bool {
    field_of(pipeline).is_some_and(typed::is_optional)
}

/// The field that a pipeline is, where it is nothing more.
fn field_of(pipeline: &Pipeline) -> Option<&[String]> {
    match pipeline.0.as_slice() {
        [Call(operands)] => match operands.as_slice() {
            [Operand::Field(path) | Operand::Variable(_, path)] => Some(path),
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

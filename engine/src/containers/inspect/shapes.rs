//! How Docker shows what holds nothing, and names.

use serde_json::{Value, json};

/// As Go shows a list that nobody made.
pub(super) fn listed<T: serde::Serialize>(list: &[T]) -> Value {
    match list.is_empty() {
        true => Value::Null,
        false => json!(list),
    }
}

/// `null` for a map with nothing in it.
pub(super) fn filled(map: Value) -> Value {
    match map.as_object().is_some_and(serde_json::Map::is_empty) {
        true => Value::Null,
        false => map,
    }
}

/// Adds the fields that are not `null`.
pub(super) fn add_present<const N: usize>(value: &mut Value, fields: [(&str, Value); N]) {
    if let Value::Object(map) = value {
        let present = fields.into_iter().filter(|(_, value)| !value.is_null());
        map.extend(present.map(|(name, value)| (name.to_owned(), value)));
    }
}

/// By their whole names.
pub(super) fn capabilities(given: &[String]) -> Vec<String> {
    let named = given.iter().map(|name| {
        let name = name.to_ascii_uppercase();
        match name == "ALL" || name.starts_with("CAP_") {
            true => name,
            false => format!("CAP_{name}"),
        }
    });
    named.collect()
}

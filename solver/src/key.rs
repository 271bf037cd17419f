//! The two keys of a vertex, as pure functions of its operation and of what its inputs are.
//!
//! Both begin with the operation's own fields. The definition key goes on with the inputs' definition keys; the
//! content key with the content that the operation uses of them. An immediate input enters both by its content, so
//! that a vertex which has no other inputs has one key.

use std::sync::Arc;

use rbuild_cache::{Ingredient, Key};

use crate::worker::Operation;

/// What an input contributes to a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InputKey {
    Definition(Key),
    Content(Key),
}

/// A key and the named fields it was made of.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    pub(crate) key: Key,
    pub(crate) ingredients: Arc<[Ingredient]>,
}

/// Writes a key of `operation` on `inputs`, in their order.
pub(crate) fn of<O: Operation>(operation: &O, inputs: &[InputKey]) -> Keyed {
    let mut writer = operation.describe();
    writer.add("inputs", inputs.len().to_string());
    for (place, input) in inputs.iter().enumerate() {
        match input {
            InputKey::Definition(key) => {
                writer.add_key(&format!("input[{place}].definition"), *key);
            }
            InputKey::Content(key) => writer.add_key(&format!("input[{place}].content"), *key),
        }
    }
    let (key, ingredients) = writer.finish_with_ingredients();
    Keyed {
        key,
        ingredients: ingredients.into(),
    }
}

/// Joins the ingredients of both keys: the operation's fields, which they share, stand once.
pub(crate) fn join(definition: &Keyed, content: &Keyed) -> Vec<Ingredient> {
    let mut joined = definition.ingredients.to_vec();
    for ingredient in &*content.ingredients {
        // A step may have a hundred thousand fields, and a few inputs: only these are looked for.
        if ingredient.name.starts_with("input[") && !definition.ingredients.contains(ingredient) {
            joined.push(ingredient.clone());
        }
    }
    joined
}

//! Comparing lists of ingredients: which earlier one is nearest, and what differs from it.
//!
//! An ingredient is the operation's own (`argv[2]`, `env.PATH`) or of an input: `input[0].content` and
//! `input[0].definition`, which keys are made of, and `input[0].from`, which says where it came from and is in no
//! key. Neither is `instruction`, the step's text. Definitions are not compared: where only those differ, the content
//! decided.

use std::collections::{HashMap, HashSet};

use rbuild_cache::record::INSTRUCTION;
use rbuild_cache::{Ingredient, Key, KeyWriter};

/// A field of the operation that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) name: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// True for fields of the operation itself.
fn is_own(name: &str) -> bool {
    !name.starts_with("input[") && name != "inputs" && name != INSTRUCTION
}

/// True for numbers of inputs: they shift where something else comes or goes, and say nothing by themselves.
fn is_place(name: &str) -> bool {
    name == "input" || name.ends_with(".input")
}

/// The identity of an operation without its inputs.
pub(super) fn own_key(ingredients: &[Ingredient]) -> Key {
    let mut key = KeyWriter::new("own-fields.v1");
    for ingredient in ingredients {
        if is_own(&ingredient.name) && !is_place(&ingredient.name) {
            key.add(&ingredient.name, &ingredient.value);
        }
    }
    key.finish()
}

/// What an instruction does, without its surroundings: two records that share it are of "the same" instruction,
/// wherever its Dockerfile lies now.
pub(super) fn is_same_instruction(one: &[Ingredient], other: &[Ingredient]) -> bool {
    const ESSENCE: [&str; 7] = [
        "action",
        "argv",
        "data",
        "destination",
        "name",
        "path",
        "source",
    ];
    let essence = |list: &[Ingredient]| -> Vec<(String, String)> {
        list.iter()
            .filter(|ingredient| {
                // `action[1].source[0]` → `source`
                let name = match ingredient.name.split_once("].") {
                    Some((prefix, name)) if prefix.starts_with("action[") => name,
                    _ => &ingredient.name,
                };
                let name = name.split_once('[').map_or(name, |(name, _)| name);
                ESSENCE.contains(&name)
            })
            .map(|ingredient| (ingredient.name.clone(), ingredient.value.clone()))
            .collect()
    };
    essence(one) == essence(other)
}

/// A value of an input: `content`, `from`.
pub(super) fn of_input<'a>(
    ingredients: &'a [Ingredient],
    place: usize,
    what: &str,
) -> Option<&'a str> {
    let name = format!("input[{place}].{what}");
    ingredients
        .iter()
        .find(|ingredient| ingredient.name == name)
        .map(|ingredient| ingredient.value.as_str())
}

/// The candidate with most in common; of equal ones the first.
pub(super) fn nearest<'a>(
    now: &[Ingredient],
    candidates: impl Iterator<Item = &'a [Ingredient]>,
) -> Option<&'a [Ingredient]> {
    let mut best: Option<(usize, &[Ingredient])> = None;
    for candidate in candidates {
        let score = alike(now, candidate);
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// How much of two lists is equal, in thousandths of the longer.
fn alike(one: &[Ingredient], other: &[Ingredient]) -> usize {
    let counts = |ingredient: &&Ingredient| {
        !ingredient.name.ends_with(".definition")
            && !ingredient.name.ends_with(".from")
            && ingredient.name != INSTRUCTION
    };
    let mut left: HashMap<(&str, &str), usize> = HashMap::new();
    let mut length = 0;
    for ingredient in one.iter().filter(counts) {
        length += 1;
        *left
            .entry((&ingredient.name, &ingredient.value))
            .or_default() += 1;
    }
    let (mut equal, mut other_length) = (0_usize, 0);
    for ingredient in other.iter().filter(counts) {
        other_length += 1;
        if let Some(count) = left.get_mut(&(ingredient.name.as_str(), ingredient.value.as_str()))
            && *count > 0
        {
            *count -= 1;
            equal += 1;
        }
    }
    (equal * 1000)
        .checked_div(length.max(other_length))
        .unwrap_or(1000)
}

/// All values of each name: of thousands of fields none is looked for among all others.
fn by_name(list: &[Ingredient]) -> HashMap<&str, Vec<&str>> {
    let mut values: HashMap<&str, Vec<&str>> = HashMap::new();
    for ingredient in list {
        let of = values.entry(&ingredient.name).or_default();
        of.push(&ingredient.value);
    }
    values
}

/// The operation's own fields that differ, in the order of `now`, those that are gone last.
pub(super) fn own_differences(before: &[Ingredient], now: &[Ingredient]) -> Vec<Difference> {
    let (old_values, new_values) = (by_name(before), by_name(now));
    let mut differences: Vec<Difference> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for ingredient in now.iter().chain(before) {
        let name = ingredient.name.as_str();
        if !is_own(name) || is_place(name) || !known.insert(name) {
            continue;
        }
        let old = old_values.get(name).map(Vec::as_slice).unwrap_or_default();
        let new = new_values.get(name).map(Vec::as_slice).unwrap_or_default();
        if old != new {
            let text = |values: &[&str]| (!values.is_empty()).then(|| values.join(", "));
            differences.push(Difference {
                name: name.to_owned(),
                before: text(old),
                after: text(new),
            });
        }
    }
    differences
}

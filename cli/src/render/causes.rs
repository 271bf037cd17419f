//! What is behind an error: its causes, and what the store knows to do about its own.

use rbuild_engine as engine;

use super::append;
use crate::stdio::escape;

/// The store's error that an error is or stands for. Transparent ones must be looked into: the source that they tell
/// is already the next one.
fn of_store<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a engine::cache::Error> {
    use engine::{context, executor, image};
    if let Some(engine::Error::Store(error) | engine::Error::Image(image::Error::Store(error))) =
        error.downcast_ref()
    {
        return Some(error);
    }
    if let Some(engine::Error::Exec(executor::sandbox::ExecError::Store(error))) =
        error.downcast_ref()
    {
        return Some(error);
    }
    if let Some(image::Error::Store(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(context::Error::Store(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(executor::sandbox::ExecError::Store(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(executor::file::Error::Store(error)) = error.downcast_ref() {
        return Some(error);
    }
    error.downcast_ref()
}

/// What the store knows to do about its own errors, wherever in a chain they are.
pub(super) fn store_help(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(error) = next {
        let help = of_store(error).and_then(engine::cache::Error::help);
        if help.is_some() {
            return help;
        }
        next = error.source();
    }
    None
}

pub(super) fn causes(first: &(dyn std::error::Error + 'static), text: &mut String) {
    let mut next = Some(first);
    while let Some(cause) = next {
        let words = cause.to_string();
        let last = text.trim_end().rsplit(": ").next().unwrap_or_default();
        // Transparent errors repeat their source word by word, and SQLite's with a number before it.
        let repeats = text.trim_end().ends_with(&*escape(&words))
            || words.starts_with("Error code ") && words.ends_with(last);
        if !repeats {
            append(text, format_args!("  caused by: {}\n", escape(&words)));
        }
        next = cause.source();
    }
}

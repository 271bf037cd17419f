//! Arguments that could not be read, in rbuild's own words: what the parser says of some is for programmers.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Error;

/// `None` of what the parser says well itself.
pub(crate) fn told(error: &clap::Error) -> Option<Error> {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => without_context(error),
        ErrorKind::ValueValidation => bad_value(error),
        _ => None,
    }
}

/// Takes what came from the environment, and nobody typed, out of the usage that an error shows.
pub(crate) fn without_environment(error: &mut clap::Error) {
    const ROOT: &str = " --root <DIR>";
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else {
        return;
    };
    let usage = usage.to_string().replace(ROOT, "");
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage.into()));
}

fn without_context(error: &clap::Error) -> Option<Error> {
    let missing = match error.get(ContextKind::InvalidArg)? {
        ContextValue::Strings(missing) => missing.as_slice(),
        ContextValue::String(missing) => std::slice::from_ref(missing),
        _ => return None,
    };
    (missing == ["<CONTEXT>"]).then(|| {
        Error::usage("there is no build context: it is the last argument")
            .help("it is `.` for this directory, `-` for a tar or a Dockerfile on standard input")
    })
}

fn bad_value(error: &clap::Error) -> Option<Error> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?;
    // Clap names the flag's value, too: that is left out.
    let flag = flag.split([' ', '[', '=']).next().unwrap_or(flag);
    let value = text(ContextKind::InvalidValue)?;
    let reason = std::error::Error::source(error)?.to_string();
    Some(Error::usage(format!(
        "{flag} `{value}`: {}",
        reworded(&reason)
    )))
}

/// The standard library's reasons tell how it reads numbers.
fn reworded(reason: &str) -> String {
    let known = match reason {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "expected a whole number"
        }
        "invalid float literal" | "cannot parse float from empty string" => "expected a number",
        "number too large to fit in target type" => "the number is too large",
        "number too small to fit in target type" => "the number is too small",
        "invalid IPv4 address syntax" => "it is no IPv4 address",
        "number would be zero for non-zero type" => "expected at least 1",
        _ => match reason.split_once(" is not in ") {
            Some((_, range)) => return format!("expected {}", range.replace("..=", " to ")),
            None => reason,
        },
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_for_people() {
        let reason = |error: &dyn std::error::Error| reworded(&error.to_string());
        let whole = |text: &str| reason(&text.parse::<u8>().unwrap_err());
        assert_eq!(whole("x"), "expected a whole number");
        assert_eq!(whole(""), "expected a whole number");
        assert_eq!(whole("256"), "the number is too large");
        assert_eq!(
            reason(&"-129".parse::<i8>().unwrap_err()),
            "the number is too small"
        );
        for text in ["", "x"] {
            assert_eq!(
                reason(&text.parse::<f64>().unwrap_err()),
                "expected a number"
            );
        }
        let zero = "0".parse::<std::num::NonZeroU8>().unwrap_err();
        assert_eq!(reason(&zero), "expected at least 1");
        assert_eq!(
            reworded("2000 is not in -1000..=1000"),
            "expected -1000 to 1000"
        );
        assert_eq!(reworded("`x`: no"), "`x`: no");
    }
}

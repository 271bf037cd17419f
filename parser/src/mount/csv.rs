//! One record of comma-separated fields, as Go's `encoding/csv` reads it: a field may be in double quotes, in which
//! a doubled quote is one and commas are text; elsewhere a quote is a mistake.

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CsvError {
    #[error("it is empty")]
    Empty,
    #[error(
        "a `\"` stands within an option that does not begin with one; put the whole option in quotes"
    )]
    BareQuote,
    #[error("a quoted option is not closed by `\"`, or something follows that")]
    Unclosed,
}

pub(super) fn split(record: &str) -> Result<Vec<String>, CsvError> {
    let record = record
        .split(['\n', '\r'])
        .find(|line| !line.is_empty())
        .ok_or(CsvError::Empty)?;
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let (field, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let (field, tail) = rest
                    .split_once(',')
                    .map_or((rest, None), |(field, tail)| (field, Some(tail)));
                if field.contains('"') {
                    return Err(CsvError::BareQuote);
                }
                (field.to_owned(), tail)
            }
        };
        fields.push(field);
        match tail {
            Some(tail) => rest = tail,
            None => return Ok(fields),
        }
    }
}

/// Reads a field from behind its opening quote; returns it and what follows its comma.
fn quoted_field(text: &str) -> Result<(String, Option<&str>), CsvError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (part, tail) = rest.split_once('"').ok_or(CsvError::Unclosed)?;
        field.push_str(part);
        if let Some(tail) = tail.strip_prefix('"') {
            field.push('"');
            rest = tail;
        } else if let Some(tail) = tail.strip_prefix(',') {
            return Ok((field, Some(tail)));
        } else if tail.is_empty() {
            return Ok((field, None));
        } else {
            return Err(CsvError::Unclosed);
        }
    }
}

//! `key=value` records as `--output`, `--secret`, `--mount` and their like take them: one CSV line, where a field
//! may be quoted to hold a comma (`type=oci,"name=a,b"`).

use crate::error::{Error, Result};

/// A record whose fields are taken out one by one; [`Spec::finish`] refuses what is left.
#[derive(Debug)]
pub(crate) struct Spec {
    /// The flag, for messages.
    flag: &'static str,
    fields: Vec<(String, Option<String>)>,
}

impl Spec {
    pub(crate) fn parse(flag: &'static str, text: &str) -> Result<Self> {
        let fields = fields(text)
            .map_err(|reason| Error::usage(format!("{flag} `{text}`: {reason}")))?
            .into_iter()
            .map(|field| match field.split_once('=') {
                Some((key, value)) => (key.trim().to_owned(), Some(value.to_owned())),
                None => (field.trim().to_owned(), None),
            })
            .collect();
        Ok(Self { flag, fields })
    }

    /// Names in capitals are the same names.
    pub(crate) fn lower_names(&mut self) {
        for (name, _) in &mut self.fields {
            name.make_ascii_lowercase();
        }
    }

    /// Takes the last value given under any of `names`; a bare key is an error.
    pub(crate) fn take(&mut self, names: &[&str]) -> Result<Option<String>> {
        match self.take_field(names) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((key, None)) => Err(self.error(format!("`{key}` needs a value, `{key}=...`"))),
        }
    }

    /// Takes a boolean; a bare key is true.
    pub(crate) fn take_bool(&mut self, names: &[&str]) -> Result<Option<bool>> {
        match self.take_field(names) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((key, Some(value))) => parse_bool(&value)
                .map(Some)
                .ok_or_else(|| self.error(format!("`{key}={value}`: expected `true` or `false`"))),
        }
    }

    /// Takes `NAME=a,b,c`: what follows without a `=` belongs to it, unless it is one of `keys`.
    pub(crate) fn take_list(&mut self, name: &str, keys: &[&str]) -> Option<Vec<String>> {
        let at = self.fields.iter().position(|(key, _)| key == name)?;
        let (_, first) = self.fields.remove(at);
        let mut list: Vec<String> = first.into_iter().collect();
        while let Some((item, None)) = self.fields.get(at)
            && !keys.contains(&item.as_str())
        {
            list.push(self.fields.remove(at).0);
        }
        let items = list.iter().flat_map(|field| field.split(','));
        Some(
            items
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Takes a field whatever its value; says whether it was there.
    pub(crate) fn take_field_named(&mut self, name: &str) -> bool {
        self.take_field(&[name]).is_some()
    }

    /// Takes all values given under a name that can be repeated, in order.
    pub(crate) fn take_each(&mut self, name: &str) -> Vec<String> {
        let mut taken = Vec::new();
        self.fields.retain(|(key, value)| {
            let is_it = key == name;
            if is_it {
                taken.push(value.clone().unwrap_or_default());
            }
            !is_it
        });
        taken
    }

    /// Takes all `PREFIXkey=value` fields, in order, without the prefix.
    pub(crate) fn take_prefixed(&mut self, prefix: &str) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        self.fields
            .retain(|(key, value)| match key.strip_prefix(prefix) {
                Some(rest) if !rest.is_empty() => {
                    taken.push((rest.to_owned(), value.clone().unwrap_or_default()));
                    false
                }
                _ => true,
            });
        taken
    }

    /// Refuses fields that nobody took.
    pub(crate) fn finish(self, known: &[&str]) -> Result<()> {
        let Some((key, _)) = self.fields.first() else {
            return Ok(());
        };
        let error = self.error(format!("unknown key `{key}`"));
        let near = crate::similar::nearest(key, known.iter().copied());
        Err(match near.first() {
            Some(near) => error.help(format!("there is `{near}`")),
            None => error.help(format!("known keys: {}", known.join(", "))),
        })
    }

    pub(crate) fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::usage(format!("{}: {reason}", self.flag))
    }

    fn take_field(&mut self, names: &[&str]) -> Option<(String, Option<String>)> {
        let mut found = None;
        self.fields.retain(|field| {
            let hit = names.contains(&field.0.as_str());
            if hit {
                found = Some(field.clone());
            }
            !hit
        });
        found
    }
}

/// Reads `1`, `true`, `t`, `0`, `false`, `f` in any case, as Go does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

/// Splits one CSV line. Quotes count only at the start of a field; `""` inside them is a quote.
fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let after = loop {
                match chars.next() {
                    None => return Err("a quote is not closed"),
                    Some((at, '"')) => match chars.peek() {
                        Some((_, '"')) => {
                            field.push('"');
                            chars.next();
                        }
                        _ => break at + 1,
                    },
                    Some((_, c)) => field.push(c),
                }
            };
            fields.push(field);
            rest = quoted.get(after..).unwrap_or_default();
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None if rest.is_empty() => return Ok(fields),
                None => return Err("a comma must follow a closing quote"),
            }
        } else {
            let (field, next) = match rest.split_once(',') {
                Some((field, next)) => (field, Some(next)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("a quote must stand around the whole field, as in \"name=a,b\"");
            }
            if field.is_empty() {
                return Err("an empty field");
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_with_quotes() {
        assert_eq!(fields("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(
            fields(r#"type=oci,"name=a,b",x=1"#).unwrap(),
            ["type=oci", "name=a,b", "x=1"]
        );
        assert_eq!(fields(r#""a""b""#).unwrap(), [r#"a"b"#]);
        assert!(fields(r#""a"#).is_err());
        assert!(fields(r#""a"b"#).is_err());
        assert!(fields(r#"a=","#).is_err());
        assert!(fields("").is_err());
        assert!(fields("a,,b").is_err());
    }

    #[test]
    fn unknown_keys_are_named() {
        let mut spec = Spec::parse("--output", "type=oci,dset=x").unwrap();
        assert_eq!(spec.take(&["type"]).unwrap().as_deref(), Some("oci"));
        let Error::Usage(message) = spec.finish(&["type", "dest"]).unwrap_err() else {
            panic!("not a usage error");
        };
        assert_eq!(message.text, "--output: unknown key `dset`");
        assert_eq!(message.help, ["there is `dest`"]);
    }

    #[test]
    fn a_list_goes_on_until_the_next_key() {
        let mut spec = Spec::parse("--cache-to", "type=x,mounts=a,b,force,mode=max,c").unwrap();
        let list = spec.take_list("mounts", &["force"]).unwrap();
        assert_eq!(list, ["a", "b"]);
        let mut spec = Spec::parse("--cache-to", "\"mounts=a,b\",type=x").unwrap();
        assert_eq!(spec.take_list("mounts", &[]).unwrap(), ["a", "b"]);
        assert!(spec.take_list("mounts", &[]).is_none());
    }

    #[test]
    fn the_last_value_wins_and_bare_keys_are_true() {
        let mut spec = Spec::parse("--mount", "src=a,source=b,ro").unwrap();
        assert_eq!(spec.take(&["src", "source"]).unwrap().as_deref(), Some("b"));
        assert_eq!(spec.take_bool(&["ro", "readonly"]).unwrap(), Some(true));
        assert!(spec.finish(&[]).is_ok());
    }
}

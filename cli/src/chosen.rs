//! `--filter` of the commands that remove what is not in use: labels, and since when.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::human;

/// What all filters together let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    labels: Vec<Label>,
    /// Made before; as containers write moments down.
    until: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    name: String,
    value: Option<String>,
    /// `label!=…` where not.
    wanted: bool,
}

impl Chosen {
    /// Reads `label=K[=V]`, `label!=K[=V]` and `until=…`.
    pub(crate) fn read(filters: &[String]) -> Result<Self> {
        let mut chosen = Self::default();
        for filter in filters {
            match filter.split_once('=') {
                Some((key @ ("label" | "label!"), label)) => {
                    let (name, value) = match label.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (label, None),
                    };
                    chosen.labels.push(Label {
                        name: name.to_owned(),
                        value,
                        wanted: key == "label",
                    });
                }
                Some(("until", text)) => {
                    chosen.until = Some(human::moment_or_duration("--filter until", text)?);
                }
                _ => {
                    return Err(Error::usage(format!(
                        "--filter `{filter}`: there is no such filter"
                    ))
                    .help("it is `label=K[=V]`, `label!=K[=V]` or `until=24h`"));
                }
            }
        }
        Ok(chosen)
    }

    pub(crate) fn has_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    pub(crate) fn has_until(&self) -> bool {
        self.until.is_some()
    }

    /// `created`: RFC 3339, as containers, volumes and networks have it.
    pub(crate) fn takes(&self, labels: &BTreeMap<String, String>, created: &str) -> bool {
        let agrees = |label: &Label| {
            let own = labels.get(&label.name);
            let has = own.is_some_and(|own| label.value.as_ref().is_none_or(|value| value == own));
            has == label.wanted
        };
        self.labels.iter().all(agrees) && self.until.as_deref().is_none_or(|until| created < until)
    }
}

/// Whether a name is what a filter asks for, by a regular expression as Docker has them.
pub(crate) fn is_match(name: &str, pattern: &str) -> bool {
    match regex::Regex::new(pattern) {
        Ok(pattern) => pattern.is_match(name),
        Err(_) => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_times_choose() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let takes = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|text| (*text).to_owned()).collect();
            let chosen = Chosen::read(&filters).expect("filters");
            chosen.takes(&labels, "2026-01-02T00:00:00.000000000Z")
        };
        assert!(takes(&[]));
        assert!(takes(&["label=a"]) && takes(&["label=a=1"]) && takes(&["label!=b"]));
        assert!(!takes(&["label=a=2"]) && !takes(&["label!=a"]) && !takes(&["label=b"]));
        assert!(takes(&["label!=a=2", "label=a"]));
        assert!(takes(&["until=2026-01-03T00:00:00Z"]));
        assert!(!takes(&["until=2026-01-01T00:00:00Z"]));
        for bad in ["label", "nosuch=1", "until=nonsense"] {
            assert!(Chosen::read(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}

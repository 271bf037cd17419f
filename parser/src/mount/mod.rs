//! The value of `RUN --mount=`: one CSV record of options. The record is split first and each option's value
//! expanded then, so that a variable may hold a comma; [`parse_expanding`] is what a build calls, [`parse`] reads a
//! value without variables.

mod csv;
mod options;

use options::{Reading, Setting};

use crate::ast::Escape;
use crate::diagnostic::Diagnostic;
use crate::expand::{self, ExpandError, Variables};
use crate::source::Span;

/// One `--mount` of RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// As written; the executor's caller resolves it against WORKDIR. `None` is WORKDIR itself for bind, cache and
    /// tmpfs. So it is for a secret that is given as `env=` only (a secret without either gets `/run/secrets/ID`), and
    /// for an ssh socket whose place is left to the builder.
    pub target: Option<String>,
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// `type=`, with the options that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    Bind {
        from: Option<String>,
        source: String,
        writable: bool,
    },
    Cache {
        id: Option<String>,
        from: Option<String>,
        source: String,
        sharing: Sharing,
        readonly: bool,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// Size in bytes.
    Tmpfs { size: Option<u64> },
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        id: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// Reads one `--mount` value that holds no variables. Errors point into `span`, the place of the raw value.
pub fn parse(value: &str, span: Span) -> Result<Mount, Box<Diagnostic>> {
    parse_expanding(value, span, false, &mut |text| {
        expand::word(text, Escape::Backslash, &Unset).map(|expanded| expanded.text)
    })
}

/// Reads one `--mount` value, expanding the value of each option by `expand`. Only an extended file may have
/// variables in `from`.
pub fn parse_expanding(
    value: &str,
    span: Span,
    extended: bool,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<Mount, Box<Diagnostic>> {
    check(value, span, extended)?;
    read(value, span, &split(value, span)?, expand)
}

fn read(
    value: &str,
    span: Span,
    fields: &[String],
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<Mount, Box<Diagnostic>> {
    let mut settings = Vec::with_capacity(fields.len());
    for field in fields {
        let (key, text) = field
            .split_once('=')
            .map_or((field.as_str(), None), |(key, text)| (key, Some(text)));
        let text = match text.map(&mut *expand).transpose() {
            Ok(text) => text,
            Err(error) => {
                let mut mistake = narrowed(Box::new(error.diagnostic(span)), value, field);
                // Over several lines it is not where it is in the value.
                let in_place = span.end.saturating_sub(span.start) == value.len();
                if mistake.primary.span != span || (field == value && in_place) {
                    mistake.primary.span.start += key.len() + 1 + error.offset;
                }
                return Err(mistake);
            }
        };
        settings.push(Setting {
            key: key.to_ascii_lowercase(),
            value: text,
            field,
        });
    }
    let kind = options::kind(&settings, span).map_err(|mistake| {
        let kind = settings.iter().rev().find(|it| it.key == "type");
        narrowed(mistake, value, kind.map_or("", |kind| kind.field))
    })?;
    let mut reading = Reading::new(kind, span);
    for setting in &settings {
        reading
            .option(setting)
            .map_err(|mistake| narrowed(mistake, value, setting.field))?;
    }
    reading.finish()
}

/// Finds what is wrong with a raw value whatever variables hold: everything, where there are none; else quotes of the
/// record, and a variable in `from=` where the file is not extended.
pub fn check(value: &str, span: Span, extended: bool) -> Result<(), Box<Diagnostic>> {
    let fields = split(value, span)?;
    if !value.contains(['$', '\\', '"', '\'']) {
        read(value, span, &fields, &mut |text| Ok(text.to_owned()))?;
    }
    for field in fields {
        let Some((key, from)) = field.split_once('=') else {
            continue;
        };
        if key.eq_ignore_ascii_case("from") && !extended && has_variable(from) {
            return Err(Box::new(variable_in_from("`from` of a mount", span)));
        }
    }
    Ok(())
}

/// Whether expansion could change a stage's name. A lone `$` at the end stands for itself.
pub fn has_variable(from: &str) -> bool {
    from.find('$').is_some_and(|at| at + 1 < from.len())
}

/// BuildKit takes `from` as it is written; files that rely on more say so.
pub fn variable_in_from(what: &str, span: Span) -> Diagnostic {
    Diagnostic::error("variable-in-from", format!("{what} takes no variables"), span)
        .help("name a stage after what the variable holds (`FROM $NAME AS name`) and use that stage")
        .help("to allow variables here, which BuildKit does not, write `# rbuild: ext=1` at the top of the file")
}

/// Points at the option, where it stands in the raw value as it was read.
fn narrowed(mut mistake: Box<Diagnostic>, value: &str, field: &str) -> Box<Diagnostic> {
    let span = mistake.primary.span;
    let in_place = span.end.saturating_sub(span.start) == value.len();
    let at = value.match_indices(field).map(|(at, _)| at).find(|at| {
        let before = value[..*at].chars().next_back();
        let after = value[at + field.len()..].chars().next();
        before.is_none_or(|c| c == ',') && after.is_none_or(|c| c == ',')
    });
    if let Some(at) = at.filter(|_| in_place && !field.is_empty()) {
        mistake.primary.span = Span::new(span.start + at, span.start + at + field.len());
    }
    mistake
}

fn split(value: &str, span: Span) -> Result<Vec<String>, Box<Diagnostic>> {
    csv::split(value).map_err(|error| {
        wrong(
            "bad-mount",
            format!("the mount cannot be read: {error}"),
            span,
        )
    })
}

struct Unset;

impl Variables for Unset {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

fn wrong(code: &'static str, message: String, span: Span) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, message, span))
}

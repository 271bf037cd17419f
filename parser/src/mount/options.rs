//! The options of a mount: which type has which, and what they come to together.

use super::{Mount, MountKind, Sharing, wrong};
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use crate::{suggest, values};

/// One option as written.
pub(super) struct Setting<'f> {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) field: &'f str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const KINDS: [(&str, Kind); 5] = [
    ("bind", Kind::Bind),
    ("cache", Kind::Cache),
    ("tmpfs", Kind::Tmpfs),
    ("secret", Kind::Secret),
    ("ssh", Kind::Ssh),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }

    /// The options of a type, each with its other names.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Bind => &[
                "type",
                "target",
                "dst",
                "destination",
                "source",
                "src",
                "from",
                "rw",
                "readwrite",
                "ro",
                "readonly",
            ],
            Self::Cache => &[
                "type",
                "target",
                "dst",
                "destination",
                "source",
                "src",
                "from",
                "id",
                "sharing",
                "ro",
                "readonly",
                "rw",
                "readwrite",
                "mode",
                "uid",
                "gid",
            ],
            Self::Tmpfs => &[
                "type",
                "target",
                "dst",
                "destination",
                "size",
                "rw",
                "readwrite",
            ],
            Self::Secret => &[
                "type",
                "target",
                "dst",
                "destination",
                "source",
                "src",
                "id",
                "env",
                "required",
                "mode",
                "uid",
                "gid",
                "ro",
                "readonly",
            ],
            Self::Ssh => &[
                "type",
                "target",
                "dst",
                "destination",
                "id",
                "required",
                "mode",
                "uid",
                "gid",
                "ro",
                "readonly",
            ],
        }
    }
}

pub(super) fn kind(options: &[Setting<'_>], span: Span) -> Result<Kind, Box<Diagnostic>> {
    let Some(option) = options.iter().rev().find(|option| option.key == "type") else {
        return Ok(Kind::Bind);
    };
    let name = option.value.as_deref().unwrap_or("");
    let known = KINDS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map(|(_, kind)| *kind).ok_or_else(|| {
        let names = KINDS.map(|(name, _)| name);
        let diagnostic =
            Diagnostic::error("bad-mount", format!("`{name}` is no type of mount"), span);
        Box::new(diagnostic.help(did_you_mean(name, &names, "types are")))
    })
}

fn did_you_mean(word: &str, known: &[&str], list: &str) -> String {
    match suggest::nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("{list} {}", known.join(", ")),
    }
}

/// The options of a mount by meaning, before what belongs together is checked.
pub(super) struct Reading {
    kind: Kind,
    span: Span,
    target: Option<String>,
    source: Option<String>,
    from: Option<String>,
    id: Option<String>,
    env: Option<String>,
    readonly: Option<bool>,
    required: bool,
    sharing: Sharing,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Reading {
    pub(super) fn new(kind: Kind, span: Span) -> Self {
        Self {
            kind,
            span,
            target: None,
            source: None,
            from: None,
            id: None,
            env: None,
            readonly: None,
            required: false,
            sharing: Sharing::Shared,
            size: None,
            mode: None,
            uid: None,
            gid: None,
        }
    }

    pub(super) fn option(&mut self, option: &Setting<'_>) -> Result<(), Box<Diagnostic>> {
        self.check_key(option)?;
        let key = option.key.as_str();
        let Some(value) = option.value.as_deref() else {
            match key {
                "ro" | "readonly" => self.readonly = Some(true),
                "rw" | "readwrite" => self.readonly = Some(false),
                "required" => self.required = true,
                _ => {
                    return Err(self.wrong(format!(
                        "the mount option `{}` needs a value: {key}=…",
                        option.field
                    )));
                }
            }
            return Ok(());
        };
        match key {
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "from" => self.from = Some(value.to_owned()),
            "id" => self.id = Some(value.to_owned()),
            "env" => self.env = Some(value.to_owned()),
            "ro" | "readonly" => self.readonly = Some(self.boolean(key, value)?),
            "rw" | "readwrite" => self.readonly = Some(!self.boolean(key, value)?),
            "required" => self.required = self.boolean(key, value)?,
            "sharing" => self.sharing = self.sharing(value)?,
            "size" => {
                let size = values::parse_bytes(value);
                self.size = Some(size.map_err(|error| {
                    self.wrong(format!("the mount option `size` is wrong: {error}"))
                })?);
            }
            "mode" => self.mode = Some(self.number(key, value, 8)?),
            "uid" => self.uid = Some(self.number(key, value, 10)?),
            "gid" => self.gid = Some(self.number(key, value, 10)?),
            _ => {}
        }
        Ok(())
    }

    /// Refuses options that no mount has, and those that this type of mount has not.
    fn check_key(&self, option: &Setting<'_>) -> Result<(), Box<Diagnostic>> {
        let key = option.key.as_str();
        let known = self.kind.options();
        if known.contains(&key) {
            return Ok(());
        }
        let name = self.kind.name();
        let owners: Vec<&str> = KINDS
            .iter()
            .filter(|(_, kind)| kind.options().contains(&key))
            .map(|(name, _)| *name)
            .collect();
        if option.field.is_empty() {
            return Err(Box::new(
                Diagnostic::error(
                    "bad-mount",
                    "the value of --mount has an empty option: two commas, or one at its end",
                    self.span,
                )
                .help("write the options without blanks between them: `--mount=type=…,target=…`"),
            ));
        }
        let shown = if key.is_empty() { option.field } else { key };
        let diagnostic = Diagnostic::error(
            "bad-mount",
            format!("a mount of type {name} has no option `{shown}`"),
            self.span,
        );
        Err(Box::new(if owners.is_empty() {
            diagnostic.help(did_you_mean(
                key,
                known,
                &format!("options of type={name} are"),
            ))
        } else {
            diagnostic.help(format!("`{key}` is for type {}", owners.join(", ")))
        }))
    }

    fn boolean(&self, key: &str, value: &str) -> Result<bool, Box<Diagnostic>> {
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(self.wrong(format!(
                "the mount option `{key}` is true or false, not `{value}`"
            ))),
        }
    }

    fn number(&self, key: &str, value: &str, radix: u32) -> Result<u32, Box<Diagnostic>> {
        let is_digits = value.bytes().all(|b| b.is_ascii_digit());
        let number = if is_digits {
            u32::from_str_radix(value, radix).ok()
        } else {
            None
        };
        let kind = if radix == 8 {
            "an octal number"
        } else {
            "a number"
        };
        number
            .ok_or_else(|| self.wrong(format!("the mount option `{key}` is {kind}, not `{value}`")))
    }

    fn sharing(&self, value: &str) -> Result<Sharing, Box<Diagnostic>> {
        match value.to_ascii_lowercase().as_str() {
            "shared" => Ok(Sharing::Shared),
            "private" => Ok(Sharing::Private),
            "locked" => Ok(Sharing::Locked),
            _ => {
                let message = format!("`{value}` is no value of the mount option `sharing`");
                let diagnostic = Diagnostic::error("bad-mount", message, self.span);
                Err(Box::new(diagnostic.help(did_you_mean(
                    value,
                    &["shared", "private", "locked"],
                    "it is one of",
                ))))
            }
        }
    }

    fn wrong(&self, message: String) -> Box<Diagnostic> {
        wrong("bad-mount", message, self.span)
    }

    pub(super) fn finish(self) -> Result<Mount, Box<Diagnostic>> {
        let empty_as_none = |text: Option<String>| text.filter(|text| !text.is_empty());
        let target = empty_as_none(self.target.clone());
        let from = empty_as_none(self.from.clone());
        let id = empty_as_none(self.id.clone());
        let source = self.source.clone().unwrap_or_default();
        let kind = match self.kind {
            Kind::Bind => MountKind::Bind {
                from,
                source,
                writable: self.readonly == Some(false),
            },
            Kind::Cache => MountKind::Cache {
                id,
                from,
                source,
                sharing: self.sharing,
                readonly: self.readonly == Some(true),
                mode: self.mode,
                uid: self.uid,
                gid: self.gid,
            },
            Kind::Tmpfs => MountKind::Tmpfs { size: self.size },
            Kind::Secret => return self.secret(target, id, source),
            Kind::Ssh => {
                self.only_readonly()?;
                let (mode, uid, gid) = (
                    self.mode.unwrap_or(0o600),
                    self.uid.unwrap_or(0),
                    self.gid.unwrap_or(0),
                );
                return Ok(Mount {
                    kind: MountKind::Ssh {
                        id,
                        required: self.required,
                        mode,
                        uid,
                        gid,
                    },
                    target,
                });
            }
        };
        if let Some(target) = target.as_deref().filter(|target| is_root(target)) {
            return Err(self.wrong(format!(
                "the root directory cannot be the target of a mount (`target={target}`)"
            )));
        }
        Ok(Mount { kind, target })
    }

    fn secret(
        self,
        target: Option<String>,
        id: Option<String>,
        source: String,
    ) -> Result<Mount, Box<Diagnostic>> {
        self.only_readonly()?;
        if id.is_some() && !source.is_empty() {
            return Err(self.wrong("a secret mount takes `id` or `source`, not both".to_owned()));
        }
        let id = id.or((!source.is_empty()).then_some(source));
        let Some(id) = id.or_else(|| target.as_deref().map(|target| base_name(target).to_owned()))
        else {
            return Err(self.wrong("a secret mount needs an id or a target".to_owned()));
        };
        let target = target.or_else(|| {
            self.env
                .is_none()
                .then(|| format!("/run/secrets/{}", base_name(&id)))
        });
        let (mode, uid, gid) = (
            self.mode.unwrap_or(0o400),
            self.uid.unwrap_or(0),
            self.gid.unwrap_or(0),
        );
        Ok(Mount {
            kind: MountKind::Secret {
                id,
                env: self.env,
                required: self.required,
                mode,
                uid,
                gid,
            },
            target,
        })
    }

    fn only_readonly(&self) -> Result<(), Box<Diagnostic>> {
        if self.readonly == Some(false) {
            return Err(self.wrong(format!(
                "a mount of type {} is always read-only",
                self.kind.name()
            )));
        }
        Ok(())
    }
}

/// Whether a path is the root once `.` and `..` are taken out of it.
fn is_root(path: &str) -> bool {
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    depth == 0 && path.starts_with('/')
}

/// The last part of a path, as Go's `path.Base`.
fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    let base = trimmed.rsplit('/').next().unwrap_or(trimmed);
    match (base, path) {
        ("", "") => ".",
        ("", _) => "/",
        (base, _) => base,
    }
}

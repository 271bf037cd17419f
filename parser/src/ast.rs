//! The syntax tree. Words are raw: quotes, escapes and variables are as written until `expand` is asked.

use serde::Serialize;

use crate::source::{Span, Spanned};

/// A word or text as written.
pub type Text = Spanned<String>;

/// A whole file, as it was parsed.
#[derive(Debug, Clone, Default)]
pub struct Dockerfile {
    pub directives: Vec<Directive>,
    /// The escape character: `\` unless `# escape=` says otherwise.
    pub escape: Escape,
    /// Whether a comment at the top says `# rbuild: ext=1`: then `from` may hold variables.
    pub extended: bool,
    pub instructions: Vec<Instruction>,
}

/// `# name=value` before the first instruction.
#[derive(Debug, Clone)]
pub struct Directive {
    pub name: Text,
    pub value: Text,
}

/// What makes the next character plain, and continues a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Escape {
    #[default]
    Backslash,
    Backtick,
}

impl Escape {
    /// As it is written.
    pub fn character(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// One instruction, with all its lines.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// As written: `RUN`, `run`.
    pub keyword: Text,
    pub command: Command,
    /// `--name[=value]` in the order written, also those of [`Command::Invalid`].
    pub flags: Vec<Flag>,
    /// Whether the arguments are a JSON array; of an ONBUILD, whether its trigger's are.
    pub json_form: bool,
    /// Heredocs in the order opened; those of a trigger are its instruction's.
    pub heredocs: Vec<Heredoc>,
    /// From the keyword to the end of the last continuation line or heredoc terminator.
    pub span: Span,
    /// First and last line, from 1.
    pub start_line: usize,
    pub end_line: usize,
    /// The logical line: continuations joined, comments inside dropped; heredoc bodies not included.
    pub original: String,
    /// Comment lines directly above, without `#`; BuildKit takes them as descriptions of stages and args.
    pub comments: Vec<String>,
    /// The first empty line between continuation lines (for the lint rule NoEmptyContinuation).
    pub empty_continuation_line: Option<usize>,
}

/// `--name` or `--name=value`.
#[derive(Debug, Clone)]
pub struct Flag {
    pub name: Text,
    pub value: Option<Text>,
}

/// `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.
#[derive(Debug, Clone, Serialize)]
pub struct Heredoc {
    pub name: String,
    /// The body with its line ends (CR kept); leading tabs already taken off when `strip_tabs`.
    pub content: String,
    /// The body as it stands in the file.
    pub written: String,
    /// Whether variables in the body are expanded: false when the delimiter was quoted.
    pub expand: bool,
    pub strip_tabs: bool,
    /// Of `N<<EOF`; 0 when not written.
    pub file_descriptor: u32,
    /// Of the opening word, `<<EOF`.
    #[serde(skip)]
    pub span: Span,
    /// Of the body.
    #[serde(skip)]
    pub body_span: Span,
}

/// A command line in one of its two forms.
#[derive(Debug, Clone)]
pub enum CommandLine {
    /// Run by a shell; the text after the flags, continuations joined (as Docker records it in the history).
    Shell(Text),
    /// A JSON array.
    Exec(Vec<Text>),
}

/// What an instruction says, by its keyword.
#[derive(Debug, Clone)]
pub enum Command {
    From(From),
    Run(Run),
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    Label(Vec<Pair>),
    Maintainer(Text),
    Expose(Vec<Text>),
    Env(Vec<Pair>),
    Add(Transfer),
    Copy(Transfer),
    /// Raw words; a JSON array gives one each, the plain form is split at blanks.
    Volume(Vec<Text>),
    User(Text),
    Workdir(Text),
    Arg(Vec<ArgDeclaration>),
    Onbuild(Box<OnBuild>),
    Stopsignal(Text),
    Healthcheck(Healthcheck),
    Shell(Vec<Text>),
    /// A line that could not be understood; a diagnostic says why.
    Invalid,
}

/// `FROM [--platform=PLATFORM] IMAGE [AS NAME]`
#[derive(Debug, Clone)]
pub struct From {
    pub image: Text,
    pub platform: Option<Text>,
    pub name: Option<Text>,
}

/// `RUN`. Its heredocs are the instruction's.
#[derive(Debug, Clone)]
pub struct Run {
    /// Whether the command is nothing but one heredoc (`RUN <<EOF`): then the body is the script.
    /// Otherwise the command goes to the shell with the bodies of its heredocs below it.
    pub script: bool,
    pub command: CommandLine,
    /// Values of `--mount`, read by [`crate::mount`] after expansion.
    pub mounts: Vec<Text>,
    pub network: Option<Text>,
    pub security: Option<Text>,
    pub devices: Vec<Text>,
}

/// `key=value`, raw on both sides. For the old form `ENV key value` the value is the rest of the line.
#[derive(Debug, Clone)]
pub struct Pair {
    pub key: Text,
    pub value: Text,
    /// Written as `key value` without `=`.
    pub legacy: bool,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// A source that is a heredoc is `TransferSource::Heredoc` with its place in [`Instruction::heredocs`].
    pub sources: Vec<TransferSource>,
    pub destination: Text,
    pub from: Option<Text>,
    pub chown: Option<Text>,
    pub chmod: Option<Text>,
    pub link: Option<Switch>,
    pub parents: Option<Switch>,
    pub exclude: Vec<Text>,
    /// ADD only.
    pub checksum: Option<Text>,
    pub keep_git_dir: Option<Switch>,
    pub unpack: Option<Switch>,
}

/// One source of COPY or ADD.
#[derive(Debug, Clone)]
pub enum TransferSource {
    Path(Text),
    Heredoc(usize),
}

/// A boolean flag, `--link` or `--link=false`.
pub type Switch = Spanned<bool>;

/// `ARG name[=default]`; one ARG may have several.
#[derive(Debug, Clone)]
pub struct ArgDeclaration {
    pub name: Text,
    /// Raw; `None` for `ARG name`.
    pub default: Option<Text>,
}

/// `ONBUILD`: the trigger as text (what goes to the image config) and as it was parsed.
#[derive(Debug, Clone)]
pub struct OnBuild {
    pub trigger: Text,
    pub instruction: Instruction,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a file has one or two of them")]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    Check {
        command: CommandLine,
        interval: Option<Text>,
        timeout: Option<Text>,
        start_period: Option<Text>,
        start_interval: Option<Text>,
        retries: Option<Text>,
    },
}

//! The table of rules: names as people write them in `# check=skip=…`, what each is about, where to read more.

/// What a warning can be about.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: &'static str,
    pub description: &'static str,
    /// Last part of the address of BuildKit's page on the rule; empty for rules that only we have.
    slug: &'static str,
    /// Looked at only where `# check=experimental=…` asks for it.
    pub experimental: bool,
}

impl Rule {
    /// Where the rule is explained.
    pub fn url(&self) -> Option<String> {
        let slug = Some(self.slug).filter(|slug| !slug.is_empty())?;
        Some(format!(
            "https://docs.docker.com/go/dockerfile/rule/{slug}/"
        ))
    }
}

/// Returns the rule of a name.
pub fn find(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// Whether what a rule finds may be why an instruction fails.
pub(crate) fn tells_causes(name: &str) -> bool {
    [
        "UndefinedVar",
        "InvalidJsonArray",
        "ArgBeforeFromNotVisible",
        "CopyOutsideContext",
        "BackslashInPath",
        "CommentAfterInstruction",
        "CrlfScriptCopied",
        "FlagAfterArguments",
        "HtmlEntity",
        "TypographicQuote",
        "TypographicDash",
    ]
    .contains(&name)
}

const fn buildkit(name: &'static str, slug: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        description,
        slug,
        experimental: false,
    }
}

const fn experimental(name: &'static str, slug: &'static str, description: &'static str) -> Rule {
    Rule {
        experimental: true,
        ..buildkit(name, slug, description)
    }
}

const fn own(name: &'static str, description: &'static str) -> Rule {
    buildkit(name, "", description)
}

/// BuildKit's rules with its names and descriptions, then ours.
pub const RULES: &[Rule] = &[
    buildkit(
        "StageNameCasing",
        "stage-name-casing",
        "Stage names should be lowercase",
    ),
    buildkit(
        "FromAsCasing",
        "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    buildkit(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    ),
    buildkit(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    buildkit(
        "DuplicateStageName",
        "duplicate-stage-name",
        "Stage names should be unique",
    ),
    buildkit(
        "ReservedStageName",
        "reserved-stage-name",
        "Reserved words should not be used as stage names",
    ),
    buildkit(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    buildkit(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    buildkit(
        "UndefinedArgInFrom",
        "undefined-arg-in-from",
        "FROM command must use declared ARGs",
    ),
    buildkit(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    buildkit(
        "UndefinedVar",
        "undefined-var",
        "Variables should be defined before their use",
    ),
    buildkit(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    buildkit(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    buildkit(
        "InvalidBaseImagePlatform",
        "invalid-base-image-platform",
        "Base image platform does not match expected target platform",
    ),
    buildkit(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    buildkit(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    buildkit(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    buildkit(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    experimental(
        "CopyIgnoredFile",
        "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    experimental(
        "InvalidDefinitionDescription",
        "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ),
    buildkit(
        "ExposeProtoCasing",
        "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    buildkit(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
    own(
        "AptGetUpdateAlone",
        "A package list that is fetched in a RUN of its own is cached and grows stale",
    ),
    own(
        "SecretValueInArgOrEnv",
        "The value looks like a real credential, and everybody who has the image can read it",
    ),
    own(
        "CrlfScriptCopied",
        "A script with Windows line ends does not start on Linux",
    ),
    own(
        "HeredocContinuesAfterError",
        "A heredoc script without `set -e` goes on after a command that fails",
    ),
    own(
        "UseCopyInsteadOfAdd",
        "ADD unpacks archives and fetches URLs; COPY does what it says",
    ),
    own(
        "CommentAfterInstruction",
        "A `#` within a line is no comment for the Dockerfile",
    ),
    own(
        "FlagAfterArguments",
        "A flag after the first argument is an argument: flags come before",
    ),
    own(
        "InvalidJsonArray",
        "What looks like a JSON array and is none is taken for words, or for a command of the shell",
    ),
    own(
        "ArgBeforeFromNotVisible",
        "An ARG before FROM is known to FROM lines only; a stage that uses it declares it again",
    ),
    own(
        "BackslashInPath",
        "A backslash escapes what follows it and is no separator of paths",
    ),
    own(
        "CopyOutsideContext",
        "A path does not lead out of the build context: `..` at its root is the root",
    ),
    own(
        "HtmlEntity",
        "Entities of a web page that the text was copied from",
    ),
    own(
        "TypographicQuote",
        "Quotes that an editor has made typographic do not quote",
    ),
    own(
        "TypographicDash",
        "Dashes that an editor has made typographic do not begin an option",
    ),
    own(
        "UnusedBuildArg",
        "A --build-arg that no ARG of the file declares has no effect",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(RULES[..index].iter().all(|other| other.name != rule.name));
        }
    }
}

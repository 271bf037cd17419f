//! ONBUILD triggers that a base image's config holds.

use rbuild_parser::ast::{Command, Instruction};
use rbuild_parser::{Diagnostic, Severity, Source};

use super::lowering::Lowering;

impl Lowering<'_> {
    /// Reads the triggers of an image's config. What is wrong with one is shown at the FROM line.
    pub(crate) fn read_triggers(
        &mut self,
        recorded: &[String],
        from: &Instruction,
    ) -> Vec<Instruction> {
        let mut triggers = Vec::new();
        for text in recorded {
            let parsed = rbuild_parser::parse_trigger(&Source::new("ONBUILD", text.as_bytes()));
            let refused = |what: String| {
                Diagnostic::error("bad-trigger", what, from.span)
                    .label(format!("runs `ONBUILD {}`", text.trim()))
                    .help("the trigger is in the base image: it is the base image that must be mended")
            };
            let mut broken = false;
            for diagnostic in parsed.diagnostics {
                if diagnostic.severity == Severity::Error {
                    broken = true;
                    self.mistake(refused(diagnostic.message), false);
                }
            }
            for instruction in parsed.dockerfile.instructions {
                match &instruction.command {
                    Command::From(_) if broken => {}
                    Command::From(_) | Command::Onbuild(_) | Command::Maintainer(_) => {
                        let keyword = instruction.keyword.value.to_ascii_uppercase();
                        self.mistake(
                            refused(format!("{keyword} is not allowed as an ONBUILD trigger")),
                            false,
                        );
                    }
                    Command::Invalid if !broken => {
                        self.mistake(
                            refused("this ONBUILD trigger cannot be understood".to_owned()),
                            false,
                        );
                    }
                    Command::Invalid => {}
                    _ => triggers.push(instruction),
                }
            }
        }
        triggers
    }
}

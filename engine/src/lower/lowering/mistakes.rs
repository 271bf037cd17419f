//! Mistakes and warnings of a lowering, each kept once; those of a trigger are shown at the FROM that runs it.

use std::sync::Arc;

use rbuild_parser::Diagnostic;
use rbuild_parser::ast::{Instruction, Text};

use super::{Lowering, Site};
use crate::error::Located;
use crate::lower::ImageNeed;

/// What is wrong, and whether that is certain.
pub(super) struct Mistake {
    pub(super) located: Located,
    /// It may be owed to an image that is not known yet.
    tentative: bool,
}

impl Lowering<'_> {
    /// Mistakes that no missing image explains.
    pub(super) fn firm_mistakes(&mut self) -> Vec<Located> {
        let complete = self.needs.is_empty();
        let mut firm: Vec<Located> = std::mem::take(&mut self.mistakes)
            .into_iter()
            .filter(|mistake| complete || !mistake.tentative)
            .map(|mistake| mistake.located)
            .collect();
        firm.sort_by_key(place);
        firm
    }

    /// Keeps a mistake, once.
    pub(crate) fn mistake(&mut self, diagnostic: Diagnostic, tentative: bool) {
        if !self.is_new(&diagnostic) {
            return;
        }
        self.mistakes.push(Mistake {
            located: Located {
                source: Arc::clone(self.file.source),
                diagnostic,
            },
            tentative,
        });
    }

    pub(crate) fn is_new(&mut self, diagnostic: &Diagnostic) -> bool {
        let place = diagnostic.primary.span;
        self.said
            .insert((diagnostic.code, place, diagnostic.message.clone()))
    }

    /// Keeps a mistake of an instruction. One of a trigger is shown at the FROM that runs it.
    pub(crate) fn mistake_at(
        &mut self,
        site: Site<'_>,
        mut diagnostic: Diagnostic,
        tentative: bool,
    ) {
        if let Some(from) = site.blame {
            blame(&mut diagnostic, from, site.instruction);
        }
        self.mistake(diagnostic, tentative);
    }

    pub(crate) fn warning_at(&mut self, site: Site<'_>, mut diagnostic: Diagnostic) {
        if let Some(from) = site.blame {
            blame(&mut diagnostic, from, site.instruction);
        }
        if !self.is_new(&diagnostic) {
            return;
        }
        self.warnings.push(Located {
            source: Arc::clone(self.file.source),
            diagnostic,
        });
    }

    /// Notes that an image is not known yet, and what to say if it cannot be found.
    pub(crate) fn need(&mut self, need: ImageNeed, text: &Text, blame: Option<&Instruction>) {
        if !self.needed.insert(need.clone()) {
            return;
        }
        let mut missing = self.missing_image(&need.name, text);
        if let Some(from) = blame {
            missing.primary.span = from.span;
        }
        let missing = Located {
            source: Arc::clone(self.file.source),
            diagnostic: missing,
        };
        self.needs.push((need, missing));
    }
}

/// Mistakes are told in the order of the file.
pub(super) fn place(mistake: &Located) -> usize {
    mistake.diagnostic.primary.span.start
}

fn blame(diagnostic: &mut Diagnostic, from: &Instruction, trigger: &Instruction) {
    diagnostic.primary.span = from.span;
    diagnostic.primary.text = format!("runs `ONBUILD {}`", trigger.original.trim());
    diagnostic.secondary.clear();
}

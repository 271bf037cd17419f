//! `--attest`, and `--provenance` and `--sbom` that are short for it.

use rbuild_engine::request::{Attestations, Provenance};

use super::args::BuildArgs;
use crate::error::{Error, Result};
use crate::spec::{Spec, parse_bool};

/// What every kind of attestation knows.
const KEYS: [&str; 8] = [
    "type",
    "disabled",
    "mode",
    "version",
    "builder-id",
    "inline-only",
    "reproducible",
    "generator",
];

/// Each kind may be said once, as buildx has it.
pub(super) fn attestations(args: &BuildArgs) -> Result<Attestations> {
    let mut found = Found::default();
    for text in &args.attest {
        found.add("--attest", text)?;
    }
    for (flag, kind, text) in [
        ("--provenance", "provenance", &args.provenance),
        ("--sbom", "sbom", &args.sbom),
    ] {
        let Some(text) = text else { continue };
        let spec = match parse_bool(text) {
            Some(wanted) => format!("type={kind},disabled={}", !wanted),
            None => format!("type={kind},{text}"),
        };
        found.add(flag, &spec)?;
    }
    Ok(Attestations {
        provenance: found.provenance.flatten(),
        sbom: found.sbom.unwrap_or_default(),
    })
}

/// What was said so far; `None` where a kind was not spoken of.
#[derive(Default)]
struct Found {
    provenance: Option<Option<Provenance>>,
    sbom: Option<bool>,
}

impl Found {
    fn add(&mut self, flag: &'static str, text: &str) -> Result<()> {
        let mut spec = Spec::parse(flag, text)?;
        let kind = spec.take(&["type"])?;
        let wanted = !spec.take_bool(&["disabled"])?.unwrap_or(false);
        let is_again = match kind.as_deref() {
            Some("provenance") => {
                let provenance = provenance(&mut spec)?;
                let provenance = provenance.filter(|_| wanted);
                self.provenance.replace(provenance).is_some()
            }
            Some("sbom") => {
                if spec.take(&["generator"])?.is_some() {
                    return Err(Error::unsupported(format!("{flag} with `generator=`"))
                        .help("rbuild reads the packages of the result itself: leave it out"));
                }
                self.sbom.replace(wanted).is_some()
            }
            Some(other) => {
                return Err(spec
                    .error(format!("`type={other}`: there is no such attestation"))
                    .help("it is `provenance` or `sbom`"));
            }
            None => return Err(spec.error("`type=` is missing: `provenance` or `sbom`")),
        };
        if is_again {
            let kind = kind.unwrap_or_default();
            return Err(spec.error(format!("`{kind}` is asked for twice")));
        }
        spec.finish(&KEYS)
    }
}

fn provenance(spec: &mut Spec) -> Result<Option<Provenance>> {
    // `--provenance=max` is what people try first.
    let bare = ["max", "min"].map(|mode| spec.take_field_named(mode).then_some(mode));
    let mode = spec.take(&["mode"])?;
    let complete = match mode.as_deref().or(bare.into_iter().flatten().next()) {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => {
            return Err(spec.error(format!("`mode={other}`: expected `min` or `max`")));
        }
    };
    match spec.take(&["version"])?.as_deref() {
        None | Some("v1") => {}
        Some("v0.2") => {
            return Err(Error::unsupported("provenance with `version=v0.2`")
                .help("SLSA provenance v1 is what is written: leave it out"));
        }
        Some(other) => {
            return Err(spec.error(format!("`version={other}`: expected `v1`")));
        }
    }
    Ok(Some(Provenance {
        complete,
        builder_id: spec.take(&["builder-id"])?.filter(|id| !id.is_empty()),
        inline_only: spec.take_bool(&["inline-only"])?.unwrap_or(false),
        reproducible: spec.take_bool(&["reproducible"])?.unwrap_or(false),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[(&'static str, &str)]) -> Result<Attestations> {
        let mut found = Found::default();
        for (flag, text) in texts {
            found.add(flag, text)?;
        }
        Ok(Attestations {
            provenance: found.provenance.flatten(),
            sbom: found.sbom.unwrap_or_default(),
        })
    }

    #[test]
    fn attestations_are_asked_for_as_in_buildx() {
        let of = |text: &str| of(&[("--attest", text)]).unwrap();
        assert_eq!(
            of("type=provenance").provenance,
            Some(Provenance::default())
        );
        assert_eq!(of("type=provenance,disabled=true").provenance, None);
        let full = of(
            "type=provenance,mode=max,version=v1,builder-id=https://ci/1,inline-only=true,reproducible=true",
        );
        assert_eq!(
            full.provenance,
            Some(Provenance {
                complete: true,
                builder_id: Some("https://ci/1".to_owned()),
                inline_only: true,
                reproducible: true,
            })
        );
        assert!(of("type=sbom").sbom);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "mode=max",
            "type=what",
            "type=provenance,mode=some",
            "type=provenance,version=v9",
            "type=provenance,whatever=1",
            "type=sbom,mode=max",
        ] {
            assert!(
                matches!(of(&[("--attest", text)]), Err(Error::Usage(_))),
                "{text}"
            );
        }
        let twice = [
            ("--attest", "type=sbom"),
            ("--sbom", "type=sbom,disabled=true"),
        ];
        assert!(matches!(of(&twice), Err(Error::Usage(_))));
        for text in ["type=sbom,generator=x", "type=provenance,version=v0.2"] {
            assert!(matches!(of(&[("--attest", text)]), Err(Error::Failed(_))));
        }
    }
}

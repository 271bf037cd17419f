//! Text in, graph and config out.

mod config;
mod errors;
mod graphs;
mod never_panics;
mod stages;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::Digest;
use rbuild_image::source::{Location, Resolved};
use rbuild_image::{Descriptor, ImageConfig, Manifest, Platform};
use rbuild_parser::Source;
use serde_json::json;

use super::{ContextKind, HistoryEntry, ImageNeed, Lowered, Options, images_needed, lower};
use crate::error::Located;
use crate::request::NoCache;

/// A lowering to be: the Dockerfile and what is asked of it.
pub(crate) struct Kit {
    text: String,
    pub(crate) options: Options,
    /// Configs of the images there are, by name.
    images: HashMap<String, serde_json::Value>,
}

pub(crate) fn kit(text: &str) -> Kit {
    let path = "PATH=/bin";
    Kit {
        text: text.to_owned(),
        options: Options::new(platform("linux/amd64")),
        images: HashMap::from([
            ("busybox".to_owned(), json!({"Env": [path], "Cmd": ["sh"]})),
            ("bare".to_owned(), json!({})),
        ]),
    }
}

pub(crate) fn platform(text: &str) -> Platform {
    Platform::parse(text).unwrap()
}

impl Kit {
    pub(crate) fn arg(mut self, name: &str, value: &str) -> Self {
        self.options
            .build_args
            .insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn target(mut self, name: &str) -> Self {
        self.options.target = Some(name.to_owned());
        self
    }

    pub(crate) fn platforms(mut self, platforms: &[&str]) -> Self {
        self.options.platforms = platforms.iter().map(|text| platform(text)).collect();
        self
    }

    /// An image that exists; `config` is the inner part of its config.
    pub(crate) fn image(mut self, name: &str, config: serde_json::Value) -> Self {
        self.images.insert(name.to_owned(), config);
        self
    }

    pub(crate) fn context(mut self, name: &str, kind: ContextKind) -> Self {
        self.options.contexts.insert(name.to_owned(), kind);
        self
    }

    pub(crate) fn no_cache(mut self, filters: &[&str]) -> Self {
        self.options.no_cache =
            NoCache::Filter(filters.iter().map(|&filter| filter.to_owned()).collect());
        self
    }

    pub(crate) fn lower(&self) -> Result<Lowered, Vec<Located>> {
        let source = Arc::new(Source::new("Dockerfile", self.text.as_bytes()));
        let parsed = rbuild_parser::parse(&source);
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        let mut images = HashMap::new();
        loop {
            let needs = images_needed(&source, &parsed, &self.options, &images)?;
            let mut missing = Vec::new();
            let before = images.len();
            for (need, located) in needs {
                match self.resolve(&need) {
                    Some(resolved) => {
                        images.insert(need, Arc::new(resolved));
                    }
                    None => missing.push(located),
                }
            }
            if !missing.is_empty() {
                return Err(missing);
            }
            if images.len() == before {
                return lower(&source, &parsed, &self.options, &images);
            }
        }
    }

    fn resolve(&self, need: &ImageNeed) -> Option<Resolved> {
        let name = match &need.location {
            Location::Registry(reference) => reference.familiar(),
            Location::OciLayout { path, .. } => path.to_string_lossy().into_owned(),
            _ => return None,
        };
        let config = self
            .images
            .get(name.strip_suffix(":latest").unwrap_or(&name))?;
        let digest = Digest::of(name.as_bytes());
        let config: ImageConfig = serde_json::from_value(json!({
            "architecture": need.platform.architecture,
            "os": need.platform.os,
            "created": "2020-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": format!("layer of {name}")}],
        }))
        .unwrap();
        let descriptor = Descriptor {
            media_type: String::new(),
            digest,
            size: 0,
            platform: None,
            annotations: None,
            artifact_type: None,
        };
        Some(Resolved {
            location: need.location.clone(),
            digest,
            root: descriptor.clone(),
            indexes: Vec::new(),
            descriptor: descriptor.clone(),
            manifest: Manifest {
                schema_version: 2,
                media_type: None,
                config: descriptor,
                layers: Vec::new(),
                annotations: None,
            },
            config,
            platform: need.platform.clone(),
        })
    }

    pub(crate) fn ok(&self) -> Lowered {
        self.lower()
            .unwrap_or_else(|mistakes| panic!("{}", lines_of(&mistakes).join("\n")))
    }

    pub(crate) fn dump(&self) -> String {
        super::dump::dump(&self.ok())
    }

    /// `created_by` of the Dockerfile's own instructions; `L` is a layer, `e` none.
    pub(crate) fn history(&self) -> Vec<String> {
        let lowered = self.ok();
        lowered.images[0]
            .history
            .iter()
            .filter_map(|entry| match entry {
                HistoryEntry::Inherited(_) => None,
                HistoryEntry::Own {
                    created_by, layer, ..
                } => Some(format!("{} {created_by}", if *layer { 'L' } else { 'e' })),
            })
            .collect()
    }

    pub(crate) fn labels(&self) -> String {
        let lowered = self.ok();
        let labels = lowered.images[0]
            .config
            .config
            .labels
            .clone()
            .unwrap_or_default();
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        labels.join(" ")
    }

    /// `LINE:COLUMN code: message (help)` of each mistake.
    pub(crate) fn errors(&self) -> Vec<String> {
        match self.lower() {
            Ok(lowered) => panic!("no error, but {}", super::dump::dump(&lowered)),
            Err(mistakes) => lines_of(&mistakes),
        }
    }
}

fn lines_of(mistakes: &[Located]) -> Vec<String> {
    mistakes
        .iter()
        .map(|located| {
            let diagnostic = &located.diagnostic;
            let position = located.source.position(diagnostic.primary.span.start);
            let help: String = diagnostic
                .help
                .iter()
                .map(|help| format!(" ({help})"))
                .collect();
            format!(
                "{}:{} {}: {}{help}",
                position.line, position.column, diagnostic.code, diagnostic.message
            )
        })
        .collect()
}

pub(crate) fn layout(name: &str) -> ContextKind {
    ContextKind::Image(Location::OciLayout {
        path: PathBuf::from(name),
        tag: None,
        digest: None,
    })
}

//! The predicate of SLSA provenance v1, with the fields that BuildKit gives it (its docs: "SLSA definitions").
//! `mode=min` says what a result was made from; `mode=max` also by which arguments and steps, with the Dockerfile.

use std::collections::BTreeMap;

use rbuild_cache::snapshot::LayerBlob;
use rbuild_image::{Descriptor, Platform};
use serde::Serialize;
use serde_json::Value;

use super::Evidence;
use super::definition::{Definition, base_name};
use super::materials::{DigestSet, Material, Materials};
use super::scrub::may_be_told;
use crate::assemble::Solved;
use crate::inputs;
use crate::op::{MountOpKind, Op};
use crate::request::{BuildRequest, NamedContext, NetworkChoice, NoCache, Provenance};

/// What the fields below mean is said there.
const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";

/// Who built, where nobody said: this program.
const BUILDER: &str = concat!("pkg:generic/rbuild@", env!("CARGO_PKG_VERSION"));

const FRONTEND: &str = "dockerfile.v0";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: &'static str,
    external_parameters: ExternalParameters,
    internal_parameters: InternalParameters,
    resolved_dependencies: Vec<Material>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalParameters {
    config_source: ConfigSource,
    request: Request,
}

#[derive(Debug, Serialize)]
struct ConfigSource {
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    digest: DigestSet,
    path: String,
}

#[derive(Debug, Serialize)]
struct Request {
    frontend: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locals: Vec<Local>,
}

/// Something of the host that steps asked for by its ID.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Named {
    id: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

#[derive(Debug, Serialize)]
struct Local {
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InternalParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<Value>,
    builder_platform: String,
}

#[derive(Debug, Serialize)]
struct RunDetails {
    builder: Builder,
    metadata: Metadata,
}

#[derive(Debug, Serialize)]
struct Builder {
    id: String,
    version: BTreeMap<&'static str, &'static str>,
}

#[derive(Debug, Serialize)]
struct Metadata {
    #[serde(rename = "invocationId", skip_serializing_if = "Option::is_none")]
    invocation_id: Option<String>,
    #[serde(rename = "startedOn", skip_serializing_if = "Option::is_none")]
    started_on: Option<String>,
    #[serde(rename = "finishedOn", skip_serializing_if = "Option::is_none")]
    finished_on: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buildkit_metadata: Option<BuildKitMetadata>,
    buildkit_hermetic: bool,
    buildkit_completeness: Completeness,
    buildkit_reproducible: bool,
}

#[derive(Debug, Serialize)]
struct BuildKitMetadata {
    source: Value,
    layers: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Completeness {
    request: bool,
    resolved_dependencies: bool,
}

impl Evidence<'_> {
    /// Says how one platform's image was made. `layers` are those of its manifest.
    pub(super) fn provenance(
        &self,
        wanted: &Provenance,
        solved: &Solved<'_>,
        layers: &[LayerBlob],
    ) -> Value {
        let targets: Vec<_> = solved.image.vertex.into_iter().collect();
        let needed = self.capture.graph.needed(&targets);
        let materials = Materials::of(self.capture, self.request, &needed);
        let is_complete = materials.locals.is_empty();
        let hermetic = is_complete && !materials.network;
        let definition = Definition::new(self.capture, &needed);
        let (args, all_told) = arguments(self.request, wanted.complete);
        let (secrets, ssh) = if wanted.complete {
            self.of_the_host(&needed)
        } else {
            (Vec::new(), Vec::new())
        };
        let config = materials.config;
        let locals = materials.locals.into_iter().map(|name| Local { name });
        let layers: Vec<Descriptor> = layers
            .iter()
            .map(|layer| Descriptor::new(&layer.media_type, layer.digest, layer.size))
            .collect();
        let epoch = solved.image.epoch;
        let time = |seconds: i64| time(epoch.map_or(seconds, |epoch| seconds.min(epoch)));
        let predicate = Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE,
                external_parameters: ExternalParameters {
                    config_source: ConfigSource {
                        digest: config
                            .as_ref()
                            .map(|config| config.digest.clone())
                            .unwrap_or_default(),
                        uri: config.map(|config| config.uri),
                        path: base_name(&inputs::shown(&self.request.dockerfile)).to_owned(),
                    },
                    request: Request {
                        frontend: FRONTEND,
                        args,
                        secrets,
                        ssh,
                        locals: locals.collect(),
                    },
                },
                internal_parameters: InternalParameters {
                    build_config: wanted
                        .complete
                        .then(|| definition.build_config(&self.scrub)),
                    builder_platform: Platform::host().to_string(),
                },
                resolved_dependencies: materials.all,
            },
            run_details: RunDetails {
                builder: Builder {
                    id: wanted
                        .builder_id
                        .clone()
                        .unwrap_or_else(|| BUILDER.to_owned()),
                    version: BTreeMap::from([("rbuild", env!("CARGO_PKG_VERSION"))]),
                },
                metadata: Metadata {
                    invocation_id: epoch.is_none().then(|| self.invocation.clone()),
                    started_on: time(self.capture.started),
                    finished_on: time(self.finished()),
                    buildkit_metadata: wanted.complete.then(|| BuildKitMetadata {
                        source: definition.source(&self.scrub),
                        layers: definition.layers(solved.image.vertex, &layers),
                    }),
                    buildkit_hermetic: hermetic,
                    buildkit_completeness: Completeness {
                        request: wanted.complete && all_told,
                        resolved_dependencies: is_complete,
                    },
                    buildkit_reproducible: wanted.reproducible,
                },
            },
        };
        let mut document = serde_json::to_value(predicate).unwrap_or_default();
        self.scrub.document(&mut document);
        document
    }

    /// Secrets and ssh agents that steps ask for, by ID.
    fn of_the_host(&self, needed: &[rbuild_solver::VertexId]) -> (Vec<Named>, Vec<Named>) {
        let (mut secrets, mut ssh) = (Vec::new(), Vec::new());
        for &vertex in needed {
            let Op::Exec(exec) = self.capture.graph.operation(vertex) else {
                continue;
            };
            for mount in &exec.mounts {
                let named = |id: &str, required: bool| Named {
                    id: id.to_owned(),
                    optional: !required,
                };
                match &mount.kind {
                    MountOpKind::Secret { id, required, .. } => secrets.push(named(id, *required)),
                    MountOpKind::Ssh { id, required, .. } => ssh.push(named(id, *required)),
                    MountOpKind::Bind { .. }
                    | MountOpKind::Cache { .. }
                    | MountOpKind::Tmpfs { .. } => {}
                }
            }
        }
        for found in [&mut secrets, &mut ssh] {
            found.sort();
            // Required ones sort first: what any step requires is required.
            found.dedup_by(|later, earlier| later.id == earlier.id);
        }
        (secrets, ssh)
    }
}

/// The request as buildx words it, and whether nothing was left out of it.
fn arguments(request: &BuildRequest, complete: bool) -> (BTreeMap<String, String>, bool) {
    let mut args = BTreeMap::new();
    let mut all_told = true;
    if let Some(target) = &request.target {
        args.insert("target".to_owned(), target.clone());
    }
    if !request.platforms.is_empty() {
        let platforms: Vec<String> = request.platforms.iter().map(ToString::to_string).collect();
        args.insert("platform".to_owned(), platforms.join(","));
    }
    match &request.no_cache {
        NoCache::No => {}
        NoCache::All => {
            args.insert("no-cache".to_owned(), String::new());
        }
        NoCache::Filter(stages) => {
            args.insert("no-cache".to_owned(), stages.join(","));
        }
    }
    match request.network {
        NetworkChoice::Default => {}
        NetworkChoice::None => {
            args.insert("force-network-mode".to_owned(), "none".to_owned());
        }
        NetworkChoice::Host => {
            args.insert("force-network-mode".to_owned(), "host".to_owned());
        }
    }
    if !request.hosts.is_empty() {
        let hosts: Vec<String> = request
            .hosts
            .iter()
            .map(|(host, address)| format!("{host}={address}"))
            .collect();
        args.insert("add-hosts".to_owned(), hosts.join(","));
    }
    if let Some(reach) = &request.reach {
        args.insert("allow-hosts".to_owned(), reach.to_string());
    }
    for (name, context) in &request.contexts {
        args.insert(format!("context:{name}"), named(name, context));
    }
    if complete {
        for (name, value) in &request.build_args {
            if may_be_told(name) {
                args.insert(format!("build-arg:{name}"), value.clone());
            } else {
                all_told = false;
            }
        }
        for (name, value) in &request.labels {
            args.insert(format!("label:{name}"), value.clone());
        }
    }
    (args, all_told)
}

/// What a named context is, without where it lies on this machine.
fn named(name: &str, context: &NamedContext) -> String {
    use rbuild_image::source::Location;
    match context {
        NamedContext::Directory(_) => format!("local:{name}"),
        NamedContext::Stage(stage) => format!("target:{stage}"),
        NamedContext::Remote(remote) => remote.to_string(),
        NamedContext::Image(Location::Registry(reference)) => {
            format!("docker-image://{}", reference.canonical())
        }
        NamedContext::Image(Location::Stored(digest)) => format!("docker-image://{digest}"),
        NamedContext::Image(Location::OciLayout { tag, digest, .. }) => {
            let tag = tag.iter().map(|tag| format!(":{tag}"));
            let digest = digest.iter().map(|digest| format!("@{digest}"));
            format!(
                "oci-layout://{name}{}",
                tag.chain(digest).collect::<String>()
            )
        }
        NamedContext::Image(Location::OciArchive { .. }) => format!("oci-archive://{name}"),
        NamedContext::Image(Location::DockerArchive { .. }) => format!("docker-archive://{name}"),
    }
}

/// RFC 3339.
pub(super) fn time(seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.to_string())
}

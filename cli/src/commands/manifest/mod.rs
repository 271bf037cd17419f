//! `rbuild manifest`: indexes over images, as Docker's `manifest` and buildx's `imagetools create` make them. What is
//! put together step by step is a `draft`.

mod draft;

use std::sync::Arc;

use rbuild_engine::image::registry::Client;
use rbuild_engine::image::{Descriptor, Reference};
use rbuild_engine::images::{Joined, MemberPlatform};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::progress::Transfer;
use crate::{machine, stdio, values};
use draft::Draft;

/// Join images of several platforms under one name
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ManifestCommand {
    Annotate(AnnotateArgs),
    Create(CreateArgs),
    Inspect(InspectArgs),
    Push(PushArgs),
    /// Remove drafts of indexes
    Rm {
        #[arg(required = true, value_name = "INDEX")]
        names: Vec<String>,
    },
}

/// Put an index together from images that are in registries or in the store
#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// The name that the index is to have
    #[arg(value_name = "INDEX")]
    name: String,
    /// Images, or indexes whose images are taken
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Add to the draft that is there
    #[arg(short, long)]
    amend: bool,
    /// Push at once, without keeping a draft
    #[arg(short, long)]
    push: bool,
    /// Add to what the name means in its registry; several that do so at the same time lose nothing
    #[arg(long, requires = "push")]
    append: bool,
    /// Print the index, and do nothing
    #[arg(long, conflicts_with_all = ["push", "amend"])]
    dry_run: bool,
    /// An annotation of the index
    #[arg(long, value_name = "K=V", allow_hyphen_values = true)]
    annotation: Vec<String>,
    /// Speak plain HTTP to registries that do not answer TLS
    #[arg(long)]
    insecure: bool,
}

/// Say for which platform an image of a draft is
#[derive(Debug, clap::Args)]
struct AnnotateArgs {
    #[arg(value_name = "INDEX")]
    name: String,
    #[arg(value_name = "IMAGE")]
    image: String,
    #[arg(long, value_name = "ARCHITECTURE")]
    arch: Option<String>,
    #[arg(long, value_name = "SYSTEM")]
    os: Option<String>,
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    os_features: Vec<String>,
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
}

/// Push a draft of an index
#[derive(Debug, clap::Args)]
struct PushArgs {
    #[arg(value_name = "INDEX")]
    name: String,
    /// Remove the draft after that
    #[arg(short, long)]
    purge: bool,
    /// Add to what the name means in its registry; several that do so at the same time lose nothing
    #[arg(long)]
    append: bool,
    /// Speak plain HTTP to registries that do not answer TLS
    #[arg(long)]
    insecure: bool,
}

/// Show the draft of a name, or the manifest or index that it means in its registry
#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// An index, and an image of it; or a name alone
    #[arg(required = true, num_args = 1..=2, value_name = "[INDEX] NAME[:TAG|@DIGEST]")]
    names: Vec<String>,
    /// Also show descriptors, and the manifests of an index
    #[arg(short, long)]
    verbose: bool,
    /// Speak plain HTTP to registries that do not answer TLS
    #[arg(long)]
    insecure: bool,
}

pub(crate) fn execute(args: &ManifestArgs, global: &GlobalArgs) -> Result<Exit> {
    match &args.command {
        ManifestCommand::Annotate(args) => annotate(args)?,
        ManifestCommand::Create(args) => create(args, global)?,
        ManifestCommand::Inspect(args) => inspect(args, global)?,
        ManifestCommand::Push(args) => push(args, global)?,
        ManifestCommand::Rm { names } => return remove(names),
    }
    Ok(Exit::Success)
}

fn reference(text: &str) -> Result<Reference> {
    text.parse()
        .map_err(|error| Error::usage(format!("{error}")))
}

fn no_draft(name: &Reference) -> Error {
    let familiar = name.familiar();
    Error::failed(format!("there is no draft of the index `{familiar}`")).help(format!(
        "`rbuild manifest create {familiar} IMAGE…` makes one"
    ))
}

/// The hosts of names, where they may be spoken to without TLS.
fn insecure<'a>(insecure: bool, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let hosts = names
        .into_iter()
        .filter(|_| insecure)
        .filter_map(|name| Some(name.parse::<Reference>().ok()?.registry));
    hosts.collect()
}

fn create(args: &CreateArgs, global: &GlobalArgs) -> Result<()> {
    let name = super::build::tag("the index", &args.name)?;
    let annotations = args
        .annotation
        .iter()
        .map(|text| values::pair("--annotation", text))
        .collect::<Result<Vec<_>>>()?;
    let known = match args.push || args.dry_run {
        true => None,
        false => Draft::read(&name)?,
    };
    if known.is_some() && !args.amend {
        let familiar = name.familiar();
        return Err(Error::failed(format!(
            "there is a draft of the index `{familiar}` already"
        ))
        .help(format!(
            "add to it with --amend, or remove it: `rbuild manifest rm {familiar}`"
        )));
    }
    let mut draft = known.unwrap_or_default();
    let names = args.images.iter().chain([&args.name]).map(String::as_str);
    let options = global.options_without_tls(insecure(args.insecure, names))?;
    machine::with_engine(options, async |engine, cancel| {
        for image in &args.images {
            let finding = engine.members(image);
            let found = machine::unless_cancelled(&cancel, finding).await?;
            draft.members.retain(|member| member.name != *image);
            draft.members.extend(found);
        }
        draft.annotations.extend(annotations);
        let joined = Joined {
            name: name.clone(),
            members: draft.members.clone(),
            annotations: draft.annotations.clone(),
            append: args.append,
        };
        if args.dry_run {
            let index = json!(engine.joined(&joined)?);
            stdio::out(super::inspect::indented(&index));
            return Ok(());
        }
        if args.push {
            let pushing = push_joined(&engine, &joined);
            let descriptor = machine::unless_cancelled(&cancel, pushing).await?;
            stdio::out(format!("{}\n", descriptor.digest));
            return Ok(());
        }
        draft.write(&name)?;
        stdio::out(format!("Created manifest list {}\n", name.canonical()));
        Ok(())
    })
}

async fn push_joined(
    engine: &rbuild_engine::Engine,
    joined: &Joined,
) -> rbuild_engine::Result<Descriptor> {
    // Standard output is for the digest alone.
    let shown = Arc::new(Transfer::new(true));
    engine
        .push_joined(joined, &super::push::progress(shown))
        .await
}

fn annotate(args: &AnnotateArgs) -> Result<()> {
    let name = reference(&args.name)?;
    let mut draft = Draft::read(&name)?.ok_or_else(|| no_draft(&name))?;
    let image = reference(&args.image).ok().map(|image| image.canonical());
    let platform = MemberPlatform {
        os: args.os.clone(),
        architecture: args.arch.clone(),
        variant: args.variant.clone(),
        os_version: args.os_version.clone(),
        os_features: args.os_features.clone(),
    };
    let mut found = false;
    for member in &mut draft.members {
        let own = reference(&member.name).ok().map(|own| own.canonical());
        let is_meant = member.name == args.image
            || (own.is_some() && own == image)
            || member.descriptor.digest.to_string() == args.image;
        if is_meant && !member.descriptor.is_attestation() {
            member.annotate(&platform);
            found = true;
        }
    }
    if !found {
        return Err(Error::failed(format!(
            "the index `{}` has no image `{}`",
            name.familiar(),
            args.image
        )));
    }
    draft.write(&name)
}

fn push(args: &PushArgs, global: &GlobalArgs) -> Result<()> {
    let name = reference(&args.name)?;
    let draft = Draft::read(&name)?.ok_or_else(|| no_draft(&name))?;
    let sources = draft.members.iter().map(|member| member.name.as_str());
    let names = sources.chain([args.name.as_str()]);
    let options = global.options_without_tls(insecure(args.insecure, names))?;
    let joined = Joined {
        name: name.clone(),
        members: draft.members.clone(),
        annotations: draft.annotations.clone(),
        append: args.append,
    };
    machine::with_engine(options, async |engine, cancel| {
        let pushing = push_joined(&engine, &joined);
        let descriptor = machine::unless_cancelled(&cancel, pushing).await?;
        stdio::out(format!("{}\n", descriptor.digest));
        Ok(())
    })?;
    if args.purge {
        Draft::remove(&name)?;
    }
    Ok(())
}

/// Removes all that can be removed, and fails where one could not.
fn remove(names: &[String]) -> Result<Exit> {
    let mut exit = Exit::Success;
    for name in names {
        let name = reference(name)?;
        if !Draft::remove(&name)? {
            let error = no_draft(&name);
            stdio::err(crate::render::failure(&error, stdio::err_is_coloured()));
            exit = Exit::Failed;
        }
    }
    Ok(exit)
}

fn inspect(args: &InspectArgs, global: &GlobalArgs) -> Result<()> {
    let first = reference(args.names.first().map_or("", String::as_str))?;
    let second = args.names.get(1).map(|name| reference(name)).transpose()?;
    if let Some(draft) = Draft::read(&first)? {
        return inspect_draft(&draft, &first, second.as_ref());
    }
    if second.is_some() {
        return Err(no_draft(&first));
    }
    let mut options = global.registry_options()?;
    let names = args.names.iter().map(String::as_str);
    options.insecure.extend(insecure(args.insecure, names));
    let verbose = args.verbose;
    let shown = machine::block_on(machine::Signals::Cancel, |cancel| async move {
        let client = Client::new(options);
        let showing = look(&client, &first, verbose);
        machine::unless_cancelled(&cancel, showing).await
    })?;
    stdio::out(super::inspect::indented(&shown));
    Ok(())
}

fn inspect_draft(draft: &Draft, name: &Reference, image: Option<&Reference>) -> Result<()> {
    let shown = match image {
        None => json!(
            draft
                .members
                .iter()
                .map(|member| json!({"Ref": member.name, "Descriptor": member.descriptor}))
                .collect::<Vec<_>>()
        ),
        Some(image) => {
            let found = draft.members.iter().find(|member| {
                let own = reference(&member.name).ok();
                own.is_some_and(|own| own.canonical() == image.canonical())
            });
            let member = found.ok_or_else(|| {
                Error::failed(format!(
                    "the index `{}` has no image `{}`",
                    name.familiar(),
                    image.familiar()
                ))
            })?;
            json!({"Ref": member.name, "Descriptor": member.descriptor})
        }
    };
    stdio::out(super::inspect::indented(&shown));
    Ok(())
}

/// A document of a registry; with `verbose` as Docker shows it: each image of an index, with its descriptor.
async fn look(client: &Client, name: &Reference, verbose: bool) -> rbuild_engine::Result<Value> {
    let (descriptor, bytes) = client.manifest(name).await?;
    let document = parsed(&bytes)?;
    if !verbose {
        return Ok(document);
    }
    if !descriptor.is_index() {
        return Ok(entry(&name.canonical(), &descriptor, &document));
    }
    let index: rbuild_engine::image::manifest::Index = serde_json::from_slice(&bytes)
        .map_err(|error| rbuild_engine::Error::Other(error.to_string()))?;
    let mut entries = Vec::new();
    for child in index.manifests {
        let pinned = Reference {
            digest: Some(child.digest),
            ..name.clone()
        };
        let (_, bytes) = client.manifest(&pinned).await?;
        entries.push(entry(&pinned.canonical(), &child, &parsed(&bytes)?));
    }
    Ok(Value::Array(entries))
}

fn parsed(bytes: &[u8]) -> rbuild_engine::Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| {
        rbuild_engine::Error::Other(format!("the manifest cannot be read: {error}"))
    })
}

fn entry(name: &str, descriptor: &Descriptor, document: &Value) -> Value {
    let kind = match descriptor.media_type.contains(".docker.") {
        true => "SchemaV2Manifest",
        false => "OCIManifest",
    };
    json!({"Ref": name, "Descriptor": descriptor, kind: document})
}

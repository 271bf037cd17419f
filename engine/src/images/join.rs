//! Indexes over images that are in registries: `manifest create` and `push`, as Docker's `manifest` and buildx's
//! `imagetools` have them. Of the images, documents come here; their layers go from repository to repository, without
//! passing through this machine where the registry can take them itself.
//!
//! A registry cannot compare and set a tag. Who adds to an index therefore reads it, sends the sum, and reads again a
//! little later, until what was added stays: of several that add at the same time, nobody's images get lost. Within one
//! store a lock orders them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::{Digest, KeyWriter};
use rbuild_image::attestation::REFERENCE_DIGEST;
use rbuild_image::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, DescriptorPlatform, Index, OCI_INDEX};
use rbuild_image::registry::push::{Progress, Push};
use rbuild_image::source::{self, Location};
use rbuild_image::{Descriptor, Reference};
use serde::{Deserialize, Serialize};

use crate::worker::blocking;
use crate::{Engine, Error, Result};

/// How often an index that others change at the same time is sent again.
const ROUNDS: u32 = 30;
/// How long others may take from reading an index to sending it.
const SETTLING: Duration = Duration::from_millis(700);

/// An image, or an attestation, that an index is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// As it was asked for.
    pub name: String,
    /// Where it is in a registry; `None` in the store.
    pub source: Option<String>,
    pub descriptor: Descriptor,
}

/// What of a member's platform is said otherwise than its config does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    pub os: Option<String>,
    pub architecture: Option<String>,
    pub variant: Option<String>,
    pub os_version: Option<String>,
    pub os_features: Vec<String>,
}

impl Member {
    /// Says for which platform it is, over what its config says.
    pub fn annotate(&mut self, platform: &Platform) {
        let known = self
            .descriptor
            .platform
            .get_or_insert_with(|| DescriptorPlatform {
                architecture: String::new(),
                os: "linux".to_owned(),
                os_version: None,
                os_features: None,
                variant: None,
            });
        if let Some(os) = &platform.os {
            known.os.clone_from(os);
        }
        if let Some(architecture) = &platform.architecture {
            known.architecture.clone_from(architecture);
        }
        if platform.variant.is_some() {
            known.variant.clone_from(&platform.variant);
        }
        if platform.os_version.is_some() {
            known.os_version.clone_from(&platform.os_version);
        }
        if !platform.os_features.is_empty() {
            known.os_features = Some(platform.os_features.clone());
        }
    }
}

/// What is to be pushed under a name.
#[derive(Debug, Clone)]
pub struct Joined {
    pub name: Reference,
    pub members: Vec<Member>,
    pub annotations: Vec<(String, String)>,
    /// Added to what the name means in the registry, and not in its place.
    pub append: bool,
}

impl Engine {
    /// What a name brings to an index: the image, or all that an index holds. Registries are asked first, then the
    /// store.
    pub async fn members(&self, name: &str) -> Result<Vec<Member>> {
        let missing = match name.parse::<Reference>() {
            Ok(reference) => {
                let location = Location::Registry(reference.clone());
                match source::documents(self.store(), &self.client, &location).await {
                    Ok(found) => return Ok(members(name, Some(&reference), found)),
                    Err(error) => Error::Image(error),
                }
            }
            Err(error) => Error::Image(error),
        };
        // Why the registry does not have it says more than that the store does not.
        let Ok(image) = self.find_image(name) else {
            return Err(missing);
        };
        let location = Location::Stored(image.manifest);
        let found = source::documents(self.store(), &self.client, &location).await?;
        Ok(members(name, None, found))
    }

    /// The index that members make, in their order, without sending it anywhere.
    pub fn joined(&self, joined: &Joined) -> Result<Index> {
        let descriptors = merge(Vec::new(), &joined.members);
        Ok(index(descriptors, &joined.annotations))
    }

    /// Sends the members to the repository of the name, and then the index over them. Returns what the name means.
    pub async fn push_joined(&self, joined: &Joined, progress: &Progress) -> Result<Descriptor> {
        for member in &joined.members {
            self.send_member(&joined.name, member, progress).await?;
        }
        let _lock = {
            let (store, name) = (Arc::clone(self.store()), joined.name.canonical());
            let key = KeyWriter::new("join-index.v1").field("name", name).finish();
            blocking(move || store.lock_key(key)).await?
        };
        let mut sent = None;
        for round in 0..ROUNDS {
            let before = match joined.append {
                true => self.current(&joined.name).await?,
                false => None,
            };
            let (known, annotations) = match before {
                Some((descriptor, index)) => {
                    let annotations = index.annotations.unwrap_or_default();
                    let annotations: Vec<(String, String)> = annotations
                        .into_iter()
                        .chain(joined.annotations.iter().cloned())
                        .collect();
                    // Another's round took ours in, or nobody came in between.
                    if has_all(&index.manifests, &joined.members)
                        && (sent.is_some() || joined.annotations.is_empty())
                    {
                        return Ok(descriptor);
                    }
                    (index.manifests, annotations)
                }
                None => (Vec::new(), joined.annotations.clone()),
            };
            let mut descriptors = merge(known, &joined.members);
            if joined.append {
                // The index is the same whoever came first.
                descriptors.sort_by_cached_key(order);
            }
            let index = index(descriptors, &annotations);
            let descriptor = self.put(&joined.name, &index).await?;
            if !joined.append {
                return Ok(descriptor);
            }
            sent = Some(descriptor);
            tokio::time::sleep(SETTLING + jitter(round)).await;
        }
        let name = joined.name.familiar();
        Err(Error::Other(format!(
            "others change `{name}` at the same time, {ROUNDS} times already: try again later"
        )))
    }

    async fn put(&self, name: &Reference, index: &Index) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(index).map_err(|error| Error::Other(error.to_string()))?;
        let media_type = index.media_type.as_deref().unwrap_or(OCI_INDEX);
        let descriptor = Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64);
        self.client
            .put_manifest(name, &descriptor, bytes.into())
            .await?;
        Ok(descriptor)
    }

    /// What the name means in its registry, where that is an index; an image alone is one of its members.
    async fn current(&self, name: &Reference) -> Result<Option<(Descriptor, Index)>> {
        let found = self.client.manifest(name).await;
        let (descriptor, bytes) = match found {
            Ok(found) => found,
            Err(rbuild_image::Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if descriptor.is_index() {
            let index = serde_json::from_slice(&bytes).map_err(|error| {
                Error::Image(rbuild_image::Error::BadDocument {
                    document: name.familiar(),
                    reason: error.to_string(),
                })
            })?;
            return Ok(Some((descriptor, index)));
        }
        let location = Location::Registry(Reference {
            digest: Some(descriptor.digest),
            tag: None,
            ..name.clone()
        });
        let manifests = source::documents(self.store(), &self.client, &location).await?;
        Ok(Some((descriptor, index(manifests, &[]))))
    }

    async fn send_member(
        &self,
        to: &Reference,
        member: &Member,
        progress: &Progress,
    ) -> Result<()> {
        let from = member.source.as_deref().map(str::parse).transpose()?;
        let target = Reference {
            tag: None,
            digest: Some(member.descriptor.digest),
            ..to.clone()
        };
        if from.as_ref() == Some(&target) {
            return Ok(());
        }
        let push = Push {
            root: Descriptor {
                annotations: None,
                platform: None,
                ..member.descriptor.clone()
            },
            to: target,
            mounts: super::push::mounts(self.store(), to, &Default::default())?,
            from,
            there: HashSet::new(),
        };
        Ok(self.client.push(self.store(), &push, progress).await?)
    }
}

fn members(name: &str, reference: Option<&Reference>, found: Vec<Descriptor>) -> Vec<Member> {
    found
        .into_iter()
        .map(|descriptor| Member {
            name: name.to_owned(),
            source: reference.map(|reference| {
                let pinned = Reference {
                    tag: None,
                    digest: Some(descriptor.digest),
                    ..reference.clone()
                };
                pinned.canonical()
            }),
            descriptor,
        })
        .collect()
}

/// A new image takes the place of one for the same platform, and of what is attested about that.
fn merge(mut known: Vec<Descriptor>, members: &[Member]) -> Vec<Descriptor> {
    for Member { descriptor, .. } in members {
        let platform = |it: &Descriptor| it.platform.as_ref().map(DescriptorPlatform::normalised);
        let own = platform(descriptor).filter(|_| !descriptor.is_attestation());
        let replaced: Vec<Digest> = known
            .iter()
            .filter(|it| !it.is_attestation() && own.is_some() && platform(it) == own)
            .map(|it| it.digest)
            .filter(|digest| *digest != descriptor.digest)
            .collect();
        let about = |it: &Descriptor| it.annotation(REFERENCE_DIGEST)?.parse::<Digest>().ok();
        known.retain(|it| {
            it.digest != descriptor.digest
                && !replaced.contains(&it.digest)
                && about(it).is_none_or(|about| !replaced.contains(&about))
        });
        known.push(descriptor.clone());
    }
    known
}

fn has_all(known: &[Descriptor], members: &[Member]) -> bool {
    members
        .iter()
        .all(|member| known.contains(&member.descriptor))
}

/// Images by platform, then what is attested about them.
fn order(descriptor: &Descriptor) -> (bool, String, Digest) {
    let platform = descriptor.platform.as_ref();
    let platform = platform.map_or_else(String::new, |it| it.normalised().to_string());
    (descriptor.is_attestation(), platform, descriptor.digest)
}

/// Docker's type where all images are of Docker's types.
fn index(manifests: Vec<Descriptor>, annotations: &[(String, String)]) -> Index {
    let docker = !manifests.is_empty()
        && annotations.is_empty()
        && manifests
            .iter()
            .all(|descriptor| descriptor.media_type == DOCKER_MANIFEST);
    let annotations: BTreeMap<String, String> = annotations.iter().cloned().collect();
    Index {
        schema_version: 2,
        media_type: Some(if docker { DOCKER_INDEX } else { OCI_INDEX }.to_owned()),
        manifests,
        annotations: (!annotations.is_empty()).then_some(annotations),
    }
}

/// So that those who met do not meet again.
fn jitter(round: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.subsec_nanos());
    let seed = nanos ^ std::process::id().rotate_left(16) ^ round.rotate_left(8);
    Duration::from_millis(u64::from(seed.wrapping_mul(2_654_435_761) >> 22))
}

#[cfg(test)]
mod tests {
    use rbuild_image::attestation::{ATTESTATION_MANIFEST, REFERENCE_TYPE};

    use super::*;
    use rbuild_image::manifest::OCI_MANIFEST;

    fn member(name: &str, platform: Option<&str>, about: Option<&str>) -> Member {
        let mut descriptor = Descriptor::new(OCI_MANIFEST, Digest::of(name.as_bytes()), 1);
        descriptor.annotations = about.map(|about| {
            let digest = Digest::of(about.as_bytes()).to_string();
            [
                (REFERENCE_DIGEST.to_owned(), digest),
                (REFERENCE_TYPE.to_owned(), ATTESTATION_MANIFEST.to_owned()),
            ]
            .into()
        });
        let mut member = Member {
            name: name.to_owned(),
            source: None,
            descriptor,
        };
        if let Some(architecture) = platform {
            member.annotate(&Platform {
                architecture: Some(architecture.to_owned()),
                ..Platform::default()
            });
        }
        member
    }

    #[test]
    fn an_image_takes_the_place_of_one_for_its_platform() {
        let first = [
            member("a1", Some("amd64"), None),
            member("about a1", None, Some("a1")),
            member("r1", Some("arm64"), None),
        ];
        let known = merge(Vec::new(), &first);
        assert_eq!(known.len(), 3);
        assert_eq!(merge(known.clone(), &first), {
            let mut same = known.clone();
            same.sort_by_key(|it| known.iter().position(|other| other == it));
            same
        });
        let second = member("a2", Some("amd64"), None);
        let known = merge(known, std::slice::from_ref(&second));
        let digests: Vec<Digest> = known.iter().map(|it| it.digest).collect();
        assert_eq!(digests, [Digest::of(b"r1"), Digest::of(b"a2")]);
        assert!(has_all(&known, &[second]) && !has_all(&known, &first));
    }
}

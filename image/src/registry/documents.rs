//! Manifests, indexes and configs: what a name means now, and documents by their digests. Small bodies in general.

use rbuild_cache::Digest;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use url::Url;

use super::Client;
use super::answer::knows_no_head;
use super::mirrors::MIRROR_TRIES;
use super::transport::{Call, Failure, TRIES, failed};
use crate::error::{Error, Result, shown};
use crate::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_LIMIT_BYTES, Descriptor, Document, OCI_INDEX,
    OCI_MANIFEST, own_media_type,
};
use crate::reference::Reference;

/// For all of a document.
const DOCUMENT_TIME: u32 = 10;

/// What a name means.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) descriptor: Descriptor,
    /// Its bytes, verified, where they came along.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Client {
    /// What a name means now. Mirrors are asked first. `with_bytes`: they are not here, as far as one knows.
    pub(crate) async fn named(&self, reference: &Reference, with_bytes: bool) -> Result<Named> {
        for mirror in self.mirrors(reference) {
            match self.named_at(&mirror, with_bytes, MIRROR_TRIES).await {
                Ok(found) => return Ok(found),
                Err(error) => self.pass_over(&mirror, &error),
            }
        }
        self.named_at(reference, with_bytes, TRIES).await
    }

    async fn named_at(&self, reference: &Reference, with_bytes: bool, tries: u32) -> Result<Named> {
        let name = match (&reference.digest, reference.tag_or_default()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => return Err(Error::NotFound(reference.familiar())),
        };
        let address = self
            .address(reference, &format!("manifests/{name}"))
            .await?;
        let call = Call {
            tries,
            ..Call::read(Method::HEAD, reference, address).headers(accept_manifests())
        };
        if !with_bytes && let Some(descriptor) = self.told(&call).await? {
            return Ok(Named {
                descriptor,
                bytes: None,
            });
        }
        let call = Call {
            method: Method::GET,
            ..call
        };
        let (response, body) = self.small(&call, DOCUMENT_LIMIT_BYTES).await?;
        let actual = Digest::of(&body);
        let theirs = response.digest();
        if let Some(expected) = reference.digest.or(theirs)
            && expected != actual
        {
            let of = match reference.digest {
                Some(_) => "was asked for",
                None => "it says that it is",
            };
            let reason = format!("it sent {actual}, and not what {of}, {expected}");
            return Err(failed(&response.url, reason));
        }
        let media_type = response.media_type().unwrap_or_default();
        let media_type = match is_document(&media_type) {
            true => media_type,
            // Files behind a web server are of any type. What is no document at all is told by its own type.
            false => own_media_type(&body, "it")
                .ok()
                .filter(|own| is_document(own) && is_vague(&media_type))
                .unwrap_or(media_type),
        };
        let size = body.len() as u64;
        Ok(Named {
            descriptor: descriptor(&response.url, &media_type, actual, size)?,
            bytes: Some(body),
        })
    }

    /// What a HEAD tells of a document; `None` from a registry that tells too little in one, or knows none.
    async fn told(&self, call: &Call<'_>) -> Result<Option<Descriptor>> {
        let response = match self.send(call).await {
            Ok(response) => response,
            Err(failure) if failure.status.is_some_and(knows_no_head) => return Ok(None),
            Err(failure) => return Err(failure.error),
        };
        let response = Answer::of(&response);
        let digest = response.digest();
        let size = response.header(CONTENT_LENGTH.as_str());
        let size = size.and_then(|text| text.parse().ok());
        match (
            response.media_type().filter(|it| is_document(it)),
            call.reference.digest.or(digest),
            size.filter(|size| *size > 0),
        ) {
            (Some(media_type), Some(digest), Some(size)) => {
                descriptor(&response.url, &media_type, digest, size).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A small body whole, asked for again where it breaks off.
    async fn small(&self, call: &Call<'_>, limit: u64) -> Result<(Answer, Vec<u8>)> {
        let mut tries = 0;
        loop {
            let response = self.send(call).await.map_err(|failure| failure.error)?;
            let answer = Answer::of(&response);
            let failure = match self.read_body(response, &answer.url, limit).await {
                Ok(body) => return Ok((answer, body)),
                Err(failure) => failure,
            };
            tries += failure.weight();
            if !failure.passing || tries >= call.tries {
                return Err(failure.error);
            }
            failure.pause(tries).await;
        }
    }

    /// A manifest, index or config. Not verified here, unless it comes from a mirror.
    pub(crate) async fn document(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        for mirror in self.mirrors(reference) {
            match self.document_at(&mirror, wanted, limit, MIRROR_TRIES).await {
                Ok(bytes) if Digest::of(&bytes) == wanted.digest => return Ok(bytes),
                Ok(_) => {
                    let digest = wanted.digest;
                    tracing::warn!(%mirror, %digest, "a mirror has other bytes than were asked for");
                    self.do_without(&mirror);
                }
                Err(error) => self.pass_over(&mirror, &error),
            }
        }
        let read = self.document_at(reference, wanted, limit, TRIES).await;
        self.or_lacking(reference, wanted, read).await
    }

    /// What a name means now, and the bytes of it: a manifest or an index, verified.
    pub async fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        let Named { descriptor, bytes } = self.named(reference, true).await?;
        let bytes = bytes.unwrap_or_default();
        let name = descriptor.digest.to_string();
        Document::parse(&bytes, &descriptor.media_type, &name)?;
        Ok((descriptor, bytes))
    }

    /// As [`Client::manifest`], without mirrors.
    pub(crate) async fn own_manifest(
        &self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let Named { descriptor, bytes } = self.named_at(reference, true, TRIES).await?;
        Ok((descriptor, bytes.unwrap_or_default()))
    }

    /// As [`Client::document`], without mirrors.
    pub(crate) async fn own_document(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        self.document_at(reference, wanted, limit, TRIES).await
    }

    async fn document_at(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        limit: u64,
        tries: u32,
    ) -> Result<Vec<u8>> {
        let address = self.address(reference, &part_of(wanted)).await?;
        let call = Call {
            tries,
            ..Call::read(Method::GET, reference, address).headers(accept_manifests())
        };
        Ok(self.small(&call, limit).await?.1)
    }

    /// Reads all of a small body.
    pub(super) async fn read_body(
        &self,
        response: Response,
        url: &Url,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = self.arriving(response, url);
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                let chunk = chunk?;
                if bytes.len() as u64 + chunk.len() as u64 > limit {
                    let reason = format!("it sends more than {limit} bytes for a document");
                    return Err(Failure::lasting(failed(url, reason)));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        let read = tokio::time::timeout(self.idle() * DOCUMENT_TIME, read).await;
        let slow = |_| Failure::passing(failed(url, "it takes too long to send a document"));
        read.map_err(slow)?
    }

    /// A small body whole.
    pub(crate) async fn body(&self, response: Response, url: &Url, limit: u64) -> Result<Vec<u8>> {
        let read = self.read_body(response, url, limit).await;
        read.map_err(|failure| failure.error)
    }

    /// Says of what a registry does not have that it lacks it, and not that there is no such image.
    pub(super) async fn or_lacking<T>(
        &self,
        reference: &Reference,
        wanted: &Descriptor,
        read: Result<T>,
    ) -> Result<T> {
        if !matches!(read, Err(Error::NotFound(_))) {
            return read;
        }
        let url = self.address(reference, &part_of(wanted)).await?;
        let reason = match wanted.is_foreign() {
            true => {
                "the registry does not have this layer, which may not be distributed; addresses that an image names for \
                 its layers are not followed"
            }
            false => {
                "the registry does not have this part of the image: push the image again, or use another tag"
            }
        };
        Err(failed(&url, reason))
    }
}

/// What is said of a body before it comes.
struct Answer {
    url: Url,
    headers: HeaderMap,
}

impl Answer {
    fn of(response: &Response) -> Self {
        Self {
            url: response.url().clone(),
            headers: response.headers().clone(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn digest(&self) -> Option<Digest> {
        self.header("docker-content-digest")?.parse().ok()
    }

    /// Without parameters.
    fn media_type(&self) -> Option<String> {
        let whole = self.header(CONTENT_TYPE.as_str())?;
        Some(whole.split(';').next()?.trim().to_owned())
    }
}

/// Where a blob or document is, below its repository.
fn part_of(wanted: &Descriptor) -> String {
    let kind = match wanted.is_manifest() || wanted.is_index() {
        true => "manifests",
        false => "blobs",
    };
    format!("{kind}/{}", wanted.digest)
}

fn is_document(media_type: &str) -> bool {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].contains(&media_type)
}

/// What servers call files of which they know nothing.
fn is_vague(media_type: &str) -> bool {
    [
        "",
        "application/json",
        "application/octet-stream",
        "binary/octet-stream",
        "text/plain",
    ]
    .contains(&media_type)
}

fn descriptor(url: &Url, media_type: &str, digest: Digest, size: u64) -> Result<Descriptor> {
    if size > DOCUMENT_LIMIT_BYTES {
        let reason = format!("its manifest has {size} bytes, more than {DOCUMENT_LIMIT_BYTES}");
        return Err(failed(url, reason));
    }
    let descriptor = Descriptor::new(media_type, digest, size);
    if descriptor.is_manifest() || descriptor.is_index() {
        return Ok(descriptor);
    }
    let shown = shown(media_type.as_bytes());
    let mut reason = format!("`{shown}` is not the media type of an image that can be read");
    if media_type.contains("manifest.v1+") && media_type.contains("docker") {
        reason.push_str(
            ": schema 1 is given up everywhere; push the image again with any tool of today",
        );
    }
    Err(failed(url, reason))
}

fn accept_manifests() -> HeaderMap {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST]
        .into_iter()
        .map(|media_type| (ACCEPT, HeaderValue::from_static(media_type)))
        .collect()
}

//! Which tags a repository has.

use reqwest::Method;
use reqwest::header::LINK;
use serde::Deserialize;

use super::Client;
use super::answer::header;
use super::transport::{Call, failed};
use crate::error::Result;
use crate::manifest::DOCUMENT_LIMIT_BYTES;
use crate::reference::Reference;

/// Pages of one list; a registry that never ends is one that goes in circles.
const PAGES: usize = 10_000;
/// All pages of one list together.
const LIST_LIMIT_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

impl Client {
    /// All tags of a repository, sorted. What is no tag is left out.
    pub async fn tags(&self, repository: &Reference) -> Result<Vec<String>> {
        let mut url = self.address(repository, "tags/list").await?;
        let mut tags = Vec::new();
        let mut left_bytes = LIST_LIMIT_BYTES;
        for _ in 0..PAGES {
            let call = Call::read(Method::GET, repository, url);
            let response = self.send(&call).await.map_err(|failure| failure.error)?;
            let from = response.url().clone();
            let next = header(&response, LINK.as_str()).and_then(|link| next(&link));
            let body = self
                .read_body(response, &from, DOCUMENT_LIMIT_BYTES)
                .await
                .map_err(|failure| failure.error)?;
            left_bytes = left_bytes
                .checked_sub(body.len())
                .ok_or_else(|| failed(&from, "its list of tags does not end"))?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| failed(&from, format!("its list of tags: {error}")))?;
            tags.extend(page.tags.into_iter().flatten());
            let Some(next) = next else {
                tags.retain(|tag| {
                    let name = format!("{}/{}:{tag}", repository.registry, repository.repository);
                    name.parse::<Reference>().is_ok()
                });
                tags.sort_unstable();
                tags.dedup();
                return Ok(tags);
            };
            // Credentials stay with the registry, whatever it names: `send` sees to that.
            url = self.redirected(&from, Some(&next), 0)?;
            if url.origin() != from.origin() {
                return Err(failed(&from, "its list of tags goes on at another host"));
            }
        }
        Err(failed(&url, "its list of tags does not end"))
    }
}

/// `</v2/x/tags/list?last=b&n=2>; rel="next"` (RFC 8288).
fn next(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters
        .split(';')
        .any(|parameter| parameter.trim().replace('"', "") == "rel=next");
    is_next.then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_next_page() {
        assert_eq!(
            next(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#).as_deref(),
            Some("/v2/x/tags/list?last=b&n=2")
        );
        assert_eq!(next("<a>; rel=prev"), None);
        assert_eq!(next("a; rel=next"), None);
    }
}

//! Sources of ADD that are elsewhere: URLs of files, and repositories of git.

use rbuild_cache::Digest;
use rbuild_parser::Diagnostic;
use rbuild_parser::ast::{Text, Transfer};
use rbuild_solver::VertexId;

use super::lowering::{Lowering, Outcome, Site};
use super::remote::{self, GitUrl};
use super::transfer::switch;
use crate::op::{GitSource, HttpSource, Op};

impl Lowering<'_> {
    /// A file at a URL.
    pub(super) fn http(
        &mut self,
        url: &str,
        filename: String,
        checksum: Option<&Text>,
        value: &str,
        site: Site<'_>,
    ) -> Outcome<VertexId> {
        let checksum = match checksum {
            None => None,
            Some(text) => Some(value.parse::<Digest>().map_err(|error| {
                Box::new(Diagnostic::error(
                    "bad-checksum",
                    format!("--checksum: {error}"),
                    text.span,
                ))
            })?),
        };
        let vertex = self.graph.add(
            Op::Http(HttpSource {
                url: url.to_owned(),
                checksum,
                filename,
            }),
            &[],
        );
        let place = (site.stage, site.ordinal);
        let url = remote::without_userinfo(url);
        self.name_step(
            vertex,
            place,
            format!("[internal] fetch {url}"),
            format!("http/{url}"),
            site.shown(),
        );
        Ok(vertex)
    }

    /// A repository.
    pub(super) fn git(
        &mut self,
        git: GitUrl,
        transfer: &Transfer,
        checksum: &str,
        span: rbuild_parser::Span,
        site: Site<'_>,
    ) -> Outcome<VertexId> {
        let flag = transfer.keep_git_dir.as_ref();
        if let (Some(flag), Some(url)) = (flag, git.keep_git_dir)
            && flag.value != url
        {
            return Err(Box::new(
                Diagnostic::error(
                    "keep-git-dir-twice",
                    "--keep-git-dir says otherwise than the URL",
                    flag.span,
                )
                .secondary(span, "this URL"),
            ));
        }
        if let Some(url) = &git.checksum
            && !checksum.is_empty()
            && url != checksum
        {
            return Err(Box::new(Diagnostic::error(
                "checksum-twice",
                format!("--checksum says {checksum}, the URL says {url}"),
                span,
            )));
        }
        let url = remote::without_userinfo(&git.url);
        let shown = format!("[internal] fetch {url}");
        let record = format!("git/{url}");
        let vertex = self.graph.add(
            Op::Git(GitSource {
                url: git.url,
                reference: git.reference,
                subdirectory: git.subdirectory,
                keep_git_dir: git.keep_git_dir.unwrap_or_else(|| switch(flag)),
                submodules: git.submodules,
                checksum: git
                    .checksum
                    .or_else(|| Some(checksum.to_owned()).filter(|checksum| !checksum.is_empty())),
            }),
            &[],
        );
        self.name_step(
            vertex,
            (site.stage, site.ordinal),
            shown,
            record,
            site.shown(),
        );
        Ok(vertex)
    }
}

//! The actions of one file operation, done in order on one root.

use std::io;
use std::path::Path;

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind};

use super::attributes::{Attributes, Ids};
use super::data::Cloning;
use super::destination::{self, Making, Target};
use super::{
    Action, Copy, Error, Input, ModeChange, Owner, Source, Unpacker, data, io_error, tree,
};
use crate::users;

/// Everything that the actions of one operation share.
pub(super) struct Operation<'a> {
    pub(super) root: &'a RootDir,
    /// The operation began with an empty root: there is no image to look names up in.
    pub(super) is_scratch: bool,
    pub(super) inputs: &'a [Input],
    pub(super) unpacker: &'a dyn Unpacker,
    pub(super) cloning: &'a Cloning,
}

impl Operation<'_> {
    pub(super) fn action(&self, action: &Action) -> Result<(), Error> {
        match action {
            Action::Mkdir {
                path,
                mode,
                owner,
                mtime,
            } => {
                let making = Making {
                    mode: *mode,
                    owner: self.owner(owner)?,
                    mtime: *mtime,
                };
                destination::directory(self.root, path, &making)?;
                Ok(())
            }
            Action::Mkfile {
                destination,
                name,
                data,
                owner,
                mode,
                mtime,
            } => {
                let owner = self.owner(owner)?;
                let making = Making::of_copy(mode.as_ref(), owner, *mtime);
                let written = destination.as_os_str().as_encoded_bytes();
                let is_directory = written.ends_with(b"/") || written.ends_with(b"/.");
                let name = name.as_bytes();
                let target =
                    destination::file(self.root, destination, is_directory, name, &making)?;
                self.make_file(&target, data, owner, mode.as_ref(), *mtime)
            }
            Action::Copy(copy) => self.copy(copy),
        }
    }

    fn copy(&self, copy: &Copy) -> Result<(), Error> {
        let input = self.inputs.get(copy.input).ok_or_else(|| {
            Error::Refused(format!("there is no input {} to copy from", copy.input))
        })?;
        let owner = self.owner(&copy.owner)?;
        for source in &copy.sources {
            self.source(copy, input, source, owner)?;
        }
        Ok(())
    }

    pub(super) fn source(
        &self,
        copy: &Copy,
        input: &Input,
        source: &Source,
        owner: Option<Ids>,
    ) -> Result<(), Error> {
        let Some((top, below)) = source.entries.split_first() else {
            return Ok(());
        };
        if copy.unpack && top.kind == Kind::File && self.unpack(copy, input, top, owner)? {
            return Ok(());
        }
        let making = Making::of_copy(copy.mode.as_ref(), owner, copy.mtime);
        let attributes = Attributes {
            owner,
            mode: copy.mode.as_ref(),
            mtime: copy.mtime,
        };
        let is_directory = copy.destination_is_directory;
        if top.kind == Kind::Directory {
            let directory = destination::directory(self.root, &copy.destination, &making)?;
            tree::copy(&tree::Request {
                input,
                from: &source.path,
                entries: below,
                implied: &source.implied,
                to: &directory,
                shown: &copy.destination,
                attributes,
                cloning: self.cloning,
                written: None,
                twins: None,
            })?;
            // The directory itself keeps mode and owner; its time becomes the source's.
            let mtime = copy.mtime.map_or(top.mtime, |seconds| (seconds, 0));
            return set_time(&directory, mtime)
                .map_err(|error| io_error("set the time of", &copy.destination, error));
        }
        let target = destination::file(
            self.root,
            &copy.destination,
            is_directory,
            &source.name,
            &making,
        )?;
        target.make_room()?;
        let from = input
            .root
            .place(path_of(&top.path), Resolve::Beneath)
            .map_err(|error| tree::source_error("open", top, input, error))?;
        tree::copy_one(
            &tree::One {
                entry: top,
                from: from.directory(),
                to: target.place.directory(),
                name: target.place.name(),
                is_mutable: input.mutable,
                attributes: &attributes,
                cloning: self.cloning,
            },
            &mut Vec::new(),
        )
        .map(|_| ())
        .map_err(|failure| failure.at(top, &target.path))
    }

    /// Unpacks the source if it is an archive; false if it is none and is to be copied.
    fn unpack(
        &self,
        copy: &Copy,
        input: &Input,
        top: &Entry,
        owner: Option<Ids>,
    ) -> Result<bool, Error> {
        let open = || {
            let path = path_of(&top.path);
            let file = input.root.open_file_no_follow(path, Resolve::Beneath);
            file.map_err(|error| tree::source_error("open", top, input, error))
        };
        let mut file = open()?;
        let is_archive = self
            .unpacker
            .is_archive(&mut file)
            .map_err(|error| tree::source_error("read", top, input, error))?;
        if !is_archive {
            return Ok(false);
        }
        let making = Making {
            mode: 0o755,
            owner,
            mtime: copy.mtime,
        };
        destination::directory(self.root, &copy.destination, &making)?;
        let file = open()?;
        let check = file
            .try_clone()
            .map_err(|error| tree::source_error("open", top, input, error))?;
        let owner = owner.map(|ids| (ids.uid, ids.gid));
        self.unpacker
            .unpack(file, self.root, &copy.destination, owner)
            .map_err(|source| Error::Unpack {
                path: String::from_utf8_lossy(&top.path).into_owned(),
                source,
            })?;
        if input.mutable && !data::is_as_listed(&check, top) {
            return Err(tree::changed(top));
        }
        Ok(true)
    }

    fn make_file(
        &self,
        target: &Target,
        bytes: &[u8],
        owner: Option<Ids>,
        mode: Option<&ModeChange>,
        mtime: Option<i64>,
    ) -> Result<(), Error> {
        target.make_room()?;
        let failed = |action| move |error| io_error(action, &target.path, error);
        let mut file = target.place.create_file(0o600).map_err(failed("create"))?;
        io::Write::write_all(&mut file, bytes).map_err(failed("write"))?;
        let entry = Entry {
            mode: 0o644,
            ..Entry::new(Vec::new(), Kind::File)
        };
        let attributes = Attributes { owner, mode, mtime };
        let result = match mtime {
            Some(_) => attributes.set_on_file(&file, &entry),
            None => attributes.set_on_file_but_time(&file, &entry),
        };
        result.map(|_| ()).map_err(failed("set the attributes of"))
    }

    /// `None`: the source's own.
    pub(super) fn owner(&self, owner: &Owner) -> Result<Option<Ids>, Error> {
        match owner {
            Owner::Default => Ok(None),
            Owner::Chown(owner) => {
                if let Some(name) = users::first_name(owner).filter(|_| self.is_scratch) {
                    return Err(users::Error::NoUser(name.to_owned()).into());
                }
                let (uid, gid) = users::file_owner(self.root, owner)?;
                Ok(Some(Ids { uid, gid }))
            }
        }
    }
}

pub(super) fn set_time(directory: &RootDir, mtime: (i64, u32)) -> io::Result<()> {
    directory
        .node(Path::new(""), Resolve::Beneath)?
        .set_times(mtime, mtime)
}

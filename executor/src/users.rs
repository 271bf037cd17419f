//! Names in a root's `/etc/passwd` and `/etc/group`: bounded, streaming, regular files only, resolved in the root.
//!
//! No name service, nothing of the host: only these two files of the image. Reading is in [`database`].

mod database;
#[cfg(test)]
mod tests;

use rbuild_cache::RootDir;

use database::{Group, Passwd, each_group, each_user};

/// A user as a process needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// From the passwd entry; `/` where there is none.
    pub home: String,
    /// Supplementary groups: `gid`, then those by the root's group file. Without `gid` among them, a file that its group
    /// may not use would be open to a process that took another group.
    pub groups: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no user `{0}` in the image's /etc/passwd")]
    NoUser(String),
    #[error("no group `{0}` in the image's /etc/group")]
    NoGroup(String),
    #[error("`{0}` is not a valid id: ids go from 0 to 4294967294")]
    BadId(String),
    #[error("cannot read `{path}` in the image")]
    Io {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// The kernel takes no more supplementary groups than this.
const GROUPS_LIMIT: usize = 65_536;

/// Resolves USER's value (`name`, `uid`, `name:group`, `uid:gid`, empty) for a process: names must exist.
/// A bare uid without an entry has gid 0 and home `/`. Supplementary groups are that group and those of the
/// entry's name; the group alone where one is given.
pub fn process_user(root: &RootDir, user: &str) -> Result<User, Error> {
    let (name, group) = split(user);
    let id = number(if name.is_empty() { "0" } else { name })?;
    let mut entry = None;
    each_user(root, |line: Passwd<'_>| {
        let found = match id {
            Some(uid) => line.uid == uid,
            None => line.name == name.as_bytes(),
        };
        if found {
            let home = std::str::from_utf8(line.home).unwrap_or_default();
            entry = Some((line.name.to_vec(), line.uid, line.gid, home.to_owned()));
        }
        !found
    })?;
    let (entry_name, uid, gid, home) = match (entry, id) {
        (Some((name, uid, gid, home)), _) => (Some(name), uid, gid, home),
        (None, Some(uid)) => (None, uid, 0, String::new()),
        (None, None) => return Err(Error::NoUser(name.to_owned())),
    };
    let mut resolved = User {
        uid,
        gid,
        // A path that cannot be one is as good as none.
        home: if home.is_empty() || home.contains('\0') {
            "/".to_owned()
        } else {
            home
        },
        groups: Vec::new(),
    };
    let mut further = Vec::new();
    if group.is_empty() {
        if let Some(name) = entry_name {
            further = groups_of(root, &name, gid)?;
        }
    } else {
        resolved.gid = self::group(root, group)?;
    }
    resolved.groups.push(resolved.gid);
    resolved.groups.append(&mut further);
    Ok(resolved)
}

/// Resolves a group by name or id; a name must exist.
pub fn group(root: &RootDir, group: &str) -> Result<u32, Error> {
    match number(group)? {
        Some(gid) => Ok(gid),
        None => find_group(root, group)?.ok_or_else(|| Error::NoGroup(group.to_owned())),
    }
}

/// Resolves `--chown`'s value to (uid, gid): `5` means 5:5; an unknown user is 0; an unknown group, or none, becomes
/// the user's own group: that of the passwd entry, or the uid. An empty group behind a colon is 0, other than
/// chown(1)'s. `root` is 0 whatever the image says. WORKDIR gives its directory to USER by the same rules, not by
/// those of a process. (Names on an empty root are refused by [`crate::Executor::file`], as BuildKit does: there is
/// no image to look them up in.)
pub fn file_owner(root: &RootDir, owner: &str) -> Result<(u32, u32), Error> {
    let (user, group) = split(owner);
    let (uid, gid) = if user.is_empty() {
        (0, 0)
    } else {
        match file_id(user)? {
            Some(uid) => (uid, uid),
            None => find_user(root, user)?.unwrap_or((0, 0)),
        }
    };
    if group.is_empty() {
        return Ok((uid, if owner.ends_with(':') { 0 } else { gid }));
    }
    let gid = match file_id(group)? {
        Some(gid) => gid,
        None => find_group(root, group)?.unwrap_or(gid),
    };
    Ok((uid, gid))
}

/// The first part of `--chown`'s value that is a name and so needs an image to be looked up in.
pub(crate) fn first_name(owner: &str) -> Option<&str> {
    let (user, group) = split(owner);
    [user, group]
        .into_iter()
        .find(|part| !part.is_empty() && *part != ROOT && !is_number(part))
}

const ROOT: &str = "root";

/// What needs no look-up when it is said of a file.
fn file_id(text: &str) -> Result<Option<u32>, Error> {
    match text {
        ROOT => Ok(Some(0)),
        _ => number(text),
    }
}

fn split(value: &str) -> (&str, &str) {
    value.split_once(':').unwrap_or((value, ""))
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The id if the text is a number at all; numbers that are no ids are an error, never a name.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if !is_number(text) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(Error::BadId(text.to_owned())),
    }
}

fn find_user(root: &RootDir, name: &str) -> Result<Option<(u32, u32)>, Error> {
    let mut found = None;
    each_user(root, |line: Passwd<'_>| {
        if line.name == name.as_bytes() {
            found = Some((line.uid, line.gid));
        }
        found.is_none()
    })?;
    Ok(found)
}

fn find_group(root: &RootDir, name: &str) -> Result<Option<u32>, Error> {
    let mut found = None;
    each_group(root, |line: Group<'_>| {
        if line.name == name.as_bytes() {
            found = Some(line.gid);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Groups that list `name` as a member, in the file's order, without `primary` and without doubles.
fn groups_of(root: &RootDir, name: &[u8], primary: u32) -> Result<Vec<u32>, Error> {
    let mut groups = Vec::new();
    let mut seen = std::collections::HashSet::from([primary]);
    each_group(root, |line: Group<'_>| {
        if line
            .members
            .split(|byte| *byte == b',')
            .any(|member| member == name)
            && seen.insert(line.gid)
        {
            groups.push(line.gid);
        }
        groups.len() + 1 < GROUPS_LIMIT
    })?;
    Ok(groups)
}

//! What is told of a sandbox: by the spawner that starts it, and by its first process.

use serde::{Deserialize, Serialize};

use super::Bytes;

/// What the spawner answers; what was made rides on `Done`, of a process its pidfd.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::sandbox) enum Reply {
    Done,
    Failed { errno: i32 },
}

/// What the sandbox's first process tells. The last three are its last words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) enum Report {
    /// All is set up; what was made for mount points. The master of the terminal rides on it.
    Ready {
        stubs: Vec<Stub>,
        parents: Vec<Parent>,
    },
    /// Calls wait for answers from now on. The listener and the mount namespace ride on it.
    Emulate {
        /// Ids of the mounts where devices may be made.
        mounts: Vec<u64>,
        /// User and group that the command takes of its file.
        takes: (Option<u32>, Option<u32>),
    },
    /// Likewise, where there are no namespaces. The listener rides on it.
    Answer,
    /// A step failed.
    Failed { step: String, errno: i32 },
    /// `execve` failed.
    NotExecutable {
        explanation: String,
        not_found: bool,
    },
    /// Another program refused to do a step.
    Refused { step: String, reason: String },
}

/// A mount point that was made in the root's top layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Stub {
    /// Relative to the root, free of links.
    pub(in crate::sandbox) path: Bytes,
    pub(in crate::sandbox) directory: bool,
    pub(in crate::sandbox) inode: u64,
}

/// A directory that was there before stubs were made in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Parent {
    /// Relative to the root, free of links; empty for the root.
    pub(in crate::sandbox) path: Bytes,
    pub(in crate::sandbox) mode: u32,
    pub(in crate::sandbox) uid: u32,
    pub(in crate::sandbox) gid: u32,
    pub(in crate::sandbox) mtime: (i64, i64),
}

//! Leases: how collection knows which processes live. A lease is a file in `leases/` that its process holds
//! locked; the kernel frees it at death. Whatever was used or made since the oldest living lease began is spared.

/// This process's lease; part of [`crate::Store`].
#[derive(Debug)]
#[must_use = "dropping a lease lets collection take what it pins"]
pub struct Lease {}

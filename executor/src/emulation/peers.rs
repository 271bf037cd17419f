//! Who is at the other end of a socket. The kernel knows the one id only, but which process it is that connected or
//! listened, and that is marked with who it believes to be.

use rustix::io::Errno;

use super::answer::Result;
use super::mark::Mark;
use super::target::Target;
use crate::sys::{
    self,
    notify::{Call, Reply},
};

/// `getsockopt` of `SO_PEERCRED`. What cannot be found out is left to the kernel.
///
/// It is told who the other process is now, where the kernel remembers who it was when it connected or listened.
pub(super) fn tell(target: &Target<'_>, call: &Call) -> Result<Reply> {
    let [socket, _, _, value, length, _] = call.arguments;
    let Some(credentials) = credentials(target, socket as i32) else {
        return Ok(Reply::Continue);
    };
    let room = target.bytes(length, size_of::<i32>())?;
    let room = i32::from_ne_bytes(room.try_into().map_err(|_| Errno::FAULT)?);
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    let bytes = credentials.map(u32::to_ne_bytes).concat();
    let told = bytes.get(..room).unwrap_or(&bytes);
    target.write(value, told)?;
    target.write_words(length, &[told.len() as u32])?;
    Ok(Reply::Value(0))
}

/// Process, user and group, as the kernel lays them out.
fn credentials(target: &Target<'_>, socket: i32) -> Option<[u32; 3]> {
    let socket = target.duplicate(socket).ok()?;
    let peer = sys::caller::peer(&socket).ok()?;
    let (uid, gid) = Mark::of_process(peer)?.ids?;
    Some([target.pid_of(peer)?, uid, gid])
}

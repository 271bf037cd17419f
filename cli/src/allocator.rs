//! The allocator, how long it keeps what was freed, and the C library's, which SQLite and threads' beginnings use.

#![expect(
    unsafe_code,
    reason = "the allocators' options are set by calls of their C interfaces"
)]

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which keeps these numbers from version to version.
const PURGE_DELAY: mi_option_t = 15;
/// Of version 2, where version 3 waits for a second: a build of many small stages holds a fifth less, and takes no
/// longer.
const MILLISECONDS: std::ffi::c_long = 10;

/// Has the C library's allocator make no arena for each thread, which would be 128 MiB of addresses, four system calls
/// and two pages for the few bytes that a thread asks of it.
pub(crate) fn keep_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: stores a number of that allocator's, before there are threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// `mi_option_arena_reserve` of `mimalloc.h`: KiB of addresses that it asks the system for at a time.
const ARENA_RESERVE: mi_option_t = 23;
/// Of a GiB, which is the default, it writes to 40 pages before the first byte is given away. What a command takes is in
/// one of these, or in a few.
const ARENA_KIB: std::ffi::c_long = 64 << 10;

/// It asks for the first when something is allocated first, which is before `main`.
#[used]
#[unsafe(link_section = ".init_array.00100")]
static RESERVE_LITTLE: extern "C" fn() = reserve_little;

extern "C" fn reserve_little() {
    // SAFETY: stores a number in a table of the allocator's, at any time.
    unsafe { mi_option_set(ARENA_RESERVE, ARENA_KIB) };
}

/// Has it give memory back to the system soon after it was freed.
pub(crate) fn give_back_soon() {
    // SAFETY: stores a number in a table of the allocator's, at any time and from any thread; a number that it does
    // not know is passed over.
    unsafe { mi_option_set(PURGE_DELAY, MILLISECONDS) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: reads a number of that table.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(
            delay(),
            1000,
            "it is another option now, or begins with another value"
        );
        give_back_soon();
        assert_eq!(delay(), MILLISECONDS);
    }
}

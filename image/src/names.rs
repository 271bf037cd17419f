//! How the names of machines are looked up.

#![expect(
    unsafe_code,
    reason = "the C library is told by a call of its C interface"
)]

use std::sync::Once;

/// Has names looked up in /etc/hosts and by DNS, as programs do that bring a resolver of their own. For other ways
/// `nsswitch.conf` names libraries, which a C library that is linked into the program could only load from a machine with
/// the same version of it. To be called before a connection.
pub(crate) fn look_up_alone() {
    static TOLD: Once = Once::new();
    TOLD.call_once(tell);
}

#[cfg(target_env = "gnu")]
fn tell() {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        /// `nss.h`.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    // Where it cannot, what nsswitch.conf says goes on to hold.
    // SAFETY: both texts end with a zero and are read, not kept; the library locks what it changes.
    unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}

#[cfg(not(target_env = "gnu"))]
fn tell() {}

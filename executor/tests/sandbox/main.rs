//! Commands in real sandboxes, on a root that holds busybox: once as root, once as an ordinary user with subordinate
//! ids, once with a single id. The program runs itself again for the last two.

mod ahead;
mod basics;
mod containment;
mod figures;
#[path = "../kit/mod.rs"]
mod kit;
mod life;
mod mounts;
mod network;
mod users;

use kit::{Kit, Outcome};

fn main() -> std::process::ExitCode {
    if std::env::var_os(TERMINAL_ROLE).is_some() {
        return kit::alone(life::in_terminal);
    }
    if std::env::var_os(VICTIM_ROLE).is_some() {
        return kit::alone(life::victim);
    }
    if std::env::var_os(AHEAD_ROLE).is_some() {
        return kit::alone(ahead::victim);
    }
    // Figures taken beside other tests mean nothing.
    if std::env::args().any(|argument| argument == "measure") {
        return kit::main(&[("measure", figures::measure)]);
    }
    kit::main(TESTS)
}

/// Set where this program was started by a test to run a container on its terminal.
const TERMINAL_ROLE: &str = "RBUILD_TEST_TERMINAL";

/// Set where this program was started by a test to be killed.
const VICTIM_ROLE: &str = "RBUILD_TEST_VICTIM";

/// As [`VICTIM_ROLE`], while a process waits that was made ahead.
const AHEAD_ROLE: &str = "RBUILD_TEST_AHEAD";

type Test = fn(&Kit) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("output is captured, input is empty", basics::output),
    ("large output", basics::large_output),
    ("exit codes and signals", basics::ends),
    ("only what was written is in the layer", basics::layer),
    (
        "nothing of the sandbox is in the layer",
        basics::nothing_left,
    ),
    ("an empty base", basics::empty_base),
    ("the environment is closed", basics::environment),
    ("users and groups", basics::users),
    ("processes are alone", containment::processes),
    (
        "background processes end with the step",
        containment::background,
    ),
    ("kernel files", containment::kernel_files),
    ("masked and read-only", containment::masked),
    (
        "links in place of /proc and /sys are refused",
        containment::fake_proc,
    ),
    ("devices", containment::devices),
    ("capabilities and the filter", containment::capabilities),
    ("descriptors", containment::descriptors),
    ("network", containment::network),
    ("private networks: the way out", network::way_out),
    ("private networks: out of reach", network::out_of_reach),
    ("private networks: published ports", network::published),
    ("private networks: one after the other", network::pool),
    ("working directories", basics::cwd),
    ("programs that cannot run are explained", basics::explained),
    ("mounts of every kind", mounts::mounts),
    ("mounts stay out of the layer", mounts::mounts_leave_nothing),
    ("what lies under a mount stays", mounts::under_mounts),
    ("mounts through links stay inside", mounts::through_links),
    ("refused targets", mounts::refused_targets),
    ("secrets", mounts::secrets),
    ("owners of secrets and caches", mounts::owners),
    ("cache mounts", mounts::caches),
    (
        "writes to a snapshot's mount are dropped",
        mounts::snapshot_writes,
    ),
    ("many layers", basics::many_layers),
    ("time limits", life::timeout),
    ("cancellation", life::cancelled),
    ("limits of resources", life::limits),
    ("a read-only root", containment::read_only_root),
    ("an init process", life::init),
    ("owners", basics::owners),
    ("sockets are forwarded", mounts::sockets),
    ("limits of memory and processes", life::cgroups),
    ("containers: exit codes and signals", life::run_signals),
    ("containers: a terminal", life::terminal),
    ("insecure", containment::insecure),
    ("root's commands are nobody's", users::namespace),
    (
        "whoever has whose users, layers are the same",
        users::same_layers,
    ),
    ("directories show their owners", users::directories),
    ("rights over a network", users::network),
    ("limits can be higher than the caller's", users::limits),
    ("many at once", life::many_at_once),
    ("who waits is known", life::waiting),
    ("death is contagious", life::death_is_contagious),
    ("made ahead: all is the same", ahead::likeness),
    ("made ahead: one for each command", ahead::one_each),
    ("made ahead: nothing is left", ahead::unneeded),
    ("made ahead: killed while it waits", ahead::killed),
    (
        "made ahead: dies with the builder",
        ahead::dies_with_the_builder,
    ),
    ("nothing is left behind", life::nothing_leaks),
];

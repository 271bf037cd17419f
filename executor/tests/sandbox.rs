//! Commands in real sandboxes, on a root that holds busybox: once as root, once as an ordinary user with subordinate
//! ids, once with a single id. The program runs itself again for the last two.

mod kit;

use kit::{Kit, Outcome};

fn main() -> std::process::ExitCode {
    kit::main(TESTS)
}

type Test = fn(&Kit) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("a command's output is captured", output),
];

fn output(kit: &Kit) -> Outcome {
    let ran = kit.sh("echo out; echo err >&2; cat; pwd")?;
    kit::equal(&ran.stdout, "out\n/\n")?;
    kit::equal(&ran.stderr, "err\n")
}

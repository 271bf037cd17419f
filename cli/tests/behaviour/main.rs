//! How the binary behaves, seen from outside: exit codes, what it prints, what it leaves. By topic.

#[path = "../kit/docker.rs"]
mod docker;
#[path = "../kit/mod.rs"]
mod kit;
#[path = "../kit/names.rs"]
mod names;
#[path = "../kit/pty.rs"]
mod pty;

mod archives;
mod build;
mod containers;
mod counted;
mod editors;
mod emulated;
mod foreign;
mod images;
mod inside;
mod killed;
mod looking;
mod mounts;
mod networks;
mod ports;
mod profiles;
mod propagation;
mod reach;
mod remote;
mod robustness;
mod rootless;
mod run;
mod secrets;
mod shell;
mod terminals;
mod usage;
mod volumes;

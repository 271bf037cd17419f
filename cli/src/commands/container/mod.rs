//! The commands on containers, one file each. Most of them need no more than the containers' files and the process
//! that a container lives in: they enter no namespace and open no index.

pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod cp;
pub(crate) mod diff;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod kill;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod rename;
pub(crate) mod rm;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use rbuild_engine::containers::{Catalog, Entry};

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{render, stdio};

pub(crate) fn catalog(global: &GlobalArgs) -> Result<Catalog> {
    Ok(Catalog::at(&global.options()?.root))
}

/// Does something with each container, prints its name as it was given, and fails where one could not.
pub(crate) fn each(
    catalog: &Catalog,
    names: &[String],
    mut work: impl FnMut(Entry) -> Result<()>,
) -> Exit {
    each_name(names, |name| work(catalog.find(name)?))
}

/// Tells of containers, volumes or networks that are damaged, beside a list of the others; fails where there are any.
pub(crate) fn told(damaged: Vec<rbuild_engine::Error>) -> Exit {
    let mut exit = Exit::Success;
    for error in damaged {
        stdio::err(render::failure(&error.into(), stdio::err_is_coloured()));
        exit = Exit::Failed;
    }
    exit
}

/// Does something with each name, prints it, and fails where one could not.
pub(crate) fn each_name(names: &[String], mut work: impl FnMut(&str) -> Result<()>) -> Exit {
    let mut exit = Exit::Success;
    for name in names {
        match work(name) {
            Ok(()) => stdio::out(format!("{name}\n")),
            Err(error) => {
                stdio::err(render::failure(&error, stdio::err_is_coloured()));
                exit = Exit::Failed;
            }
        }
    }
    exit
}

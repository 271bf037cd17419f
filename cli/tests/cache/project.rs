//! A project that is changed, and what is expected of each change.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::twin::{Twin, assert_same};

/// The project while it is changed.
pub(crate) struct Project {
    pub(crate) twin: Twin,
    original: &'static str,
    dockerfile: String,
}

impl Project {
    fn new(twin: Twin, original: &'static str) -> Self {
        let mut project = Self {
            twin,
            original,
            dockerfile: String::new(),
        };
        project.reset();
        project
    }

    /// As it was, but for inodes and times, which do not matter.
    fn reset(&mut self) {
        let context = self.twin.kit.path("context");
        std::fs::remove_dir_all(&context).unwrap();
        for (path, content) in [
            ("app.txt", "app\n"),
            ("tool.sh", "#!/bin/sh\n"),
            ("dir/x", "x\n"),
            ("dir/y", "y\n"),
            ("dir/empty/.keep", ""),
            ("bound/f", "f\n"),
            ("bound/g", "g\n"),
            ("owned.txt", "owned\n"),
            ("ignored.log", "1\n"),
            ("outside.txt", "1\n"),
            (".dockerignore", "*.log\n"),
        ] {
            self.twin.write(path, content);
        }
        symlink("x", context.join("dir/link")).unwrap();
        std::fs::write(self.twin.kit.path("token"), "one").unwrap();
        self.twin.arguments = vec!["--secret=id=token,src=token".to_owned()];
        self.original.clone_into(&mut self.dockerfile);
    }

    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.twin.kit.path("context").join(path)
    }

    pub(crate) fn write(&mut self, path: &str, content: &str) {
        self.twin.write(path, content);
    }

    pub(crate) fn mode(&mut self, path: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(path), mode).unwrap();
    }

    pub(crate) fn remove(&mut self, path: &str) {
        std::fs::remove_file(self.path(path)).unwrap();
    }

    /// Changes the Dockerfile; what is replaced must be there.
    pub(crate) fn edit(&mut self, from: &str, to: &str) {
        assert!(self.dockerfile.contains(from), "{from}");
        self.dockerfile = self.dockerfile.replacen(from, to, 1);
    }

    pub(crate) fn flag(&mut self, flag: &str) {
        self.twin.arguments.push(flag.to_owned());
    }
}

pub(crate) struct Case {
    name: &'static str,
    change: fn(&mut Project),
    /// The steps that run, in order.
    ran: Vec<&'static str>,
    /// The reasons at the bottom, each once.
    roots: &'static [&'static str],
}

pub(crate) fn case(
    name: &'static str,
    change: fn(&mut Project),
    ran: &[&[&'static str]],
    roots: &'static [&'static str],
) -> Case {
    Case {
        name,
        change,
        ran: ran.concat(),
        roots,
    }
}

pub(crate) fn check(dockerfile: &'static str, cases: &[Case]) {
    let mut project = Project::new(Twin::new(), dockerfile);
    project.twin.warm(dockerfile);
    let mut wrong = Vec::new();
    for case in cases {
        project.reset();
        let before = project.twin.warm(dockerfile);
        assert_eq!(before.ran(), [""; 0], "before `{}`", case.name);
        (case.change)(&mut project);
        let warm = project.twin.warm(&project.dockerfile);
        let cold = project.twin.cold(&project.dockerfile);
        assert_same(&warm, &cold, case.name);
        let ran = warm.ran();
        let expected = ran.len() == case.ran.len()
            && ran
                .iter()
                .zip(&case.ran)
                .all(|(ran, name)| ran.contains(name));
        if !expected {
            wrong.push(format!("`{}`: ran {ran:#?}, not {:?}", case.name, case.ran));
        }
        if warm.roots() != case.roots {
            let roots = warm.roots();
            wrong.push(format!("`{}`: because of {roots:#?}", case.name));
        }
        let all = warm.ran().len() + warm.cached().len();
        assert_eq!(all, warm.steps.len(), "`{}`: {:#?}", case.name, warm.steps);
    }
    project.twin.kit.store_is_whole();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

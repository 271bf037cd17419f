//! One context and two stores: the warm one lives on, the cold one is made anew for each comparison.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kit::{Archive, Kit, Output};

pub(crate) struct Twin {
    pub(crate) kit: Kit,
    /// Arguments of every build, as `--build-arg=A=1`.
    pub(crate) arguments: Vec<String>,
}

/// What a build came to.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) steps: Vec<Value>,
    /// Path → kind, mode, owner and content, of all layers.
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) diff_ids: Vec<Value>,
    pub(crate) config: Value,
}

impl Built {
    /// The instructions that ran, without `[2/4]`.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.with_outcome("ran")
    }

    pub(crate) fn cached(&self) -> Vec<String> {
        self.with_outcome("cached")
    }

    fn with_outcome(&self, outcome: &str) -> Vec<String> {
        self.steps
            .iter()
            .filter(|step| step["outcome"] == outcome)
            .map(name)
            .collect()
    }

    /// The reasons at the bottom: whatever is not the result of another step; each once, as `env.A: 1 -> 2`.
    pub(crate) fn roots(&self) -> Vec<String> {
        let mut roots = Vec::new();
        for step in &self.steps {
            for reason in step["reasons"].as_array().into_iter().flatten() {
                if reason["reason"] != "step" {
                    let text = short(reason);
                    if !roots.contains(&text) {
                        roots.push(text);
                    }
                }
            }
        }
        roots
    }
}

pub(crate) fn name(step: &Value) -> String {
    let name = step["name"].as_str().unwrap();
    let name = name.split_once("] ").map_or(name, |(_, name)| name);
    name.to_owned()
}

/// A reason in few words.
fn short(reason: &Value) -> String {
    let text = |field: &str| reason[field].as_str().unwrap_or("-");
    let context = match text("context") {
        "" | "-" => String::new(),
        name => format!("{name}:"),
    };
    match text("reason") {
        "changed" => format!("{}: {} -> {}", text("what"), text("before"), text("after")),
        "file" => {
            let what: Vec<&str> = reason["what"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let what = what.join("+");
            format!("{} {context}{} {what}", text("change"), text("path"))
                .trim_end()
                .to_owned()
        }
        "more-files" => format!("{} more files", reason["count"]),
        "order" => format!("order: {} -> {}", text("before"), text("after")),
        other => other.to_owned(),
    }
}

impl Twin {
    pub(crate) fn new() -> Self {
        Self {
            kit: Kit::new(),
            arguments: Vec::new(),
        }
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        self.kit.context(&[(path, content)]);
    }

    pub(crate) fn warm(&self, dockerfile: &str) -> Built {
        self.build(dockerfile, &[])
    }

    /// Builds from an empty store.
    pub(crate) fn cold(&self, dockerfile: &str) -> Built {
        let store = self.kit.path("cold");
        remove(&store);
        let built = self.build(dockerfile, &["--root", store.to_str().unwrap()]);
        remove(&store);
        built
    }

    /// As [`Twin::warm`] and [`Twin::cold`], both; `None` where both fail, as they then must.
    #[track_caller]
    pub(crate) fn both(&self, dockerfile: &str) -> Option<(Built, Built)> {
        let warm = self.try_build(dockerfile, &[]);
        let warm = (warm.code == 0).then(|| self.read());
        let store = self.kit.path("cold");
        remove(&store);
        let cold = self.try_build(dockerfile, &["--root", store.to_str().unwrap()]);
        remove(&store);
        assert_eq!(warm.is_some(), cold.code == 0, "{cold}");
        Some((warm?, self.read()))
    }

    fn try_build(&self, dockerfile: &str, global: &[&str]) -> Output {
        let mut arguments: Vec<String> = global.iter().map(|&text| text.to_owned()).collect();
        let more: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        arguments.extend(self.kit.build_arguments(dockerfile, &more));
        let flags = [
            "--explain",
            "--metadata-file=metadata.json",
            "--output=type=oci,dest=image.tar,rewrite-timestamp=true",
        ];
        arguments.extend(flags.map(str::to_owned));
        let mut command = self.kit.command(arguments);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        self.kit.finish(command.spawn().unwrap())
    }

    fn build(&self, dockerfile: &str, global: &[&str]) -> Built {
        self.try_build(dockerfile, global).success();
        self.read()
    }

    /// What the last build came to.
    fn read(&self) -> Built {
        let metadata = std::fs::read(self.kit.path("metadata.json")).unwrap();
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        let explain = &metadata["rbuild.build"]["explain"];
        let archive = Archive::read(&self.kit.path("image.tar"));
        Built {
            steps: explain["steps"].as_array().unwrap().clone(),
            files: archive.files,
            diff_ids: archive.config["rootfs"]["diff_ids"]
                .as_array()
                .cloned()
                .unwrap_or_default(),
            config: archive.config,
        }
    }
}

fn remove(store: &std::path::Path) {
    if store.exists() {
        let status = std::process::Command::new("rm")
            .arg("-rf")
            .arg(store)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// The warm result is the cold one.
#[track_caller]
pub(crate) fn assert_same(warm: &Built, cold: &Built, what: &str) {
    assert_eq!(warm.files, cold.files, "{what}");
    assert_eq!(warm.config, cold.config, "{what}");
    assert_eq!(warm.diff_ids, cold.diff_ids, "{what}");
}

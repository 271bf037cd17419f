//! Processes that are killed at any moment, and disks that get full: the store stays whole, and the next build is
//! right.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dice::{Random, number};
use crate::kit::server::{Page, Server};
use crate::kit::{Archive, Kit, is_root};
use crate::require_machine;

const KILLS: u64 = 16;
const FULL_DISKS: u64 = 4;

/// What is done to a store while it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Build,
    Pull,
    Prune,
    Run,
    Load,
    Save,
}

const WORKS: [Work; 9] = [
    Work::Build,
    Work::Build,
    Work::Build,
    Work::Pull,
    Work::Pull,
    Work::Prune,
    Work::Run,
    Work::Load,
    Work::Save,
];

/// Every build does something new: the argument is in its first step.
const DOCKERFILE: &str = r#"FROM busybox AS one
ARG ROUND
COPY files /files
RUN echo $ROUND > /round && mkdir /many && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /many/$i; done
RUN --mount=type=cache,target=/c echo $ROUND >> /c/log && head -c 300000 /bin/busybox > /part
FROM busybox
COPY --from=one /round /part /
COPY --from=one /many /many
RUN rm /many/5 && cat /round > /seen
"#;

struct Scene {
    kit: Kit,
    server: Server,
}

impl Scene {
    fn new() -> Self {
        let kit = Kit::new();
        for number in 0..20 {
            let name = format!("files/{number}");
            kit.context(&[(&name, &"x".repeat(number * 997))]);
        }
        let server = Server::new();
        let scene = Self { kit, server };
        scene.serve();
        scene
    }

    /// Puts an image onto the server, as a registry would serve it.
    fn serve(&self) {
        let spec = "type=oci,tar=false,dest=served,name=served:latest";
        let kit = Kit::new();
        kit.must_build(
            "FROM busybox\nRUN head -c 700000 /bin/busybox > /x\n",
            &["-o", spec],
        );
        let read = |path: &str| std::fs::read(kit.path("served").join(path)).unwrap();
        let index: Value = serde_json::from_slice(&read("index.json")).unwrap();
        let descriptor = &index["manifests"][0];
        let blob = |digest: &str| read(&format!("blobs/{}", digest.replace(':', "/")));
        let digest = descriptor["digest"].as_str().unwrap();
        let manifest = blob(digest);
        let document: Value = serde_json::from_slice(&manifest).unwrap();
        let layers = document["layers"].as_array().unwrap().iter();
        for part in layers.chain([&document["config"]]) {
            let digest = part["digest"].as_str().unwrap();
            let path = format!("/v2/served/blobs/{digest}");
            self.server.page(
                &path,
                Page {
                    body: blob(digest),
                    ..Page::default()
                },
            );
        }
        let kind = format!(
            "Content-Type: {}",
            descriptor["mediaType"].as_str().unwrap()
        );
        let known = format!("Docker-Content-Digest: {digest}");
        for name in ["latest", digest] {
            let path = format!("/v2/served/manifests/{name}");
            self.server.text(&path, &manifest, &[&kind, &known]);
        }
        self.server.text("/v2/", "{}", &[]);
    }

    fn served(&self) -> String {
        self.server.url("/served").replace("http://", "")
    }

    fn command(&self, work: Work, round: usize, store: &Path) -> Command {
        let arguments: Vec<String> = match work {
            Work::Build => self.build_arguments(round, "killed.tar"),
            Work::Pull => vec!["pull".to_owned(), self.served()],
            Work::Prune => ["prune", "-f", "--all"].map(str::to_owned).to_vec(),
            Work::Run => ["run", "kept", "true"].map(str::to_owned).to_vec(),
            Work::Load => ["load", "-i", "kept.tar"].map(str::to_owned).to_vec(),
            Work::Save => ["save", "-o", "saved.tar", "kept"]
                .map(str::to_owned)
                .to_vec(),
        };
        let mut command = self.kit.command(arguments);
        command.env("RBUILD_ROOT", store);
        command
    }

    fn build_arguments(&self, round: usize, tar: &str) -> Vec<String> {
        let argument = format!("--build-arg=ROUND={round}");
        let output = format!("--output=type=oci,dest={tar}");
        self.kit
            .build_arguments(DOCKERFILE, &["--tag=kept", &argument, &output])
    }

    /// The next build: it succeeds, and gives what any build gives.
    #[track_caller]
    fn is_right(&self, round: usize, store: &Path) -> BTreeMap<String, String> {
        let mut command = self.kit.command(self.build_arguments(round, "right.tar"));
        command.env("RBUILD_ROOT", store);
        let output = self.kit.finish(command.spawn().unwrap());
        assert_eq!(output.code, 0, "round {round}: {output}");
        let mut files = Archive::read(&self.kit.path("right.tar")).files;
        for name in ["round", "seen"] {
            assert_eq!(
                files.remove(name),
                Some(format!("-644 {round}")),
                "round {round}"
            );
        }
        files
    }

    #[track_caller]
    fn is_whole(&self, store: &Path, what: &str) {
        let mut command = self.kit.command(["store", "check"]);
        command.env("RBUILD_ROOT", store);
        let output = self.kit.finish(command.spawn().unwrap());
        assert_eq!(output.stdout, "The store is whole.\n", "{what}: {output}");
    }
}

#[test]
fn whenever_it_is_killed_the_store_is_whole_and_the_next_build_right() {
    require_machine!();
    let scene = Scene::new();
    let store = scene.kit.path("store");
    let mut random = Random::new(number("RBUILD_KILLS_SEED", 0x5eed));
    let began = Instant::now();
    let expected = scene.is_right(0, &store);
    let span = began.elapsed();
    std::fs::rename(scene.kit.path("right.tar"), scene.kit.path("kept.tar")).unwrap();
    let (mut kills, mut late) = (0, 0);
    let mut met: BTreeMap<Work, u64> = BTreeMap::new();
    let wanted = number("RBUILD_KILLS", KILLS);
    let mut round = 0;
    while kills < wanted {
        round += 1;
        let work = WORKS[random.below(WORKS.len())];
        let limit = match work {
            Work::Build => span,
            Work::Pull | Work::Load | Work::Save => span / 3,
            Work::Prune | Work::Run => span / 6,
        };
        if work == Work::Pull {
            // So that there is something to pull.
            let name = scene.served();
            scene.kit.rbuild(&["rmi", &name]);
            scene.kit.must(&["prune", "-f", "--all"]);
        }
        let moment =
            Duration::from_micros(random.below(usize::try_from(limit.as_micros()).unwrap()) as u64);
        let mut child = scene.command(work, round, &store).spawn().unwrap();
        std::thread::sleep(moment);
        if child.try_wait().unwrap().is_some() {
            late += 1;
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        *met.entry(work).or_default() += 1;
        let what = format!("kill {kills}, round {round}: {work:?} after {moment:?}");
        scene.is_whole(&store, &what);
        assert_eq!(scene.is_right(round, &store), expected, "{what}");
        if work == Work::Pull {
            let name = scene.served();
            scene.kit.must(&["pull", &name]);
        }
        if kills % 50 == 0 {
            println!("{kills} kills");
        }
    }
    scene.is_whole(&store, "at the end");
    scene.kit.must(&["prune", "-f", "--all"]);
    let count = |name: &str| std::fs::read_dir(store.join(name)).unwrap().count();
    assert_eq!((count("tmp"), count("leases")), (0, 0));
    println!("{kills} kills met {met:?}; {late} came too late; every check was clean");
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn however_full_the_disk_gets_the_store_is_whole_and_the_next_build_right() {
    require_machine!();
    let test = "however_full_the_disk_gets_the_store_is_whole_and_the_next_build_right";
    let scene = Scene::new();
    let disk = scene.kit.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=14m", "tmpfs"])
        .arg(&disk)
        .status();
    if !is_root() || !mount.is_ok_and(|status| status.success()) {
        crate::kit::skipped(test, "no file system can be mounted here");
        return;
    }
    let _mounted = Mounted(disk.clone());
    let store = disk.join("store");
    let mut random = Random::new(number("RBUILD_KILLS_SEED", 0x5eed));
    let expected = scene.is_right(0, &store);
    let (mut failed, mut killed) = (0, 0);
    let rounds = usize::try_from(number("RBUILD_FULL_DISKS", FULL_DISKS)).unwrap();
    for round in 1..=rounds {
        // Leaves so little that it gets full somewhere on the way.
        let filler = disk.join("filler");
        let free = rustix::fs::statvfs(&disk).unwrap();
        let free = usize::try_from(free.f_bavail * free.f_frsize).unwrap();
        let leave = random.below(3 << 20);
        std::fs::write(&filler, vec![1; free.saturating_sub(leave)]).unwrap();
        let what = format!("round {round} with {leave} bytes free");
        let arguments = scene.build_arguments(round, "full.tar");
        let mut command = scene.kit.command(arguments);
        command.env("RBUILD_ROOT", &store);
        let mut child = command.spawn().unwrap();
        if random.below(3) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(300) as u64));
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        } else {
            let output = scene.kit.finish(child);
            if output.code != 0 {
                failed += 1;
                let said = output.stderr.to_lowercase();
                assert!(
                    said.contains("no space left") || said.contains("full"),
                    "{what}: {output}"
                );
            }
        }
        scene.is_whole(&store, &what);
        // Room is made with what is there.
        let mut prune = scene.command(Work::Prune, round, &store);
        let output = scene.kit.finish(prune.spawn().unwrap());
        assert_eq!(output.code, 0, "{what}: {output}");
        std::fs::remove_file(&filler).unwrap();
        scene.is_whole(&store, &what);
        assert_eq!(scene.is_right(round, &store), expected, "{what}");
    }
    println!("{rounds} rounds: {failed} builds met a full disk, {killed} were killed on it");
}

/// What is left of a container is removed beside the next command.
#[test]
fn a_store_can_be_unmounted_when_a_command_has_ended() {
    require_machine!();
    const ROUNDS: usize = 8;
    let kit = Kit::new();
    let disk = kit.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let store = disk.join("store");
    let rbuild = |arguments: &[String]| {
        let mut command = kit.command(arguments);
        command.env("RBUILD_ROOT", &store);
        kit.finish(command.spawn().unwrap()).success()
    };
    let script = "mkdir /m; i=0; while [ $i -lt 1000 ]; do : > /m/$i; i=$((i+1)); done";
    let run = ["run", "--rm", "--name=same", "app", "sh", "-c", script].map(str::to_owned);
    let umount = || Command::new("umount").arg(&disk).output().unwrap();
    for round in 0..ROUNDS {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(&disk)
            .status();
        if !is_root() || !mount.is_ok_and(|status| status.success()) {
            let test = "a_store_can_be_unmounted_when_a_command_has_ended";
            crate::kit::skipped(test, "no file system can be mounted here");
            return;
        }
        let _mounted = Mounted(disk.clone());
        let dockerfile = format!("FROM busybox\nRUN echo {round} > /round\n");
        rbuild(&kit.build_arguments(&dockerfile, &["--tag=app"]));
        if round % 2 == 0 {
            rbuild(&run);
            rbuild(&run);
        }
        let output = umount();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "round {round}: {said}");
    }
}

/// Up to which epoch a store says that it is synced.
fn synced(store: &Path) -> Option<i64> {
    let record = std::fs::read(store.join("synced")).ok()?;
    let epoch = record.first_chunk::<8>()?;
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(record[8..].starts_with(boot.trim_ascii_end()));
    Some(i64::from_le_bytes(*epoch))
}

#[test]
fn a_build_that_has_ended_is_synced() {
    require_machine!();
    let kit = Kit::new();
    let store = kit.path("store");
    assert_eq!(synced(&store), None);
    kit.must_build("FROM busybox\nRUN echo one > /one\n", &["-t", "one"]);
    let first = synced(&store);
    assert!(first.is_some());
    kit.must_build("FROM busybox\nRUN echo two > /two\n", &["-t", "one"]);
    let second = synced(&store);
    assert!(second > first);
    // Nothing is new in the next.
    kit.must_build("FROM busybox\nRUN echo two > /two\n", &["-t", "one"]);
    // What killed processes left is synced with what the next one makes.
    let dockerfile = "FROM busybox\nRUN echo 3 > /three\nRUN sleep 600\n";
    let arguments = kit.build_arguments(dockerfile, &["--progress=plain"]);
    let mut killed = kit.command(arguments).spawn().unwrap();
    let told = BufReader::new(killed.stderr.take().unwrap()).lines();
    let mut told = told.map_while(Result::ok);
    assert!(told.any(|line| line.contains("RUN sleep 600")));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(synced(&store), second);
    kit.must_build("FROM busybox\nRUN echo four > /four\n", &["-t", "one"]);
    assert!(synced(&store) > second);
    kit.store_is_whole();
}

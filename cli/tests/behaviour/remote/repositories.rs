//! Git repositories, over HTTP and git's own protocol: ADD, contexts, submodules, and servers that never answer.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{IMAGE, built, files, pairs, sh};
use crate::kit::Kit;
use crate::kit::programs::{free_port, has};
use crate::kit::server::Server;
use crate::require_machine;

/// A repository with two commits, a branch, tags, links that lead out, and a submodule at `sub`.
fn repository(kit: &Kit, submodule_url: Option<&str>) -> String {
    let mut script = "
        git config --global user.name me; git config --global user.email me@example.com
        git config --global init.defaultBranch main; git config --global protocol.file.allow always
        git init -q inner; cd inner; echo inside > file; git add .; git commit -qm 1; cd ..
        git init -q work; cd work
        printf 'FROM scratch\\nCOPY file /\\n' > Dockerfile
        echo one > file; mkdir -p dir/deep; echo deep > dir/deep/file; chmod 755 dir/deep/file
        printf 'FROM scratch\\nCOPY . /\\n' > dir/Dockerfile
        ln -s ../.. out; ln -s /etc etc; ln -s dir in
        git add .; git commit -qm 1; git tag v1; git tag -a -m words annotated
        git checkout -qb branch; echo branch > file; git commit -qam 2; git checkout -q main
"
    .to_owned();
    if let Some(url) = submodule_url {
        script.push_str(&format!(
            "git submodule --quiet add ../inner sub; git config -f .gitmodules submodule.sub.url {url}
             git add .; git commit -qm 3;"
        ));
    }
    script.push_str(
        "cd ..; for name in inner work; do git clone -q --bare --no-local $name www/$name.git
         git -C www/$name.git update-server-info; done; git -C work rev-parse HEAD",
    );
    std::fs::create_dir(kit.path("www")).unwrap();
    sh(&kit.path("."), &script)
}

/// Ends with its guard.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().ok();
    }
}

/// Serves `www` over git's own protocol.
fn daemon(kit: &Kit) -> (Daemon, String) {
    let port = free_port();
    // Not by `git daemon`: that one has a child of its own, which would outlive the guard.
    let programs = sh(&kit.path("."), "git --exec-path");
    let child = Command::new(Path::new(&programs).join("git-daemon"))
        .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1"])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", kit.path("www").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let guard = Daemon(child);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "git daemon does not start"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (guard, format!("git://127.0.0.1:{port}"))
}

#[test]
fn repositories_are_added_by_branch_tag_commit_and_directory() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    let server = Server::new();
    server.directory(kit.path("www"));
    let commit = repository(&kit, None);
    let (_daemon, base) = daemon(&kit);
    for url in [server.url("/work.git"), format!("{base}/work.git")] {
        let file = |fragment: &str| {
            let all = built(&kit, &format!("FROM scratch\nADD {url}{fragment} /\n"));
            let found = all.iter().find(|(name, _)| name == "file").cloned();
            (found.unwrap().1, all)
        };
        let (content, all) = file("");
        assert_eq!(content, "-644 one");
        assert!(
            all.iter().all(|(name, _)| !name.starts_with(".git")),
            "{all:?}"
        );
        assert_eq!(file("#branch").0, "-644 branch");
        assert_eq!(file("#v1").0, "-644 one");
        assert_eq!(file("#refs/tags/annotated").0, "-644 one");
        assert_eq!(file(&format!("#{commit}")).0, "-644 one");
        assert_eq!(file("#v1:dir/deep").1, pairs(&[("file", "-755 deep")]));
        assert_eq!(file("#:in/deep").1, pairs(&[("file", "-755 deep")]));
        for (fragment, words) in [
            ("#nowhere", "no branch or tag"),
            ("#:missing", "no directory"),
            ("#:out/secret", "no directory"),
            ("#:etc/ssl", "no directory"),
            ("#1111111111111111111111111111111111111111", "no commit"),
        ] {
            let output = kit.build(&format!("FROM scratch\nADD {url}{fragment} /\n"), &[]);
            assert_eq!(output.code, 1, "{fragment}: {output}");
            assert!(output.stderr.contains(words), "{fragment}: {output}");
        }
    }
    let query = format!("{}?ref=branch&subdir=dir", server.url("/work.git"));
    let found = built(&kit, &format!("FROM scratch\nADD {query} /\n"));
    assert!(
        found.contains(&("deep/file".to_owned(), "-755 deep".to_owned())),
        "{found:?}"
    );
    kit.store_is_whole();
}

#[test]
fn commits_pin_repositories_and_spare_fetching() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    let server = Server::new();
    server.directory(kit.path("www"));
    let commit = repository(&kit, None);
    let url = server.url("/work.git");
    let dockerfile = format!(
        "FROM scratch\nADD --checksum={} {url}#v1 /r\n",
        &commit[..10]
    );
    kit.must_build(&dockerfile, &[]);
    server.requests();
    let again = kit.must_build(&dockerfile, &[]);
    assert!(again.cached() >= 1, "{again}");
    let asked = server.requests();
    assert!(
        asked.iter().all(|line| !line.contains("/objects/")),
        "{asked:?}"
    );
    kit.must_build(&format!("FROM scratch\nADD {url}#{commit} /r\n"), &[]);
    assert_eq!(server.requests(), [""; 0]);
    let wrong = format!("FROM scratch\nADD --checksum=abcdef0 {url}#v1 /r\n");
    let output = kit.build(&wrong, &[]);
    assert!(
        output.stderr.contains("does not begin with abcdef0"),
        "{output}"
    );
    for hostile in ["#--upload-pack=touch", "#v1%20x", "#a:b:--c"] {
        let output = kit.build(&format!("FROM scratch\nADD {url}{hostile} /\n"), &[]);
        assert_eq!(output.code, 1, "{output}");
    }
    kit.store_is_whole();
}

#[test]
fn repositories_are_kept_whole_when_told() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    let server = Server::new();
    server.directory(kit.path("www"));
    repository(&kit, None);
    let url = server
        .url("/work.git")
        .replace("http://", "http://me:s3cret@");
    let dockerfile = format!("FROM scratch\nADD --keep-git-dir=true {url}#v1 /\n");
    kit.must_build(&dockerfile, &["-o", "type=local,dest=out"]);
    assert_eq!(
        sh(&kit.path("out"), "git log --format=%s; git status --short"),
        "1"
    );
    let configuration = std::fs::read_to_string(kit.path("out/.git/config")).unwrap();
    assert!(!configuration.contains("s3cret"), "{configuration}");
    assert!(!kit.path("out/.git/hooks").exists());
}

#[test]
fn submodules_come_along_but_not_from_this_machine() {
    require_machine!();
    if !has("git") {
        return;
    }
    for (url, comes) in [(Some("../inner.git"), true), (None, false)] {
        let kit = Kit::new();
        let server = Server::new();
        server.directory(kit.path("www"));
        let outside = format!("file://{}", kit.path("inner").display());
        repository(&kit, Some(url.unwrap_or(&outside)));
        let dockerfile = format!("FROM scratch\nADD {} /\n", server.url("/work.git"));
        let output = kit.build(&dockerfile, &IMAGE);
        if comes {
            let found = files(&kit, output);
            assert!(
                found.contains(&("sub/file".to_owned(), "-644 inside".to_owned())),
                "{found:?}"
            );
            assert!(
                found.iter().all(|(name, _)| !name.ends_with(".git")),
                "{found:?}"
            );
        } else {
            assert_eq!(output.code, 1, "{output}");
            assert!(output.stderr.contains("not allowed"), "{output}");
        }
        let url = server.url("/work.git?submodules=false");
        let found = built(&kit, &format!("FROM scratch\nADD {url} /\n"));
        assert!(found.contains(&("sub".to_owned(), "d755".to_owned())));
        assert!(!found.iter().any(|(name, _)| name == "sub/file"));
    }
}

#[test]
fn contexts_come_from_repositories() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    let server = Server::new();
    server.directory(kit.path("www"));
    repository(&kit, None);
    let url = server.url("/work.git");
    let build = |more: &[&str], context: &str| {
        let mut arguments = vec!["build", "-o", IMAGE[1]];
        arguments.extend(more);
        arguments.push(context);
        kit.rbuild(&arguments)
    };
    assert_eq!(
        files(&kit, build(&[], &url)),
        pairs(&[("file", "-644 one")])
    );
    let branch = build(&[], &format!("{url}#branch"));
    assert_eq!(files(&kit, branch), pairs(&[("file", "-644 branch")]));
    let directory = files(&kit, build(&[], &format!("{url}#:dir")));
    assert!(directory.contains(&("deep/file".to_owned(), "-755 deep".to_owned())));
    let other = files(&kit, build(&["-f", "dir/Dockerfile"], &url));
    assert!(
        other.iter().any(|(name, _)| name == "dir/deep/file"),
        "{other:?}"
    );
    let named = format!("--build-context=other={url}#branch");
    let output = kit.build(
        "FROM scratch\nCOPY --from=other file /\n",
        &[IMAGE[0], IMAGE[1], &named],
    );
    assert_eq!(files(&kit, output), pairs(&[("file", "-644 branch")]));
    let hostile = build(&[], &format!("{url}#--upload-pack=x"));
    assert_eq!(hostile.code, 2, "{hostile}");
    let outside = build(&["-f", "etc/passwd"], &url);
    assert_eq!(outside.code, 1, "{outside}");
}

#[test]
fn a_mode_in_words_is_for_files_of_repositories_too() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    let server = Server::new();
    server.directory(kit.path("www"));
    repository(&kit, None);
    let url = server.url("/work.git#:dir");
    let context = format!("--build-context=copied={}", kit.path("work/dir").display());
    for mode in ["go-rx", "a-x,u+rwX,g=u", "755"] {
        let dockerfile = format!("FROM scratch\nADD --chmod={mode} {url} /f/\n");
        let added = built(&kit, &dockerfile);
        let dockerfile = format!("FROM scratch\nCOPY --from=copied --chmod={mode} . /f/\n");
        let output = kit.build(&dockerfile, &[IMAGE[0], IMAGE[1], &context]);
        assert_eq!(added, files(&kit, output), "{mode}");
        assert!(added.iter().any(|(name, _)| name == "f/deep/file"));
    }
}

/// Command lines that mention something.
fn processes_of(words: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(words))
        .collect()
}

#[test]
fn who_waits_for_a_silent_repository_is_interrupted_at_once() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    for scheme in ["git", "http", "ssh"] {
        if scheme == "ssh" && !has("ssh") {
            continue;
        }
        // The kernel accepts, and nobody reads.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let url = format!("{scheme}://{place}/a.git");
        let dockerfile = format!("FROM scratch\nADD {url} /\n");
        let added = kit.build_arguments(&dockerfile, &IMAGE);
        let context = ["build", IMAGE[0], IMAGE[1], &url].map(str::to_owned);
        for arguments in [added, context.to_vec()] {
            let child = kit.command(&arguments).spawn().unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            let asks = |line: &String| line.starts_with("git ") || line.contains("remote-http");
            while !processes_of(&url).iter().any(asks) {
                assert!(std::time::Instant::now() < deadline, "git does not start");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            let began = std::time::Instant::now();
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
            let output = kit.finish(child);
            assert_eq!(output.code, 130, "{output}");
            assert!(began.elapsed() < std::time::Duration::from_secs(10));
            // Processes of rbuild's own see that it ended, and follow; what was killed takes a moment to die.
            let port = place.rsplit(':').next().unwrap();
            while let Some(left) = processes_of(port).first() {
                assert!(
                    began.elapsed() < std::time::Duration::from_secs(20),
                    "{left}"
                );
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}

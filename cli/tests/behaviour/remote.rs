//! What a build takes from elsewhere: files behind URLs, repositories, contexts that are no directories. Servers are
//! on loopback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::kit::programs::{free_port, has};
use crate::kit::server::{Page, Server};
use crate::kit::{Archive, Kit, Output};
use crate::require_machine;

const IMAGE: [&str; 2] = ["-o", "type=oci,dest=image.tar"];

/// The files of a build that must succeed.
#[track_caller]
fn files(kit: &Kit, output: Output) -> Vec<(String, String)> {
    output.success();
    let image = Archive::read(&kit.path("image.tar"));
    image.files.into_iter().collect()
}

#[track_caller]
fn built(kit: &Kit, dockerfile: &str) -> Vec<(String, String)> {
    files(kit, kit.build(dockerfile, &IMAGE))
}

fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, content): &(&str, &str)| ((*name).to_owned(), (*content).to_owned());
    files.iter().map(owned).collect()
}

fn sh(directory: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_DATE", "2024-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2024-01-01T00:00:00Z")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_unchanged_file_is_not_sent_again() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/f.txt", "one", &["ETag: \"1\""]);
    let dockerfile = format!("FROM scratch\nADD {} /d/\n", server.url("/f.txt"));
    let expected = pairs(&[("d", "d755"), ("d/f.txt", "-600 one")]);
    assert_eq!(built(&kit, &dockerfile), expected);
    assert_eq!(server.requests(), ["200 /f.txt"]);

    let again = kit.must_build(&dockerfile, &IMAGE);
    assert_eq!(server.requests(), ["304 /f.txt"]);
    assert_eq!(again.cached(), 1, "{again}");

    // Sent once more, and equal: what follows is cached.
    server.text("/f.txt", "one", &["ETag: \"2\""]);
    let again = kit.must_build(&dockerfile, &IMAGE);
    assert_eq!(server.requests(), ["200 /f.txt"]);
    assert_eq!(again.cached(), 1, "{again}");

    server.text("/f.txt", "two", &["ETag: \"3\""]);
    let changed = built(&kit, &dockerfile);
    assert_eq!(changed, pairs(&[("d", "d755"), ("d/f.txt", "-600 two")]));
    kit.store_is_whole();
}

#[test]
fn a_file_has_the_time_that_its_server_tells() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    let modified = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    server.text("/told", "1", &[modified]);
    server.text("/untold", "2", &[]);
    let dockerfile = format!(
        "FROM busybox\nADD {} {} /d/\nADD --chown=7:8 --chmod=640 {} /e\nRUN stat -c '%Y %u:%g %a' /d/* /e > /out\n",
        server.url("/told"),
        server.url("/untold"),
        server.url("/told"),
    );
    let files = built(&kit, &dockerfile);
    let out = files.iter().find(|(name, _)| name == "out").unwrap();
    assert_eq!(
        out.1,
        "-644 784111777 0:0 600\n0 0:0 600\n784111777 7:8 640"
    );
    server.requests();
    kit.must_build(&dockerfile, &IMAGE);
    assert_eq!(
        {
            let mut requests = server.requests();
            requests.sort();
            requests
        },
        ["200 /untold", "304 /told"]
    );
}

#[test]
fn the_name_in_an_address_is_no_pattern() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    let mut dockerfile = "FROM scratch\n".to_owned();
    for path in ["/[x].txt", "/*.txt", "/a%3Fb%5Cc", "/d%2Fe"] {
        server.text(path, path, &[]);
        dockerfile.push_str(&format!("ADD {} /d/\n", server.url(path)));
    }
    assert_eq!(
        built(&kit, &dockerfile),
        pairs(&[
            ("d", "d755"),
            ("d/*.txt", "-600 /*.txt"),
            ("d/[x].txt", "-600 /[x].txt"),
            ("d/a?b\\c", "-600 /a%3Fb%5Cc"),
            ("d/e", "-600 /d%2Fe"),
        ])
    );
}

#[test]
fn checksums_are_verified_and_spare_asking() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/f", "hi", &[]);
    let digest = rbuild_engine::cache::Digest::of(b"hi");
    let url = server.url("/f");
    let dockerfile = format!("FROM scratch\nADD --checksum={digest} {url} /f\n");
    assert_eq!(built(&kit, &dockerfile), pairs(&[("f", "-600 hi")]));
    server.requests();
    kit.must_build(&dockerfile, &IMAGE);
    assert_eq!(server.requests(), [""; 0]);
    let wrong = rbuild_engine::cache::Digest::of(b"other");
    let dockerfile = format!("FROM scratch\nADD --checksum={wrong} {url} /f\n");
    let output = kit.build(&dockerfile, &[]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains(&digest.to_string()), "{output}");
    kit.store_is_whole();
}

#[test]
fn urls_lead_to_http_only_and_failures_are_told() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/f", "hi", &[]);
    server.redirect("/good", &server.url("/f"));
    server.redirect("/file", "file:///etc/passwd");
    server.redirect("/circle", "/circle");
    let build = |path: &str| {
        let url = server.url(path);
        kit.build(&format!("FROM scratch\nADD {url} /f\n"), &IMAGE)
    };
    build("/good").success();
    for (path, words) in [
        ("/file", "neither http nor https"),
        ("/circle", "more than 10 times"),
        ("/missing", "404"),
    ] {
        let output = build(path);
        assert_eq!(output.code, 1, "{output}");
        assert!(output.stderr.contains(words), "{path}: {output}");
        assert!(output.stderr.contains("Dockerfile:2:1"), "{output}");
    }
}

#[test]
fn what_fails_for_a_moment_is_asked_for_again() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    let busy = Page {
        status: 503,
        headers: vec!["Retry-After: 1".to_owned()],
        ..Page::default()
    };
    server.page("/f", busy);
    let dockerfile = format!("FROM scratch\nADD {} /f\n", server.url("/f"));
    let arguments = kit.build_arguments(&dockerfile, &IMAGE);
    let child = kit.command(arguments).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while server.requests().is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "nothing was asked for"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    server.text("/f", "hi", &[]);
    assert_eq!(files(&kit, kit.finish(child)), pairs(&[("f", "-600 hi")]));
}

/// What is asked of a proxy is a whole address.
#[test]
fn a_registry_that_is_named_insecure_is_reached_through_the_proxy() {
    let kit = Kit::new();
    let proxy = Server::new();
    let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
    proxy.text(
        "http://registry.example:5000/v2/x/manifests/1",
        manifest,
        &["Content-Type: application/vnd.oci.image.index.v1+json"],
    );
    let inspect = |no_proxy: &str| {
        let flags = ["--registry", "registry.example:5000,insecure"];
        let mut command = kit.command(["manifest", "inspect"]);
        command.args(flags).arg("registry.example:5000/x:1");
        command
            .env("http_proxy", proxy.url(""))
            .env("NO_PROXY", no_proxy);
        kit.finish(command.spawn().unwrap())
    };
    let output = inspect("10.0.0.0/8,other.example");
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("manifests"), "{output}");
    assert_eq!(proxy.requests().len(), 1);
    let output = inspect("registry.example");
    assert_eq!(output.code, 1, "{output}");
    assert_eq!(proxy.requests(), [""; 0]);
}

/// As Docker's, which brings what there is.
#[test]
fn a_pull_for_another_platform_than_there_is_says_so() {
    let kit = Kit::new();
    let server = Server::new();
    let digest = |text: &str| rbuild_engine::cache::Digest::of(text.as_bytes());
    let config =
        r#"{"architecture":"s390x","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[]}}"#,
        digest(config),
        config.len()
    );
    let of_manifest = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    server.text("/v2/", "{}", &[]);
    server.text("/v2/x/manifests/1", &manifest, &[of_manifest]);
    server.text(&format!("/v2/x/blobs/{}", digest(config)), config, &[]);
    let name = format!("{}/x:1", server.url("").trim_start_matches("http://"));
    for (platforms, warned) in [
        ("linux/s390x", None),
        ("linux/s390x,linux/arm64", Some("linux/arm64")),
    ] {
        let output = kit.must(&["pull", "--platform", platforms, &name]);
        let expected = warned.map_or(String::new(), |wanted| {
            format!(
                "warning: `{name}` is an image for linux/s390x, and --platform asks for {wanted}\n"
            )
        });
        assert_eq!(output.stderr, expected);
    }
}

/// Plain HTTP and registries that need no certificate need no authorities.
#[test]
fn without_ca_certificates() {
    let kit = Kit::new();
    let proxy = Server::new();
    let url = "http://registry.example:5000/v2/x/manifests/1";
    let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
    let index = "Content-Type: application/vnd.oci.image.index.v1+json";
    proxy.text(url, manifest, &[index]);
    proxy.text("http://files.example/f", "plain", &[]);
    std::fs::write(kit.path("none.pem"), "").unwrap();
    let ended = |mut command: Command| {
        command
            .env("SSL_CERT_FILE", kit.path("none.pem"))
            .env("SSL_CERT_DIR", kit.path("context"))
            .env("http_proxy", proxy.url(""));
        kit.finish(command.spawn().unwrap())
    };
    let insecure = "--registry=registry.example:5000,insecure";
    let inspect = kit.command(["manifest", "inspect", insecure, "registry.example:5000/x:1"]);
    ended(inspect).success();
    let mut copied = kit.build_arguments("FROM scratch\nADD http://files.example/f /\n", &IMAGE);
    if crate::kit::machine_can("without_ca_certificates") {
        let found = files(&kit, ended(kit.command(&copied)));
        assert_eq!(found, pairs(&[("f", "-600 plain")]));
        copied = kit.build_arguments("FROM scratch\nADD https://files.example/f /\n", &IMAGE);
        assert_has_way_out(&ended(kit.command(&copied)));
    }
    let pull = kit.command(["pull", "registry.example:5000/x:1"]);
    assert_has_way_out(&ended(pull));
}

#[track_caller]
fn assert_has_way_out(output: &Output) {
    assert_eq!(output.code, 1, "{output}");
    for word in [
        "https://",
        "CA certificates",
        "`ca-certificates`",
        "--registry-ca",
        "SSL_CERT_FILE",
    ] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}

#[test]
fn archives_behind_urls_are_unpacked_only_when_told() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/a.tar", tar(&[("in", "side")]), &[]);
    let url = server.url("/a.tar");
    let unpacked = built(&kit, &format!("FROM scratch\nADD --unpack=true {url} /\n"));
    assert_eq!(unpacked, pairs(&[("in", "-644 side")]));
    let kept = built(&kit, &format!("FROM scratch\nADD {url} /\n"));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0, "a.tar");
}

#[test]
fn passwords_in_urls_are_used_and_not_told() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/f", "hi", &[]);
    let url = server.url("/f").replace("http://", "http://me:s3cret@");
    let output = kit.must_build(&format!("FROM scratch\nADD {url} /f\n"), &IMAGE);
    assert_eq!(server.authorizations(), ["Basic bWU6czNjcmV0"]);
    assert!(!output.stderr.contains("s3cret"), "{output}");
    let image = Archive::read(&kit.path("image.tar"));
    assert!(!image.config.to_string().contains("s3cret"));
    assert!(image.config.to_string().contains("/f"), "{}", image.config);
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(77);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

const CONTEXT: [(&str, &str); 5] = [
    ("Dockerfile", "FROM scratch\nCOPY . /\n"),
    ("other/Containerfile", "FROM scratch\nCOPY kept /only\n"),
    ("kept", "1"),
    ("dropped", "2"),
    (
        ".dockerignore",
        "dropped\nDockerfile\nother\n.dockerignore\n",
    ),
];

#[test]
fn contexts_come_from_standard_input_however_compressed() {
    require_machine!();
    let kit = Kit::new();
    let plain = tar(&CONTEXT);
    for program in ["cat", "gzip", "zstd", "xz", "bzip2"] {
        if !has(program) {
            continue;
        }
        std::fs::write(kit.path("plain"), &plain).unwrap();
        sh(&kit.path("."), &format!("{program} < plain > packed"));
        let packed = std::fs::read(kit.path("packed")).unwrap();
        let output = kit.rbuild_with_input(&["build", "-o", IMAGE[1], "-"], &packed);
        assert_eq!(
            files(&kit, output),
            pairs(&[("kept", "-644 1")]),
            "{program}"
        );
    }
    let other = ["build", "-f", "other/Containerfile", "-o", IMAGE[1], "-"];
    let output = kit.rbuild_with_input(&other, &plain);
    assert_eq!(files(&kit, output), pairs(&[("only", "-644 1")]));
    let missing = kit.rbuild_with_input(&["build", "-f", "nowhere", "-"], &plain);
    assert_eq!(missing.code, 1);
    assert!(
        missing.stderr.contains("no Dockerfile `nowhere`"),
        "{missing}"
    );
    let left: Vec<PathBuf> = std::fs::read_dir(kit.path("store/contexts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    kit.store_is_whole();
}

#[test]
fn archives_that_are_contexts_stay_inside() {
    require_machine!();
    let kit = Kit::new();
    std::fs::write(kit.path("secret"), "FROM scratch\nLABEL secret=1\n").unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "Dockerfile", kit.path("secret"))
        .unwrap();
    let output = kit.rbuild_with_input(&["build", "-"], &builder.into_inner().unwrap());
    assert_eq!(output.code, 1, "{output}");
    assert!(!output.stderr.contains("LABEL"), "{output}");

    // Claims a hole of a terabyte.
    sh(
        &kit.path("."),
        "truncate -s 1T hole; tar --sparse -cf bomb.tar hole; rm hole",
    );
    let bomb = std::fs::read(kit.path("bomb.tar")).unwrap();
    let output = kit.rbuild_with_input(&["build", "-"], &bomb);
    assert_eq!(output.code, 1, "{output}");
    let cut = tar(&[("Dockerfile", &"x".repeat(2000))]);
    let output = kit.rbuild_with_input(&["build", "-"], &cut[..1000]);
    assert_eq!(output.code, 1, "{output}");
    kit.store_is_whole();
}

#[test]
fn contexts_come_from_urls() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/context.tar", tar(&CONTEXT), &["ETag: \"1\""]);
    let url = server.url("/context.tar");
    let build = |more: &[&str], url: &str| {
        let mut arguments = vec!["build", "-o", IMAGE[1]];
        arguments.extend(more);
        arguments.push(url);
        kit.rbuild(&arguments)
    };
    assert_eq!(files(&kit, build(&[], &url)), pairs(&[("kept", "-644 1")]));
    let output = build(&["-f", "other/Containerfile"], &url);
    assert_eq!(files(&kit, output), pairs(&[("only", "-644 1")]));
    assert_eq!(server.requests(), ["200 /context.tar", "304 /context.tar"]);

    server.text("/Dockerfile", "FROM scratch\nLABEL a=b\n", &[]);
    build(&[], &server.url("/Dockerfile")).success();
    let output = build(&["-f", "x"], &server.url("/Dockerfile"));
    assert_eq!(output.code, 2, "{output}");
    let output = build(&[], &server.url("/missing.tar"));
    assert!(
        output.code == 1 && output.stderr.contains("404"),
        "{output}"
    );
}

#[test]
fn named_contexts_come_from_urls() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/context.tar", tar(&CONTEXT), &[]);
    server.text("/text", "hi", &[]);
    let dockerfile = "FROM scratch\nCOPY --from=other . /\n";
    let named = |path: &str| format!("--build-context=other={}", server.url(path));
    let output = kit.build(dockerfile, &[IMAGE[0], IMAGE[1], &named("/context.tar")]);
    assert_eq!(files(&kit, output), pairs(&[("kept", "-644 1")]));
    let output = kit.build(dockerfile, &[&named("/text")]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("no tar archive"), "{output}");
}

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

#[test]
fn no_proxy_names_ports() {
    require_machine!();
    let kit = Kit::new();
    let (server, proxy) = (Server::new(), Server::new());
    server.text("/f", "direct", &[]);
    // This machine, without being called so.
    let url = server.url("/f").replace("127.0.0.1", "0.0.0.0");
    proxy.text(&url, "by proxy", &[]);
    let authority = url.trim_start_matches("http://").trim_end_matches("/f");
    for (no_proxy, content) in [
        (authority.to_owned(), "-600 direct"),
        ("0.0.0.0:1".to_owned(), "-600 by proxy"),
        (format!("example.com,{authority}"), "-600 direct"),
        ("0.0.0.0/8".to_owned(), "-600 direct"),
        (String::new(), "-600 by proxy"),
    ] {
        let dockerfile = format!("FROM scratch\nADD {url} /\n");
        let child = kit
            .command(kit.build_arguments(&dockerfile, &IMAGE))
            .env("HTTP_PROXY", proxy.url(""))
            .env("NO_PROXY", &no_proxy)
            .spawn()
            .unwrap();
        let found = files(&kit, kit.finish(child));
        assert_eq!(found, pairs(&[("f", content)]), "{no_proxy}");
    }
}

//! ADD of files behind URLs: when they are asked for again, what they are called, checksums, proxies, archives.

use super::{IMAGE, built, files, pairs, tar};
use crate::kit::server::{Page, Server};
use crate::kit::{Archive, Kit};
use crate::require_machine;

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

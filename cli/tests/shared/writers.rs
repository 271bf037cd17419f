//! Several writers of one name lose nothing of each other.

use crate::kit::Kit;
use crate::kit::programs::{has, registry};
use crate::places::{fresh, ran, redis, s3};
use crate::require_machine;

fn dockerfile(writer: usize, branch: usize) -> String {
    format!(
        "FROM busybox\nRUN echo all > /all\nRUN echo {writer} > /writer\nRUN head -c {}000 /dev/urandom > /branch\n",
        1 + writer * 10 + branch
    )
}

/// Four jobs with three branches each, at once; then each from an empty store.
fn together(to: &str, from: &str) {
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let kit = Kit::new();
                for branch in 0..3 {
                    fresh(&kit, &dockerfile(writer, branch), &["--cache-to", to]);
                }
            });
        }
    });
    let kit = Kit::new();
    for writer in 0..4 {
        for branch in 0..3 {
            let found = fresh(
                &kit,
                &dockerfile(writer, branch),
                &["--cache-from", from, "-o", "type=cacheonly"],
            );
            assert_eq!(ran(&found), [""; 0], "{writer} {branch}: {found}");
        }
    }
}

#[test]
fn of_a_registry() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let server = registry(&kit.path("served"));
    let name = format!("127.0.0.1:{}/cache:all", server.port);
    together(&format!("type=registry,ref={name},mode=max"), &name);
}

#[test]
fn of_a_directory() {
    require_machine!();
    let kit = Kit::new();
    let path = kit.path("cache");
    let path = path.display();
    together(
        &format!("type=local,dest={path},mode=max"),
        &format!("type=local,src={path}"),
    );
}

#[test]
fn of_redis() {
    require_machine!();
    if !has("redis-server") {
        return;
    }
    let kit = Kit::new();
    let server = redis(&kit.path("served"));
    let place = format!("type=redis,url=redis://:secret@127.0.0.1:{}", server.port);
    together(&format!("{place},mode=max"), &place);
}

#[test]
fn of_s3() {
    require_machine!();
    if !has("s3rver") {
        return;
    }
    let kit = Kit::new();
    let server = s3(&kit.path("served"));
    let place = format!(
        "type=s3,bucket=caches,region=eu-west-1,endpoint_url=http://127.0.0.1:{},use_path_style=true,access_key_id=S3RVER,secret_access_key=S3RVER",
        server.port
    );
    together(&format!("{place},mode=max"), &place);
}

#[test]
fn an_image_is_no_place_for_a_cache() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let server = registry(&kit.path("served"));
    let name = format!("127.0.0.1:{}/app:latest", server.port);
    kit.context(&[("a.txt", "a")]);
    let dockerfile = "FROM scratch\nCOPY a.txt /\n";
    fresh(&kit, dockerfile, &["-t", &name, "--push"]);
    let output = kit.build(dockerfile, &["--cache-to", &name]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stderr.contains("a cache needs a name of its own"),
        "{output}"
    );
}

#[test]
fn tags_of_one_directory_do_not_take_from_each_other() {
    require_machine!();
    let kit = Kit::new();
    let (one, other) = (
        "type=local,dest=cache,tag=one",
        "type=local,dest=cache,tag=other",
    );
    // The same build: what the two tags mean is the same document.
    fresh(
        &kit,
        &dockerfile(1, 1),
        &["--cache-to", one, "--cache-to", other],
    );
    // Whoever gives to one replaces its document, which is the other's, too.
    fresh(&kit, &dockerfile(2, 2), &["--cache-to", one]);
    let from = [
        "--cache-from",
        "type=local,src=cache,tag=other",
        "-o",
        "type=cacheonly",
    ];
    let found = fresh(&kit, &dockerfile(1, 1), &from);
    assert_eq!(ran(&found), [""; 0], "{found}");
}

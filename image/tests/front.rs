//! Registries that ask for tokens, refuse for a while, send elsewhere, and have mirrors: a real one with something
//! before it.

mod kit;
mod real;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kit::{Kit, installed, noise};
use rbuild_image::registry::credentials::{self, Login};
use rbuild_image::registry::push::{Progress, Push};
use rbuild_image::registry::{Client, Options, RegistryOptions};
use rbuild_image::source::{self, Location, Platforms};
use rbuild_image::{Descriptor, Error, Platform};
use real::Registry;
use real::front::{Asked, Fate, Front, Hook, Tokens};

fn quiet() -> Progress {
    Arc::new(|_, _| {})
}

async fn image(kit: &Kit, size: usize) -> Descriptor {
    let layer = kit::TarFile::new().file("noise", &noise(size)).done();
    let location = Location::OciLayout {
        path: kit.layout(&[layer], "latest"),
        tag: None,
        digest: None,
    };
    let gathered = gather(kit, &kit.client, &location).await.unwrap();
    Descriptor {
        platform: None,
        annotations: None,
        ..gathered.root
    }
}

async fn gather(
    kit: &Kit,
    client: &Client,
    location: &Location,
) -> Result<source::Gathered, Error> {
    let all = Platforms::All;
    source::gather(&kit.store, client, location, &all, Arc::new(|_, _, _| {})).await
}

async fn pulls(client: &Client, name: &str) -> Result<Descriptor, Error> {
    let kit = Kit::new();
    let location = Location::Registry(name.parse().unwrap());
    let resolved = source::resolve(&kit.store, client, &location, &Platform::host()).await?;
    source::snapshots(&kit.store, client, &resolved, Arc::new(|_, _, _| {})).await?;
    Ok(resolved.root)
}

async fn push(kit: &Kit, client: &Client, root: &Descriptor, name: &str) -> Result<(), Error> {
    let push = Push {
        root: root.clone(),
        to: name.parse().unwrap(),
        mounts: HashMap::new(),
        from: None,
        there: std::collections::HashSet::new(),
    };
    client.push(&kit.store, &push, &quiet()).await
}

fn nothing() -> Box<Hook> {
    Box::new(|_, _| None)
}

fn logged_in(kit: &Kit, host: &str, login: &Login) -> Client {
    let file = kit.path("docker/config.json");
    credentials::keep(&file, host, login).unwrap();
    Client::new(Options {
        credential_files: vec![file],
        ..Options::default()
    })
}

#[tokio::test]
async fn tokens_that_expire_while_a_blob_is_sent() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 8 << 20).await;
    for said_seconds in [Some(2), None, Some(300)] {
        let tokens = Tokens {
            live: Duration::from_secs(2),
            said_seconds,
            one_scope_each: false,
        };
        // Long enough for several tokens.
        let slow = |asked: &Asked, _| {
            (asked.method == "PATCH").then_some(Fate::Late(Duration::from_millis(800)))
        };
        let front = Front::start(registry.port, Some(tokens), Box::new(slow));
        let name = format!("127.0.0.1:{}/t{}:1", front.port, said_seconds.unwrap_or(0));
        push(&kit, &kit.client, &root, &name).await.unwrap();
        assert!(front.issued() >= 2, "{} tokens", front.issued());
        let sent: usize = front.log().iter().map(|asked| asked.body.len()).sum();
        assert!(sent < (8 << 20) * 2, "{sent} bytes");
        pulls(&kit.client, &name).await.unwrap();
    }
}

#[tokio::test]
async fn identity_tokens_go_to_the_token_server_alone() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let tokens = Tokens {
        live: Duration::from_secs(60),
        said_seconds: Some(60),
        one_scope_each: false,
    };
    let front = Front::start(registry.port, Some(tokens), nothing());
    let host = format!("127.0.0.1:{}", front.port);
    let login = Login::IdentityToken("the-identity".to_owned());
    let client = logged_in(&kit, &host, &login);
    let root = image(&kit, 100).await;
    push(&kit, &client, &root, &format!("{host}/id:1"))
        .await
        .unwrap();
    let log = front.log();
    let asked: Vec<&Asked> = log
        .iter()
        .filter(|it| it.path.starts_with("/token"))
        .collect();
    assert!(!asked.is_empty());
    for request in &asked {
        assert_eq!(request.method, "POST");
        let form = String::from_utf8(request.body.clone()).unwrap();
        assert!(form.contains("grant_type=refresh_token"), "{form}");
        assert!(form.contains("refresh_token=the-identity"), "{form}");
        assert!(
            form.contains("scope=repository%3Aid%3Apull%2Cpush"),
            "{form}"
        );
    }
    let others = log.iter().filter(|it| !it.path.starts_with("/token"));
    for request in others {
        assert!(!request.authorization().contains("the-identity"));
    }
}

/// Ways to be refused for a while.
fn refusals() -> Vec<(&'static str, Box<Hook>)> {
    fn answer(status: u16, headers: &'static [&'static str]) -> Fate {
        Fate::Answer(status, headers.iter().map(|it| (*it).to_owned()).collect())
    }
    const NOW: &[&str] = &["Retry-After: 0"];
    const PAST: &[&str] = &["Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"];
    const SOON: &[&str] = &["Retry-After: 1"];
    const NONSENSE: &[&str] = &["Retry-After: soon"];
    let is = |asked: &Asked, method: &str, part: &str| {
        asked.method == method && asked.path.contains(part)
    };
    let every = |nth: usize, fate: fn() -> Fate| -> Box<Hook> {
        // Not in step with the requests of one try.
        Box::new(move |_, before| {
            let mut scattered = (before as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            scattered = (scattered ^ (scattered >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            scattered = (scattered ^ (scattered >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (scattered >> 33).is_multiple_of(nth as u64).then(fate)
        })
    };
    let first = |method: &'static str, part: &'static str, times: usize, fate: fn() -> Fate| {
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let hook: Box<Hook> = Box::new(move |asked, _| {
            let hit = is(asked, method, part)
                && seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < times;
            hit.then(fate)
        });
        hook
    };
    vec![
        ("429 at once, now", every(5, || answer(429, NOW))),
        ("429, in the past", every(7, || answer(429, PAST))),
        (
            "429 once, in a second",
            first("GET", "", 1, || answer(429, SOON)),
        ),
        (
            "429 with nonsense",
            first("HEAD", "", 1, || answer(429, NONSENSE)),
        ),
        ("503 now and then", every(5, || answer(503, NOW))),
        ("500 now and then", every(6, || answer(500, NOW))),
        ("502 now and then", every(6, || answer(502, NOW))),
        ("504 now and then", every(9, || answer(504, NOW))),
        ("408 now and then", every(5, || answer(408, NOW))),
        ("resets now and then", every(5, || Fate::Reset)),
        ("a reset POST", first("POST", "uploads", 1, || Fate::Reset)),
        ("a reset PATCH", first("PATCH", "", 1, || Fate::Reset)),
        (
            "a reset PUT of a blob",
            first("PUT", "uploads", 1, || Fate::Reset),
        ),
        (
            "a reset PUT of a manifest",
            first("PUT", "manifests", 1, || Fate::Reset),
        ),
        ("a 503 PATCH", first("PATCH", "", 1, || answer(503, NOW))),
        (
            "a 429 PUT of a manifest",
            first("PUT", "manifests", 2, || answer(429, NOW)),
        ),
        (
            "a doubted digest of a manifest",
            first("PUT", "manifests", 2, || {
                Fate::Refuse(400, "DIGEST_INVALID")
            }),
        ),
        (
            "a blob that is known a little later",
            first("PUT", "manifests", 1, || {
                Fate::Refuse(404, "MANIFEST_BLOB_UNKNOWN")
            }),
        ),
        (
            "a 500 HEAD of a blob",
            first("HEAD", "blobs", 2, || answer(500, NOW)),
        ),
        (
            "a 503 GET of a blob",
            first("GET", "blobs", 2, || answer(503, NOW)),
        ),
        (
            "a reset GET of a blob",
            first("GET", "blobs", 2, || Fate::Reset),
        ),
        (
            "slow answers",
            every(3, || Fate::Late(Duration::from_millis(200))),
        ),
    ]
}

#[tokio::test]
async fn refusals_that_pass() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 3 << 20).await;
    let (kit, root, registry) = (&kit, &root, &registry);
    let all = refusals().into_iter().enumerate();
    futures_util::future::join_all(all.map(|(number, (what, hook))| async move {
        let front = Front::start(registry.port, None, hook);
        let name = format!("127.0.0.1:{}/r{number}:1", front.port);
        let pushed = push(kit, &kit.client, root, &name).await;
        pushed.unwrap_or_else(|error| panic!("{what}: push: {error:?}"));
        let pulled = pulls(&kit.client, &name).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{what}: pull: {error:?}"));
        assert_eq!(pulled.digest, root.digest, "{what}");
    }))
    .await;
}

#[tokio::test]
async fn uploads_sent_elsewhere_get_no_credentials() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let elsewhere = Front::start(registry.port, None, nothing());
    let other = elsewhere.port;
    // Where uploads go is on another host, by name.
    let sends_away = move |asked: &Asked, _: usize| {
        (asked.method == "POST" && asked.path.contains("/uploads/")).then(|| {
            let to = format!("http://localhost:{other}{}", asked.path);
            Fate::Answer(307, vec![format!("Location: {to}")])
        })
    };
    let tokens = Tokens {
        live: Duration::from_secs(60),
        said_seconds: Some(60),
        one_scope_each: false,
    };
    let front = Front::start(registry.port, Some(tokens), Box::new(sends_away));
    let host = format!("127.0.0.1:{}", front.port);
    let login = Login::Password {
        user: "user".to_owned(),
        password: "secret".to_owned(),
    };
    let client = logged_in(&kit, &host, &login);
    let root = image(&kit, 3 << 20).await;
    push(&kit, &client, &root, &format!("{host}/away:1"))
        .await
        .unwrap();
    let seen = elsewhere.log();
    assert!(seen.iter().any(|asked| asked.method == "PATCH"));
    for asked in seen {
        assert_eq!(asked.authorization(), "", "{} {}", asked.method, asked.path);
    }
}

#[tokio::test]
async fn mirrors_are_asked_first_and_never_trusted() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 1 << 20).await;
    let direct = format!("127.0.0.1:{}", registry.port);
    push(&kit, &kit.client, &root, &format!("{direct}/lib/one:1"))
        .await
        .unwrap();
    push(&kit, &kit.client, &root, &format!("{direct}/hub/lib/one:1"))
        .await
        .unwrap();
    let with_mirror = |origin: &Front, mirror: String| {
        let options = RegistryOptions {
            mirrors: vec![mirror],
            ..RegistryOptions::default()
        };
        Client::new(Options {
            registries: [(format!("127.0.0.1:{}", origin.port), options)].into(),
            ..Options::default()
        })
    };
    let name = |origin: &Front| format!("127.0.0.1:{}/lib/one:1", origin.port);

    // A mirror that works: its origin is not asked at all.
    let origin = Front::start(registry.port, None, nothing());
    let mirror = Front::start(registry.port, None, nothing());
    let client = with_mirror(&origin, format!("127.0.0.1:{}/hub", mirror.port));
    pulls(&client, &name(&origin)).await.unwrap();
    assert!(
        origin.log().iter().all(|asked| asked.path == "/v2/"),
        "{:?}",
        origin.log()
    );
    let paths: Vec<String> = mirror.log().into_iter().map(|asked| asked.path).collect();
    assert!(
        paths
            .iter()
            .any(|path| path.starts_with("/v2/hub/lib/one/blobs/"))
    );

    // One that does not have it, or that is not there.
    let origin = Front::start(registry.port, None, nothing());
    let client = with_mirror(&origin, format!("{direct}/nowhere"));
    pulls(&client, &name(&origin)).await.unwrap();
    let origin = Front::start(registry.port, None, nothing());
    let client = with_mirror(&origin, "127.0.0.1:1".to_owned());
    pulls(&client, &name(&origin)).await.unwrap();

    // One that has other bytes for a blob.
    let liar = Front::start(
        registry.port,
        None,
        Box::new(|asked, _| {
            let is_blob = asked.method == "GET" && asked.path.contains("/blobs/");
            is_blob.then_some(Fate::Lie)
        }),
    );
    let origin = Front::start(registry.port, None, nothing());
    let client = with_mirror(&origin, format!("127.0.0.1:{}/hub", liar.port));
    pulls(&client, &name(&origin)).await.unwrap();
    assert!(
        origin
            .log()
            .iter()
            .any(|asked| asked.path.contains("/blobs/"))
    );

    // The login of the origin is not for its mirror. What is pushed goes to the origin alone.
    let tokens = Tokens {
        live: Duration::from_secs(60),
        said_seconds: Some(60),
        one_scope_each: false,
    };
    let origin = Front::start(registry.port, Some(tokens), nothing());
    let mirror = Front::start(registry.port, None, nothing());
    let host = format!("127.0.0.1:{}", origin.port);
    let file = kit.path("logins.json");
    let login = Login::Password {
        user: "user".to_owned(),
        password: "secret".to_owned(),
    };
    credentials::keep(&file, &host, &login).unwrap();
    let client = Client::new(Options {
        credential_files: vec![file],
        ..with_mirror(&origin, format!("127.0.0.1:{}/hub", mirror.port))
            .options()
            .clone()
    });
    pulls(&client, &name(&origin)).await.unwrap();
    assert!(
        mirror
            .log()
            .iter()
            .all(|asked| asked.authorization().is_empty())
    );
    let before = mirror.log().len();
    push(&kit, &client, &root, &format!("{host}/lib/two:1"))
        .await
        .unwrap();
    assert_eq!(mirror.log().len(), before);
}

#[tokio::test]
async fn blobs_go_from_repository_to_repository() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 2 << 20).await;
    let direct = format!("127.0.0.1:{}", registry.port);
    push(&kit, &kit.client, &root, &format!("{direct}/from:1"))
        .await
        .unwrap();
    // The documents alone are here.
    let other = Kit::new();
    let location = Location::Registry(format!("{direct}/from:1").parse().unwrap());
    source::documents(&other.store, &other.client, &location)
        .await
        .unwrap();
    let front = Front::start(registry.port, None, nothing());
    let host = format!("127.0.0.1:{}", front.port);
    for (from, moved) in [
        (format!("{host}/from:1"), 0),
        (format!("{direct}/from:1"), 2 << 20),
    ] {
        let push = Push {
            root: root.clone(),
            to: format!("{host}/to{moved}:1").parse().unwrap(),
            mounts: HashMap::new(),
            from: Some(from.parse().unwrap()),
            there: std::collections::HashSet::new(),
        };
        let before: usize = front.log().iter().map(|asked| asked.body.len()).sum();
        other
            .client
            .push(&other.store, &push, &quiet())
            .await
            .unwrap();
        let sent: usize = front.log().iter().map(|asked| asked.body.len()).sum();
        // From another registry they come through here.
        assert!(sent - before >= moved && sent - before < moved + (64 << 10));
        pulls(&kit.client, &push.to.canonical()).await.unwrap();
    }
}

/// Registries that know half of the protocol, and what an upload to them needs.
#[tokio::test]
async fn uploads_without_what_they_are_told() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 3 << 20).await;
    let hooks: [(&str, Box<Hook>); 4] = [
        (
            "no HEAD",
            Box::new(|asked, _| (asked.method == "HEAD").then(|| Fate::Answer(405, Vec::new()))),
        ),
        (
            "no length in a HEAD",
            Box::new(|asked, _| {
                (asked.method == "HEAD").then_some(Fate::Without("content-length"))
            }),
        ),
        (
            "no range",
            Box::new(|asked, _| (asked.method == "PATCH").then_some(Fate::Without("range"))),
        ),
        (
            "no digest of a manifest",
            Box::new(|asked, _| {
                (asked.method == "PUT").then_some(Fate::Without("docker-content-digest"))
            }),
        ),
    ];
    for (number, (what, hook)) in hooks.into_iter().enumerate() {
        let front = Front::start(registry.port, None, hook);
        let name = format!("127.0.0.1:{}/half{number}:1", front.port);
        for _ in 0..2 {
            let pushed = push(&kit, &kit.client, &root, &name).await;
            pushed.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        }
        pulls(&kit.client, &name).await.unwrap();
    }
    // Nowhere to go on: told as that.
    let front = Front::start(
        registry.port,
        None,
        Box::new(|asked, _| (asked.method == "POST").then_some(Fate::Without("location"))),
    );
    let name = format!("127.0.0.1:{}/nowhere:1", front.port);
    let error = push(&kit, &kit.client, &root, &name).await.unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("/v2/nowhere/blobs/uploads/: it does not say where"),
        "{words}"
    );
}

#[tokio::test]
async fn issuers_that_give_no_leave_to_mount() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 1 << 20).await;
    let tokens = Tokens {
        live: Duration::from_secs(60),
        said_seconds: Some(60),
        one_scope_each: true,
    };
    let front = Front::start(registry.port, Some(tokens), nothing());
    let document = kit.store.read_blob(&root.digest, 1 << 20).unwrap();
    let manifest: rbuild_image::Manifest = serde_json::from_slice(&document).unwrap();
    let others = |layer: &Descriptor| (layer.digest, vec!["others/image".to_owned()]);
    let push = Push {
        root: root.clone(),
        to: format!("127.0.0.1:{}/mine:1", front.port).parse().unwrap(),
        mounts: manifest.layers.iter().map(others).collect(),
        from: None,
        there: std::collections::HashSet::new(),
    };
    kit.client.push(&kit.store, &push, &quiet()).await.unwrap();
    pulls(&kit.client, &push.to.canonical()).await.unwrap();
}

#[tokio::test]
async fn all_tags_of_a_repository() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, 10).await;
    let direct = format!("127.0.0.1:{}", registry.port);
    for tag in ["b", "a", "latest"] {
        push(&kit, &kit.client, &root, &format!("{direct}/tags:{tag}"))
            .await
            .unwrap();
    }
    let name = format!("{direct}/tags").parse().unwrap();
    assert_eq!(kit.client.tags(&name).await.unwrap(), ["a", "b", "latest"]);
}

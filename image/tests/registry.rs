//! Pulling from registries: a real one where it is installed, and one made here that fails and lies.

mod kit;
mod real;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use kit::fake::{Answer, Fake, Hook, Request};
use kit::{Kit, TarFile, installed, noise, write_layout};
use rbuild_image::registry::{Client, Options};
use rbuild_image::source::{self, Location, Progress};
use rbuild_image::{Error, Platform};
use real::Registry;

fn quiet() -> Progress {
    Arc::new(|_, _, _| {})
}

async fn pull(kit: &Kit, client: &Client, name: &str) -> Result<usize, Error> {
    let location = Location::Registry(name.parse().unwrap());
    let resolved = source::resolve(&kit.store, client, &location, &Platform::host()).await?;
    let snapshots = source::snapshots(&kit.store, client, &resolved, quiet()).await?;
    Ok(snapshots.len())
}

#[tokio::test]
async fn a_real_registry() {
    if !installed("docker-registry") || !installed("skopeo") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let port = registry.port;
    let one = TarFile::new().file("a", &noise(3 << 20)).done();
    let two = TarFile::new().file("b", b"2").done();
    let layout = kit.layout(&[one, two], "latest");
    let copied = Command::new("skopeo")
        .args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("docker://127.0.0.1:{port}/team/image:1"))
        .status()
        .unwrap();
    assert!(copied.success());
    let name = format!("127.0.0.1:{port}/team/image:1");
    assert_eq!(pull(&kit, &kit.client, &name).await.unwrap(), 2);
    let missing = pull(&kit, &kit.client, &format!("127.0.0.1:{port}/team/none:1")).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
}

fn fake(kit: &Kit, hook: Box<Hook>) -> Arc<Fake> {
    let layer = TarFile::new().file("marker", &noise(600_000)).done();
    let layout = kit.path("served");
    write_layout(&layout, &[layer], "latest");
    Fake::start(layout, hook)
}

/// A client that has a password for it.
fn with_password_for(kit: &Kit, fake: &Fake) -> Client {
    let config = kit.path("config.json");
    let auths =
        serde_json::json!({"auths": {format!("127.0.0.1:{}", fake.port): {"auth": "dTpw"}}});
    std::fs::write(&config, auths.to_string()).unwrap();
    Client::new(Options {
        credential_files: vec![config],
        ..Options::default()
    })
}

/// Answers so often, to requests for the large blob.
fn first(times: usize, answer: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Box<Hook> {
    let left = Mutex::new(times);
    Box::new(move |request, fake| {
        let bytes = fake.usual(request);
        if !request.path.contains("/blobs/") || bytes.body.len() < 5000 {
            return None;
        }
        let mut left = left.lock().unwrap();
        *left = left.checked_sub(1)?;
        Some(answer(&bytes.body))
    })
}

#[tokio::test]
async fn faults_that_pass() {
    let cut = |bytes: &[u8]| {
        let mut answer = Answer::new(200).body(bytes[..bytes.len() / 2].to_vec());
        answer.length = Some(bytes.len());
        answer
    };
    let hooks: [Box<Hook>; 5] = [
        Box::new(|_, _| None),
        first(2, |_| Answer::new(429).header("Retry-After", "1")),
        first(2, |_| Answer::new(503)),
        first(1, |_| Answer::new(500).body(b"oops".to_vec())),
        first(1, cut),
    ];
    for hook in hooks {
        let kit = Kit::new();
        let fake = fake(&kit, hook);
        assert_eq!(pull(&kit, &kit.client, &fake.name()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn what_broke_off_goes_on() {
    let kit = Kit::new();
    let fake = fake(
        &kit,
        first(1, |bytes| {
            let mut answer = Answer::new(200).body(bytes[..400_000].to_vec());
            answer.length = Some(bytes.len());
            answer
        }),
    );
    pull(&kit, &kit.client, &fake.name()).await.unwrap();
    let log = fake.log.lock().unwrap();
    assert!(log.iter().any(|request| {
        request
            .headers
            .get("range")
            .is_some_and(|r| r == "bytes=400000-")
    }));
}

/// A layer is unpacked while it comes: what was read before it began again is worth nothing.
#[tokio::test]
async fn what_broke_off_begins_again() {
    let kit = Kit::new();
    let left = Mutex::new(2);
    let hook = move |request: &Request, fake: &Fake| {
        let asked = Request {
            headers: HashMap::new(),
            ..request.clone()
        };
        let whole = fake.usual(&asked).body;
        if !request.path.contains("/blobs/") || whole.len() < 5000 {
            return None;
        }
        let mut left = left.lock().unwrap();
        *left -= 1;
        // First a part of something else, then all of it although only the rest was asked for.
        let all = if *left == 1 {
            vec![0x1f; whole.len()]
        } else {
            whole.clone()
        };
        let part = if *left == 1 { 400_000 } else { whole.len() };
        let mut answer = Answer::new(200).body(all[..part].to_vec());
        answer.length = Some(whole.len());
        Some(answer)
    };
    let fake = fake(&kit, Box::new(hook));
    pull(&kit, &kit.client, &fake.name()).await.unwrap();
    assert_eq!(fake.count("/blobs/"), 3);
}

#[tokio::test]
async fn what_is_unpacked_of_a_false_blob_is_not_kept() {
    let kit = Kit::new();
    let hook = first(1000, |bytes| {
        let mut bytes = bytes.to_vec();
        bytes[5000] ^= 1;
        Answer::new(200).body(bytes)
    });
    let fake = fake(&kit, hook);
    let error = pull(&kit, &kit.client, &fake.name()).await.unwrap_err();
    // Not of what it unpacks to.
    assert!(
        matches!(
            error,
            Error::Store(rbuild_cache::Error::DigestMismatch { .. })
        ),
        "{error:?}"
    );
    let within = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let root = kit.store.root();
    assert_eq!(within(&root.join("snapshots")), Vec::<PathBuf>::new());
    // A store that is open may have a directory in which it makes things.
    let left = within(&root.join("tmp"));
    let left: Vec<_> = left.iter().flat_map(|path| within(path)).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(kit.store.check(false).unwrap(), []);
}

#[tokio::test]
async fn faults_that_last() {
    let hooks: [Box<Hook>; 4] = [
        first(1000, |_| Answer::new(500)),
        first(1000, |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[5000] ^= 1;
            Answer::new(200).body(bytes)
        }),
        first(1000, |bytes| {
            let mut answer = Answer::new(200).body(bytes[..bytes.len() / 2].to_vec());
            answer.length = Some(bytes.len());
            answer
        }),
        first(1000, |bytes| {
            Answer::new(200).body([bytes, &[0; 4096]].concat())
        }),
    ];
    // At the same time: each spends seconds on pauses between tries.
    let each = hooks.into_iter().map(|hook| async move {
        let kit = Kit::new();
        let fake = fake(&kit, hook);
        pull(&kit, &kit.client, &fake.name()).await.unwrap_err();
        let requests = fake.count("/blobs/");
        assert!(requests < 20, "{requests} requests");
        let healthy = Fake::start(fake.layout.clone(), Box::new(|_, _| None));
        pull(&kit, &kit.client, &healthy.name()).await.unwrap();
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn a_manifest_that_is_another() {
    let kit = Kit::new();
    let fake = fake(
        &kit,
        Box::new(|request, fake| {
            let mut answer = fake.usual(request);
            (request.method == "GET" && request.path.contains("/manifests/")).then(|| {
                answer.body.push(b' ');
                answer
            })
        }),
    );
    let name = format!("127.0.0.1:{}/r@{}", fake.port, fake.manifest);
    pull(&kit, &kit.client, &name).await.unwrap_err();
}

#[tokio::test]
async fn tokens_and_redirects() {
    let kit = Kit::new();
    let layer = TarFile::new().file("marker", &noise(600_000)).done();
    let layout = kit.layout(&[layer], "latest");
    let other = Fake::start_at("127.0.0.2", layout, Box::new(|_, _| None));
    let other_port = other.port;
    let fake = Fake::start(
        other.layout.clone(),
        Box::new(move |request, fake| {
            if request.path.starts_with("/token-at") {
                let target = request.path.replace("/token-at", "/token");
                return Some(Answer::new(307).header("Location", target));
            }
            if request.path.starts_with("/token") {
                let token = br#"{"access_token":"secret-token","expires_in":300}"#;
                return Some(Answer::new(200).body(token.to_vec()));
            }
            if request.headers.get("authorization").map(String::as_str)
                != Some("Bearer secret-token")
            {
                let challenge = format!(
                    r#"Bearer realm="http://127.0.0.1:{}/token-at",service="s",scope="repository:r:pull,push""#,
                    fake.port
                );
                return Some(Answer::new(401).header("WWW-Authenticate", challenge));
            }
            request.path.contains("/blobs/").then(|| {
                let target = format!("http://127.0.0.2:{other_port}{}", request.path);
                Answer::new(307).header("Location", target)
            })
        }),
    );
    let client = with_password_for(&kit, &fake);
    assert_eq!(pull(&kit, &client, &fake.name()).await.unwrap(), 1);
    let log = fake.log.lock().unwrap();
    let asked: Vec<_> = log
        .iter()
        .filter(|request| request.path.starts_with("/token?"))
        .collect();
    assert_eq!(asked.len(), 1, "one token is enough");
    assert!(
        asked[0].path.ends_with("scope=repository%3Ar%3Apull"),
        "{}",
        asked[0].path
    );
    assert_eq!(asked[0].headers.get("authorization").unwrap(), "Basic dTpw");
    let seen = other.log.lock().unwrap();
    assert!(!seen.is_empty());
    assert!(
        seen.iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn a_password_stays_with_the_issuer_that_the_registry_names() {
    let kit = Kit::new();
    let layout = kit.layout(&[TarFile::new().file("marker", b"x").done()], "latest");
    let token = |request: &Request| {
        let token = br#"{"token":"secret-token"}"#;
        request
            .path
            .starts_with("/token?")
            .then(|| Answer::new(200).body(token.to_vec()))
    };
    let other = Fake::start_at(
        "127.0.0.2",
        layout.clone(),
        Box::new(move |request, _| token(request)),
    );
    let other_port = other.port;
    let fake = Fake::start(
        layout,
        Box::new(move |request, fake| {
            if request.path.starts_with("/token?") {
                let target = format!("http://127.0.0.2:{other_port}{}", request.path);
                return Some(Answer::new(302).header("Location", target));
            }
            let authorization = request.headers.get("authorization");
            let challenge = format!(r#"Bearer realm="http://127.0.0.1:{}/token""#, fake.port);
            (authorization.map(String::as_str) != Some("Bearer secret-token"))
                .then(|| Answer::new(401).header("WWW-Authenticate", challenge))
        }),
    );
    let client = with_password_for(&kit, &fake);
    assert_eq!(pull(&kit, &client, &fake.name()).await.unwrap(), 1);
    let with_password = |fake: &Fake| {
        let log = fake.log.lock().unwrap();
        let sent = log.iter().filter(|request| {
            let authorization = request.headers.get("authorization");
            authorization.is_some_and(|it| it == "Basic dTpw")
        });
        sent.count()
    };
    assert_eq!((with_password(&fake), with_password(&other)), (1, 0));
    assert_eq!(other.count("/token?"), 1);
}

#[tokio::test]
async fn redirects_end() {
    let kit = Kit::new();
    for target in ["/v2/r/blobs/again", "file:///etc/passwd", "http://[", ""] {
        let fake = fake(
            &kit,
            Box::new(move |request, _| {
                request
                    .path
                    .contains("/blobs/")
                    .then(|| Answer::new(307).header("Location", target))
            }),
        );
        pull(&kit, &kit.client, &fake.name()).await.unwrap_err();
        assert!(fake.count("/blobs/") < 60);
    }
}

//! Servers that stall, trickle, tell too little or too much, and know half of the protocol.

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kit::fake::{Answer, Fake, Hook, Request};
use kit::{Kit, TarFile, noise, write_layout};
use rbuild_cache::Digest;
use rbuild_image::registry::{Client, Options, RegistryOptions};
use rbuild_image::shared::s3::{self, S3};
use rbuild_image::shared::{Objects, Place, Repository};
use rbuild_image::source::{self, Location, Platforms};
use rbuild_image::{Descriptor, Error, Platform};

const IDLE: Duration = Duration::from_secs(1);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Gives a server a second to say something.
fn hasty() -> Client {
    Client::new(Options {
        idle_timeout: Some(IDLE),
        ..Options::default()
    })
}

fn layout(kit: &Kit) -> std::path::PathBuf {
    let layer = TarFile::new().file("marker", &noise(600_000)).done();
    let layout = kit.path("served");
    write_layout(&layout, &[layer], "latest");
    layout
}

fn fake(
    kit: &Kit,
    hook: impl Fn(&Request, &Fake) -> Option<Answer> + Send + Sync + 'static,
) -> Arc<Fake> {
    let hook: Box<Hook> = Box::new(hook);
    Fake::start(layout(kit), hook)
}

async fn pull(client: &Client, name: &str) -> Result<Descriptor, Error> {
    let kit = Kit::new();
    let location = Location::Registry(name.parse().unwrap());
    let quiet: source::Progress = Arc::new(|_, _, _| {});
    let resolved = source::resolve(&kit.store, client, &location, &Platform::host()).await?;
    source::snapshots(&kit.store, client, &resolved, quiet).await?;
    Ok(resolved.root)
}

/// An error with its causes.
fn told(error: &Error) -> String {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        told.push_str(&format!(": {source}"));
        cause = source.source();
    }
    told
}

fn is_large(request: &Request, fake: &Fake) -> bool {
    request.path.contains("/blobs/") && fake.usual(request).body.len() > 5000
}

#[tokio::test]
async fn a_server_that_says_no_more_is_left() {
    type Phase = fn(&Request, &Fake) -> Option<Answer>;
    let phases: [(&str, Phase); 5] = [
        ("no answer to anything", |_, _| Some(Answer::silent())),
        ("no manifest", |request, _| {
            let is = request.path.contains("/manifests/");
            is.then(Answer::silent)
        }),
        ("half a manifest", |request, fake| {
            let is = request.method == "GET" && request.path.contains("/manifests/");
            is.then(|| fake.usual(request).hanging_after(20))
        }),
        ("a layer's head and no more", |request, fake| {
            is_large(request, fake).then(|| fake.usual(request).hanging_after(0))
        }),
        ("a byte of a layer now and then", |request, fake| {
            let trickle = |answer: Answer| answer.paced(1, IDLE / 3);
            is_large(request, fake).then(|| trickle(fake.usual(request)))
        }),
    ];
    let each = phases.into_iter().map(|(what, phase)| async move {
        let kit = Kit::new();
        let fake = fake(&kit, phase);
        let began = Instant::now();
        let error = pull(&hasty(), &fake.name()).await.unwrap_err();
        let told = told(&error);
        assert!(told.contains("127.0.0.1"), "{what}: {told}");
        // Five tries, and the pauses between them.
        assert!(began.elapsed() < Duration::from_secs(40), "{what}");
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn who_is_slow_and_gets_on_is_waited_for() {
    let kit = Kit::new();
    let fake = fake(&kit, |request, fake| {
        let slow = |answer: Answer| answer.paced(60_000, IDLE / 3);
        is_large(request, fake).then(|| slow(fake.usual(request)))
    });
    let began = Instant::now();
    pull(&hasty(), &fake.name()).await.unwrap();
    assert!(began.elapsed() > IDLE * 2);
    assert_eq!(fake.count("/blobs/"), 2);
}

#[tokio::test]
async fn registries_that_know_no_head_or_tell_too_little() {
    type Lack = fn(&Request, &Fake) -> Option<Answer>;
    let lacks: [(&str, Lack); 6] = [
        ("no HEAD", |request, _| {
            (request.method == "HEAD").then(|| Answer::new(405))
        }),
        ("no HEAD, told as a fault of theirs", |request, _| {
            (request.method == "HEAD").then(|| Answer::new(501))
        }),
        ("a HEAD without a length", |request, fake| {
            let empty = |mut answer: Answer| {
                answer.length = Some(0);
                answer
            };
            (request.method == "HEAD").then(|| empty(fake.usual(request)))
        }),
        ("no digest", |request, fake| {
            Some(fake.usual(request).without("Docker-Content-Digest"))
        }),
        ("no type", |request, fake| {
            Some(fake.usual(request).without("Content-Type"))
        }),
        ("a type of files", |request, fake| {
            let usual = fake.usual(request).without("Content-Type");
            Some(usual.header("Content-Type", "application/json; charset=utf-8"))
        }),
    ];
    for (what, lack) in lacks {
        let kit = Kit::new();
        let fake = fake(&kit, lack);
        let pulled = pull(&kit.client, &fake.name()).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{what}: {}", told(&error)));
        assert_eq!(pulled.digest.to_string(), fake.manifest, "{what}");
        assert_eq!(pulled.media_type, MANIFEST, "{what}");
        // And again, when the name is known.
        let location = Location::Registry(fake.name().parse().unwrap());
        for _ in 0..2 {
            let all = Platforms::All;
            let quiet: source::Progress = Arc::new(|_, _, _| {});
            let again = source::gather(&kit.store, &kit.client, &location, &all, quiet).await;
            assert_eq!(again.unwrap().root.digest, pulled.digest, "{what}");
        }
    }
}

#[tokio::test]
async fn nothing_is_asked_to_be_encoded() {
    let kit = Kit::new();
    let fake = fake(&kit, |_, _| None);
    pull(&kit.client, &fake.name()).await.unwrap();
    for request in fake.log.lock().unwrap().iter() {
        assert_eq!(request.headers["accept-encoding"], "identity");
    }
}

#[tokio::test]
async fn an_unknown_name_costs_one_request_for_what_it_means() {
    let kit = Kit::new();
    let fake = fake(&kit, |_, _| None);
    pull(&kit.client, &fake.name()).await.unwrap();
    assert_eq!(fake.count("/manifests/"), 1);
    assert_eq!(fake.count("/blobs/"), 2);
}

#[tokio::test]
async fn what_is_no_image_is_told_as_what_it_is() {
    let manifest = |config: &str| {
        let empty = Digest::of(b"{}");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{config}","digest":"{empty}","size":2}},"layers":[]}}"#
        )
    };
    let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let wrong = Digest::of(b"another").to_string();
    let cases = [
        (
            schema_1,
            r#"{"schemaVersion":1}"#.to_owned(),
            None,
            "schema 1",
        ),
        ("text/html", "<html>".to_owned(), None, "`text/html`"),
        (
            "application/json",
            "[".to_owned(),
            None,
            "`application/json`",
        ),
        (
            MANIFEST,
            manifest("application/vnd.cncf.helm.config.v1+json"),
            None,
            "it is not an image: its config is of the type `application/vnd.cncf.helm",
        ),
        (
            MANIFEST,
            manifest("application/vnd.oci.image.config.v1+json"),
            Some(wrong.clone()),
            &wrong,
        ),
    ];
    for (media_type, body, digest, words) in cases {
        let kit = Kit::new();
        let fake = fake(&kit, move |request, _| {
            let answer = Answer::new(200).header("Content-Type", media_type);
            let answer = match &digest {
                Some(digest) => answer.header("Docker-Content-Digest", digest),
                None => answer,
            };
            let is = request.path.contains("/manifests/");
            is.then(|| answer.body(body.clone().into_bytes()))
        });
        let error = pull(&kit.client, &fake.name()).await.unwrap_err();
        assert!(told(&error).contains(words), "{words}: {}", told(&error));
    }
}

#[tokio::test]
async fn a_part_that_is_missing_is_no_missing_image() {
    let kit = Kit::new();
    let fake = fake(&kit, |request, fake| {
        is_large(request, fake).then(|| Answer::new(404))
    });
    let error = pull(&kit.client, &fake.name()).await.unwrap_err();
    let told = told(&error);
    assert!(told.contains("/v2/r/blobs/sha256:"), "{told}");
    assert!(told.contains("does not have this part"), "{told}");
    assert!(!matches!(error, Error::NotFound(_)));
}

/// Every index names a hundred others, which nobody ever saw.
#[tokio::test]
async fn indexes_without_end() {
    let kit = Kit::new();
    let index = |of: &str| {
        let manifests: Vec<String> = (0..100)
            .map(|number| {
                let digest = Digest::of(index_of(&format!("{of}.{number}"), "").as_bytes());
                format!(r#"{{"mediaType":"{INDEX}","digest":"{digest}","size":1}}"#)
            })
            .collect();
        index_of(of, &manifests.join(","))
    };
    let body = index("0");
    let fake = fake(&kit, move |request, _| {
        let is = request.path.contains("/manifests/");
        is.then(|| {
            let answer = Answer::new(200).header("Content-Type", INDEX);
            answer.body(body.clone().into_bytes())
        })
    });
    pull(&kit.client, &fake.name()).await.unwrap_err();
    assert!(fake.count("/manifests/") < 5);

    // Those that are there.
    let leaf = |number: usize| index_of(&number.to_string(), "");
    let leaves: Vec<String> = (0..2000)
        .map(|number| {
            let body = leaf(number);
            let (digest, size) = (Digest::of(body.as_bytes()), body.len());
            format!(r#"{{"mediaType":"{INDEX}","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    let root = index_of("root", &leaves.join(","));
    let known: std::collections::HashMap<String, String> = (0..2000)
        .map(|number| {
            (
                Digest::of(leaf(number).as_bytes()).to_string(),
                leaf(number),
            )
        })
        .collect();
    let fake = self::fake(&Kit::new(), move |request, _| {
        let name = request.path.split_once("/manifests/")?.1;
        let body = known.get(name).unwrap_or(&root).clone();
        let answer = Answer::new(200).header("Content-Type", INDEX);
        Some(answer.body(body.into_bytes()))
    });
    let error = pull(&kit.client, &fake.name()).await.unwrap_err();
    assert!(told(&error).contains("more than 200"), "{}", told(&error));
    assert!(fake.count("/manifests/") < 300);
}

fn index_of(what: &str, manifests: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","annotations":{{"of":"{what}"}},"manifests":[{manifests}]}}"#
    )
}

#[tokio::test]
async fn several_challenges_in_one_header() {
    let kit = Kit::new();
    let fake = fake(&kit, |request, fake| {
        if request.path.starts_with("/token") {
            return Some(Answer::new(200).body(br#"{"token":"t"}"#.to_vec()));
        }
        let given = request.headers.get("authorization").map(String::as_str);
        (given != Some("Bearer t")).then(|| {
            let realm = format!("http://127.0.0.1:{}/token", fake.port);
            let challenge = format!(r#"Negotiate, Basic realm="a, b", Bearer realm="{realm}""#);
            Answer::new(401).header("WWW-Authenticate", challenge)
        })
    });
    pull(&kit.client, &fake.name()).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_refuses_parts_gives_the_whole() {
    for status in [416, 400, 501] {
        let kit = Kit::new();
        let broken = AtomicUsize::new(0);
        let fake = fake(&kit, move |request, fake| {
            if !is_large(request, fake) {
                return None;
            }
            if request.headers.contains_key("range") {
                return Some(Answer::new(status));
            }
            (broken.fetch_add(1, Ordering::Relaxed) == 0).then(|| {
                let mut answer = fake.usual(request);
                answer.length = Some(answer.body.len());
                answer.body.truncate(300_000);
                answer
            })
        });
        pull(&kit.client, &fake.name()).await.unwrap();
    }
}

#[tokio::test]
async fn a_mirror_that_failed_is_not_waited_for_again() {
    let mirrors: [fn(&Request, &Fake) -> Option<Answer>; 4] = [
        |_, _| Some(Answer::silent()),
        |_, _| Some(Answer::new(503)),
        |_, _| Some(Answer::new(401)),
        |request, fake| is_large(request, fake).then(|| fake.usual(request).hanging_after(9)),
    ];
    for mirror in mirrors {
        let kit = Kit::new();
        let mirror = fake(&kit, mirror);
        let origin = Fake::start(mirror.layout.clone(), Box::new(|_, _| None));
        let options = RegistryOptions {
            mirrors: vec![format!("127.0.0.1:{}", mirror.port)],
            ..RegistryOptions::default()
        };
        let client = Client::new(Options {
            idle_timeout: Some(IDLE),
            registries: [(format!("127.0.0.1:{}", origin.port), options)].into(),
            ..Options::default()
        });
        let began = Instant::now();
        pull(&client, &origin.name()).await.unwrap();
        assert!(began.elapsed() < IDLE * 5);
        assert!(mirror.count("/v2/r/") <= 3);
    }
}

/// A bucket that has nothing and takes what it is sent.
fn bucket(port: u16, client: Client) -> Place {
    let options = s3::Options {
        bucket: "b".to_owned(),
        region: "r".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}").parse().unwrap()),
        path_style: true,
        prefix: String::new(),
        blobs_prefix: "blobs/".to_owned(),
        manifests_prefix: "manifests/".to_owned(),
        name: "n".to_owned(),
        access_key: "k".to_owned(),
        secret_key: "s".to_owned(),
        session_token: None,
    };
    Place::Objects(Objects::S3(S3::new(client, options).unwrap()))
}

/// Four times as long as a server may be silent.
#[tokio::test]
async fn a_large_object_on_a_slow_line() {
    let kit = Kit::new();
    let fake = fake(&kit, |request, _| {
        Some(match request.method.as_str() {
            "HEAD" => Answer::new(404),
            _ => Answer::new(200),
        })
    });
    let bytes = noise(24 << 20);
    *fake.taking.lock().unwrap() = Some((1 << 20, IDLE / 6));
    let digest = kit.store.put_blob(&bytes).unwrap();
    let blob = Descriptor::new("x", digest, bytes.len() as u64);
    let began = Instant::now();
    let quiet: source::Progress = Arc::new(|_, _, _| {});
    let place = bucket(fake.port, hasty());
    let sent = place.send(&kit.store, &blob, &[], &quiet).await;
    assert!(sent.unwrap());
    assert!(began.elapsed() > IDLE * 3, "{:?}", began.elapsed());
    assert_eq!(fake.count("/b/"), 2);
}

/// It reads a little of each part, and then neither reads nor answers.
#[tokio::test]
async fn a_registry_that_takes_no_more_is_left() {
    let kit = Kit::new();
    let fake = fake(&kit, |request, _| {
        let session = |status| {
            let answer = Answer::new(status).header("Location", "/v2/r/blobs/uploads/1");
            answer.header("Range", "0-0")
        };
        Some(match request.method.as_str() {
            "HEAD" => Answer::new(404),
            "POST" => session(202),
            _ => session(204),
        })
    });
    *fake.taking.lock().unwrap() = Some((64 << 10, Duration::from_secs(600)));
    let bytes = noise(12 << 20);
    let digest = kit.store.put_blob(&bytes).unwrap();
    let blob = Descriptor::new("x", digest, bytes.len() as u64);
    let place = Place::Registry(Repository::new(hasty(), fake.name().parse().unwrap()));
    let quiet: source::Progress = Arc::new(|_, _, _| {});
    let began = Instant::now();
    let error = place
        .send(&kit.store, &blob, &[], &quiet)
        .await
        .unwrap_err();
    let told = told(&error);
    assert!(
        told.contains("/v2/r/blobs/uploads/1: it does not answer in time"),
        "{told}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_object_that_broke_off_goes_on() {
    let kit = Kit::new();
    let fake = fake(&kit, |request, fake| {
        let asked = Request {
            path: format!("/v2/r/blobs/{}", fake.largest()),
            ..request.clone()
        };
        let mut answer = fake.usual(&asked);
        if !request.headers.contains_key("range") {
            answer.length = Some(answer.body.len());
            answer.body.truncate(400_000);
        }
        Some(answer)
    });
    let digest: Digest = fake.largest().parse().unwrap();
    let size = std::fs::metadata(fake.layout.join("blobs/sha256").join(digest.hex()));
    let blob = Descriptor::new("x", digest, size.unwrap().len());
    let quiet: source::Progress = Arc::new(|_, _, _| {});
    let place = bucket(fake.port, kit.client.clone());
    place.bring(&kit.store, &blob, &quiet).await.unwrap();
    assert!(kit.store.has_blob(&digest));
    assert_eq!(fake.count("/b/"), 2);
}

//! Pushing to the registry that everybody runs, and through a proxy that cuts connections.

mod kit;
mod real;

use std::sync::Arc;

use kit::{Kit, TarFile, installed, noise};
use rbuild_image::registry::credentials::{self, Login};
use rbuild_image::registry::push::{Progress, Push, State};
use rbuild_image::registry::{Client, Options};
use rbuild_image::source::{self, Location};
use rbuild_image::{Descriptor, Error, Platform};
use real::{CuttingProxy, Registry};

fn quiet() -> Progress {
    Arc::new(|_, _| {})
}

/// Brings an image with layers of these sizes into the kit's store.
async fn image(kit: &Kit, sizes: &[usize]) -> Descriptor {
    let layers: Vec<Vec<u8>> = sizes
        .iter()
        .map(|size| TarFile::new().file("noise", &noise(*size)).done())
        .collect();
    let location = Location::OciLayout {
        path: kit.layout(&layers, "latest"),
        tag: None,
        digest: None,
    };
    let platform = Platform::host();
    let resolved = source::resolve(&kit.store, &kit.client, &location, &platform)
        .await
        .unwrap();
    source::fetch(
        &kit.store,
        &kit.client,
        &resolved.location,
        resolved.manifest.layers.clone(),
        Arc::new(|_, _, _| {}),
    )
    .await
    .unwrap();
    Descriptor::new(
        &resolved.descriptor.media_type,
        resolved.descriptor.digest,
        resolved.descriptor.size,
    )
}

fn push(root: &Descriptor, name: &str) -> Push {
    Push {
        root: root.clone(),
        to: name.parse().unwrap(),
        mounts: std::collections::HashMap::new(),
        from: None,
        there: std::collections::HashSet::new(),
    }
}

async fn pulls(client: &Client, name: &str) -> Result<(), Error> {
    let kit = Kit::new();
    let location = Location::Registry(name.parse().unwrap());
    let resolved = source::resolve(&kit.store, client, &location, &Platform::host()).await?;
    source::fetch(
        &kit.store,
        client,
        &resolved.location,
        resolved.manifest.layers.clone(),
        Arc::new(|_, _, _| {}),
    )
    .await
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let root = image(&kit, &[3 << 20, 10]).await;
    let name = format!("127.0.0.1:{}/team/one:1", registry.port);
    let states = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noting = || -> Progress {
        let states = Arc::clone(&states);
        Arc::new(move |_, state| {
            if !matches!(state, State::Sending(_)) {
                states.lock().unwrap().push(state);
            }
        })
    };
    let mut pushing = push(&root, &name);
    kit.client
        .push(&kit.store, &pushing, &noting())
        .await
        .unwrap();
    assert_eq!(
        *states.lock().unwrap(),
        [State::Sent, State::Sent, State::Sent]
    );
    states.lock().unwrap().clear();
    kit.client
        .push(&kit.store, &pushing, &noting())
        .await
        .unwrap();
    assert!(
        states
            .lock()
            .unwrap()
            .iter()
            .all(|state| *state == State::Exists)
    );
    pulls(&kit.client, &name).await.unwrap();
    if installed("skopeo") {
        assert!(registry.skopeo_reads("team/one:1"));
    }
    // From one repository to another without the bytes.
    states.lock().unwrap().clear();
    pushing.to = format!("127.0.0.1:{}/team/two:1", registry.port)
        .parse()
        .unwrap();
    let document = kit.store.read_blob(&root.digest, 1 << 20).unwrap();
    let manifest: rbuild_image::Manifest = serde_json::from_slice(&document).unwrap();
    for layer in manifest.layers {
        pushing
            .mounts
            .insert(layer.digest, vec!["team/one".to_owned()]);
    }
    kit.client
        .push(&kit.store, &pushing, &noting())
        .await
        .unwrap();
    let mounted = State::Mounted("team/one".to_owned());
    let states = states.lock().unwrap();
    assert_eq!(states.iter().filter(|state| **state == mounted).count(), 2);
}

#[tokio::test]
async fn cut_connections_cost_little() {
    if !installed("docker-registry") {
        return;
    }
    const SIZE: usize = 48 << 20;
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let proxy = CuttingProxy::start(registry.port, 12 << 20);
    let root = image(&kit, &[SIZE]).await;
    let name = format!("127.0.0.1:{}/cut:1", proxy.port);
    kit.client
        .push(&kit.store, &push(&root, &name), &quiet())
        .await
        .unwrap();
    let (sent, cuts) = (proxy.sent(), proxy.cuts());
    assert!(cuts > 0, "nothing was cut");
    // What the registry had not written yet when a connection broke goes again: on a busy machine that is more.
    assert!(sent < SIZE as u64 * 3, "{sent} bytes, {cuts} cuts");
    pulls(&kit.client, &format!("127.0.0.1:{}/cut:1", registry.port))
        .await
        .unwrap();
}

/// The registry forgets an upload whose connections all break: the next one is begun with the small parts that the last
/// one had come to.
#[tokio::test]
async fn a_connection_that_hardly_holds_is_enough() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = Registry::start(&kit, "");
    let proxy = CuttingProxy::start(registry.port, 512 << 10);
    let root = image(&kit, &[12 << 20]).await;
    let name = format!("127.0.0.1:{}/cut:1", proxy.port);
    kit.client
        .push(&kit.store, &push(&root, &name), &quiet())
        .await
        .unwrap();
    assert!(proxy.cuts() > 8, "{} cuts", proxy.cuts());
    pulls(&kit.client, &format!("127.0.0.1:{}/cut:1", registry.port))
        .await
        .unwrap();
}

#[tokio::test]
async fn passwords() {
    if !installed("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let users = kit.path("htpasswd");
    // `user` with the password `secret`.
    std::fs::write(&users, real::HTPASSWD).unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: r, path: {}}}}}\n",
        users.display()
    );
    let registry = Registry::start(&kit, &auth);
    let host = format!("127.0.0.1:{}", registry.port);
    let root = image(&kit, &[10]).await;
    let name = format!("{host}/secret:1");
    let denied = kit
        .client
        .push(&kit.store, &push(&root, &name), &quiet())
        .await;
    assert!(denied.unwrap_err().to_string().contains("login"));
    let login = |password: &str| Login::Password {
        user: "user".to_owned(),
        password: password.to_owned(),
    };
    kit.client
        .check_login(&host, &login("wrong"))
        .await
        .unwrap_err();
    kit.client
        .check_login(&host, &login("secret"))
        .await
        .unwrap();
    let file = kit.path("docker/config.json");
    credentials::keep(&file, &host, &login("secret")).unwrap();
    let client = Client::new(Options {
        credential_files: vec![file],
        ..Options::default()
    });
    client
        .push(&kit.store, &push(&root, &name), &quiet())
        .await
        .unwrap();
    pulls(&client, &name).await.unwrap();
    pulls(&kit.client, &name).await.unwrap_err();
}

#[tokio::test]
async fn own_authorities() {
    if !installed("docker-registry") || !installed("openssl") {
        return;
    }
    let kit = Kit::new();
    let (certificate, key) = real::certificate(&kit);
    let tls = format!(
        "  tls: {{certificate: {}, key: {}}}\n",
        certificate.display(),
        key.display()
    );
    let registry = Registry::start(&kit, &tls);
    let host = format!("127.0.0.1:{}", registry.port);
    let name = format!("{host}/tls:1");
    let root = image(&kit, &[2 << 20]).await;
    let certificates = |name: &str, authority: &std::path::Path| {
        let directory = kit.path(name).join(&host);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(authority, directory.join("ca.crt")).unwrap();
        Client::new(Options {
            certificate_directories: vec![kit.path(name)],
            ..Options::default()
        })
    };
    let good = certificates("good", &certificate);
    good.push(&kit.store, &push(&root, &name), &quiet())
        .await
        .unwrap();
    pulls(&good, &name).await.unwrap();
    let other = Kit::new();
    let (stranger, _) = real::certificate(&other);
    let bad = certificates("bad", &stranger);
    pulls(&bad, &name).await.unwrap_err();
}

#[test]
fn helpers_are_programs_of_their_name_only() {
    let kit = Kit::new();
    let file = kit.path("config.json");
    std::fs::write(&file, r#"{"credHelpers":{"r.example":"../evil"}}"#).unwrap();
    let login = Login::IdentityToken("x".to_owned());
    let error = credentials::keep(&file, "r.example", &login).unwrap_err();
    assert!(error.to_string().contains("../evil"), "{error}");
}

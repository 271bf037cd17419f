//! Secrets that steps leave in layers are told of, where they are left.

use crate::kit::Kit;
use crate::require_machine;

const VALUE: &str = "s3cret/value 1";

/// What a build with the secret `token` warns of.
fn warned(kit: &Kit, dockerfile: &str) -> Vec<String> {
    std::fs::write(kit.path("token"), format!("{VALUE}\n")).unwrap();
    let flags = [
        "--secret=id=token,src=token",
        "--output=type=oci,dest=out.tar",
    ];
    let built = kit.must_build(dockerfile, &flags);
    assert!(!built.stderr.contains(VALUE), "{built}");
    let lines = built.stderr.lines();
    lines
        .filter(|line| line.contains("secret-in-layer") || line.contains("--> "))
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn a_secret_in_a_layer_is_told_of_with_the_step_and_the_file() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("token.copy", VALUE)]);
    let from = "FROM busybox\n";
    let mount = "RUN --mount=type=secret,id=token ";
    let said = |path: &str, line: usize| {
        let warning =
            format!("warning[secret-in-layer]: secret `token` is in the image, in {path}");
        let place = format!("--> context/Dockerfile:{line}:1");
        vec![warning, place]
    };
    for (steps, expected) in [
        ("cp /run/secrets/token /left", said("`/left`", 2)),
        (
            "base64 /run/secrets/token | sed s/^/a/ > /left",
            said("`/left`", 2),
        ),
        (
            "mkdir /d && for i in 1 2 3 4 5; do cp /run/secrets/token /d/$i; done",
            said("`/d/1`, `/d/2`, `/d/3` and 2 more", 2),
        ),
        (
            "cp /run/secrets/token /left && ln /left /name\nRUN rm /left /name",
            said("`/left`", 2),
        ),
        ("true\nCOPY . /context/", said("`/context/token.copy`", 3)),
        ("wc -c < /run/secrets/token > /left", Vec::new()),
    ] {
        assert_eq!(warned(&kit, &format!("{from}{mount}{steps}\n")), expected);
    }
}

#[test]
fn what_is_in_no_layer_of_the_image_is_no_leak() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM busybox AS one\n\
        RUN --mount=type=secret,id=token cp /run/secrets/token /left; wc -c < /left > /length\n\
        FROM scratch\n\
        COPY --from=one /length /\n";
    assert!(warned(&kit, dockerfile).is_empty());
    let copied = dockerfile.replace("/length /\n", "/left /kept\n");
    let found = warned(&kit, &copied);
    assert!(
        found.iter().any(|line| line.ends_with("in `/kept`")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|line| line.ends_with("Dockerfile:4:1")),
        "{found:?}"
    );
}

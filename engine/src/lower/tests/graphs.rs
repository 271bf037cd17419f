//! What RUN, COPY and ADD come to.

use super::super::ContextKind;
use super::kit;
use crate::request::Entitlement;

#[test]
fn commands() {
    let kit = kit(r#"FROM busybox
ENV A=1
ARG B=2
USER me
WORKDIR /w
RUN --network=none echo $A
RUN ["echo", "$A"]
SHELL ["/bin/ash", "-ec"]
RUN <<EOF
one
EOF
RUN cat <<-A > /a; cat <<'B'
	x
	A
y
B
RUN <<"S"
#!/bin/awk -f
BEGIN {}
S
"#)
    .arg("https_proxy", "p");
    insta::assert_snapshot!(kit.dump());
}

#[test]
fn mounts() {
    let mut kit = kit(
        r#"FROM busybox AS s
FROM busybox
WORKDIR /w
ARG D=dir
RUN --mount=target=$D,source=src/x --mount=type=bind,from=s,target=/s,rw --mount=from=busybox,source=../etc,target=/e true
RUN --mount=type=cache,target=/c/../d/ --mount=type=cache,id=k,target=rel,sharing=locked,from=s,source=/seed,mode=700,uid=5,ro true
RUN --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=a/tok --mount=type=secret,id=e,env=E --mount=type=secret,id=r,target=rel,required,mode=0444 true
RUN --mount=type=ssh --mount=type=ssh,id=other,target=/s --mount=type=ssh true
"#,
    )
    .arg("BUILDKIT_CACHE_MOUNT_NS", "ns");
    kit.options.hosts = vec![("h".to_owned(), "10.0.0.1".to_owned())];
    insta::assert_snapshot!(kit.dump());
}

#[test]
fn transfers() {
    let kit = kit(
        r#"FROM busybox AS s
FROM scratch
WORKDIR /w
ENV F=file D="a dir"
COPY $F "$D" rel
COPY --from=s --chown=$F:1 --chmod=u=rwX,g+s /x .
COPY --link f /x/
COPY --link --chmod=600 f /x/
COPY --parents --exclude=*.$F a/./b ../c /x
ADD a.tar https://example.com/b%20*.tar?x /x/
ADD --unpack=true --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000001 https://example.com/c.tar /x
ADD --keep-git-dir https://example.com/r.git#v1:sub /git
COPY --chmod=755 <<A f <<"B" /docs/
$F \$F
A
$F
B
COPY --from=docs . /
COPY --from=scratch / /none
"#,
    )
    .context("docs", ContextKind::Directory);
    insta::assert_snapshot!(kit.dump());
}

#[test]
fn variables_in_from() {
    let kit = kit("# rbuild: ext=1\nFROM busybox AS a\nRUN in-a\nFROM env\nCOPY --from=$S /x /y")
        .image("env", serde_json::json!({"Env": ["PATH=/bin", "S=a"]}));
    assert!(kit.dump().contains("in-a"));
}

#[test]
fn entitlements() {
    let mut kit = kit("FROM busybox\nRUN --network=host a\nRUN --security=insecure b");
    assert_eq!(
        kit.errors(),
        [
            "2:15 not-allowed: RUN --network=host is not allowed in this build (allow it on the command line with `--allow network.host`)",
            "3:16 not-allowed: RUN --security=insecure is not allowed in this build (allow it on the command line with `--allow security.insecure`)",
        ]
    );
    kit.options.allow = vec![Entitlement::NetworkHost, Entitlement::SecurityInsecure];
    let dump = kit.dump();
    assert!(
        dump.contains("network host") && dump.contains("insecure"),
        "{dump}"
    );
}

#[test]
fn two_platforms() {
    let kit = kit(
        "FROM busybox AS build\nARG TARGETARCH\nRUN make\nFROM scratch\nCOPY --from=build /x-$TARGETARCH /x",
    );
    insta::assert_snapshot!(kit.platforms(&["linux/amd64", "linux/arm64"]).dump());
}

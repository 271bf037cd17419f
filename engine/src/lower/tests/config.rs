//! Variables, the config and the history.

use super::kit;

#[test]
fn scopes() {
    for (text, args, expected) in [
        // An ARG is seen from its line on.
        (
            "FROM scratch\nLABEL a=[$A]\nARG A=1\nLABEL b=$A",
            &[][..],
            "a=[] b=1",
        ),
        // A build arg wins over the default, an empty one too.
        ("FROM scratch\nARG A=1\nLABEL a=$A", &[("A", "2")], "a=2"),
        ("FROM scratch\nARG A=1\nLABEL a=[$A]", &[("A", "")], "a=[]"),
        // ARGs before FROM have to be declared again.
        (
            "ARG A=1\nFROM scratch\nLABEL a=[$A]\nARG A\nLABEL b=$A",
            &[],
            "a=[] b=1",
        ),
        (
            "ARG A=1\nARG B=${A}2\nFROM scratch\nARG B\nLABEL b=$B",
            &[("A", "0")],
            "b=02",
        ),
        // The later of ENV and ARG wins.
        (
            "FROM scratch\nENV A=env\nARG A\nLABEL a=$A",
            &[("A", "arg")],
            "a=arg",
        ),
        (
            "FROM scratch\nENV A=env\nARG A=default\nLABEL a=$A",
            &[],
            "a=default",
        ),
        (
            "FROM scratch\nARG A=1\nENV A=env\nLABEL a=$A",
            &[("A", "arg")],
            "a=env",
        ),
        // A value sees what held before the instruction.
        (
            "FROM scratch\nENV A=1\nENV A=2 B=$A\nLABEL b=$B",
            &[],
            "b=1",
        ),
        ("FROM scratch\nARG A=1 B=${A}2\nLABEL b=$B", &[], "b=12"),
        // ENV of a parent stage is in force again in its child, ARG is inherited.
        (
            "FROM scratch AS a\nENV A=env\nARG A B=b\nFROM a\nLABEL a=$A b=$B",
            &[("A", "arg")],
            "a=env b=b",
        ),
        // Platform variables: in a stage after ARG only; a default hides them.
        (
            "FROM scratch\nLABEL a=[$TARGETARCH]\nARG TARGETARCH\nLABEL b=$TARGETARCH",
            &[],
            "a=[] b=amd64",
        ),
        (
            "FROM scratch\nARG TARGETARCH=mine\nLABEL a=$TARGETARCH",
            &[],
            "a=mine",
        ),
        (
            "FROM scratch\nARG TARGETOS\nLABEL a=$TARGETOS",
            &[("TARGETOS", "plan9")],
            "a=plan9",
        ),
        (
            "FROM scratch\nARG TARGETSTAGE\nLABEL a=$TARGETSTAGE",
            &[],
            "a=default",
        ),
        (
            "FROM scratch AS x\nARG TARGETSTAGE\nLABEL a=$TARGETSTAGE",
            &[],
            "a=x",
        ),
        // Proxies are no variables.
        (
            "FROM scratch\nLABEL a=[$HTTP_PROXY]",
            &[("HTTP_PROXY", "p")],
            "a=[]",
        ),
    ] {
        let mut kit = kit(text);
        for (name, value) in args {
            kit = kit.arg(name, value);
        }
        assert_eq!(kit.labels(), expected, "{text}");
    }
}

#[test]
fn created_by() {
    let kit = kit(r#"FROM busybox
ARG A
MAINTAINER me
ENV K=v  L="a b"
LABEL x=y z="1 2"
WORKDIR /w
COPY --chown=1:2 --chmod=600 f g /dst/
ADD --link f /added
COPY --parents <<one f <<two /h/
1
one
2
two
RUN echo   hello   && \
    true
RUN ["echo", "exec  form"]
ENV A=3
RUN true
EXPOSE 90/udp 80-81 443 ${P:-9}
VOLUME /v ["/w"]
USER u
STOPSIGNAL 9
HEALTHCHECK --interval=5s --timeout=90s CMD test "a b"
HEALTHCHECK NONE
SHELL ["/bin/ash", "-ec"]
ONBUILD RUN x
ENTRYPOINT ["e", "f \"g\""]
CMD shell form
WORKDIR /a/../b/
WORKDIR c/../d/
WORKDIR /
"#)
    .arg("A", "1");
    insta::assert_snapshot!(kit.history().join("\n"), @r#"
    e ARG A=1
    e MAINTAINER me
    e ENV K=v L=a b
    e LABEL x=y z=1 2
    L WORKDIR /w
    L COPY --chown=1:2 --chmod=600 f g /dst/ # buildkit
    L ADD f /added # buildkit
    L COPY --parents f <<one <<two /h/ # buildkit
    L RUN |1 A=1 /bin/sh -c echo   hello   &&     true # buildkit
    L RUN |1 A=1 echo exec  form # buildkit
    e ENV A=3
    L RUN |1 A=3 /bin/sh -c true # buildkit
    e EXPOSE [9/tcp 443/tcp 80/tcp 81/tcp 90/udp]
    e VOLUME [/v [/w]]
    e USER u
    e STOPSIGNAL 9
    e HEALTHCHECK {Test:[CMD-SHELL test "a b"] Interval:5s Timeout:1m30s StartPeriod:0s StartInterval:0s Retries:0}
    e HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
    e SHELL [/bin/ash -ec]
    e ENTRYPOINT ["e" "f \"g\""]
    e CMD ["/bin/ash" "-ec" "shell form"]
    L WORKDIR /a/../b/
    L WORKDIR /b/d
    e WORKDIR /
    "#);
}

#[test]
fn entrypoint_and_cmd() {
    let cmd = |text: &str| {
        kit(text).ok().images[0]
            .config
            .config
            .cmd
            .clone()
            .unwrap_or_default()
    };
    assert_eq!(cmd("FROM busybox"), ["sh"]);
    assert!(cmd("FROM busybox\nENTRYPOINT [\"e\"]").is_empty());
    assert_eq!(cmd("FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"e\"]"), ["c"]);
    assert!(cmd("FROM scratch AS a\nCMD [\"c\"]\nFROM a\nENTRYPOINT [\"e\"]").is_empty());
}

#[test]
fn env_keeps_its_order_and_path() {
    let env = |text: &str| {
        kit(text).ok().images[0]
            .config
            .config
            .env
            .clone()
            .unwrap_or_default()
    };
    assert_eq!(
        env("FROM busybox\nENV B=1\nENV A=2 PATH=/x:$PATH"),
        ["PATH=/x:/bin", "B=1", "A=2"]
    );
    let default = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(env("FROM bare"), [default]);
    assert_eq!(env("FROM scratch"), [default]);
}

#[test]
fn a_variable_without_a_value_is_dropped() {
    let kit =
        kit("FROM odd\nRUN true").image("odd", serde_json::json!({"Env": ["AWS_SECRET", "A=1"]}));
    assert!(!kit.dump().contains("AWS_SECRET"));
}

#[test]
fn scratch_and_labels_of_the_command_line() {
    let mut kit = kit("FROM scratch\nLABEL a=file b=file");
    kit.options.labels = vec![("a".to_owned(), "cli".to_owned())];
    assert_eq!(kit.labels(), "a=cli b=file");
    let image = &kit.ok().images[0];
    assert_eq!(image.vertex, None);
    assert_eq!(image.config.config.working_dir, "/");
    assert_eq!(image.config.rootfs.kind, "layers");
    assert_eq!(image.base_layers, 0);
}

#[test]
fn platform_of_the_result() {
    let written = |kit: super::Kit| {
        let image = &kit.ok().images[0];
        let config = (
            &image.config.os,
            &image.config.architecture,
            &image.config.variant,
        );
        format!("{} {config:?}", image.platform)
    };
    assert_eq!(
        written(kit("FROM --platform=linux/arm64 busybox")),
        "linux/arm64 (\"linux\", \"arm64\", None)"
    );
    assert_eq!(
        written(kit("FROM --platform=linux/arm64 busybox").platforms(&["linux/amd64"])),
        "linux/amd64 (\"linux\", \"amd64\", None)"
    );
    assert_eq!(
        written(kit("FROM scratch").platforms(&["linux/arm/v6"])),
        "linux/arm/v6 (\"linux\", \"arm\", Some(\"v6\"))"
    );
    assert_eq!(
        written(kit("FROM scratch").platforms(&["linux/arm64/v8"])),
        "linux/arm64 (\"linux\", \"arm64\", None)"
    );
}

#[test]
fn epoch() {
    let text = "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\nWORKDIR /w";
    assert_eq!(kit(text).ok().images[0].epoch, Some(5));
    assert_eq!(
        kit(text).arg("SOURCE_DATE_EPOCH", "7").ok().images[0].epoch,
        Some(7)
    );
    let mut environment = kit("FROM scratch");
    environment.options.source_date_epoch = Some("9".to_owned());
    assert_eq!(environment.ok().images[0].epoch, Some(9));
    assert_eq!(
        environment.arg("SOURCE_DATE_EPOCH", "").ok().images[0].epoch,
        None
    );
}

#[test]
fn epoch_is_the_time_of_what_is_made_here() {
    let times = |text: &str, epoch: &str| {
        let kit = kit(text)
            .image("env", serde_json::json!({}))
            .arg("SOURCE_DATE_EPOCH", epoch);
        let config = crate::assemble::image_config(&kit.ok().images[0], &[1, 2_000_000_000]);
        let created =
            |entry: &rbuild_image::config::History| entry.created.clone().unwrap_or_default();
        let history: Vec<String> = config.history.iter().map(created).collect();
        format!(
            "{}: {}",
            config.created.unwrap_or_default(),
            history.join(" ")
        )
    };
    assert_eq!(
        times("FROM env\nCOPY f /f\nENV a=b", "5"),
        "1970-01-01T00:00:05Z: 2020-01-01T00:00:00Z 1970-01-01T00:00:05Z 1970-01-01T00:00:05Z"
    );
    // Also where that is later than the base, and than now.
    assert_eq!(
        times("FROM env\nENV a=b", "4000000000"),
        "2096-10-02T07:06:40Z: 2020-01-01T00:00:00Z 2096-10-02T07:06:40Z"
    );
    assert_eq!(
        times("FROM env", "5"),
        "2020-01-01T00:00:00Z: 2020-01-01T00:00:00Z"
    );
}

#[test]
fn what_a_base_notes_of_itself_stays_with_it() {
    let base = serde_json::json!({
        "Hostname": "d1b2c3", "AttachStdout": true, "Image": "sha256:1", "User": "u", "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["NONE"]}, "ArgsEscaped": true,
    });
    let kit = kit("FROM base\nENV a=b").image("base", base);
    let config = serde_json::to_value(&kit.ok().images[0].config.config).unwrap();
    assert_eq!(
        config,
        serde_json::json!({
            "User": "u", "StopSignal": "SIGINT", "Healthcheck": {"Test": ["NONE"]}, "ArgsEscaped": true,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "a=b"],
        })
    );
}

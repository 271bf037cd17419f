//! Values of `RUN --mount=`, and of the arguments that have a form of their own.

use rbuild_parser::mount::{self, Mount, MountKind, Sharing};
use rbuild_parser::source::Span;
use rbuild_parser::values;

fn read(value: &str) -> Mount {
    mount::parse(value, Span::default()).unwrap_or_else(|error| panic!("{value}: {error:?}"))
}

/// The message and the first help of a refused value.
fn refused(value: &str) -> (String, String) {
    match mount::parse(value, Span::default()) {
        Ok(mount) => panic!("{value}: {mount:?}"),
        Err(error) => (
            error.message,
            error.help.first().cloned().unwrap_or_default(),
        ),
    }
}

fn bind(target: &str, source: &str, from: Option<&str>, writable: bool) -> Mount {
    let kind = MountKind::Bind {
        from: from.map(str::to_owned),
        source: source.to_owned(),
        writable,
    };
    Mount {
        kind,
        target: Some(target.to_owned()),
    }
}

#[test]
fn bind_mounts() {
    for (value, expected) in [
        ("target=/m", bind("/m", "", None, false)),
        ("type=bind,target=/m", bind("/m", "", None, false)),
        ("TYPE=BIND,Target=/m", bind("/m", "", None, false)),
        ("dst=/m,src=a", bind("/m", "a", None, false)),
        (
            "destination=/m,source=a,from=stage",
            bind("/m", "a", Some("stage"), false),
        ),
        ("target=/m,rw", bind("/m", "", None, true)),
        ("target=/m,readwrite", bind("/m", "", None, true)),
        ("target=/m,rw=true", bind("/m", "", None, true)),
        ("target=/m,rw=0", bind("/m", "", None, false)),
        ("target=/m,ro", bind("/m", "", None, false)),
        ("target=/m,readonly=false", bind("/m", "", None, true)),
        ("target=/m,ro,rw", bind("/m", "", None, true)),
        ("target=here", bind("here", "", None, false)),
        ("target=/a,target=/b", bind("/b", "", None, false)),
        ("\"source=a,b\",target=/m", bind("/m", "a,b", None, false)),
        (
            "\"source=a\\\"\"b\",target=/m",
            bind("/m", "a\"b", None, false),
        ),
        ("target=/m,source=a=b", bind("/m", "a=b", None, false)),
        ("target='/m n'", bind("/m n", "", None, false)),
    ] {
        assert_eq!(read(value), expected, "{value}");
    }
}

#[test]
fn other_mounts() {
    let cache =
        read("type=cache,target=/c,id=x,sharing=locked,ro,mode=0700,uid=5,gid=6,from=s,source=/d");
    let expected = MountKind::Cache {
        id: Some("x".to_owned()),
        from: Some("s".to_owned()),
        source: "/d".to_owned(),
        sharing: Sharing::Locked,
        readonly: true,
        mode: Some(0o700),
        uid: Some(5),
        gid: Some(6),
    };
    assert_eq!(cache.kind, expected);
    assert!(matches!(
        read("type=cache,target=/c").kind,
        MountKind::Cache {
            id: None,
            sharing: Sharing::Shared,
            readonly: false,
            mode: None,
            ..
        }
    ));
    assert!(matches!(
        read("target=/c,sharing=PRIVATE,type=cache").kind,
        MountKind::Cache {
            sharing: Sharing::Private,
            ..
        }
    ));
    assert_eq!(
        read("type=tmpfs,target=/t").kind,
        MountKind::Tmpfs { size: None }
    );
    assert_eq!(
        read("type=tmpfs,target=/t,size=1m").kind,
        MountKind::Tmpfs {
            size: Some(1 << 20)
        }
    );
    // Without a target it is at WORKDIR.
    for value in ["from=b", "type=cache", "type=tmpfs,target="] {
        assert_eq!(read(value).target, None, "{value}");
    }
    assert_eq!(
        read("size=1k,type=tmpfs,target=/t").kind,
        MountKind::Tmpfs { size: Some(1024) }
    );

    let secret = |value: &str| match read(value) {
        Mount {
            kind:
                MountKind::Secret {
                    id,
                    env,
                    required,
                    mode,
                    ..
                },
            target,
        } => (id, env, required, mode, target),
        other => panic!("{other:?}"),
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        secret("type=secret,id=a"),
        ("a".to_owned(), None, false, 0o400, text("/run/secrets/a"))
    );
    assert_eq!(
        secret("type=secret,id=a/b"),
        ("a/b".to_owned(), None, false, 0o400, text("/run/secrets/b"))
    );
    assert_eq!(
        secret("type=secret,src=a"),
        ("a".to_owned(), None, false, 0o400, text("/run/secrets/a"))
    );
    assert_eq!(
        secret("type=secret,target=/x/key"),
        ("key".to_owned(), None, false, 0o400, text("/x/key"))
    );
    assert_eq!(
        secret("type=secret,id=a,env=E"),
        ("a".to_owned(), text("E"), false, 0o400, None)
    );
    assert_eq!(
        secret("type=secret,id=a,env=E,target=/t"),
        ("a".to_owned(), text("E"), false, 0o400, text("/t"))
    );
    assert_eq!(
        secret("type=secret,id=a,required"),
        ("a".to_owned(), None, true, 0o400, text("/run/secrets/a"))
    );
    assert_eq!(secret("type=secret,id=a,required=true,mode=444").3, 0o444);
    assert!(matches!(
        read("type=ssh"),
        Mount {
            kind: MountKind::Ssh {
                id: None,
                required: false,
                mode: 0o600,
                ..
            },
            target: None
        }
    ));
    assert!(matches!(
        read("type=ssh,id=k,required=true").kind,
        MountKind::Ssh {
            id: Some(_),
            required: true,
            ..
        }
    ));
}

#[test]
fn wrong_mounts_are_explained() {
    for (value, words, help) in [
        ("type=floppy,target=/a", "`floppy`", "types are bind, cache"),
        ("type=chache,target=/a", "`chache`", "did you mean `cache`?"),
        (
            "target=/a,colour=red",
            "`colour`",
            "options of type=bind are",
        ),
        ("target=/a,sorce=x", "`sorce`", "did you mean `source`?"),
        (
            "type=cache,target=/a,size=1m",
            "`size`",
            "`size` is for type tmpfs",
        ),
        (
            "type=bind,target=/a,uid=3",
            "`uid`",
            "`uid` is for type cache, secret, ssh",
        ),
        (
            "type=bind,target=/a,sharing=shared",
            "`sharing`",
            "is for type cache",
        ),
        (
            "type=bind,target=/a,required",
            "`required`",
            "is for type secret, ssh",
        ),
        (
            "type=cache,target=/a,sharing=open",
            "`open` is no value of the mount option `sharing`",
            "shared, private, locked",
        ),
        (
            "type=cache,target=/a,sharing=lokced",
            "sharing",
            "did you mean `locked`?",
        ),
        ("type=tmpfs,target=/", "target", ""),
        ("target=/a/..", "root directory cannot be the target", ""),
        ("type=secret", "needs an id or a target", ""),
        ("type=secret,id=a,source=b", "not both", ""),
        ("type=secret,id=a,from=b", "`from`", ""),
        ("type=secret,id=a,rw", "`rw`", ""),
        ("type=secret,id=a,required=maybe", "true or false", ""),
        ("target", "needs a value", ""),
        ("target=/a,rw=perhaps", "true or false", ""),
        ("type=cache,target=/a,mode=9", "octal", ""),
        ("type=cache,target=/a,uid=-1", "number", ""),
        ("type=cache,target=/a,gid=x", "number", ""),
        ("type=tmpfs,target=/a,size=big", "size", ""),
        ("", "empty", ""),
        ("target=/a,", "an empty option", "without blanks"),
        ("a\"b", "quotes", ""),
        ("\"a", "not closed", ""),
        ("\"a\"b", "not closed", ""),
        (
            "from=$S,target=/m",
            "`from` of a mount takes no variables",
            "",
        ),
        ("target=${A", "no closing `}`", ""),
    ] {
        let (message, first_help) = refused(value);
        assert!(message.contains(words), "{value}: {message}");
        assert!(first_help.contains(help), "{value}: {first_help}");
    }
}

#[test]
fn values_are_expanded_after_the_record_is_split() {
    let mut expand = |text: &str| Ok(text.replace("$A", "x,y=z"));
    let mount = mount::parse_expanding("target=/$A,source=$A", Span::default(), false, &mut expand)
        .unwrap();
    assert_eq!(mount, bind("/x,y=z", "x,y=z", None, false));
}

#[test]
fn durations_are_gos() {
    for (text, nanoseconds) in [
        ("0", 0),
        ("+0", 0),
        ("5s", 5_000_000_000),
        ("30s", 30_000_000_000),
        ("1478s", 1_478_000_000_000),
        ("-5s", -5_000_000_000),
        ("+5s", 5_000_000_000),
        ("5.0s", 5_000_000_000),
        ("5.6s", 5_600_000_000),
        ("5.s", 5_000_000_000),
        (".5s", 500_000_000),
        ("1.004s", 1_004_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12µs", 12_000),
        ("12μs", 12_000),
        ("13ms", 13_000_000),
        ("15m", 900_000_000_000),
        ("16h", 57_600_000_000_000),
        ("3h30m", 12_600_000_000_000),
        ("1m30s", 90_000_000_000),
        ("39h9m14.425s", 140_954_425_000_000),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("9223372036854775807ns", i64::MAX),
    ] {
        let parsed = values::parse_duration(text).unwrap();
        // Digits beyond a nanosecond may be dropped a little differently.
        assert!((parsed - nanoseconds).abs() <= 20, "{text}: {parsed}");
    }
    for text in [
        "",
        "3",
        "-",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        "1d",
        "30",
        "1 s",
        "3000000h",
        "9223372036854775808ns",
        "1..5s",
        "٣s",
    ] {
        assert!(values::parse_duration(text).is_err(), "{text}");
    }
    assert!(
        values::parse_check_interval("1us")
            .unwrap_err()
            .message
            .contains("interval")
    );
    assert!(values::parse_check_interval("-1s").is_err());
    assert_eq!(values::parse_check_interval("0s").unwrap().as_nanos(), 0);
    assert_eq!(values::parse_check_interval("1ms").unwrap().as_millis(), 1);
}

#[test]
fn ports_are_dockers() {
    for (text, expected) in [
        ("80", &["80/tcp"][..]),
        ("80/tcp", &["80/tcp"]),
        ("53/udp", &["53/udp"]),
        ("5/SCTP", &["5/sctp"]),
        ("80/", &["80/tcp"]),
        ("8000-8002/udp", &["8000/udp", "8001/udp", "8002/udp"]),
        ("8080:80", &["80/tcp"]),
        ("127.0.0.1:9090:90/udp", &["90/udp"]),
        ("[::1]:9090:90", &["90/tcp"]),
        ("8000-8001:80-81", &["80/tcp", "81/tcp"]),
        ("8000-8009:80", &["80/tcp"]),
        ("65535", &["65535/tcp"]),
        ("0", &["0/tcp"]),
    ] {
        assert_eq!(values::parse_port_spec(text).unwrap(), expected, "{text}");
    }
    for (text, words) in [
        ("http", "http"),
        ("80/icmp", "icmp"),
        ("90-80", "90-80"),
        ("65536", "65536"),
        ("-1", "no port"),
        ("80-", "no port"),
        ("/tcp", "no port"),
        ("", "no port"),
        ("x:80:80", "`x`"),
        ("8000-8001:80-85", "unequal"),
        ("+80", "+80"),
        ("1-2-3", "2-3"),
    ] {
        let error = values::parse_port_spec(text).unwrap_err();
        assert!(error.message.contains(words), "{text}: {error}");
    }
}

#[test]
fn signals_and_sizes() {
    for (text, number) in [
        ("SIGKILL", 9),
        ("term", 15),
        ("SigTerm", 15),
        ("9", 9),
        ("64", 64),
        ("SIGRTMIN+3", 37),
        ("RTMAX", 64),
        ("RTMAX-1", 63),
        ("SIGRTMIN", 34),
        ("WINCH", 28),
    ] {
        assert_eq!(values::validate_signal(text).unwrap(), number, "{text}");
    }
    for text in [
        "SIGFOO", "0", "65", "-9", "", "SIG", "RTMIN+16", "RTMAX-15", "RTMIN+",
    ] {
        assert!(values::validate_signal(text).is_err(), "{text}");
    }
    for (text, bytes) in [
        ("32", 32),
        ("32b", 32),
        ("32k", 32 << 10),
        ("32kb", 32 << 10),
        ("32KiB", 32 << 10),
        ("32 Mb", 32 << 20),
        ("1.5g", 3 << 29),
        ("1t", 1 << 40),
        ("2p", 2 << 50),
        ("0", 0),
    ] {
        assert_eq!(values::parse_bytes(text).unwrap(), bytes, "{text}");
    }
    for text in [
        "",
        "k",
        "1x",
        "1kbb",
        "-1",
        "1.m",
        ".5m",
        "1 000",
        "1  k",
        "99999999p",
        "32ib",
    ] {
        assert!(values::parse_bytes(text).is_err(), "{text}");
    }
}

//! How explanations are asked for, and what they say beyond a changed ingredient.

use crate::kit::Kit;
use crate::require_machine;

const DOCKERFILE: &str = "\
FROM scratch
COPY a /a
COPY b /b
";

#[test]
fn why_tells_of_the_last_build() {
    require_machine!();
    let kit = Kit::new();
    let nothing = kit.rbuild(&["why"]);
    assert_eq!(nothing.code, 1, "{nothing}");
    kit.context(&[("a", "1"), ("b", "1")]);
    kit.must_build(DOCKERFILE, &["-q"]);
    kit.context(&[("a", "2")]);
    kit.must_build(DOCKERFILE, &["-q"]);
    let why = kit.must(&["why"]);
    assert_eq!(
        why.stdout,
        "\
ran: #2 [1/2] COPY a /a (line 2)
  file changed: `a`: content
ran: #3 [2/2] COPY b /b (line 3)
  the result of #2 [1/2] COPY a /a (line 2) differs
    line 2: file changed: `a`: content
"
    );
    for step in ["3", "#3", "copy B"] {
        let why = kit.must(&["why", step]);
        assert!(why.stdout.starts_with("ran: #3 "), "{why}");
    }
    assert_eq!(
        kit.must(&["why", "--context", "context"]).stdout,
        why.stdout
    );
    let json = kit.must(&["why", "2", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["steps"][0]["reasons"][0]["path"], "a");
    let unknown = kit.rbuild(&["why", "99"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("line 3"), "{unknown}");
    kit.must_build(DOCKERFILE, &["-q"]);
    assert_eq!(
        kit.must(&["why"]).stdout,
        "cached: #2 [1/2] COPY a /a (line 2)\ncached: #3 [2/2] COPY b /b (line 3)\n"
    );
}

#[test]
fn a_cached_build_is_told_as_it_stands_now() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("b", "1")]);
    for _ in 0..3 {
        kit.must_build(DOCKERFILE, &["-q"]);
    }
    let whole = "cached: #2 [1/2] COPY a /a (line 2)\ncached: #3 [2/2] COPY b /b (line 3)\n";
    assert_eq!(kit.must(&["why"]).stdout, whole);
    // The same steps elsewhere in the file, fewer of them, and as they were.
    kit.must_build(&DOCKERFILE.replace("COPY b", "# b\nCOPY b"), &["-q"]);
    assert_eq!(kit.must(&["why"]).stdout, whole.replace("line 3", "line 4"));
    kit.must_build("FROM scratch\nCOPY a /a\n", &["-q"]);
    assert_eq!(
        kit.must(&["why"]).stdout,
        "cached: #2 [1/1] COPY a /a (line 2)\n"
    );
    kit.must_build(DOCKERFILE, &["-q"]);
    assert_eq!(kit.must(&["why"]).stdout, whole);
    // What steps were made of is remembered across builds that found all.
    kit.context(&[("b", "2")]);
    kit.must_build(DOCKERFILE, &["-q"]);
    let why = kit.must(&["why"]).stdout;
    assert!(why.contains("file changed: `b`: content"), "{why}");
}

#[test]
fn raw_json_and_text_carry_the_explanation() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("b", "1")]);
    let raw = kit.must_build(DOCKERFILE, &["--progress=rawjson", "--explain"]);
    let explained: Vec<serde_json::Value> = raw
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &serde_json::Value| event["event"] == "explained")
        .collect();
    assert_eq!(explained.len(), 2, "{raw}");
    assert_eq!(explained[0]["reasons"][0]["reason"], "first-build");
    let text = kit.must_build(DOCKERFILE, &["--explain"]);
    assert!(
        text.stderr.contains("\ncached: #2 [1/2] COPY a /a"),
        "{text}"
    );
    let plain = kit.must_build(DOCKERFILE, &[]);
    assert!(!plain.stderr.contains("cached: "), "{plain}");
}

#[test]
fn a_failed_step_is_explained() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let dockerfile = |command: &str| format!("FROM busybox\nCOPY a /a\nRUN {command}\n");
    kit.must_build(&dockerfile("true"), &[]);
    let failed = kit.build(&dockerfile("false"), &["--explain"]);
    assert_eq!(failed.code, 1);
    let wanted = "failed: #4 [3/3] RUN false (line 3)\n  command: `true` is now `false`";
    assert!(failed.stderr.contains(wanted), "{failed}");
}

#[test]
fn a_pruned_record_is_told_apart() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("b", "1")]);
    kit.must_build(DOCKERFILE, &["-o", "type=cacheonly"]);
    kit.must(&["prune", "--all", "--force"]);
    let again = kit.must_build(DOCKERFILE, &["--explain", "-o", "type=cacheonly"]);
    assert!(
        again
            .stderr
            .contains("nothing differs: its record was pruned"),
        "{again}"
    );
    kit.store_is_whole();
}

#[test]
fn no_value_of_a_secret_is_kept() {
    require_machine!();
    let kit = Kit::new();
    std::fs::write(kit.path("token"), "s3cret-value").unwrap();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token cat /run/secrets/token\n";
    let built = kit.must_build(dockerfile, &["--secret=id=token,src=token", "--explain"]);
    assert!(
        built.stderr.contains("the value of the secret `token`"),
        "{built}"
    );
    let found = std::process::Command::new("grep")
        .args(["-rlaF", "s3cret-value"])
        .arg(kit.path("store"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn a_project_that_moved_is_compared_with_its_records() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let dockerfile = |env: &str| format!("FROM busybox\nENV E={env}\nCOPY a /a\nRUN cat /a\n");
    kit.must_build(&dockerfile("1"), &[]);
    std::fs::rename(kit.path("context"), kit.path("elsewhere")).unwrap();
    std::fs::create_dir(kit.path("context")).unwrap();
    std::fs::rename(kit.path("elsewhere"), kit.path("context/moved")).unwrap();
    let mut arguments = kit.build_arguments(&dockerfile("2"), &["--explain"]);
    arguments.pop();
    arguments.push("--file=context/Dockerfile".to_owned());
    arguments.push("context/moved".to_owned());
    std::fs::write(kit.path("context/moved/a"), "2").unwrap();
    let built = kit.finish(kit.command(arguments).spawn().unwrap());
    for line in ["file changed: `a`: content", "variable E: `1` is now `2`"] {
        assert!(built.stderr.contains(line), "{line}\n{built}");
    }
}

#[test]
fn what_a_command_did_without_a_network_is_not_what_it_does_with_one() {
    require_machine!();
    let kit = Kit::new();
    let text = "FROM busybox\nRUN ls /sys/class/net > /n\n";
    kit.must_build(text, &["-q", "--network=none"]);
    kit.must_build(text, &["-q"]);
    assert_eq!(
        kit.must(&["why", "RUN ls"]).stdout,
        "\
ran: #2 [2/2] RUN ls /sys/class/net > /n (line 2)
  network: `none` is now `default`
"
    );
    for network in ["none", "default"] {
        kit.must_build(text, &["-q", "--network", network]);
        let why = kit.must(&["why", "RUN ls"]).stdout;
        assert!(why.starts_with("cached: "), "{network}: {why}");
    }
}

#[test]
fn what_a_command_did_with_one_limit_is_not_what_it_does_with_another() {
    require_machine!();
    let kit = Kit::new();
    let text = "FROM busybox\nRUN ulimit -n > /n; df -k /dev/shm | tail -1 >> /n\n";
    let why = |flags: &[&str]| {
        kit.must_build(text, &[&["-q"], flags].concat());
        kit.must(&["why", "RUN ulimit"]).stdout
    };
    why(&[]);
    let step = "#2 [2/2] RUN ulimit -n > /n; df -k /dev/shm | tail -1 >> /n (line 2)\n";
    for (flags, outcome) in [
        (
            &["--ulimit", "nofile=50"][..],
            "ran: S  --ulimit nofile is new: `50:50`\n",
        ),
        (
            &["--ulimit", "nofile=50:60"],
            "ran: S  --ulimit nofile: `50:50` is now `50:60`\n",
        ),
        (
            &["--ulimit", "nofile=50:60", "--ulimit", "cpu=-1"],
            "ran: S  --ulimit cpu is new: `unlimited:unlimited`\n",
        ),
        // Their order is no matter, nor is what no command notices.
        (
            &["--ulimit=cpu=-1", "--ulimit=nofile=50:60", "--memory=100m"],
            "cached: S",
        ),
        (
            &["--shm-size=1m"],
            "ran: S  --shm-size is new: `1048576`\n  --ulimit nofile is gone: it was `50:60`\n",
        ),
        // As none.
        (&["--shm-size=0"], "cached: S"),
    ] {
        assert_eq!(why(flags), outcome.replace('S', step), "{flags:?}");
    }
}

//! `--allow-host`: what RUN and ADD reach, and what they do not.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kit::programs::{has, run_in};
use crate::kit::server::Server;
use crate::kit::{Kit, Output, is_root, skipped};
use crate::names::{Names, question};
use crate::require_machine;
use crate::rootless::Ordinary;

/// A refusal that came by itself would take at least so long.
const AT_ONCE: Duration = Duration::from_secs(20);

/// By which others see this machine.
fn own_address(test: &str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let found = socket
        .connect("192.0.2.1:9")
        .and_then(|()| socket.local_addr());
    match found.map(|it| it.ip()) {
        Ok(IpAddr::V4(address)) if !address.is_loopback() => Some(address),
        _ => {
            skipped(test, "this machine has no address");
            None
        }
    }
}

/// The port of a server that says hello.
fn greeter() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"hello\n").unwrap_or_default();
        }
    });
    port
}

/// What a step does: prints what came of a connection.
fn tries(hosts: &[&str]) -> String {
    let host = |host: &&str| {
        format!(
            " && {{ nc -w 60 {host} </dev/null 2>/dev/null || echo no; }} | sed 's/^/{host}: /'"
        )
    };
    let tries: String = hosts.iter().map(host).collect();
    format!("FROM busybox\nRUN true{tries}\n")
}

/// Lines of a step's output, in order, without what progress puts before them.
fn lines(output: &Output) -> Vec<String> {
    let lines = output.stderr.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
        let (time, rest) = rest.split_once(' ')?;
        number.parse::<u32>().ok()?;
        time.parse::<f64>().ok().map(|_| rest.to_owned())
    });
    lines.collect()
}

fn refused(host: &str) -> String {
    format!("rbuild: {host} was refused; `--allow-host {host}` allows it")
}

#[test]
fn addresses_are_reached_where_they_are_given_and_refused_at_once_otherwise() {
    require_machine!();
    let Some(address) = own_address("addresses_are_reached") else {
        return;
    };
    let (good, bad) = (greeter(), greeter());
    let gateway = "10.213.47.1";
    let hosts = [
        format!("{address} {good}"),
        format!("{address} {bad}"),
        format!("{gateway} {good}"),
        "203.0.113.9 80".to_owned(),
        format!("db {bad}"),
    ];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let dockerfile = tries(&hosts);
    let flags = [
        format!("--allow-host={address}/31:{good}"),
        format!("--allow-host=db:{bad}"),
        "--add-host=db:host-gateway".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let check = |output: &Output| {
        let expected = [
            format!("{address} {good}: hello"),
            refused(&format!("{address}:{bad}")),
            format!("{address} {bad}: no"),
            // The gateway is known by the name that it was given.
            refused(&format!("db:{good}")),
            format!("{gateway} {good}: no"),
            refused("203.0.113.9:80"),
            "203.0.113.9 80: no".to_owned(),
            format!("db {bad}: hello"),
        ];
        let mut found = lines(output);
        // Both streams are read at once.
        let mut expected = expected.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{output}");
    };
    let began = Instant::now();
    check(&Kit::new().must_build(&dockerfile, &flags));
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let users = [
        Ordinary::new("addresses_are_reached (one id)"),
        Ordinary::with_more_ids("addresses_are_reached (more ids)"),
    ];
    for user in users.into_iter().flatten() {
        check(&user.build(&dockerfile, &flags));
    }
}

#[test]
fn a_datagram_is_refused_like_a_connection() {
    require_machine!();
    let Some(address) = own_address("a_datagram_is_refused") else {
        return;
    };
    let (good, bad) = [(); 2]
        .map(|()| UdpSocket::bind("0.0.0.0:0").unwrap())
        .into();
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    // Nobody answers.
    let ask = |socket| {
        format!(
            "timeout 3 nslookup a.test {address}:{} >/dev/null 2>&1",
            port(socket)
        )
    };
    let dockerfile = format!("FROM busybox\nRUN {}; ! {}\n", ask(&good), ask(&bad));
    let flag = format!("--allow-host={address}:{}", port(&good));
    let output = Kit::new().must_build(&dockerfile, &[&flag]);
    let told = refused(&format!("{address}:{}", port(&bad)));
    assert_eq!(lines(&output), [told], "{output}");
    let mut buffer = [0; 100];
    assert!(good.recv(&mut buffer).unwrap() > 12);
    bad.set_nonblocking(true).unwrap();
    assert!(bad.recv(&mut buffer).is_err());
}

/// A build whose names are those of a server of ours.
fn build_with(names: &Names, kit: &Kit, dockerfile: &str, flags: &[&str]) -> Output {
    let resolv = format!("search lan.test\nnameserver {}\n", names.address);
    std::fs::write(kit.path("resolv.conf"), resolv).unwrap();
    let build = kit.command(kit.build_arguments(dockerfile, flags));
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation=private", "sh", "-c"])
        .arg("mount --bind resolv.conf \"$(readlink -f /etc/resolv.conf)\" && exec \"$0\" \"$@\"")
        .arg(build.get_program())
        .args(build.get_args())
        .env_clear();
    for (name, value) in build.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
        .current_dir(kit.path(""))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    kit.finish(command.spawn().unwrap())
}

#[test]
fn only_names_that_are_given_are_asked_for_and_lead_anywhere() {
    require_machine!();
    let test = "only_names_that_are_given";
    let Some(address) = own_address(test) else {
        return;
    };
    let Some(names) = Names::new(address).filter(|_| is_root()) else {
        return skipped(test, "only root can have a name server here");
    };
    let (port, other) = (greeter(), greeter());
    let hosts = [
        // Before its name was asked for.
        format!("{address} {port}"),
        format!("good.test {port}"),
        format!("good.test {other}"),
        format!("{address} {port}"),
        format!("good.bad.test {port}"),
        format!("good.sub.wild.test {other}"),
    ];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let tcp = |name: &str| {
        let message = question(name);
        let length = (message.len() as u16).to_be_bytes();
        let bytes = [&length[..], &message].concat();
        let octal: String = bytes.iter().map(|byte| format!("\\\\{byte:03o}")).collect();
        // Number, flags.
        format!(
            "RUN printf {octal} | nc -w 60 10.213.47.1 53 | head -c 6 | tail -c 4 | od -An -tx1\n"
        )
    };
    let dockerfile = format!(
        "{}{}{}",
        tries(&hosts),
        tcp("bad.other.test"),
        tcp("good.test")
    );
    let flags = [
        format!("--allow-host=Good.test:{port}"),
        "--allow-host=*.wild.test".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let kit = Kit::new();
    let began = Instant::now();
    let output = build_with(&names, &kit, &dockerfile, &flags).success();
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    let mut found = lines(&output);
    let mut expected = vec![
        refused(&format!("{address}:{port}")),
        format!("{address} {port}: no"),
        format!("good.test {port}: hello"),
        refused(&format!("good.test:{other}")),
        format!("good.test {other}: no"),
        format!("{address} {port}: hello"),
        refused("good.bad.test"),
        format!("good.bad.test {port}: no"),
        format!("good.sub.wild.test {other}: hello"),
        refused("bad.other.test"),
        " ab cd 81 83".to_owned(),
        " ab cd 81 80".to_owned(),
    ];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{output}");
    assert_eq!(names.asked(), ["good.sub.wild.test", "good.test"]);

    let fails = format!("FROM busybox\nRUN nc -w 60 good.bad.test {port}\n");
    let output = build_with(&names, &kit, &fails, &flags);
    assert_eq!(output.code, 1, "{output}");
    let help = "it was refused good.bad.test, which no --allow-host has: `--allow-host good.bad.test` allows that";
    assert!(output.stderr.contains(help), "{output}");
}

#[test]
fn names_are_held_whichever_server_is_asked() {
    require_machine!();
    let test = "names_are_held_whichever_server_is_asked";
    let Some(address) = own_address(test) else {
        return;
    };
    let Some(names) = Names::at(address, address) else {
        return skipped(test, "there can be no name server here");
    };
    let port = greeter();
    let hosts = [format!("good.test {port}"), format!("good.bad.test {port}")];
    let dockerfile = tries(&[&hosts[0], &hosts[1]]);
    let dns = format!("--dns={address}");
    let flags = ["--allow-host=good.test", "--dns-search=lan.test", &dns];
    let mut found = lines(&Kit::new().must_build(&dockerfile, &flags));
    found.sort_unstable();
    let expected = [
        format!("{}: no", hosts[1]),
        format!("{}: hello", hosts[0]),
        refused("good.bad.test"),
    ];
    assert_eq!(found, expected);
    assert_eq!(names.asked(), ["good.test"]);
}

#[test]
fn a_result_belongs_to_its_list() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM busybox\nRUN true\n";
    let cached = |flags: &[&str]| kit.must_build(dockerfile, flags).cached();
    cached(&[]);
    let output = kit.must_build(
        dockerfile,
        &["--allow-host=b:1", "--allow-host=a", "--explain"],
    );
    assert_eq!(output.cached(), 0, "{output}");
    assert!(
        output.stderr.contains("allow-host is new: `a,b:1`"),
        "{output}"
    );
    assert_eq!(cached(&["--allow-host=A", "--allow-host=b:1"]), 2);
    assert_eq!(cached(&[]), 2);
    assert_eq!(cached(&["--allow-host=a"]), 0);
    // Without a network nothing is to be held.
    let none = "FROM busybox\nRUN --network=none true\n";
    kit.must_build(none, &[]);
    assert_eq!(kit.must_build(none, &["--allow-host=a"]).cached(), 2);
}

#[test]
fn what_cannot_be_held_is_not_built() {
    let kit = Kit::new();
    let fails = |dockerfile: &str, flags: &[&str], code: i32, words: &str| {
        let flags = [&["--allow-host=a.test"], flags].concat();
        let output = kit.build(dockerfile, &flags);
        assert_eq!(output.code, code, "{output}");
        assert!(output.stderr.contains(words), "{words}\n{output}");
    };
    let host = "FROM scratch\nRUN [\"/first\"]\nRUN --network=host [\"/a\"]\n";
    fails(
        host,
        &["--allow=network.host"],
        1,
        "RUN --network=host is not allowed with --allow-host",
    );
    let insecure = "FROM scratch\nRUN --security=insecure [\"/a\"]\n";
    let words = "RUN --security=insecure is not allowed with --allow-host";
    fails(insecure, &["--allow=security.insecure"], 1, words);
    let words = "--allow-host and --network host contradict each other";
    fails("FROM scratch\n", &["--network=host"], 2, words);
    fails(
        "FROM scratch\n",
        &["--allow-host="],
        2,
        "--allow-host ``: it is empty",
    );
    let words = "no --allow-host has b.test:443";
    fails("FROM scratch\nADD https://b.test/f /\n", &[], 1, words);
    let words = "no --allow-host has b.test:22";
    fails("FROM scratch\nADD git@b.test:a/b.git /\n", &[], 1, words);
}

#[test]
fn what_is_added_comes_from_where_it_may() {
    let kit = Kit::new();
    let (server, other) = (Server::new(), Server::new());
    server.text("/file", "x", &[]);
    server.redirect("/near", "/file");
    server.redirect("/far", &other.url("/file"));
    other.text("/file", "y", &[]);
    let host = |server: &Server| server.url("").trim_start_matches("http://").to_owned();
    let flag = format!("--allow-host={}", host(&server));
    let add = |path: &str| format!("FROM scratch\nADD {} /\n", server.url(path));
    kit.must_build(&add("/file"), &[&flag]);
    kit.must_build(&add("/near"), &[&flag]);
    let output = kit.build(&add("/far"), &[&flag]);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("it redirects to"), "{output}");
    let help = format!("`--allow-host {}`", host(&other));
    assert!(output.stderr.contains(&help), "{output}");
    assert!(other.requests().is_empty());
    let both = format!("--allow-host={}", host(&other));
    kit.must_build(&add("/far"), &[&flag, &both]);
    // Whoever builds names contexts, and so allows them.
    other.text("/Dockerfile", "FROM scratch\nLABEL a=1\n", &[]);
    kit.must(&["build", &flag, &other.url("/Dockerfile")]);
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return skipped("what_is_added (IPv6)", "there is no IPv6");
    };
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.read(&mut [0; 4096]).unwrap_or_default();
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nz";
            stream.write_all(answer.as_bytes()).unwrap_or_default();
        }
    });
    let add = format!("FROM scratch\nADD http://{at}/six /\n");
    kit.must_build(&add, &["--allow-host=::/64"]);
    let output = kit.build(&add, &["--allow-host=0.0.0.0/0"]);
    let words = format!("no --allow-host has {at}");
    assert!(
        output.code == 1 && output.stderr.contains(&words),
        "{output}"
    );
}

#[test]
fn repositories_stay_at_their_host() {
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    let server = Server::new();
    let script = "git init -q -b main in && cd in && git config user.email a@b && git config user.name a && \
                  echo x >file && git add . && git commit -qm one && git clone -q --bare . ../plain.git && \
                  printf '[submodule \"s\"]\\npath = s\\nurl = https://b.test/s.git\\n' >.gitmodules && \
                  git add . && git commit -qm two && git clone -q --bare . ../more.git && \
                  cd .. && for it in plain more; do git -C $it.git update-server-info; done";
    run_in(&kit.path(""), "sh", &["-c", script]);
    server.directory(kit.path(""));
    let flag = format!(
        "--allow-host={}",
        server.url("").trim_start_matches("http://")
    );
    let add = |rest: &str| format!("FROM scratch\nADD {} /\n", server.url(rest));
    kit.must_build(&add("/plain.git#main"), &[&flag]);
    let output = kit.build(&add("/more.git#main"), &[&flag]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output
            .stderr
            .contains("has submodules, which --allow-host cannot hold"),
        "{output}"
    );
    kit.must_build(&add("/more.git?submodules=false#main"), &[&flag]);
}

//! Ports of the host for ports of containers: `-p`, and where the commands say that they are.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use crate::kit::programs::free_port;
use crate::kit::{Kit, skipped, until};
use crate::require_machine;

/// A container that sends back what it is sent, at port 80.
fn echo<'k>(kit: &'k Kit, ports: &[&str]) -> impl Fn(&[&str]) -> Vec<String> + use<'k> {
    let server = "while :; do nc -l -p 80 -e /bin/cat; done";
    let mut arguments = vec!["run", "-d", "--name", "echo"];
    for port in ports {
        arguments.extend(["-p", port]);
    }
    arguments.extend(["bb", "sh", "-c", server]);
    kit.must(&arguments);
    |arguments| {
        let lines = kit.must(arguments).stdout;
        lines.lines().map(str::to_owned).collect()
    }
}

fn answer(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"and back").ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn echoes(address: SocketAddr) {
    until("nothing came back", || {
        answer(address).as_deref() == Some("and back")
    });
}

/// Whether this machine has IPv6.
fn has_ipv6(test: &str) -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        skipped(test, "this machine has no IPv6");
    }
    has
}

#[test]
fn a_port_is_published_at_both_families_and_shown_so() {
    require_machine!();
    if !has_ipv6("ports of both families") {
        return;
    }
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let told = echo(&kit, &["80", "127.0.0.1::80", "53/udp"]);
    let open = told(&["port", "echo", "80"]);
    let addresses: Vec<SocketAddr> = open.iter().map(|line| line.parse().unwrap()).collect();
    let [four, local, six] = addresses[..] else {
        panic!("{open:?}")
    };
    let (any, other, datagrams) = (four.port(), local.port(), {
        let open = told(&["port", "echo", "53/udp"]);
        let [four, six] = &open[..] else {
            panic!("{open:?}")
        };
        let four: SocketAddr = four.parse().unwrap();
        assert_eq!(*six, format!("[::]:{}", four.port()));
        four.port()
    });
    assert_eq!(
        open,
        [
            format!("0.0.0.0:{any}"),
            format!("127.0.0.1:{other}"),
            format!("[::]:{any}")
        ]
    );
    assert_eq!(
        told(&["ps", "--format", "{{.Ports}}"]),
        [format!(
            "0.0.0.0:{datagrams}->53/udp, [::]:{datagrams}->53/udp, 0.0.0.0:{any}->80/tcp, \
             127.0.0.1:{other}->80/tcp, [::]:{any}->80/tcp"
        )]
    );
    assert_eq!(
        told(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", "echo"]),
        [format!(
            r#"{{"53/udp":[{{"HostIp":"0.0.0.0","HostPort":"{datagrams}"}},{{"HostIp":"::","HostPort":"{datagrams}"}}],"80/tcp":[{{"HostIp":"0.0.0.0","HostPort":"{any}"}},{{"HostIp":"::","HostPort":"{any}"}},{{"HostIp":"127.0.0.1","HostPort":"{other}"}}]}}"#
        )]
    );
    let asked = told(&["inspect", "-f", "{{json .HostConfig.PortBindings}}", "echo"]);
    assert_eq!(
        asked,
        [
            r#"{"53/udp":[{"HostIp":"","HostPort":""}],"80/tcp":[{"HostIp":"","HostPort":""},{"HostIp":"127.0.0.1","HostPort":""}]}"#
        ]
    );
    echoes(SocketAddr::from(([127, 0, 0, 1], any)));
    echoes(local);
    echoes(SocketAddr::from((Ipv6Addr::LOCALHOST, six.port())));
    kit.must(&["rm", "-f", "echo"]);
}

#[test]
fn an_address_of_one_family_is_of_that_only() {
    require_machine!();
    if !has_ipv6("ports of one family") {
        return;
    }
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let told = echo(&kit, &["[::]::80"]);
    let open = told(&["port", "echo"]);
    let port = open[0].strip_prefix("80/tcp -> [::]:").unwrap();
    let port: u16 = port.parse().unwrap();
    assert_eq!(open.len(), 1, "{open:?}");
    echoes(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
    let four = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(TcpStream::connect(four).is_err(), "{four} is open too");
    kit.must(&["rm", "-f", "echo"]);
}

#[test]
fn an_address_that_is_named_besides_is_no_second_one() {
    require_machine!();
    if !has_ipv6("ports named twice") {
        return;
    }
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let port = free_port();
    let told = echo(&kit, &[&format!("{port}:80"), &format!("[::]:{port}:80")]);
    let open = told(&["port", "echo", "80"]);
    assert_eq!(open, [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    kit.must(&["rm", "-f", "echo"]);
}

#[test]
fn a_port_that_is_taken_at_one_family_is_taken() {
    require_machine!();
    if !has_ipv6("ports that are taken") {
        return;
    }
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let taken = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = kit.rbuild(&["run", "--rm", "-p", &format!("{port}:80"), "bb", "true"]);
    assert_eq!(output.code, 125, "{output}");
    let told = format!("cannot publish 80/tcp at [::]:{port}: the port is in use");
    assert!(output.stderr.contains(&told), "{output}");
    // With a way out, which leads out.
    let four = format!("0.0.0.0:{port}:80/tcp");
    assert!(output.stderr.contains(&format!("`-p {four}`")), "{output}");
    kit.must(&["run", "--rm", "-p", &four, "bb", "true"]);
    // Of several the next is taken, at both.
    let first = port.min(u16::MAX - 8);
    let told = echo(&kit, &[&format!("{first}-{}:80", first + 8)]);
    let open: Vec<SocketAddr> = told(&["port", "echo", "80"])
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(open[0].port(), open[1].port(), "{open:?}");
    assert_ne!(open[0].port(), port, "{open:?}");
    kit.must(&["rm", "-f", "echo"]);
}

#[test]
fn datagrams_go_both_ways_through_a_published_port() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    // busybox has no server for datagrams; Perl is in every Debian.
    if !Path::new("/usr/bin/perl").exists() {
        skipped(
            "datagrams through a published port",
            "there is no /usr/bin/perl",
        );
        return;
    }
    let server = "use IO::Socket::INET; \
                  my $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 53) or die; \
                  while (1) { $s->recv($_, 512); $s->send(\"got $_\") }";
    let script = kit.path("server.pl");
    std::fs::write(&script, server).unwrap();
    kit.must(&[
        "run",
        "-d",
        "--name",
        "udp",
        "-p",
        "127.0.0.1::53/udp",
        "-v",
        "/:/host:ro",
        "bb",
        "chroot",
        "/host",
        "/usr/bin/perl",
        script.to_str().unwrap(),
    ]);
    let at = kit.must(&["port", "udp", "53/udp"]).stdout;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at.trim()).unwrap();
    let wait = std::time::Duration::from_millis(100);
    socket.set_read_timeout(Some(wait)).unwrap();
    let mut buffer = [0; 64];
    let mut heard = 0;
    // What is sent before anything listens is lost, as datagrams are.
    until("nothing was answered", || {
        socket.send(b"this").unwrap();
        heard = socket.recv(&mut buffer).unwrap_or(0);
        heard > 0
    });
    assert_eq!(&buffer[..heard], b"got this");
    kit.must(&["rm", "-f", "udp"]);
}

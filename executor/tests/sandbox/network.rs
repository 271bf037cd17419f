//! Private networks: the way out, names of the host, the way in, and what is out of reach.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rbuild_executor::network::{GATEWAY, Pool, Port, Private, Protocol};
use rbuild_executor::spec::{Exec, Network, Users};

use super::kit::{Kit, Outcome, equal, holds, shell};

const PATIENCE: Duration = Duration::from_secs(20);

fn private(kit: &Kit) -> Result<Arc<Private>, String> {
    let made = Private::start(kit.executor.host(), Users::Own)
        .map_err(|error| format!("{error}: {}", error.source));
    made.map(Arc::new)
}

fn inside(network: &Arc<Private>, script: &str) -> Exec {
    let mut exec = shell(script);
    exec.network = Network::Private(Arc::clone(network));
    exec.timeout = Some(PATIENCE);
    exec
}

/// The host's address that others know, without which it cannot be reached from inside.
fn host_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

pub(crate) fn way_out(kit: &Kit) -> Outcome {
    let network = match private(kit) {
        Ok(network) => network,
        Err(error) => return kit.skip("private networks", &error),
    };
    let ran = kit.exec(
        Some(&kit.base),
        inside(
            &network,
            "cat /etc/resolv.conf /etc/hosts; ls /sys/class/net",
        ),
    );
    let shown = &ran.ok()?.stdout;
    holds(shown.starts_with("nameserver 10.213.47.1\n"), shown)?;
    holds(shown.contains("10.213.47.2\trbuild\n"), shown)?;
    holds(shown.contains("eth0"), shown)?;
    let Some(host) = host_address() else {
        return kit.skip("the way out", "this machine has no address but its own");
    };
    // Whole, both ways, and closed in both directions one after the other.
    let listener = TcpListener::bind((host, 0))?;
    let port = listener.local_addr()?.port();
    let sent = 8 << 20;
    let served = std::thread::spawn(move || -> std::io::Result<usize> {
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut received = Vec::new();
        connection.read_to_end(&mut received)?;
        connection.write_all(&received)?;
        connection.shutdown(Shutdown::Write)?;
        Ok(received.len())
    });
    let script = format!(
        "dd if=/dev/zero bs=65536 count=128 2>/dev/null | tr '\\0' x | nc {host} {port} | tr -d x | wc -c"
    );
    let ran = kit.exec(Some(&kit.base), inside(&network, &script));
    equal(&ran.ok()?.stdout, "0\n")?;
    let received = served.join().map_err(|_| "the server panicked")??;
    holds(received == sent, received)?;
    // The gateway is the host as well; a port where nobody listens is refused at once.
    let listener = TcpListener::bind((host, 0))?;
    let port = listener.local_addr()?.port();
    let greeting = std::thread::spawn(move || {
        listener
            .accept()
            .and_then(|(mut connection, _)| connection.write_all(b"hello\n"))
    });
    let script = format!("nc {GATEWAY} {port} </dev/null");
    let ran = kit.exec(Some(&kit.base), inside(&network, &script));
    equal(&ran.ok()?.stdout, "hello\n")?;
    greeting.join().map_err(|_| "the server panicked")??;
    let script = format!("nc -w 15 {GATEWAY} {port} </dev/null && echo connected || echo refused");
    let ran = kit.exec(Some(&kit.base), inside(&network, &script));
    equal(&ran.ok()?.stdout, "refused\n")
}

/// What listens on the host's loopback interface is its own, also under the gateway's name.
pub(crate) fn out_of_reach(kit: &Kit) -> Outcome {
    let Ok(network) = private(kit) else {
        return Ok(());
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let script = format!(
        "for host in 127.0.0.1 {GATEWAY} 127.0.0.2; do nc -w 5 $host {port} </dev/null && echo connected; done; true"
    );
    let ran = kit.exec(Some(&kit.base), inside(&network, &script));
    equal(&ran.ok()?.stdout, "")?;
    listener.set_nonblocking(true)?;
    holds(listener.accept().is_err(), "somebody came")
}

pub(crate) fn published(kit: &Kit) -> Outcome {
    let Ok(network) = private(kit) else {
        return Ok(());
    };
    let port = |protocol| Port {
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        host_port: 0,
        port: 8080,
        protocol,
    };
    let publish = |ports: &[Port]| network.publish(ports).map_err(|error| error.to_string());
    let open = publish(&[port(Protocol::Tcp)])?;
    let address = SocketAddr::new(open[0].host, open[0].host_port);
    holds(address.port() != 0, address)?;
    publish(&[port(Protocol::Udp)])?;
    // Twice the same is an error that says which.
    let again = Port {
        host_port: address.port(),
        ..port(Protocol::Tcp)
    };
    let error = publish(&[again]).err();
    holds(
        error
            .as_deref()
            .is_some_and(|error| error.contains(&address.to_string())),
        format!("{error:?}"),
    )?;
    let client = std::thread::spawn(move || ask(address));
    // Ends with its one client.
    let ran = kit.exec(
        Some(&kit.base),
        inside(&network, "nc -l -p 8080 -e /bin/cat; true"),
    );
    ran.ok()?;
    let answer = client.join().map_err(|_| "the client panicked")??;
    equal(&answer, "over there")?;
    drop(network);
    // Nobody listens any more.
    holds(TcpStream::connect(address).is_err(), "still open")
}

/// One after the other may have the same network, two at once may not; and nothing of the one is the other's.
pub(crate) fn pool(kit: &Kit) -> Outcome {
    let (pool, host) = (Pool::default(), kit.executor.host());
    let Ok(first) = pool.take(host, Users::Own) else {
        return Ok(());
    };
    let second = pool
        .take(host, Users::Own)
        .map_err(|error| error.to_string())?;
    holds(!Arc::ptr_eq(&first, &second), "two have the same")?;
    let before = Arc::as_ptr(&first);
    drop(first);
    let third = pool
        .take(host, Users::Own)
        .map_err(|error| error.to_string())?;
    holds(
        std::ptr::eq(Arc::as_ptr(&third), before),
        "it was not used again",
    )?;
    let ran = kit.exec(
        Some(&kit.base),
        inside(
            &third,
            &format!("nc -w 5 {GATEWAY} 1 </dev/null || echo refused"),
        ),
    );
    equal(&ran.ok()?.stdout, "refused\n")
}

/// Connects until somebody answers.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    for _ in 0..200 {
        let mut connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        if connection.write_all(b"over there").is_ok()
            && connection.shutdown(Shutdown::Write).is_ok()
            && connection.read_to_string(&mut answer).is_ok()
            && !answer.is_empty()
        {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok("nothing".to_owned())
}

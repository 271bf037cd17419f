//! A name server on loopback that says what it was asked for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

/// Ends with the test's process. Only root has the port.
pub(crate) struct Names {
    asked: Arc<Mutex<Vec<String>>>,
    pub(crate) address: Ipv4Addr,
}

impl Names {
    /// Answers with an address for names that begin with `good`, by way of another name; others there are none.
    pub(crate) fn new(known: Ipv4Addr) -> Option<Self> {
        let [_, _, one, two] = std::process::id().to_be_bytes();
        (100..200).find_map(|last| Self::at(Ipv4Addr::new(127, one, two, last), known))
    }

    /// At an address.
    pub(crate) fn at(address: Ipv4Addr, known: Ipv4Addr) -> Option<Self> {
        let at = SocketAddr::from((address, 53));
        let (udp, tcp) = (UdpSocket::bind(at).ok()?, TcpListener::bind(at).ok()?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let answer = answer(&buffer[..length], known, &heard);
                udp.send_to(&answer, from).unwrap();
            }
        });
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut message).unwrap();
                    let answer = answer(&message, known, &heard);
                    let length = (answer.len() as u16).to_be_bytes();
                    stream.write_all(&[&length, &answer[..]].concat()).unwrap();
                }
            }
        });
        Some(Self { asked, address })
    }

    /// Names that were asked for since the last time, each once.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort_unstable();
        asked.dedup();
        asked
    }
}

/// A question for a name's address.
pub(crate) fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(encoded(name));
    message.extend([0, 1, 0, 1]);
    message
}

fn encoded(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[label.len() as u8], label.as_bytes()].concat();
    let mut bytes: Vec<u8> = name.split('.').flat_map(label).collect();
    bytes.push(0);
    bytes
}

fn answer(message: &[u8], known: Ipv4Addr, asked: &Mutex<Vec<String>>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).into_owned());
        at = end;
    }
    let name = labels.join(".");
    let (kind, end) = (message[at + 2], at + 5);
    let is_known = name.starts_with("good");
    asked.lock().unwrap().push(name);
    let mut answer = message[..end].to_vec();
    let code = if is_known { 0 } else { 3 };
    let is_given = is_known && kind == 1;
    answer[2..12].copy_from_slice(&[
        0x81,
        0x80 | code,
        0,
        1,
        0,
        2 * u8::from(is_given),
        0,
        0,
        0,
        0,
    ]);
    if is_given {
        let other = encoded("elsewhere.invalid");
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, other.len() as u8]);
        answer.extend(&other);
        answer.extend(&other);
        answer.extend([0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        answer.extend(known.octets());
    }
    answer
}

//! The host's name servers: read when they are needed, so that what changes is noticed.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const MOST_BYTES: u64 = 64 << 10;
pub(super) const PORT: u16 = 53;

/// In the order in which they are to be asked.
pub(super) fn servers() -> Vec<SocketAddr> {
    parse(&read())
}

/// `server`: the name server inside.
pub(super) fn resolv_conf(server: Ipv4Addr) -> Vec<u8> {
    inside(&read(), server).into_bytes()
}

/// The domains that resolvers add to names, in small letters.
pub(super) fn search() -> Vec<String> {
    searched(&read())
}

/// What is asked for in a message that asks for one thing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// In small letters, without the last dot.
    pub(super) name: String,
    kind: u16,
    /// Of the header and the question.
    length: usize,
}

const HEADER_BYTES: usize = 12;
const ADDRESS_OF_HOST: u16 = 1;
const INTERNET: u16 = 1;

/// `None` for whatever else a message is.
pub(super) fn question(message: &[u8]) -> Option<Question> {
    let number = |at: usize| {
        let bytes = message.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    const NO_QUESTION: u16 = 0xf800;
    if number(2)? & NO_QUESTION != 0 || number(4)? != 1 {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // More is a reference, which a question has no use for.
        if length > 63 || name.len() > 255 {
            return None;
        }
        let label = std::str::from_utf8(message.get(at..at + length)?).ok()?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&label.to_ascii_lowercase());
        at += length;
    }
    let (kind, class) = (number(at)?, number(at + 2)?);
    (class == INTERNET && !name.is_empty()).then_some(Question {
        name,
        kind,
        length: at + 4,
    })
}

/// The answer where the name is known: its address, and nothing of any other kind.
pub(super) fn answer(message: &[u8], question: &Question, address: Ipv4Addr) -> Vec<u8> {
    const SECONDS: u32 = 5;
    let is_asked = question.kind == ADDRESS_OF_HOST;
    let mut answer = message.get(..question.length).unwrap_or_default().to_vec();
    // An answer with authority; recursion is there for who asks for it.
    if let Some(flags) = answer.get_mut(2..4) {
        flags.copy_from_slice(&[0x84 | (flags[0] & 1), 0x80]);
    }
    if let Some(counts) = answer.get_mut(6..HEADER_BYTES) {
        counts.copy_from_slice(&[0, u8::from(is_asked), 0, 0, 0, 0]);
    }
    if is_asked {
        // The name is that of the question, which begins after the header.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        answer.extend_from_slice(&SECONDS.to_be_bytes());
        answer.extend_from_slice(&[0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    answer
}

/// The answer where nobody may be asked.
pub(super) fn refusal(message: &[u8], question: &Question) -> Vec<u8> {
    const SERVER_FAILURE: u8 = 2;
    nothing(message, question.length, SERVER_FAILURE)
}

/// The answer where the name is not to be known.
pub(super) fn no_such_name(message: &[u8], question: &Question) -> Vec<u8> {
    const NO_SUCH_NAME: u8 = 3;
    nothing(message, question.length, NO_SUCH_NAME)
}

/// The answer to what is no question for a name.
pub(super) fn not_understood(message: &[u8]) -> Vec<u8> {
    const REFUSED: u8 = 5;
    let mut answer = nothing(message, HEADER_BYTES, REFUSED);
    if let Some(counts) = answer.get_mut(4..6) {
        counts.fill(0);
    }
    answer
}

fn nothing(message: &[u8], length: usize, code: u8) -> Vec<u8> {
    let mut answer = message.get(..length).unwrap_or_default().to_vec();
    if let Some(flags) = answer.get_mut(2..4) {
        flags.copy_from_slice(&[0x80 | (flags[0] & 0x79), 0x80 | code]);
    }
    if let Some(counts) = answer.get_mut(6..HEADER_BYTES) {
        counts.fill(0);
    }
    answer
}

/// The number by which a message and its answer belong together.
pub(super) fn number_of(message: &[u8]) -> Option<[u8; 2]> {
    message.get(..2)?.try_into().ok()
}

/// Of an answer: the name that was asked for, and all IPv4 addresses, whichever name on the way from that one has them.
pub(super) fn addresses(message: &[u8]) -> Option<(String, Vec<Ipv4Addr>)> {
    const ANSWER: u8 = 0x80;
    let mut asked = message.get(..HEADER_BYTES)?.to_vec();
    let flags = asked.get_mut(2)?;
    if *flags & ANSWER == 0 {
        return None;
    }
    *flags &= !ANSWER;
    asked.extend_from_slice(message.get(HEADER_BYTES..)?);
    let asked = question(&asked)?;
    let number = |at: usize| {
        let bytes = message.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    let mut found = Vec::new();
    let mut at = asked.length;
    for _ in 0..number(6)? {
        at = after_name(message, at)?;
        let (kind, class, length) = (number(at)?, number(at + 2)?, usize::from(number(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if (kind, class) == (ADDRESS_OF_HOST, INTERNET) {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    Some((asked.name, found))
}

/// Behind a name, which may end in a reference to another place.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + usize::from(*length),
            192.. => return Some(at + 2),
            64..192 => return None,
        }
    }
}

fn read() -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut text = Vec::new();
    if let Ok(file) = rustix::fs::open(Path::new(RESOLV_CONF), flags, Mode::empty()) {
        // What can be read is used.
        let _ = std::fs::File::from(file)
            .take(MOST_BYTES)
            .read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next()? != "nameserver" {
                return None;
            }
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, PORT))
        })
        .collect();
    if servers.is_empty() {
        // As the C library has it.
        servers.push(SocketAddr::from(([127, 0, 0, 1], PORT)));
    }
    servers
}

/// The last line counts, as for the C library.
fn searched(text: &str) -> Vec<String> {
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next()?, "search" | "domain").then_some(words)
    });
    let domains = lines.next_back().into_iter().flatten();
    domains
        .map(|domain| domain.trim_matches('.').to_ascii_lowercase())
        .filter(|domain| !domain.is_empty())
        .collect()
}

fn inside(text: &str, server: Ipv4Addr) -> String {
    let mut inside = format!("nameserver {server}\n");
    for line in text.lines() {
        if matches!(
            line.split_whitespace().next(),
            Some("search" | "domain" | "options")
        ) {
            inside.push_str(line);
            inside.push('\n');
        }
    }
    inside
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::GATEWAY;
    use super::*;

    pub(in super::super) fn asking(name: &str, kind: u8) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend_from_slice(label.as_bytes());
        }
        message.extend_from_slice(&[0, 0, kind, 0, 1]);
        message
    }

    /// That a name is another one, which has an address.
    pub(in super::super) fn answering(name: &str, other: &str, address: Ipv4Addr) -> Vec<u8> {
        let mut message = asking(name, 1);
        message[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2]);
        let target = asking(other, 1);
        let target = &target[HEADER_BYTES..target.len() - 4];
        message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, target.len() as u8]);
        message.extend_from_slice(target);
        message.extend_from_slice(target);
        message.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        message.extend_from_slice(&address.octets());
        message
    }

    #[test]
    fn addresses_are_those_of_the_name_that_was_asked_for() {
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let message = answering("A.example", "b.example", address);
        let found = Some(("a.example".to_owned(), vec![address]));
        assert_eq!(addresses(&message), found);
        assert_eq!(addresses(&asking("a.example", 1)), None);
        for length in 0..message.len() {
            assert_eq!(addresses(&message[..length]), None, "{length}");
        }
    }

    #[test]
    fn domains_that_are_searched() {
        let text = "domain x\nsearch Corp.Example. lan\noptions edns0\n";
        assert_eq!(searched(text), ["corp.example", "lan"]);
        assert!(searched("nameserver 1.1.1.1\n").is_empty());
    }

    #[test]
    fn a_name_that_is_known_has_one_address_and_nothing_else() {
        let message = asking("Db.Local", 1);
        let asked = question(&message).expect("a question");
        assert_eq!(asked.name, "db.local");
        let answered = answer(&message, &asked, Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(answered.get(..4), Some(&[0xab, 0xcd, 0x85, 0x80][..]));
        assert_eq!(answered.get(4..8), Some(&[0, 1, 0, 1][..]));
        assert!(answered.ends_with(&[0, 4, 10, 0, 0, 7]));
        let message = asking("db", 28);
        let asked = question(&message).expect("a question");
        let answered = answer(&message, &asked, Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(answered.get(4..8), Some(&[0, 1, 0, 0][..]));
        assert_eq!(answered.len(), message.len());
        let refused = refusal(&message, &asked);
        assert_eq!(refused.get(2..8), Some(&[0x81, 0x82, 0, 1, 0, 0][..]));
        assert_eq!(refused.get(12..), message.get(12..));
    }

    proptest::proptest! {
        #[test]
        fn any_message_can_be_read(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Some(asked) = question(&bytes) {
                let _ = answer(&bytes, &asked, GATEWAY);
            }
            let _ = (addresses(&bytes), not_understood(&bytes));
        }
    }

    #[test]
    fn servers_are_the_hosts_and_the_gateway_inside() {
        let text = "# x\nnameserver 127.0.0.53\nsearch a b\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions edns0\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[2001:db8::1]:53"]);
        assert_eq!(
            inside(text, GATEWAY),
            "nameserver 10.213.47.1\nsearch a b\noptions edns0\n"
        );
        assert_eq!(parse(""), [SocketAddr::from(([127, 0, 0, 1], 53))]);
    }
}

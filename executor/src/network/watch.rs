//! What one command may reach, and what it was refused.
//!
//! Names are held where they are asked for, everything else by its address: one that a name was answered with counts as
//! that name, whatever names lie in between (CNAME).

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{GATEWAY, Reach, dns};
use crate::spec::Dns;

/// Addresses with names, and names of one address, that are remembered; more is no command that does its work.
const MOST_ADDRESSES: usize = 1 << 16;
const MOST_NAMES: usize = 256;
/// What is told of; a command that tries everything fills no log.
const MOST_REFUSED: usize = 100;

/// Of one command, while it runs.
pub struct Watch {
    reach: Arc<Reach>,
    tell: Box<dyn Fn(&Refused) + Send + Sync>,
    dns: Dns,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By which the command knows addresses.
    names: HashMap<Ipv4Addr, Vec<String>>,
    refused: Vec<Refused>,
}

/// What a command asked for and did not get. Displayed as what would allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A name, or an address that has none.
    pub host: String,
    /// `None` where the name itself was asked for.
    pub port: Option<u16>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => f.write_str(&self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.reach).finish()
    }
}

impl Watch {
    /// `hosts`: of the command's /etc/hosts; `dns`: what its resolv.conf has instead of the host's. `tell` hears once of
    /// each host and port that is refused, on the network's thread.
    pub fn new(
        reach: Arc<Reach>,
        hosts: &[(String, String)],
        dns: Dns,
        tell: impl Fn(&Refused) + Send + Sync + 'static,
    ) -> Self {
        let mut state = State::default();
        for (name, address) in hosts {
            let address = match address.as_str() {
                "host-gateway" => Some(GATEWAY),
                // There is no way to others.
                address => address.parse().ok(),
            };
            if let Some(address) = address {
                state.learn(address, name);
            }
        }
        Self {
            reach,
            tell: Box::new(tell),
            dns,
            state: Mutex::new(state),
        }
    }

    /// In the order in which it was asked for.
    pub fn refused(&self) -> Vec<Refused> {
        self.state().refused.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is a name server of the command's own.
    pub(super) fn is_server(&self, to: SocketAddrV4) -> bool {
        let is_it = |server: &String| server.parse() == Ok(*to.ip());
        to.port() == dns::PORT && self.dns.servers.iter().any(is_it)
    }

    /// The answer to a question for a name that may not be reached: there is none such. So whoever asks gives up at
    /// once; a refusal would have some ask again, and others wait.
    pub(super) fn refusal(&self, message: &[u8]) -> Option<Vec<u8>> {
        let Some(asked) = dns::question(message) else {
            // Whatever it is, nobody is to hear of it.
            return Some(dns::not_understood(message));
        };
        if self.reach.has_name(&asked.name, None) {
            return None;
        }
        self.refuse_name(&asked.name);
        Some(dns::no_such_name(message, &asked))
    }

    /// Takes in what a server has answered.
    pub(super) fn answered(&self, message: &[u8]) {
        if let Some((name, addresses)) = dns::addresses(message)
            && self.reach.has_name(&name, None)
        {
            let mut state = self.state();
            for address in addresses {
                state.learn(address, &name);
            }
        }
    }

    /// Whether packets may go to an address, at any port where none is given.
    pub(super) fn has(&self, address: Ipv4Addr, port: Option<u16>) -> bool {
        let state = self.state();
        let mut names = state.names.get(&address).into_iter().flatten();
        self.reach.has_address(IpAddr::V4(address), port)
            || names.any(|name| self.reach.has_name(name, port))
    }

    /// As [`Watch::has`]; where they may not, that is told.
    pub(super) fn permits(&self, to: SocketAddrV4) -> bool {
        if self.has(*to.ip(), Some(to.port())) {
            return true;
        }
        let host = {
            let state = self.state();
            let name = state.names.get(to.ip()).and_then(|names| names.last());
            name.map_or_else(|| to.ip().to_string(), Clone::clone)
        };
        self.refuse(&Refused {
            host,
            port: Some(to.port()),
        });
        false
    }

    /// Resolvers also ask for a name with each of the domains that they search.
    fn refuse_name(&self, name: &str) {
        let was_asked = |short: &str| {
            let refused = &self.state().refused;
            self.reach.has_name(short, None) || refused.iter().any(|it| it.host == short)
        };
        let domains = match self.dns.search.as_slice() {
            [] => dns::search(),
            given => given.to_vec(),
        };
        let searched = domains.iter().any(|domain| {
            let short = name.strip_suffix(domain.as_str());
            let short = short.and_then(|short| short.strip_suffix('.'));
            short.is_some_and(was_asked)
        });
        if !searched {
            self.refuse(&Refused {
                // It goes to terminals.
                host: name.escape_debug().to_string(),
                port: None,
            });
        }
    }

    fn refuse(&self, refused: &Refused) {
        let mut state = self.state();
        if state.refused.len() < MOST_REFUSED && !state.refused.contains(refused) {
            state.refused.push(refused.clone());
            drop(state);
            (self.tell)(refused);
        }
    }
}

impl State {
    fn learn(&mut self, address: Ipv4Addr, name: &str) {
        if self.names.len() >= MOST_ADDRESSES && !self.names.contains_key(&address) {
            return;
        }
        let names = self.names.entry(address).or_default();
        if names.len() < MOST_NAMES && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns::tests::{answering, asking};
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    fn watch(patterns: &[&str], hosts: &[(&str, &str)]) -> (Watch, Arc<Mutex<Vec<String>>>) {
        let parsed = patterns.iter().map(|it| it.parse().expect("a pattern"));
        let owned = |(name, address): &(&str, &str)| ((*name).to_owned(), (*address).to_owned());
        let hosts: Vec<_> = hosts.iter().map(owned).collect();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let tell = move |refused: &Refused| heard.lock().expect("told").push(refused.to_string());
        let reach = Arc::new(Reach::new(parsed.collect()));
        (Watch::new(reach, &hosts, Dns::default(), tell), told)
    }

    #[test]
    fn an_address_is_reached_by_the_name_that_it_was_asked_by() {
        let (watch, told) = watch(&["good.example:80"], &[]);
        let at = |port| SocketAddrV4::new(ADDRESS, port);
        assert!(!watch.permits(at(80)));
        assert_eq!(watch.refusal(&asking("good.example", 1)), None);
        watch.answered(&answering("good.example", "cdn.example", ADDRESS));
        assert!(watch.permits(at(80)) && !watch.permits(at(81)) && !watch.permits(at(81)));
        assert!(!watch.has(Ipv4Addr::new(192, 0, 2, 8), None));
        // Answers that nobody has asked for say nothing.
        let other = Ipv4Addr::new(192, 0, 2, 9);
        watch.answered(&answering("bad.example", "good.example", other));
        assert!(!watch.has(other, None));
        let refused = watch.refusal(&asking("bad.example", 1)).expect("a refusal");
        assert_eq!(refused.get(3), Some(&0x83));
        assert!(watch.refusal(&asking("bad.example", 28)).is_some());
        assert!(watch.refusal(b"anything").is_some());
        let told = told.lock().expect("told");
        assert_eq!(*told, ["192.0.2.7:80", "good.example:81", "bad.example"]);
    }

    #[test]
    fn hosts_that_were_added_are_names_like_others() {
        let (watch, _) = watch(
            &["db:5432", "host"],
            &[
                ("db", "192.0.2.7"),
                ("other", "192.0.2.8"),
                ("host", "host-gateway"),
            ],
        );
        assert!(watch.has(ADDRESS, Some(5432)) && !watch.has(ADDRESS, Some(80)));
        assert!(!watch.has(Ipv4Addr::new(192, 0, 2, 8), None));
        assert!(watch.has(GATEWAY, Some(1)));
    }

    #[test]
    fn what_is_told_has_an_end() {
        let (watch, told) = watch(&["a"], &[]);
        for port in 1..1000 {
            assert!(!watch.permits(SocketAddrV4::new(ADDRESS, port)));
        }
        assert_eq!(told.lock().expect("told").len(), MOST_REFUSED);
    }
}

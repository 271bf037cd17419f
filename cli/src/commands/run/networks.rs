//! `--network` and the flags that say more of it.

use std::net::Ipv4Addr;

use rbuild_engine::containers::Attachment;
use rbuild_engine::containers::networks::DEFAULT;
use rbuild_engine::request::NetworkChoice;

use super::args::ContainerArgs;
use crate::error::{Error, Result};
use crate::values;

/// In which networks a container is to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Networks {
    pub(super) choice: NetworkChoice,
    /// A container whose network it shares.
    pub(super) of: Option<String>,
    pub(super) attachments: Vec<Attachment>,
    /// In the network that is always there.
    pub(super) aliases: Vec<String>,
}

pub(super) fn read(args: &ContainerArgs) -> Result<Networks> {
    let more = More {
        aliases: aliases("--network-alias", &args.network_alias)?,
        address: args.ip,
        hardware_address: args
            .mac_address
            .as_deref()
            .map(hardware_address)
            .transpose()?,
    };
    choose(&args.network, more)
}

/// What other flags say of the first network.
#[derive(Debug, Default)]
struct More {
    aliases: Vec<String>,
    address: Option<Ipv4Addr>,
    hardware_address: Option<[u8; 6]>,
}

impl More {
    /// The flag of it that was given.
    fn flag(&self) -> Option<&'static str> {
        if !self.aliases.is_empty() {
            Some("--network-alias")
        } else if self.address.is_some() {
            Some("--ip")
        } else {
            self.hardware_address.map(|_| "--mac-address")
        }
    }
}

/// `name=NETWORK` where it says nothing more.
fn alone(text: &str) -> &str {
    let name = text.strip_prefix("name=");
    name.filter(|name| !name.contains(',')).unwrap_or(text)
}

fn choose(texts: &[String], more: More) -> Result<Networks> {
    let lonely = |text: &str| {
        if texts.len() > 1 {
            return Err(Error::usage(format!(
                "--network `{text}` is not one of several networks: leave out the others"
            )));
        }
        match more.flag() {
            Some(flag) => Err(Error::usage(format!(
                "{flag} is for containers with a network of their own, and --network chooses another"
            ))),
            None => Ok(()),
        }
    };
    let mut attachments: Vec<Attachment> = Vec::new();
    for text in texts.iter().map(|text| alone(text)) {
        if let Some(other) = text.strip_prefix("container:") {
            if other.is_empty() {
                return Err(Error::usage(
                    "--network `container:`: a container's name follows",
                ));
            }
            lonely(text)?;
            return Ok(Networks {
                choice: NetworkChoice::None,
                of: Some(other.to_owned()),
                ..Networks::default()
            });
        }
        if matches!(text, "none" | "host") {
            lonely(text)?;
            return Ok(Networks {
                choice: values::network(text)?,
                ..Networks::default()
            });
        }
        let attachment = attachment(text)?;
        if attachments
            .iter()
            .any(|it| it.network == attachment.network)
        {
            return Err(Error::usage(format!(
                "--network `{}` is given twice",
                attachment.network
            )));
        }
        attachments.push(attachment);
    }
    if attachments.is_empty() {
        attachments.push(Attachment {
            network: DEFAULT.to_owned(),
            ..Attachment::default()
        });
    }
    if let Some(first) = attachments.first_mut() {
        first.aliases.extend(more.aliases);
        first.address = more.address.or(first.address);
        first.hardware_address = more.hardware_address.or(first.hardware_address);
    }
    if let Some(one) = attachments
        .iter()
        .find(|it| it.network == DEFAULT && it.address.is_some())
    {
        return Err(Error::usage(format!(
            "an address can be chosen in networks that were made with `rbuild network create`, not in `{}`",
            one.network
        )));
    }
    // The network that is always there needs nothing that was made.
    if let [only] = attachments.as_slice()
        && only.network == DEFAULT
        && only.hardware_address.is_none()
    {
        return Ok(Networks {
            aliases: only.aliases.clone(),
            ..Networks::default()
        });
    }
    Ok(Networks {
        attachments,
        ..Networks::default()
    })
}

/// `NAME`, `NAME:alias=A,ip=IP`, `name=NAME,alias=A,ip=IP,mac-address=MAC`
fn attachment(text: &str) -> Result<Attachment> {
    let bad = |why: &str| {
        Error::usage(format!("--network `{text}`: {why}"))
            .help("it is a network's name, or `name=NET,alias=NAME,ip=IP,mac-address=MAC`")
    };
    let (name, options) = match text.split_once(':') {
        Some((name, options)) => (name, options),
        None if text.contains('=') => ("", text),
        None => (text, ""),
    };
    let mut attachment = Attachment {
        network: name.to_owned(),
        ..Attachment::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| bad(&format!("`{option}` is no option")))?;
        match key {
            "name" if name.is_empty() => value.clone_into(&mut attachment.network),
            "alias" => attachment.aliases.push(value.to_owned()),
            "ip" => {
                let address = value.parse();
                attachment.address =
                    Some(address.map_err(|_| bad(&format!("`{value}` is no IPv4 address")))?);
            }
            "mac-address" | "mac" => {
                attachment.hardware_address = Some(hardware_address(value)?);
            }
            _ => return Err(bad(&format!("there is no option `{key}`"))),
        }
    }
    attachment.aliases = aliases("--network alias", &attachment.aliases)?;
    match attachment.network.as_str() {
        "" => Err(bad("it has no name")),
        "none" | "host" => Err(bad("it takes no options")),
        "default" => {
            DEFAULT.clone_into(&mut attachment.network);
            Ok(attachment)
        }
        _ => Ok(attachment),
    }
}

/// `02:42:ac:11:00:02`
fn hardware_address(text: &str) -> Result<[u8; 6]> {
    let bad = |why: &str| {
        Error::usage(format!("--mac-address `{text}`: {why}"))
            .help("it looks like `02:42:ac:11:00:02`")
    };
    let parts: Vec<u8> = text
        .split([':', '-'])
        .map(|part| {
            let hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        })
        .collect::<Option<_>>()
        .ok_or_else(|| bad("it is no hardware address"))?;
    let address: [u8; 6] = parts
        .try_into()
        .map_err(|_| bad("it is not of six bytes"))?;
    if address[0] & 1 == 1 || address == [0; 6] {
        return Err(bad("it is not of one interface"));
    }
    Ok(address)
}

/// Names as the name service has them.
pub(crate) fn aliases(flag: &str, texts: &[String]) -> Result<Vec<String>> {
    const LONGEST: usize = 253;
    let is_name = |text: &String| {
        text.len() <= LONGEST
            && text.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            })
    };
    match texts.iter().find(|text| !is_name(text)) {
        Some(bad) => Err(Error::usage(format!(
            "{flag} `{bad}`: a name is made of letters, digits, `-`, `_` and dots between them"
        ))),
        None => Ok(texts.to_vec()),
    }
}

/// `CONTAINER[:ALIAS]`
pub(super) fn links(texts: &[String]) -> Result<Vec<(String, String)>> {
    texts
        .iter()
        .map(|text| {
            let (other, alias) = text.split_once(':').unwrap_or((text, text));
            if other.is_empty() {
                return Err(Error::usage(format!(
                    "--link `{text}`: it is a container's name, and what it is to be called"
                )));
            }
            aliases("--link", &[alias.to_owned()])?;
            Ok((other.to_owned(), alias.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(texts: &[&str]) -> Result<Networks> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        choose(&texts, More::default())
    }

    #[test]
    fn networks_are_read_in_all_forms() {
        assert_eq!(chosen(&[]).unwrap(), Networks::default());
        assert_eq!(chosen(&["bridge"]).unwrap(), Networks::default());
        assert_eq!(chosen(&["host"]).unwrap().choice, NetworkChoice::Host);
        assert_eq!(chosen(&["container:x"]).unwrap().of, Some("x".to_owned()));
        let expected = Attachment {
            network: "n".to_owned(),
            aliases: vec!["a".to_owned(), "b".to_owned()],
            address: Some(Ipv4Addr::new(10, 0, 0, 9)),
            hardware_address: Some([2, 0x42, 0, 0, 0, 0xff]),
        };
        for text in [
            "n:alias=a,alias=b,ip=10.0.0.9,mac=02:42:00:00:00:FF",
            "name=n,alias=a,alias=b,ip=10.0.0.9,mac-address=02-42-00-00-00-ff",
        ] {
            assert_eq!(
                chosen(&[text]).unwrap().attachments,
                std::slice::from_ref(&expected),
                "{text}"
            );
        }
        let names = |texts: &[&str]| -> Vec<String> {
            let all = chosen(texts).unwrap().attachments.into_iter();
            all.map(|it| it.network).collect()
        };
        assert_eq!(names(&["n", "default"]), ["n", "bridge"]);
        for bad in [
            &["n", "n"][..],
            &["n", "host"],
            &["container:x", "n"],
            &["container:"],
            &["bridge:ip=10.0.0.1"],
            &["n:ip=x"],
            &["n:what=1"],
            &["alias=a"],
            &["n:alias=-._/"],
            &["host:alias=a"],
            &["n:mac=01:00:00:00:00:00"],
        ] {
            assert!(chosen(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn flags_are_of_the_first_network() {
        let texts = ["n".to_owned(), "m".to_owned()];
        let more = || More {
            aliases: vec!["a".to_owned()],
            address: Some(Ipv4Addr::new(10, 0, 0, 9)),
            hardware_address: None,
        };
        let networks = choose(&texts, more()).unwrap().attachments;
        assert_eq!(networks[0].aliases, ["a"]);
        assert_eq!(networks[0].address, more().address);
        assert!(networks[1].aliases.is_empty() && networks[1].address.is_none());
        assert!(choose(&["none".to_owned()], more()).is_err());
        assert!(
            choose(&[], more()).is_err(),
            "no address in the one that is always there"
        );
        let links = links(&["db:database".to_owned(), "web".to_owned()]).unwrap();
        let expected = [("db", "database"), ("web", "web")];
        assert_eq!(
            links,
            expected.map(|(one, two)| (one.to_owned(), two.to_owned()))
        );
    }
}

//! Random names for containers, as Docker gives them: a quality and somebody of note.

use crate::{Error, Result};

const QUALITIES: &[&str] = &[
    "agile", "amber", "bold", "brave", "bright", "brisk", "calm", "candid", "clever", "crisp",
    "curious", "daring", "deft", "eager", "early", "fair", "fervent", "frank", "gentle", "glad",
    "golden", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "loyal",
    "lucid", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid",
    "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "serene", "sharp",
    "silent", "sincere", "smart", "steady", "stoic", "sunny", "swift", "tender", "tidy", "vivid",
    "warm", "wise", "witty", "zesty",
];

const PEOPLE: &[&str] = &[
    "abel",
    "ampere",
    "archimedes",
    "babbage",
    "banach",
    "bardeen",
    "bernoulli",
    "bohr",
    "boole",
    "born",
    "bose",
    "carson",
    "cauchy",
    "cerf",
    "church",
    "codd",
    "curie",
    "darwin",
    "dijkstra",
    "dirac",
    "einstein",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "gauss",
    "goedel",
    "hamilton",
    "hilbert",
    "hopper",
    "hubble",
    "hypatia",
    "jacobi",
    "kepler",
    "knuth",
    "kovalevskaya",
    "lagrange",
    "lamarr",
    "laplace",
    "leibniz",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "napier",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "planck",
    "poincare",
    "ramanujan",
    "ritchie",
    "shannon",
    "tesla",
    "thompson",
    "turing",
    "volta",
    "wiles",
];

/// `brave_noether`; with a number where `attempt` names were taken.
pub(super) fn random(attempt: u32) -> Result<String> {
    let bytes = random_bytes::<4>()?;
    let pick = |words: &[&'static str], byte: u8| words[usize::from(byte) % words.len()];
    let name = format!("{}_{}", pick(QUALITIES, bytes[0]), pick(PEOPLE, bytes[1]));
    Ok(if attempt > 1 {
        format!("{name}{}", u16::from_le_bytes([bytes[2], bytes[3]]))
    } else {
        name
    })
}

/// 64 hex digits.
pub(super) fn id() -> Result<String> {
    Ok(hex::encode(random_bytes::<32>()?))
}

/// Of letters, digits, `_`, `.` and `-`, with a letter or digit first.
pub(super) fn check(name: &str) -> Result<()> {
    let good = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    let starts = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if starts && name.len() >= 2 && name.len() <= 200 && name.chars().all(good) {
        Ok(())
    } else {
        Err(Error::Usage(format!(
            "`{name}` is no name for a container: it has at least two of [a-zA-Z0-9_.-] and begins with a letter or digit"
        )))
    }
}

fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    read.map_err(|errno| Error::Io {
        message: "cannot get random bytes".to_owned(),
        source: errno.into(),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_well_formed() {
        for attempt in 0..3 {
            check(&random(attempt).unwrap()).unwrap();
        }
        assert_eq!(id().unwrap().len(), 64);
        for bad in ["", "a", "-a", "a b", "a/b", "ä1", ".x"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}

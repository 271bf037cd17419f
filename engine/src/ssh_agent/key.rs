//! Private keys as `ssh-keygen` and `openssl` write them, and signatures by them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};

use super::wire::{Reader, put_number, put_string, remainder};

/// What an ssh client asks for with a signature by RSA; without, it means SHA-1, which nobody takes any more.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Why a key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("it has no private key (PEM, as ssh-keygen writes it)")]
    NoKey,
    #[error("the key is behind a passphrase")]
    Encrypted,
    #[error("the key is damaged")]
    Damaged,
    #[error(
        "keys of the kind {0} are not known: there are ed25519, ecdsa (nistp256, nistp384) and rsa (2048 to 4096 bits)"
    )]
    OtherKind(String),
}

/// A private key. Never shown.
pub struct Key {
    /// The public half, as ssh names it.
    public: Vec<u8>,
    comment: Vec<u8>,
    secret: Secret,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static Curve, EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

struct Curve {
    name: &'static str,
    /// `ecdsa-sha2-NAME`
    algorithm: &'static str,
    signing: &'static EcdsaSigningAlgorithm,
    /// As DER has it.
    oid: &'static [u8],
}

static CURVES: [Curve; 2] = [
    Curve {
        name: "nistp256",
        algorithm: "ecdsa-sha2-nistp256",
        signing: &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        oid: &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
    },
    Curve {
        name: "nistp384",
        algorithm: "ecdsa-sha2-nistp384",
        signing: &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        oid: &[0x2b, 0x81, 0x04, 0x00, 0x22],
    },
];

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads the first private key of a file.
    pub fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(file).map_err(|_| KeyError::NoKey)?;
        let (_, rest) = text.split_once("-----BEGIN ").ok_or(KeyError::NoKey)?;
        let (kind, rest) = rest.split_once("-----").ok_or(KeyError::NoKey)?;
        let (body, _) = rest.split_once("-----END ").ok_or(KeyError::NoKey)?;
        if body.contains("ENCRYPTED") || kind.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let body: String = body.split_whitespace().collect();
        let bytes = STANDARD.decode(body).map_err(|_| KeyError::Damaged)?;
        match kind {
            "OPENSSH PRIVATE KEY" => openssh(&bytes),
            "RSA PRIVATE KEY" => rsa(RsaKeyPair::from_der(&bytes)),
            "EC PRIVATE KEY" => sec1(&bytes, None),
            "PRIVATE KEY" => pkcs8(&bytes),
            _ if kind.ends_with("PRIVATE KEY") => Err(KeyError::OtherKind(kind.to_owned())),
            _ => Err(KeyError::NoKey),
        }
    }

    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn comment(&self) -> &[u8] {
        &self.comment
    }

    /// `None` where it cannot be signed so.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let (algorithm, signed) = match &self.secret {
            Secret::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Secret::Ecdsa(curve, pair) => {
                let fixed = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut both = Vec::new();
                put_number(&mut both, r);
                put_number(&mut both, s);
                (curve.algorithm, both)
            }
            Secret::Rsa(pair) => {
                let (name, padding) = if flags & RSA_SHA2_512 != 0 {
                    ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signed)
                    .ok()?;
                (name, signed)
            }
        };
        let mut all = Vec::new();
        put_string(&mut all, algorithm.as_bytes());
        put_string(&mut all, &signed);
        Some(all)
    }
}

/// PROTOCOL.key of OpenSSH.
fn openssh(bytes: &[u8]) -> Result<Key, KeyError> {
    let rest = bytes.strip_prefix(b"openssh-key-v1\0");
    let mut rest = Reader(rest.ok_or(KeyError::Damaged)?);
    let mut head = || {
        let cipher = rest.string()?;
        let (_kdf, _options, count) = (rest.string()?, rest.string()?, rest.u32()?);
        let (_public, secret) = (rest.string()?, rest.string()?);
        (count == 1).then_some((cipher, secret))
    };
    let (cipher, secret) = head().ok_or(KeyError::Damaged)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut rest = Reader(secret);
    let mut start = || {
        let (one, other) = (rest.u32()?, rest.u32()?);
        (one == other).then(|| rest.string())?
    };
    let kind = start().ok_or(KeyError::Damaged)?;
    let mut key = match kind {
        b"ssh-ed25519" => {
            let (public, secret) = both(rest.string(), rest.string())?;
            let seed = secret.get(..32).ok_or(KeyError::Damaged)?;
            ed25519(Ed25519KeyPair::from_seed_and_public_key(seed, public))
        }
        b"ssh-rsa" => openssh_rsa(&mut rest),
        _ => {
            let known = |curve: &&Curve| curve.algorithm.as_bytes() == kind;
            let Some(curve) = CURVES.iter().find(known) else {
                let kind = String::from_utf8_lossy(kind).escape_debug().to_string();
                return Err(KeyError::OtherKind(kind));
            };
            let (_curve, public) = both(rest.string(), rest.string())?;
            let secret = rest.number().ok_or(KeyError::Damaged)?;
            ecdsa(curve, secret, public)
        }
    }?;
    key.comment = rest.string().unwrap_or_default().to_vec();
    Ok(key)
}

fn both<T>(one: Option<T>, other: Option<T>) -> Result<(T, T), KeyError> {
    one.zip(other).ok_or(KeyError::Damaged)
}

fn openssh_rsa(rest: &mut Reader<'_>) -> Result<Key, KeyError> {
    let mut number = || rest.number().filter(|it| !it.is_empty());
    let mut numbers = || {
        Some([
            number()?,
            number()?,
            number()?,
            number()?,
            number()?,
            number()?,
        ])
    };
    let [n, e, d, q_inverse, p, q] = numbers().ok_or(KeyError::Damaged)?;
    // The file lacks the remainders of d by p - 1 and q - 1. p and q are odd: to take 1 away clears the last bit.
    let less_one = |prime: &[u8]| {
        let mut less = prime.to_vec();
        if let Some(last) = less.last_mut() {
            *last &= !1;
        }
        less
    };
    let (by_p, by_q) = (less_one(p), less_one(q));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: &*remainder(d, &by_p),
        dQ: &*remainder(d, &by_q),
        qInv: q_inverse,
    };
    rsa(RsaKeyPair::from_components(&components))
}

/// RFC 5915. The curve is in it, or in what is around it.
fn sec1(bytes: &[u8], curve: Option<&'static Curve>) -> Result<Key, KeyError> {
    let read = || {
        let mut inner = Reader(Reader(bytes).der(0x30)?);
        let (_version, secret) = (inner.der(0x02)?, inner.der(0x04)?);
        let oid = match inner.0.first() {
            Some(0xa0) => Some(Reader(inner.der(0xa0)?).der(0x06)?),
            _ => None,
        };
        let public = Reader(inner.der(0xa1)?).der(0x03)?;
        Some((secret, oid, public.strip_prefix(&[0])?))
    };
    let (secret, oid, public) = read().ok_or(KeyError::Damaged)?;
    let named = CURVES.iter().find(|curve| Some(curve.oid) == oid);
    let Some(curve) = named.or(curve) else {
        return Err(KeyError::OtherKind("ecdsa on another curve".to_owned()));
    };
    ecdsa(curve, secret, public)
}

/// RFC 5958.
fn pkcs8(bytes: &[u8]) -> Result<Key, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return ed25519(Ok(pair));
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(bytes) {
        return rsa(Ok(pair));
    }
    let read = || {
        let mut inner = Reader(Reader(bytes).der(0x30)?);
        let _version = inner.der(0x02)?;
        let mut algorithm = Reader(inner.der(0x30)?);
        let (_ecdsa, oid) = (algorithm.der(0x06)?, algorithm.der(0x06)?);
        Some((oid, inner.der(0x04)?))
    };
    let other = || KeyError::OtherKind("PRIVATE KEY (PKCS 8)".to_owned());
    let (oid, inner) = read().ok_or_else(other)?;
    let curve = CURVES.iter().find(|curve| curve.oid == oid);
    sec1(inner, Some(curve.ok_or_else(other)?))
}

fn ed25519(pair: Result<Ed25519KeyPair, ring::error::KeyRejected>) -> Result<Key, KeyError> {
    let pair = pair.map_err(|_| KeyError::Damaged)?;
    let mut public = Vec::new();
    put_string(&mut public, b"ssh-ed25519");
    put_string(&mut public, pair.public_key().as_ref());
    Ok(Key {
        public,
        comment: Vec::new(),
        secret: Secret::Ed25519(pair),
    })
}

fn ecdsa(curve: &'static Curve, secret: &[u8], point: &[u8]) -> Result<Key, KeyError> {
    // As long as the curve's numbers are: a point is two of them after a byte.
    let length = point.len() / 2;
    let missing = length.checked_sub(secret.len()).ok_or(KeyError::Damaged)?;
    let secret = [&vec![0; missing], secret].concat();
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(curve.signing, &secret, point, &random);
    let pair = pair.map_err(|_| KeyError::Damaged)?;
    let mut public = Vec::new();
    put_string(&mut public, curve.algorithm.as_bytes());
    put_string(&mut public, curve.name.as_bytes());
    put_string(&mut public, point);
    Ok(Key {
        public,
        comment: Vec::new(),
        secret: Secret::Ecdsa(curve, pair),
    })
}

fn rsa(pair: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<Key, KeyError> {
    // What is refused for its size says so.
    let pair = pair.map_err(|error| match error.to_string() {
        reason if reason.contains("Large") || reason.contains("Small") => {
            KeyError::OtherKind("rsa of another size".to_owned())
        }
        _ => KeyError::Damaged,
    })?;
    let parts = PublicKeyComponents::<Vec<u8>>::from(pair.public());
    let mut public = Vec::new();
    put_string(&mut public, b"ssh-rsa");
    put_number(&mut public, &parts.e);
    put_number(&mut public, &parts.n);
    Ok(Key {
        public,
        comment: Vec::new(),
        secret: Secret::Rsa(Box::new(pair)),
    })
}

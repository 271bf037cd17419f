//! Keys of ECDSA on P-256, in the PEM forms that cosign and openssl write. A private key of cosign's is encrypted
//! with a password: scrypt, and NaCl's secretbox (XSalsa20 and Poly1305) around PKCS 8.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    LineEnding,
};
use p256::{PublicKey as P256Public, SecretKey};
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit as _;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit as _, StreamCipher as _};
use serde::{Deserialize, Serialize};

/// What cosign calls an encrypted key now, and called it before.
const ENCRYPTED: [&str; 2] = [
    "ENCRYPTED SIGSTORE PRIVATE KEY",
    "ENCRYPTED COSIGN PRIVATE KEY",
];
const PKCS8: &str = "PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";

/// What a password costs: as cosign writes it.
const SCRYPT: Params = Params {
    n: 65536,
    r: 8,
    p: 1,
};
/// More memory than that is asked for by nobody who means well, in bytes.
const SCRYPT_BYTES_MAX: u64 = 1 << 30;
const TAG_BYTES: usize = 16;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("it is no key: {0}")]
    NotAKey(String),
    #[error("it is encrypted: a password is needed")]
    PasswordNeeded,
    #[error("the password is wrong, or the key is damaged")]
    WrongPassword,
    #[error("no random bytes could be had")]
    NoRandomness,
}

/// Never shown.
pub struct PrivateKey(SigningKey);

/// What signatures are verified with.
#[derive(Debug, Clone)]
pub struct PublicKey(VerifyingKey);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl PrivateKey {
    /// A new key, of the kernel's random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        // Nearly every number is a key: it hardly ever takes a second one.
        for _ in 0..100 {
            if let Ok(key) = SecretKey::from_slice(&random::<32>()?) {
                return Ok(Self(SigningKey::from(&key)));
            }
        }
        Err(KeyError::NoRandomness)
    }

    /// Whether a password is needed to read it.
    pub fn is_encrypted(pem: &str) -> bool {
        ENCRYPTED
            .iter()
            .any(|label| pem.contains(&format!("BEGIN {label}-")))
    }

    /// Reads cosign's encrypted keys, PKCS 8 and SEC 1.
    pub fn from_pem(pem: &str, password: Option<&[u8]>) -> Result<Self, KeyError> {
        let not_a_key = |error: &dyn std::fmt::Display| KeyError::NotAKey(error.to_string());
        let (label, bytes) = unwrap(pem)?;
        let key = match label.as_str() {
            PKCS8 => SecretKey::from_pkcs8_der(&bytes).map_err(|error| not_a_key(&error))?,
            SEC1 => SecretKey::from_sec1_der(&bytes).map_err(|error| not_a_key(&error))?,
            label if ENCRYPTED.contains(&label) => {
                let password = password.ok_or(KeyError::PasswordNeeded)?;
                let der = open(&bytes, password)?;
                SecretKey::from_pkcs8_der(&der).map_err(|error| not_a_key(&error))?
            }
            "ENCRYPTED PRIVATE KEY" => {
                return Err(KeyError::NotAKey(
                    "it is encrypted in a way that is not supported: take the password off with `openssl pkcs8`".to_owned(),
                ));
            }
            other => return Err(KeyError::NotAKey(format!("a `{other}` cannot sign"))),
        };
        Ok(Self(SigningKey::from(&key)))
    }

    /// As cosign writes it.
    pub fn to_encrypted_pem(&self, password: &[u8]) -> Result<String, KeyError> {
        let key = SecretKey::from(&self.0);
        let der = key
            .to_pkcs8_der()
            .map_err(|error| KeyError::NotAKey(error.to_string()))?;
        let sealed = seal(der.as_bytes(), password, random()?, random()?)?;
        Ok(wrap(ENCRYPTED[0], &sealed))
    }

    /// The half of it that may be shown.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// Over the SHA-256 of the message, in DER; the same for the same message (RFC 6979).
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(message);
        signature.to_der().as_bytes().to_vec()
    }
}

impl PublicKey {
    /// Reads a public key of ECDSA on P-256.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = P256Public::from_public_key_pem(pem.trim()).map_err(|error| {
            KeyError::NotAKey(format!(
                "{error}; a public key of ECDSA on P-256 in PEM is needed"
            ))
        })?;
        Ok(Self(VerifyingKey::from(&key)))
    }

    /// As openssl and cosign write it.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let key = P256Public::from(&self.0);
        key.to_public_key_pem(LineEnding::LF)
            .map_err(|error| KeyError::NotAKey(error.to_string()))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature)
            .is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(KeyError::NoRandomness),
        }
    }
    Ok(bytes)
}

/// The label and the bytes of the first block.
fn unwrap(pem: &str) -> Result<(String, Vec<u8>), KeyError> {
    let bad = |reason: &str| KeyError::NotAKey(reason.to_owned());
    let (_, rest) = pem
        .split_once("-----BEGIN ")
        .ok_or_else(|| bad("there is no PEM in it"))?;
    let (label, rest) = rest
        .split_once("-----")
        .ok_or_else(|| bad("its PEM is cut off"))?;
    let end = format!("-----END {label}-----");
    let (body, _) = rest
        .split_once(&end)
        .ok_or_else(|| bad("its PEM is cut off"))?;
    let body: String = body.split_whitespace().collect();
    let bytes = STANDARD
        .decode(body)
        .map_err(|_| bad("its PEM is damaged"))?;
    Ok((label.to_owned(), bytes))
}

fn wrap(label: &str, bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn seal(
    plain: &[u8],
    password: &[u8],
    salt: [u8; 32],
    nonce: [u8; 24],
) -> Result<Vec<u8>, KeyError> {
    let (mut cipher, authenticator) = secretbox(&derived(password, &salt, SCRYPT)?, nonce);
    let mut text = plain.to_vec();
    cipher.apply_keystream(&mut text);
    let tag: [u8; TAG_BYTES] = authenticator.compute_unpadded(&text).into();
    let sealed = Sealed {
        kdf: Kdf {
            name: "scrypt".to_owned(),
            params: SCRYPT,
            salt: STANDARD.encode(salt),
        },
        cipher: Cipher {
            name: "nacl/secretbox".to_owned(),
            nonce: STANDARD.encode(nonce),
        },
        ciphertext: STANDARD.encode([&tag, text.as_slice()].concat()),
    };
    serde_json::to_vec(&sealed).map_err(|error| KeyError::NotAKey(error.to_string()))
}

fn open(sealed: &[u8], password: &[u8]) -> Result<Vec<u8>, KeyError> {
    let bad = |reason: &str| KeyError::NotAKey(reason.to_owned());
    let sealed: Sealed = serde_json::from_slice(sealed)
        .map_err(|error| bad(&format!("what is encrypted cannot be read: {error}")))?;
    if sealed.kdf.name != "scrypt" || sealed.cipher.name != "nacl/secretbox" {
        return Err(bad("it is encrypted in a way that is not known"));
    }
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| bad("it is damaged"));
    let nonce = decode(&sealed.cipher.nonce)?;
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| bad("its nonce is damaged"))?;
    let key = derived(password, &decode(&sealed.kdf.salt)?, sealed.kdf.params)?;
    let whole = decode(&sealed.ciphertext)?;
    let (tag, text) = whole
        .split_at_checked(TAG_BYTES)
        .ok_or_else(|| bad("it is cut off"))?;
    let (mut cipher, authenticator) = secretbox(&key, nonce);
    let expected: [u8; TAG_BYTES] = authenticator.compute_unpadded(text).into();
    // All of it is looked at, so that the time tells nothing.
    let differ = expected
        .iter()
        .zip(tag)
        .fold(0, |sum, (one, other)| sum | (one ^ other));
    if differ != 0 {
        return Err(KeyError::WrongPassword);
    }
    let mut plain = text.to_vec();
    cipher.apply_keystream(&mut plain);
    Ok(plain)
}

/// The stream after its first 32 bytes, which are the authenticator's key.
fn secretbox(key: &[u8; 32], nonce: [u8; 24]) -> (XSalsa20, Poly1305) {
    let mut cipher = XSalsa20::new(&(*key).into(), &nonce.into());
    let mut first = [0; 32];
    cipher.apply_keystream(&mut first);
    (cipher, Poly1305::new(&first.into()))
}

fn derived(password: &[u8], salt: &[u8], params: Params) -> Result<[u8; 32], KeyError> {
    let bad = || KeyError::NotAKey("what its password costs is out of all proportion".to_owned());
    let bytes = params
        .n
        .checked_mul(u64::from(params.r))
        .and_then(|it| it.checked_mul(128));
    let is_sound = params.n.is_power_of_two() && bytes.is_some_and(|it| it <= SCRYPT_BYTES_MAX);
    if !is_sound || params.p > 16 {
        return Err(bad());
    }
    let log_n = u8::try_from(params.n.trailing_zeros()).map_err(|_| bad())?;
    let params = scrypt::Params::new(log_n, params.r, params.p).map_err(|_| bad())?;
    let mut key = [0; 32];
    scrypt::scrypt(password, salt, &params, &mut key).map_err(|_| bad())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        let key = PrivateKey::generate().unwrap();
        let public = PublicKey::from_pem(&key.public().to_pem().unwrap()).unwrap();
        let signature = key.sign(b"message");
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"Message", &signature));
        assert!(!public.verifies(b"message", &signature[1..]));
        let other = PrivateKey::generate().unwrap();
        assert!(!other.public().verifies(b"message", &signature));
        assert_eq!(key.sign(b"message"), signature);
    }

    #[test]
    fn encrypted_keys_open_with_their_password_only() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.to_encrypted_pem(b"secret").unwrap();
        assert!(PrivateKey::is_encrypted(&pem));
        let again = PrivateKey::from_pem(&pem, Some(b"secret")).unwrap();
        assert_eq!(again.sign(b"m"), key.sign(b"m"));
        let wrong = PrivateKey::from_pem(&pem, Some(b"Secret"));
        assert!(matches!(wrong, Err(KeyError::WrongPassword)));
        let none = PrivateKey::from_pem(&pem, None);
        assert!(matches!(none, Err(KeyError::PasswordNeeded)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for pem in [
            "",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
        ] {
            let found = PrivateKey::from_pem(pem, None);
            assert!(matches!(found, Err(KeyError::NotAKey(_))), "{pem}");
            assert!(PublicKey::from_pem(pem).is_err());
        }
        let greedy = r#"{"kdf":{"name":"scrypt","params":{"N":1099511627776,"r":8,"p":1},"salt":"AAAA"},"cipher":{"name":"nacl/secretbox","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"ciphertext":"AAAA"}"#;
        let pem = wrap(ENCRYPTED[0], greedy.as_bytes());
        assert!(matches!(
            PrivateKey::from_pem(&pem, Some(b"x")),
            Err(KeyError::NotAKey(_))
        ));
    }
}

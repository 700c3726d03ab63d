//! The exchange that proves a password without sending it: SCRAM, RFC 5802 and RFC 7677.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};

/// Fewest and most iterations that are computed.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ScramHash {
    Sha256,
    Sha512,
}

impl ScramHash {
    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        macro_rules! digest {
            ($hash:ty) => {{
                let mac = <Hmac<$hash>>::new_from_slice(key).expect("a key has any length");
                mac.chain_update(bytes).finalize().into_bytes().to_vec()
            }};
        }
        match self {
            Self::Sha256 => digest!(Sha256),
            Self::Sha512 => digest!(Sha512),
        }
    }

    /// Returns the password after `iterations`, which are many so that guessing is slow.
    fn salted(self, password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut last = self.hmac(password.as_bytes(), &[salt, &1_u32.to_be_bytes()].concat());
        let mut all = last.clone();
        for _ in 1..iterations {
            last = self.hmac(password.as_bytes(), &last);
            xor(&mut all, &last);
        }
        all
    }
}

fn xor(into: &mut [u8], other: &[u8]) {
    for (byte, other) in into.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// An exchange that has begun.
pub(super) struct Scram {
    hash: ScramHash,
    nonce: String,
    /// The first message without its head.
    first: String,
}

impl Scram {
    pub(super) fn begin(hash: ScramHash, user: &str, nonce: &str) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { hash, nonce: nonce.to_owned(), first: format!("n={user},r={nonce}") }
    }

    pub(super) fn first_message(&self) -> String {
        format!("n,,{}", self.first)
    }

    /// Returns the answer to the server's `message`, and what the server then answers if it knows the password.
    pub(super) fn last_message(
        &self,
        message: &str,
        password: &str,
    ) -> Result<(String, String), String> {
        let part = |name: &str| {
            let part = message.split(',').find_map(|part| part.strip_prefix(name));
            part.ok_or_else(|| format!("its answer has no `{name}`"))
        };
        let (nonce, salt) = (part("r=")?, part("s=")?);
        let iterations = part("i=")?.parse::<u32>().map_err(|error| error.to_string())?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("its answer is one to another request".to_owned());
        }
        if !ITERATIONS.contains(&iterations) {
            return Err(format!("it wants {iterations} iterations"));
        }
        let salt = STANDARD.decode(salt).map_err(|error| error.to_string())?;
        let hash = self.hash;
        let salted = hash.salted(password, &salt, iterations);
        let client = hash.hmac(&salted, b"Client Key");
        let last = format!("c=biws,r={nonce}");
        let all = format!("{},{message},{last}", self.first);
        let mut proof = hash.hmac(&hash.hash(&client), all.as_bytes());
        xor(&mut proof, &client);
        let server = hash.hmac(&hash.hmac(&salted, b"Server Key"), all.as_bytes());
        let proof = format!("{last},p={}", STANDARD.encode(proof));
        Ok((proof, format!("v={}", STANDARD.encode(server))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_exchange_is_that_of_the_standard() {
        let scram = Scram::begin(ScramHash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let answer = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) = scram.last_message(answer, "pencil").unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn an_answer_that_is_wrong_is_refused() {
        let scram = Scram::begin(ScramHash::Sha512, "a=b,c", "abc");
        assert_eq!(scram.first_message(), "n,,n=a=3Db=2Cc,r=abc");
        for (answer, expected) in [
            ("r=abc1,s=AAAA", "no `i=`"),
            ("r=other,s=AAAA,i=4096", "another request"),
            ("r=abc,s=AAAA,i=4096", "another request"),
            ("r=abc1,s=AAAA,i=1", "1 iterations"),
            ("r=abc1,s=AAAA,i=4000000000", "4000000000 iterations"),
            ("r=abc1,s=?,i=4096", "Invalid"),
        ] {
            let refused = scram.last_message(answer, "secret").unwrap_err();
            assert!(refused.contains(expected), "{answer}: {refused}");
        }
    }
}

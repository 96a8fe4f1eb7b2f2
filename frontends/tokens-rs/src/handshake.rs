//! Mutual challenge-response: both ends prove that they know the launch secret before any message is read.
//!
//! ```text
//! dialer   -> Opening(magic, version, nonce)
//! listener -> Challenge(version, nonce, proof over both nonces)      or Refusal(reason)
//! dialer   -> Proof(proof over both nonces)                          or Refusal(reason)
//! listener -> Accepted                                               or Refusal(reason)
//! ```
//!
//! Proofs are HMAC-SHA256 keyed with the secret over a label that differs by side and both nonces. No I/O here:
//! bodies in, bodies out; `channel` is the shell.

use crate::messages::{self, Blob, Refusal, PROTOCOL_VERSION};
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;

const MAGIC: &str = "phalanx";
const NONCE: usize = 32;
type Nonce = [u8; NONCE];

mod tag {
    pub const OPENING: u64 = 0;
    pub const CHALLENGE: u64 = 1;
    pub const PROOF: u64 = 2;
    pub const ACCEPTED: u64 = 3;
    pub const REFUSAL: u64 = 4;
}

/// One of the two ends turned the other down; says which end and why. It is what the peer is told.
#[derive(Debug)]
pub struct Refused(pub String);

/// What to send next.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Step {
    Opening(u64, &'static str, u64, Blob),
    Challenge(u64, u64, Blob, Blob),
    Proof(u64, Blob),
    Accepted((u64,)),
    Refusal(u64, String),
}

impl Step {
    pub fn refusal(refused: &Refused) -> Self {
        Self::Refusal(tag::REFUSAL, refused.0.clone())
    }
}

fn keyed(secret: &[u8], side: &str, dialer: &[u8], listener: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(format!("phalanx {PROTOCOL_VERSION} {side} ").as_bytes());
    mac.update(dialer);
    mac.update(listener);
    mac
}

fn proof(secret: &[u8], side: &str, dialer: &[u8], listener: &[u8]) -> Blob {
    Blob(keyed(secret, side, dialer, listener).finalize().into_bytes().to_vec())
}

fn no_protocol() -> Refused {
    Refused("the peer does not speak this protocol".into())
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    messages::decode(body).map_err(|_| no_protocol())
}

fn tag_of(body: &[u8]) -> Result<u64, Refused> {
    messages::tag(body).map_err(|_| no_protocol())
}

pub fn nonce() -> Nonce {
    let mut nonce = [0; NONCE];
    getrandom::getrandom(&mut nonce).expect("the system gives random bytes");
    nonce
}

/// The side that connects.
pub struct Dialer<'a> {
    secret: &'a [u8],
    nonce: Nonce,
    pub done: bool,
}

impl<'a> Dialer<'a> {
    pub fn new(secret: &'a [u8], nonce: Nonce) -> Self {
        Self { secret, nonce, done: false }
    }

    pub fn opening(&self) -> Step {
        Step::Opening(tag::OPENING, MAGIC, PROTOCOL_VERSION, Blob(self.nonce.to_vec()))
    }

    /// Take the peer's next body; gives the answer to send, if one is due. Done when the listener accepted us.
    pub fn receive(&mut self, body: &[u8]) -> Result<Option<Step>, Refused> {
        match tag_of(body)? {
            tag::CHALLENGE => {
                let challenge: messages::Challenge = decode(body)?;
                let version = challenge.version;
                if version != PROTOCOL_VERSION {
                    return Err(Refused(format!("protocol version {version} there, {PROTOCOL_VERSION} here")));
                }
                keyed(self.secret, "listener", &self.nonce, &challenge.nonce.0)
                    .verify_slice(&challenge.proof.0)
                    .map_err(|_| Refused("the listener does not know the launch secret".into()))?;
                Ok(Some(Step::Proof(tag::PROOF, proof(self.secret, "dialer", &self.nonce, &challenge.nonce.0))))
            }
            tag::ACCEPTED => {
                self.done = true;
                Ok(None)
            }
            tag::REFUSAL => {
                let refusal: Refusal = decode(body)?;
                Err(Refused(format!("refused by the listener: {}", refusal.reason)))
            }
            _ => Err(Refused("the listener broke the order of the handshake".into())),
        }
    }
}

/// The side that was connected to.
pub struct Listener<'a> {
    secret: &'a [u8],
    nonce: Nonce,
    dialer: Option<Vec<u8>>,
    pub done: bool,
}

impl<'a> Listener<'a> {
    pub fn new(secret: &'a [u8], nonce: Nonce) -> Self {
        Self { secret, nonce, dialer: None, done: false }
    }

    /// As `Dialer::receive`. Done when the dialer has proved itself; the answer is still to be sent.
    pub fn receive(&mut self, body: &[u8]) -> Result<Option<Step>, Refused> {
        match (tag_of(body)?, &self.dialer) {
            (tag::OPENING, None) => {
                let opening: messages::Opening = decode(body)?;
                if opening.magic != MAGIC || opening.nonce.0.len() != NONCE {
                    return Err(Refused("the dialer does not speak this protocol".into()));
                }
                if opening.version != PROTOCOL_VERSION {
                    return Err(Refused(format!(
                        "protocol version {} at the dialer, {PROTOCOL_VERSION} at the listener",
                        opening.version
                    )));
                }
                let proof = proof(self.secret, "listener", &opening.nonce.0, &self.nonce);
                self.dialer = Some(opening.nonce.0);
                Ok(Some(Step::Challenge(tag::CHALLENGE, PROTOCOL_VERSION, Blob(self.nonce.to_vec()), proof)))
            }
            (tag::PROOF, Some(dialer)) => {
                let proof: messages::Proof = decode(body)?;
                keyed(self.secret, "dialer", dialer, &self.nonce)
                    .verify_slice(&proof.proof.0)
                    .map_err(|_| Refused("the dialer does not know the launch secret".into()))?;
                self.done = true;
                Ok(Some(Step::Accepted((tag::ACCEPTED,))))
            }
            (tag::REFUSAL, _) => {
                let refusal: Refusal = decode(body)?;
                Err(Refused(format!("refused by the dialer: {}", refusal.reason)))
            }
            _ => Err(Refused("the dialer broke the order of the handshake".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(step: Step) -> Vec<u8> {
        rmp_serde::to_vec(&step).unwrap()
    }

    fn meet(dialer_secret: &[u8], listener_secret: &[u8]) -> Result<bool, Refused> {
        let mut dialer = Dialer::new(dialer_secret, [1; NONCE]);
        let mut listener = Listener::new(listener_secret, [2; NONCE]);
        let challenge = listener.receive(&body(dialer.opening()))?.unwrap();
        let proof = dialer.receive(&body(challenge))?.unwrap();
        let accepted = listener.receive(&body(proof))?.unwrap();
        assert!(dialer.receive(&body(accepted))?.is_none());
        Ok(dialer.done && listener.done)
    }

    #[test]
    fn two_that_share_the_secret_accept_each_other() {
        assert!(meet(b"one secret of ours", b"one secret of ours").unwrap());
    }

    #[test]
    fn a_listener_without_the_secret_is_found_out_first() {
        assert!(meet(b"ours", b"theirs").unwrap_err().0.contains("listener does not know"));
    }

    #[test]
    fn a_dialer_without_the_secret_is_refused() {
        let mut listener = Listener::new(b"ours", [2; NONCE]);
        listener.receive(&body(Dialer::new(b"", [1; NONCE]).opening())).unwrap();
        let forged = Step::Proof(tag::PROOF, proof(b"theirs", "dialer", &[1; NONCE], &[2; NONCE]));
        assert!(listener.receive(&body(forged)).unwrap_err().0.contains("dialer does not know"));
        assert!(!listener.done);
    }

    #[test]
    fn a_proof_of_the_other_side_is_no_proof() {
        let mut listener = Listener::new(b"ours", [2; NONCE]);
        listener.receive(&body(Dialer::new(b"", [1; NONCE]).opening())).unwrap();
        let reflected = Step::Proof(tag::PROOF, proof(b"ours", "listener", &[1; NONCE], &[2; NONCE]));
        assert!(listener.receive(&body(reflected)).is_err());
    }

    #[test]
    fn another_version_is_named_on_both_sides() {
        let opening = Step::Opening(tag::OPENING, MAGIC, 99, Blob(vec![1; NONCE]));
        let told = Listener::new(b"s", [2; NONCE]).receive(&body(opening)).unwrap_err().0;
        assert_eq!(told, format!("protocol version 99 at the dialer, {PROTOCOL_VERSION} at the listener"));
        let challenge = Step::Challenge(tag::CHALLENGE, 99, Blob(vec![]), Blob(vec![]));
        let told = Dialer::new(b"s", [1; NONCE]).receive(&body(challenge)).unwrap_err().0;
        assert_eq!(told, format!("protocol version 99 there, {PROTOCOL_VERSION} here"));
    }

    #[test]
    fn steps_out_of_order_and_what_is_no_message_are_refused() {
        let proof = body(Step::Proof(tag::PROOF, Blob(vec![0; 32])));
        assert!(Listener::new(b"s", [2; NONCE]).receive(&proof).is_err());
        assert!(Dialer::new(b"s", [1; NONCE]).receive(&proof).is_err());
        for odd in [&b""[..], b"GET / HTTP/1.1\r\n", &[0x90], &[0x91, 0xc0], &[0xdd, 0xff, 0xff, 0xff, 0xff, 0]] {
            assert!(Listener::new(b"s", [2; NONCE]).receive(odd).is_err());
        }
    }

    #[test]
    fn a_refusal_is_passed_on_in_its_words() {
        let refusal = body(Step::refusal(&Refused("full".into())));
        let told = Dialer::new(b"s", [1; NONCE]).receive(&refusal).unwrap_err().0;
        assert_eq!(told, "refused by the listener: full");
    }
}

//! The first bytes of a connection: who speaks which version.
//!
//! Both sides begin with a signature and their version without waiting for the other; what follows
//! depends on the other's version, so ours is sent in two steps.

/// Bytes up to and including the version: `FF`, eight of padding, `7F`, the version.
const OPENING_BYTES: usize = 11;

/// A whole greeting of ZMTP 3: the opening, minor version, mechanism, as-server, filler.
const GREETING_BYTES: usize = 64;

/// Where the mechanism stands in it.
const MECHANISM: std::ops::Range<usize> = 12..32;

/// What we send first: the signature, and version 3.
pub const OPENING: [u8; OPENING_BYTES] = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3];

/// The rest of our greeting for a peer of version 3: minor version 0, the NULL mechanism. We say
/// 3.0, so that libzmq sends subscriptions as messages and no heartbeats; those who send both
/// otherwise are understood too.
#[must_use]
pub fn rest_for_version_3() -> [u8; GREETING_BYTES - OPENING_BYTES] {
    let mut rest = [0; GREETING_BYTES - OPENING_BYTES];
    for (to, from) in rest.iter_mut().skip(1).zip(*b"NULL") {
        *to = from;
    }
    rest
}

/// How a peer goes on after its greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// ZMTP 2.0: a socket type follows, then the identity as a message.
    V2,
    /// ZMTP 3.x: READY follows.
    V3,
}

/// Why a greeting is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// Not ZeroMQ, or one of before 2012.
    #[error("it does not speak ZMTP 2 or 3")]
    Signature,
    /// CURVE, PLAIN, GSSAPI.
    #[error("it asks for the mechanism {0:?}; only NULL is served")]
    Mechanism(String),
}

/// What the first bytes of a peer say.
///
/// # Errors
/// As soon as they cannot become a greeting.
pub fn read_version(bytes: &[u8]) -> Result<Option<Dialect>, GreetingError> {
    for (place, byte) in bytes.iter().take(OPENING_BYTES).enumerate() {
        let fits = match place {
            0 => *byte == 0xff,
            9 => *byte == 0x7f,
            10 => *byte >= 1,
            _ => true,
        };
        if !fits {
            return Err(GreetingError::Signature);
        }
    }
    Ok(bytes.get(OPENING_BYTES - 1).map(|version| match version {
        1 | 2 => Dialect::V2,
        _ => Dialect::V3,
    }))
}

/// How many bytes the whole greeting has.
#[must_use]
pub const fn length(dialect: Dialect) -> usize {
    match dialect {
        Dialect::V2 => OPENING_BYTES + 1,
        Dialect::V3 => GREETING_BYTES,
    }
}

/// Checks the mechanism of a whole greeting of version 3.
///
/// # Errors
/// [`GreetingError::Mechanism`].
pub fn check_mechanism(greeting: &[u8]) -> Result<(), GreetingError> {
    let mechanism = greeting.get(MECHANISM).unwrap_or_default();
    let name = mechanism.split(|byte| *byte == 0).next();
    match name {
        Some(b"NULL") => Ok(()),
        other => {
            let shown = String::from_utf8_lossy(other.unwrap_or_default()).into_owned();
            Err(GreetingError::Mechanism(shown))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_known_by_their_first_byte() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"\x01\x00",
            b"\x16\x03\x01",
        ] {
            assert_eq!(read_version(bytes), Err(GreetingError::Signature));
        }
        assert_eq!(read_version(&OPENING[..5]), Ok(None));
        assert_eq!(read_version(&OPENING), Ok(Some(Dialect::V3)));
        let mut old = OPENING;
        old[10] = 1;
        assert_eq!(read_version(&old), Ok(Some(Dialect::V2)));
    }

    #[test]
    fn our_greeting_has_64_bytes_and_the_null_mechanism() {
        let mut greeting = OPENING.to_vec();
        greeting.extend(rest_for_version_3());
        assert_eq!(greeting.len(), GREETING_BYTES);
        assert_eq!(check_mechanism(&greeting), Ok(()));
        greeting[12..17].copy_from_slice(b"CURVE");
        let error = GreetingError::Mechanism("CURVE".into());
        assert_eq!(check_mechanism(&greeting), Err(error));
    }
}

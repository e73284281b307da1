//! Frames of a session that has attached, to inputs.

use crate::effect::Asker;
use crate::input::Input;
use crate::state::SessionId;
use kingpole_protocol::decoder::Decoder;
use kingpole_protocol::error::{ErrorCode, ErrorReply};
use kingpole_protocol::frame::{Header, KIND_EVENT_FIRST};
use kingpole_protocol::request::Request;

/// The next whole frame as an input. [`Input::Garbage`] is the last thing to come.
pub fn poll_input(session: SessionId, decoder: &mut Decoder) -> Option<Input> {
    let frame = match decoder.next_frame() {
        Ok(frame) => frame?,
        Err(error) => {
            return Some(Input::Garbage {
                session,
                reason: error.to_string(),
            });
        }
    };
    let Header {
        kind,
        request,
        fence,
        descriptors,
        ..
    } = frame.header;
    let asker = Asker { session, request };
    if descriptors != 0 {
        let text = "descriptors cannot travel with frames: that was not agreed on";
        return Some(bad(asker, ErrorCode::UNSUPPORTED, text.to_owned()));
    }
    Some(match Request::decode(kind, frame.body) {
        Ok(Some(request)) => Input::Request {
            asker,
            fence,
            request: Box::new(request),
        },
        Ok(None) if kind < KIND_EVENT_FIRST => {
            let text = format!("this kernel does not know requests of kind {kind:#06x}");
            bad(asker, ErrorCode::UNKNOWN_KIND, text)
        }
        Ok(None) => bad(
            asker,
            ErrorCode::UNKNOWN_KIND,
            format!("kind {kind:#06x} is no request"),
        ),
        Err(error) => bad(
            asker,
            ErrorCode::MALFORMED,
            format!("kind {kind:#06x}: {error}"),
        ),
    })
}

fn bad(asker: Asker, code: ErrorCode, message: String) -> Input {
    Input::BadRequest {
        asker,
        error: Box::new(ErrorReply::new(code, message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kingpole_protocol::frame::{HEADER_BYTES, encode};
    use kingpole_protocol::ids::{Fence, RequestId};
    use kingpole_protocol::request::Ping;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn garbage_ends_in_nothing_or_garbage_and_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            good in 0_u64..3,
        ) {
            let mut decoder = Decoder::new();
            for id in 0..good {
                decoder.extend(&encode(&Ping {}, RequestId(id), Fence::NONE).unwrap());
            }
            decoder.extend(&bytes);
            for _ in 0..good {
                let is_ping = matches!(
                    poll_input(SessionId(1), &mut decoder),
                    Some(Input::Request { .. })
                );
                prop_assert!(is_ping);
            }
            for _ in 0..bytes.len() {
                match poll_input(SessionId(1), &mut decoder) {
                    None | Some(Input::Garbage { .. }) => return Ok(()),
                    Some(_) => {}
                }
            }
        }

        #[test]
        fn every_whole_frame_is_answered_whatever_its_body(
            kind: u16, body in proptest::collection::vec(any::<u8>(), 0..64), id: u64,
            descriptors in 0_u16..3,
        ) {
            let header = Header {
                kind, flags: 0, request: RequestId(id), fence: Fence::NONE,
                body_bytes: u32::try_from(body.len()).unwrap(), descriptors,
            };
            let mut decoder = Decoder::new();
            decoder.extend(&header.to_bytes());
            decoder.extend(&body);
            prop_assert_eq!(decoder.pending().len(), HEADER_BYTES + body.len());
            let asked = match poll_input(SessionId(1), &mut decoder) {
                Some(Input::Request { asker, .. } | Input::BadRequest { asker, .. }) => asker,
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!(asked.request, RequestId(id));
            prop_assert!(decoder.pending().is_empty());
        }
    }
}

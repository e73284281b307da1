//! Whatever bytes come in as frames: the decoder gives whole frames or says that there are none any
//! more, and each request it gives is written back to bytes that say the same.
#![no_main]

use kingpole_protocol::decoder::Decoder;
use kingpole_protocol::frame::HEADER_BYTES;
use kingpole_protocol::request::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut decoder = Decoder::new();
    decoder.extend(input);
    while let Ok(Some(frame)) = decoder.next_frame() {
        let (kind, body) = (frame.header.kind, frame.body.to_vec());
        if let Ok(Some(request)) = Request::decode(kind, &body) {
            let again = request
                .clone()
                .encode(frame.header.request, frame.header.fence)
                .expect("what was decoded is not too long");
            // Maps may come in any order, and twice: not the bytes but what they say is the same.
            let (_, again) = again.split_at(HEADER_BYTES);
            assert_eq!(
                Request::decode(kind, again).expect("our own"),
                Some(request)
            );
        }
    }
});

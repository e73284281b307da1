//! Whatever bytes come in at the prompt, and however they are cut: the same lines come out, no line
//! is longer than allowed, and each is a command or a refusal.
#![no_main]

use kingpole_kernel::text::command::parse_line;
use kingpole_kernel::text::lines::{LineEvent, LineReader};
use libfuzzer_sys::fuzz_target;

const LINE_BYTES_MAX: usize = 200;

fn events(reader: &mut LineReader, mut input: &[u8]) -> Vec<LineEvent> {
    let mut events = Vec::new();
    while let Some(event) = reader.poll_event(&mut input) {
        events.push(event);
        assert!(reader.held_bytes() <= LINE_BYTES_MAX);
    }
    events
}

fuzz_target!(|input: &[u8]| {
    let Some((&cut, input)) = input.split_first() else {
        return;
    };
    let whole = events(&mut LineReader::new(LINE_BYTES_MAX), input);
    let (front, back) = input.split_at(usize::from(cut).min(input.len()));
    let mut reader = LineReader::new(LINE_BYTES_MAX);
    let mut pieces = events(&mut reader, front);
    pieces.extend(events(&mut reader, back));
    assert_eq!(whole, pieces);
    for event in whole {
        if let LineEvent::Line(line) = event {
            assert!(line.len() <= LINE_BYTES_MAX);
            if let Err(error) = parse_line(&line, 50) {
                assert!(!error.to_string().contains('\n'));
            }
        }
    }
});

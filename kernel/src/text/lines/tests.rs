use super::*;
use proptest::prelude::*;

fn events(reader: &mut LineReader, mut input: &[u8]) -> Vec<LineEvent> {
    let mut events = Vec::new();
    while let Some(event) = reader.poll_event(&mut input) {
        events.push(event);
    }
    assert!(input.is_empty());
    events
}

fn line(text: &str) -> LineEvent {
    LineEvent::Line(text.as_bytes().to_vec())
}

#[test]
fn every_kind_of_line_end_ends_a_line() {
    let mut reader = LineReader::new(100);
    let got = events(&mut reader, b"a\nb\r\nc\r\0\nd\re\n\r\n");
    let want = vec![
        line("a"),
        line("b"),
        line("c"),
        line(""),
        line("d\re"),
        line(""),
    ];
    assert_eq!(got, want);
}

#[test]
fn telnet_negotiation_is_declined_and_taken_out_of_the_line() {
    let mut reader = LineReader::new(100);
    let input = [
        b"li".as_slice(),
        &[IAC, DO, 3, IAC, WILL, 31, IAC, WONT, 1, IAC, DONT, 1],
        &[IAC, SB, 31, b'\n', IAC, IAC, 4, IAC, SE],
        b"st\r",
        &[IAC, 241],
        b"\n",
    ]
    .concat();
    let want = vec![
        LineEvent::Answer([IAC, WONT, 3]),
        LineEvent::Answer([IAC, DONT, 31]),
        line("list"),
    ];
    assert_eq!(events(&mut reader, &input), want);
}

#[test]
fn ctrl_d_ends_the_input_only_on_an_empty_line() {
    let mut reader = LineReader::new(100);
    let got = events(&mut reader, b"a\x04\n\x04");
    assert_eq!(got, vec![line("a\x04"), LineEvent::EndOfInput]);
    assert_eq!(
        events(&mut reader, &[IAC, TELNET_EOF]),
        vec![LineEvent::EndOfInput]
    );
}

#[test]
fn interrupt_forgets_the_unfinished_line() {
    let mut reader = LineReader::new(100);
    let got = events(
        &mut reader,
        &[b"remo".as_slice(), &[IAC, IP], b"list\n"].concat(),
    );
    assert_eq!(got, vec![LineEvent::Interrupt, line("list")]);
}

#[test]
fn line_that_is_too_long_is_reported_once_and_holds_nothing() {
    let mut reader = LineReader::new(8);
    assert_eq!(events(&mut reader, b"12345678\n"), vec![line("12345678")]);
    assert_eq!(events(&mut reader, b"1234567"), vec![]);
    assert_eq!(events(&mut reader, b"89"), vec![LineEvent::TooLong]);
    assert_eq!(reader.held_bytes(), 0);
    assert_eq!(events(&mut reader, &[b'x'; 100_000]), vec![]);
    assert_eq!(events(&mut reader, b"\nlist\n"), vec![]);
}

#[test]
fn reader_stops_after_each_line_so_that_frames_can_follow() {
    let mut reader = LineReader::new(100);
    let mut input: &[u8] = b"attach 1\n\xff\x00frame";
    assert_eq!(reader.poll_event(&mut input), Some(line("attach 1")));
    assert_eq!(input, b"\xff\x00frame");
}

proptest! {
    #[test]
    fn cutting_the_input_anywhere_changes_nothing(
        input in proptest::collection::vec(prop_oneof![
            3 => any::<u8>(),
            1 => proptest::sample::select(vec![IAC, DO, WILL, SB, SE, IP, b'\n', b'\r', 0, 4]),
        ], 0..200),
        cuts in proptest::collection::vec(0usize..200, 0..6),
    ) {
        let whole = events(&mut LineReader::new(50), &input);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.sort_unstable();
        let mut reader = LineReader::new(50);
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([input.len()]) {
            pieces.extend(events(&mut reader, &input[from..cut]));
            prop_assert!(reader.held_bytes() <= 50);
            from = cut;
        }
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn text_without_control_bytes_comes_out_as_it_went_in(lines in "([ -~é]{0,20}\n){0,8}") {
        let got = events(&mut LineReader::new(100), lines.as_bytes());
        let want: Vec<LineEvent> = lines.lines().map(line).collect();
        prop_assert_eq!(got, want);
    }
}

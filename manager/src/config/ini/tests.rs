use proptest::prelude::*;

use super::*;

fn read(text: &str) -> IniFile {
    let (file, errors) = parse("t.ini", text.as_bytes());
    assert_eq!(errors, [], "the text is well formed");
    file
}

/// Sections as `(name, [(key, value)])`.
fn plain(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    read(text)
        .sections
        .into_iter()
        .map(|s| {
            (
                s.name,
                s.entries.into_iter().map(|e| (e.key, e.value)).collect(),
            )
        })
        .collect()
}

fn values(text: &str) -> Vec<(String, String)> {
    plain(&format!("[s]\n{text}")).remove(0).1
}

fn value(text: &str) -> String {
    let mut all = values(text);
    assert_eq!(all.len(), 1, "one option: {all:?}");
    all.remove(0).1
}

fn errors(text: &[u8]) -> Vec<(u32, u32, String)> {
    let (_, errors) = parse("t.ini", text);
    assert_ne!(errors, [], "the text is not well formed");
    errors
        .into_iter()
        .map(|d| (d.location.line, d.location.column, d.message))
        .collect()
}

#[test]
fn section_names_keep_inner_spaces_and_what_follows_the_bracket_is_ignored() {
    let text = "[watcher: A b ] trailing\n[x]; y\n";
    let names: Vec<_> = plain(text).into_iter().map(|s| s.0).collect();
    assert_eq!(names, ["watcher: A b ", "x"]);
}

#[test]
fn first_of_equals_and_colon_separates() {
    assert_eq!(values("a : b = c"), [("a".into(), "b = c".into())]);
    assert_eq!(values("a=b:c"), [("a".into(), "b:c".into())]);
    assert_eq!(values("a b\t=  c  "), [("a b".into(), "c".into())]);
}

#[test]
fn keys_keep_their_case() {
    assert_eq!(values("CMD = x\ncmd = y").len(), 2);
}

#[test]
fn comment_lines_begin_in_the_first_column() {
    let text = "# a = 1\n; a = 1\nrem a = 1\nREM a = 1\nReM\na = 2";
    assert_eq!(values(text), [("a".into(), "2".into())]);
    assert_eq!(values("remark = 1").len(), 1);
}

#[test]
fn a_semicolon_behind_white_space_cuts_and_only_the_first_counts() {
    assert_eq!(value("a = b ; c"), "b");
    assert_eq!(value("a = b\t;c"), "b");
    assert_eq!(value("a = b;c"), "b;c");
    assert_eq!(value("a = b;c ; d"), "b;c ; d");
    assert_eq!(value("a = b # c"), "b # c");
    assert_eq!(value("a = ; c"), "");
}

#[test]
fn indented_lines_continue_the_option_and_blank_lines_are_skipped() {
    assert_eq!(
        value("a = b\n  c ; d\n\n \t\n\t# e\n# gone\n  f"),
        "b\nc ; d\n# e\nf"
    );
    assert_eq!(value("a =\n  c"), "\nc");
}

#[test]
fn an_indented_line_below_a_header_is_an_option_with_its_spaces() {
    assert_eq!(values("  a = b"), [("  a".into(), "b".into())]);
}

#[test]
fn a_section_ends_continuation() {
    let text = "[s]\na = b\n[t]\n c = d\n";
    assert_eq!(plain(text)[1].1, [(" c".to_owned(), "d".to_owned())]);
}

#[test]
fn two_quotation_marks_alone_are_the_empty_value() {
    assert_eq!(value("a = \"\""), "");
    assert_eq!(value("a = \"b\""), "\"b\"");
    assert_eq!(value("a = ''"), "''");
    assert_eq!(value("a ="), "");
}

#[test]
fn percent_signs_are_literal() {
    assert_eq!(value("a = %(b)s %%"), "%(b)s %%");
}

#[test]
fn all_line_ends_and_a_byte_order_mark_are_understood() {
    let expected = plain("[s]\na = 1\n  2\nb = 3\n");
    assert_eq!(plain("[s]\r\na = 1\r\n  2\r\nb = 3\r\n"), expected);
    assert_eq!(plain("[s]\ra = 1\r  2\rb = 3"), expected);
    assert_eq!(plain("\u{feff}[s]\na = 1\n  2\nb = 3"), expected);
}

#[test]
fn places_count_characters_from_one() {
    let file = read("# x\n[s]\n  ké  =  välue\nb:\n");
    let section = &file.sections[0];
    assert_eq!(section.location.to_string(), "t.ini:2:1");
    assert_eq!(section.entries[0].key_location.to_string(), "t.ini:3:3");
    assert_eq!(section.entries[0].value_location.to_string(), "t.ini:3:10");
    assert_eq!(section.entries[1].value_location.to_string(), "t.ini:4:3");
}

#[test]
fn every_bad_line_is_reported() {
    let found = errors(b"lost = 1\nlost = 2\n[s]\nno separator\na = 1\n[open\n\x20 [x\n");
    let places: Vec<_> = found.iter().map(|e| (e.0, e.1)).collect();
    assert_eq!(places, [(1, 1), (4, 1), (6, 1), (7, 3)], "{found:?}");
    assert!(found[0].2.contains("in no section"));
    assert!(found[2].2.contains("closing bracket"));
}

#[test]
fn what_follows_a_broken_header_belongs_to_no_other_section() {
    let (file, errors) = parse("t.ini", b"[s]\na = 1\n[open\nb = 2\n[t]\nc = 3\n");
    assert_eq!(errors.len(), 1);
    let keys: Vec<_> = file
        .sections
        .iter()
        .flat_map(|s| s.entries.iter().map(|e| e.key.as_str()))
        .collect();
    assert_eq!(keys, ["a", "c"]);
}

#[test]
fn nul_and_bytes_that_are_no_utf8_are_errors_at_their_place() {
    assert_eq!(errors(b"[s]\na = b\0c\n")[0].0, 2);
    assert_eq!(errors(b"[s]\na = b\0c\n")[0].1, 6);
    let (line, column, message) = errors(b"[s]\r\n\xc3\xa9 = \xff\n").remove(0);
    assert_eq!((line, column), (2, 5));
    assert!(message.contains("0xff"), "{message}");
}

#[test]
fn a_file_beyond_the_limit_is_refused() {
    let big = vec![b'#'; limits::FILE_BYTES + 1];
    assert!(errors(&big)[0].2.contains("more than"));
}

#[test]
fn a_binary_file_gives_a_bounded_number_of_errors() {
    let text = "x\n".repeat(limits::DIAGNOSTICS * 3);
    assert_eq!(errors(text.as_bytes()).len(), limits::DIAGNOSTICS);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_but_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        let _ = parse("t.ini", &bytes);
    }

    #[test]
    fn texts_of_the_grammar_s_own_characters_never_panic_and_places_are_inside(
        text in r#"[\[\]=:;# \trem"a\u{e9}\r\n\u{1d}]{0,200}"#
    ) {
        let line_count = u32::try_from(lines(&text).count()).unwrap();
        let (file, errors) = parse("t.ini", text.as_bytes());
        let entries = file.sections.into_iter().flat_map(|s| s.entries);
        let places = entries
            .flat_map(|e| [e.key_location, e.value_location])
            .chain(errors.into_iter().map(|e| e.location));
        for place in places {
            prop_assert!((1..=line_count).contains(&place.line), "{place}");
            let line = lines(&text).nth(place.line as usize - 1).unwrap();
            prop_assert!(place.column >= 1 && place.column <= column_after(line), "{place}");
        }
    }

    #[test]
    fn what_is_written_plainly_is_read_back(
        pairs in proptest::collection::vec(("[a-z_.]{1,12}", "[a-zA-Z0-9/ $(){}#%]{0,30}"), 0..20)
    ) {
        let mut text = "[watcher:x]\n".to_owned();
        let mut expected = Vec::new();
        for (key, value) in &pairs {
            if key.eq_ignore_ascii_case("rem") {
                continue;
            }
            text.push_str(&format!("{key} = {value}\n"));
            expected.push((key.clone(), strip(value).to_owned()));
        }
        prop_assert_eq!(&plain(&text)[0].1, &expected);
    }
}

//! The reference page in `docs/` is written by hand around tables that come from here.

use std::path::PathBuf;

use super::*;

/// Environment variable that writes the tables into the page instead of comparing them.
const REWRITE: &str = "KINGPOLE_REWRITE_DOCS";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

fn table(keys: &[Key]) -> String {
    let mut text = "| key | type | default | meaning | |\n|---|---|---|---|---|\n".to_owned();
    for Key {
        name,
        kind,
        default,
        meaning,
        support,
    } in keys
    {
        let support = match support {
            Support::Full => String::new(),
            Support::Ours => "ours".to_owned(),
            Support::NotYet(instead) => format!("not yet: {instead}"),
            Support::Ignored(_) => "ignored".to_owned(),
        };
        text.push_str(&format!(
            "| `{name}` | {kind} | {default} | {meaning} | {support} |\n"
        ));
    }
    text
}

fn classes() -> String {
    let mut text = "| class | options | |\n|---|---|---|\n".to_owned();
    for (name, options, support) in STREAM_CLASSES {
        let options: Vec<_> = options.iter().map(|option| format!("`{option}`")).collect();
        let support = match support {
            Support::NotYet(instead) => format!("not yet: {instead}"),
            Support::Ours => "ours".to_owned(),
            _ => String::new(),
        };
        text.push_str(&format!(
            "| `{name}` | {} | {support} |\n",
            options.join(" ")
        ));
    }
    text
}

/// The page with what is between the marks of each table replaced.
fn with_tables(mut page: String) -> String {
    let tables = [
        ("circus", table(CIRCUS)),
        ("admin", table(ADMIN)),
        ("watcher", table(WATCHER)),
        ("stream", table(STREAM)),
        ("classes", classes()),
        ("socket", table(SOCKET)),
        ("plugin", table(PLUGIN)),
    ];
    for (name, table) in tables {
        let begin = format!("<!-- table {name} -->\n");
        let start = page.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let length = page[start..]
            .find("<!-- end -->")
            .expect("every table has an end");
        page.replace_range(start..start + length, &table);
    }
    page
}

#[test]
fn the_reference_page_has_the_tables_that_the_reader_uses() {
    let written = std::fs::read_to_string(page()).expect("the page is there");
    let current = with_tables(written.clone());
    if std::env::var_os(REWRITE).is_some() {
        std::fs::write(page(), &current).expect("the page can be written");
        return;
    }
    assert!(
        written == current,
        "docs/configuration.md is out of date; run {REWRITE}=1 cargo test -p kingpole-manager \
         --lib config::keys"
    );
}

#[test]
fn no_key_hides_another() {
    for table in [CIRCUS, WATCHER, STREAM, SOCKET, PLUGIN] {
        for (at, key) in table.iter().enumerate() {
            let written = key.name.replace('*', "x");
            let found = table.iter().position(|other| other.is(&written));
            assert_eq!(found, Some(at), "{}", key.name);
        }
    }
}

#[test]
fn every_class_takes_options_that_are_known() {
    for (class, options, _) in STREAM_CLASSES {
        for option in *options {
            assert!(find(STREAM, option).is_some(), "{class} {option}");
        }
    }
}

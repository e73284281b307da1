//! Replies as Python writes JSON: `", "` and `": "` between things, everything that is not ASCII
//! escaped, keys in the order in which Circus has them. No client should need that, and scripts that
//! look for words in the output of `circusctl --json` do.

use std::io::{self, Write};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

/// A value whose objects keep their order.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// Anything without an order of ours.
    Value(Value),
    /// Text of JSON that is repeated as it came.
    Raw(Box<RawValue>),
    /// The same, made once for many.
    Shared(Arc<RawValue>),
    /// An object.
    Object(Vec<(String, Tree)>),
    /// A list.
    List(Vec<Tree>),
}

impl<T: Into<Value>> From<T> for Tree {
    fn from(value: T) -> Self {
        Self::Value(value.into())
    }
}

impl Tree {
    /// Its text, to be used again and again.
    pub(super) fn to_raw(&self) -> Option<Arc<RawValue>> {
        let text = String::from_utf8(to_bytes(self)).ok()?;
        RawValue::from_string(text).ok().map(Arc::from)
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Raw(raw) => raw.serialize(serializer),
            Self::Shared(raw) => raw.serialize(serializer),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
        }
    }
}

/// The bytes of a value.
pub(super) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Python);
    match value.serialize(&mut serializer) {
        Ok(()) => bytes,
        // Writing to memory cannot fail, and there are no keys but texts.
        Err(_) => b"null".to_vec(),
    }
}

/// `json.dumps` of Python.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !c.is_ascii() || c == '\u{7f}') {
            let (plain, other) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = other.chars();
            match chars.next() {
                // Python leaves this one alone.
                Some('\u{7f}') => writer.write_all(b"\x7f")?,
                Some(char) => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
                None => {}
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Text as Python's `repr` shows it, cut where it would be too long for a message.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut shown = String::from(quote);
    for char in text.chars().take(200) {
        match char {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\\' => shown.push_str("\\\\"),
            _ if char == quote => {
                shown.push('\\');
                shown.push(char);
            }
            _ if char.is_ascii_control() => shown.push_str(&format!("\\x{:02x}", char as u32)),
            _ => shown.push(char),
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_looks_as_pythons() {
        let raw = RawValue::from_string("1.0E5".to_owned()).unwrap();
        let tree = Tree::Object(vec![
            ("z".into(), json!([1, 2.5, true, null]).into()),
            ("é".into(), "ü \u{1f600} \"\n".into()),
            ("id".into(), Tree::Raw(raw)),
            (
                "list".into(),
                Tree::List(vec![Tree::from(json!({})), Tree::Object(vec![])]),
            ),
        ]);
        assert_eq!(
            String::from_utf8(to_bytes(&tree)).unwrap(),
            r#"{"z": [1, 2.5, true, null], "\u00e9": "\u00fc \ud83d\ude00 \"\n", "id": 1.0E5, "list": [{}, {}]}"#
        );
    }

    #[test]
    fn repr_is_pythons() {
        assert_eq!(repr("nope"), "'nope'");
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("it's \"x\""), "'it\\'s \"x\"'");
        assert_eq!(repr("a\n\x01\\"), "'a\\n\\x01\\\\'");
    }
}

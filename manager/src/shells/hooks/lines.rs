//! Lines of bounded length from pipes.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// The next line without its end, or nothing at the end of the stream or after an error. What is
/// beyond `limit` bytes of a line is read and dropped; that it was is the second value.
pub(super) async fn next<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    limit: usize,
) -> Option<(Vec<u8>, Cut)> {
    let mut line = Vec::new();
    let mut cut = Cut::No;
    loop {
        let available = reader.fill_buf().await.ok()?;
        if available.is_empty() {
            return (!line.is_empty()).then_some((line, cut));
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len()))?;
        let room = limit.saturating_sub(line.len());
        if part.len() > room {
            cut = Cut::Yes;
        }
        line.extend(part.iter().take(room));
        let used = end.map_or(available.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Some((line, cut));
        }
    }
}

/// Whether a line was longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    No,
    Yes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_are_cut_and_the_next_one_is_whole() {
        let mut reader: &[u8] = b"abcdef\n\nxy\nlast";
        let mut lines = Vec::new();
        while let Some((line, cut)) = next(&mut reader, 3).await {
            lines.push((String::from_utf8(line).expect("ASCII"), cut));
        }
        let expected = [
            ("abc", Cut::Yes),
            ("", Cut::No),
            ("xy", Cut::No),
            ("las", Cut::Yes),
        ];
        assert_eq!(lines, expected.map(|(line, cut)| (line.to_owned(), cut)));
    }
}

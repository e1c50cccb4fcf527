//! Live output as a text: Claude's words as they came, one line for each call of a tool and each remark.

use motorpool::{Chunk, ChunkKind};

use super::table::harmless;

/// Puts pieces together; remembers whether the last one left a line open.
#[derive(Debug, Default)]
pub(crate) struct Live {
    is_open: bool,
}

impl Live {
    /// The text that a piece of this run adds.
    pub(crate) fn add(&mut self, run: u64, chunk: &Chunk) -> String {
        let words = harmless(&chunk.text);
        if chunk.kind == ChunkKind::Text {
            self.is_open = if words.is_empty() { self.is_open } else { !words.ends_with('\n') };
            return words;
        }
        let words = words.trim_end();
        let line = match chunk.kind {
            ChunkKind::Start if words.is_empty() => format!("--- run {run}\n"),
            ChunkKind::Start => format!("--- run {run} on {words}\n"),
            ChunkKind::Tool => format!("> {}\n", words.replace('\n', " ")),
            ChunkKind::Note | ChunkKind::Text => format!("# {}\n", words.replace('\n', "\n# ")),
        };
        format!("{}{line}", self.end())
    }

    /// Closes a line that is open.
    pub(crate) fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.is_open) { "\n" } else { "" }
    }
}

/// What one run said, without the line of its start.
pub(crate) fn text(chunks: &[Chunk]) -> String {
    let mut live = Live::default();
    chunks.iter().filter(|chunk| chunk.kind != ChunkKind::Start).map(|chunk| live.add(1, chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: ChunkKind, text: &str) -> Chunk {
        Chunk { cursor: "1-0".into(), kind, text: text.into() }
    }

    #[test]
    fn words_are_put_together_and_the_rest_has_lines_of_its_own() {
        let chunks = [
            chunk(ChunkKind::Start, ""),
            chunk(ChunkKind::Text, "The qu"),
            chunk(ChunkKind::Text, "ick \n  fox "),
            chunk(ChunkKind::Text, ""),
            chunk(ChunkKind::Tool, "Bash(cargo\ntest)"),
            chunk(ChunkKind::Tool, "Read(a)"),
            chunk(ChunkKind::Text, "jumps\x1b\n"),
            chunk(ChunkKind::Note, "one\ntwo"),
            chunk(ChunkKind::Text, "over"),
        ];
        let mut live = Live::default();
        let all: String = chunks.iter().map(|chunk| live.add(2, chunk)).collect();
        let words = "The quick \n  fox \n> Bash(cargo test)\n> Read(a)\njumps\u{fffd}\n# one\n# two\nover";
        assert_eq!(all, format!("--- run 2\n{words}"));
        assert_eq!((live.end(), live.end()), ("\n", ""));
        assert_eq!(text(&chunks), words);
        assert_eq!(Live::default().add(1, &chunk(ChunkKind::Start, "w1")), "--- run 1 on w1\n");
    }
}

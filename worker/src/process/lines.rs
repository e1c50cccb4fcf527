//! Reading a child's pipes: its stdout line by line with a bound, its stderr as a tail.
//!
//! Both can be dropped in the middle of a wait and called again: nothing that was read is lost. Not here: what a line
//! means (`claude/event.rs`).

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A longer line is an error: the CLI's are bounded by what a model and its tools can say.
pub const LONGEST_LINE_BYTES: usize = 32 * 1024 * 1024;
/// So much of a buffer is kept after a long line.
const KEPT_BUFFER_BYTES: usize = 64 * 1024;

/// A stream, by lines.
#[derive(Debug)]
pub struct Lines<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Up to here no end of a line was found.
    searched: usize,
    longest: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of up to `longest` bytes.
    pub fn new(stream: R, longest: usize) -> Self {
        Self { stream, buffer: Vec::new(), searched: 0, longest, ended: false }
    }

    /// The next line without its end; nothing when the stream has ended.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.ended {
                self.searched = 0;
                let rest = std::mem::take(&mut self.buffer);
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            if self.buffer.len() > self.longest {
                return Err(io::Error::other(format!("a line of more than {} bytes", self.longest)));
            }
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER_BYTES {
                self.buffer = Vec::new();
            }
            self.ended = self.stream.read_buf(&mut self.buffer).await? == 0;
        }
    }
}

/// The last bytes of a stream.
#[derive(Debug)]
pub struct Tail<R> {
    stream: R,
    kept: VecDeque<u8>,
    most: usize,
}

impl<R: AsyncRead + Unpin> Tail<R> {
    /// The last `most` bytes.
    pub fn new(stream: R, most: usize) -> Self {
        Self { stream, kept: VecDeque::new(), most }
    }

    /// Reads what there is; false when the stream has ended.
    pub async fn read(&mut self) -> bool {
        let mut chunk = [0; 1024];
        match self.stream.read(&mut chunk).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.kept.extend(&chunk[..read]);
                let over = self.kept.len().saturating_sub(self.most);
                self.kept.drain(..over);
                true
            }
        }
    }

    /// What is kept, as text.
    #[must_use]
    pub fn text(&self) -> String {
        let (front, back) = self.kept.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8], longest: usize) -> Vec<Result<String, String>> {
        let mut lines = Lines::new(text, longest);
        let mut read = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => read.push(Ok(String::from_utf8(line).unwrap())),
                Ok(None) => return read,
                Err(error) => {
                    read.push(Err(error.to_string()));
                    return read;
                }
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn lines_come_whole_and_bounded() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(read(b"a\n\nbc\nd", 10).await, [ok("a"), ok(""), ok("bc"), ok("d")]);
        assert_eq!(read(b"", 10).await, []);
        let long = vec![b'x'; 100_000];
        assert_eq!(read(&long, 50_000).await, [Err("a line of more than 50000 bytes".to_owned())]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_tail_is_the_last_bytes() {
        let text = "x".repeat(5000) + "the end";
        let mut tail = Tail::new(text.as_bytes(), 7);
        while tail.read().await {}
        assert_eq!(tail.text(), "the end");
    }
}

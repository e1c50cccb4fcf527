//! What a prompt tells the stand-ins to do: lines that begin with `@` and a known word.
//!
//! Pure text in, [`Script`] out. Not here: which text of a conversation counts (`conversation`), what is answered (`answer`).

use serde_json::{Value, json};
use std::time::Duration;

/// One piece of the final text.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// These words.
    Said(String),
    /// Something of the request itself: `result`, `last`, `system` or `model`.
    Echo(String),
}

/// One tool call, made when its turn has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Name as offered by the CLI, for example `Bash`.
    pub name: String,
    /// Its input.
    pub input: Value,
}

/// An error answer with its HTTP status.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// The API's `error.message`.
    pub message: String,
}

/// A reason not to answer as asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// Every request fails.
    Always(Failure),
    /// The first `times` requests under this key fail.
    First {
        /// Shared by all requests that name it, for the life of the server.
        key: String,
        /// How many requests fail.
        times: u64,
        /// With what.
        failure: Failure,
    },
    /// The usage limit of a window is reached, on every request anew.
    Limit {
        /// Seconds from now until it resets.
        seconds: u64,
        /// `five_hour`, `seven_day`, …
        window: String,
    },
    /// The usage limit is reached until the reset time told at the first request under this key.
    LimitOnce {
        /// As above.
        key: String,
        /// Seconds from the first request until the reset.
        seconds: u64,
        /// As above.
        window: String,
    },
    /// Every answer breaks off in the middle.
    Drop,
    /// The first `times` answers under this key break off in the middle.
    DropFirst {
        /// As above.
        key: String,
        /// How many answers break off.
        times: u64,
    },
}

/// All that the directives of one text ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Script {
    /// The final text, a line each; empty means the default.
    pub text: Vec<Piece>,
    /// Tool calls, one a request, in this order.
    pub tools: Vec<Tool>,
    /// Waited before each answer.
    pub sleep: Duration,
    /// The text comes in so many deltas, so far apart.
    pub slow: Option<(usize, Duration)>,
    /// What goes wrong, in order of writing; the first that applies decides.
    pub troubles: Vec<Trouble>,
    /// Troubles begin after so many tool results.
    pub after: usize,
    /// Extra response headers.
    pub headers: Vec<(String, String)>,
    /// Input and output tokens of each answer.
    pub usage: Option<(u64, u64)>,
    /// Input for the tool `StructuredOutput`.
    pub structured: Option<Value>,
    /// Answer in text although a schema is asked.
    pub text_instead: bool,
    /// This text decides from here on, not the first one.
    pub takes_over: bool,
    /// Exit code without a result; only the stand-in for the CLI can do this.
    pub exit: Option<i32>,
    /// Directives that could not be read, so that a slip in a test is seen.
    pub mistakes: Vec<String>,
}

impl Script {
    /// Reads the directives of a text; `None` when it has none.
    pub fn parse(text: &str) -> Option<Script> {
        let mut script = Script::default();
        let mut found = false;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix('@') else { continue };
            let (word, arguments) = split(rest);
            match script.take(word, arguments) {
                Known::Yes => found = true,
                Known::Unreadable => {
                    found = true;
                    script.mistakes.push(line.chars().take(200).collect());
                }
                // An ordinary line that happens to begin with @.
                Known::No => {}
            }
        }
        found.then_some(script)
    }

    fn take(&mut self, word: &str, arguments: &str) -> Known {
        let read = match word {
            "say" => {
                self.text.push(Piece::Said(unescape(arguments)));
                Some(())
            }
            "upper" => {
                self.text.push(Piece::Said(arguments.to_uppercase()));
                Some(())
            }
            "echo" => matches!(arguments, "result" | "last" | "system" | "model")
                .then(|| self.text.push(Piece::Echo(arguments.into()))),
            "sleep" => arguments.parse().ok().map(|ms| self.sleep = Duration::from_millis(ms)),
            "slow" => pair::<usize, u64>(arguments).map(|(count, ms)| {
                self.slow = Some((count.max(1), Duration::from_millis(ms)));
            }),
            "bash" => self.call("Bash", json!({"command": arguments, "description": "Run a scripted command"})),
            "write" => {
                let (path, content) = split(arguments);
                self.call("Write", json!({"file_path": path, "content": unescape(content)}))
            }
            "tool" => {
                let (name, input) = split(arguments);
                let input = if input.is_empty() { Some(json!({})) } else { serde_json::from_str(input).ok() };
                input.and_then(|input| self.call(name, input))
            }
            "status" => failure(arguments).map(|failure| self.troubles.push(Trouble::Always(failure))),
            "fail" => keyed(arguments).and_then(|(key, times, rest)| {
                failure(rest).map(|failure| self.troubles.push(Trouble::First { key, times, failure }))
            }),
            "limit" => {
                let (seconds, rest) = split(arguments);
                seconds.parse().ok().map(|seconds| self.troubles.push(Trouble::Limit { seconds, window: window(rest) }))
            }
            "once-limit" => keyed(arguments).map(|(key, seconds, rest)| {
                self.troubles.push(Trouble::LimitOnce { key, seconds, window: window(rest) });
            }),
            "drop" if arguments.is_empty() => {
                self.troubles.push(Trouble::Drop);
                Some(())
            }
            "drop" => keyed(arguments).map(|(key, times, _)| self.troubles.push(Trouble::DropFirst { key, times })),
            "after" => arguments.parse().ok().map(|after| self.after = after),
            "retry-after" => self.header("retry-after", arguments),
            "header" => {
                let (name, value) = split(arguments);
                self.header(name, value)
            }
            "usage" => pair(arguments).map(|usage| self.usage = Some(usage)),
            "json" => serde_json::from_str(arguments).ok().map(|value| self.structured = Some(value)),
            "text-instead" => {
                self.text_instead = true;
                Some(())
            }
            "now" => {
                self.takes_over = true;
                Some(())
            }
            "exit" => arguments.parse().ok().map(|code| self.exit = Some(code)),
            _ => return Known::No,
        };
        if read.is_some() { Known::Yes } else { Known::Unreadable }
    }

    fn call(&mut self, name: &str, input: Value) -> Option<()> {
        (!name.is_empty()).then(|| self.tools.push(Tool { name: name.into(), input }))
    }

    fn header(&mut self, name: &str, value: &str) -> Option<()> {
        (!name.is_empty() && !value.is_empty()).then(|| self.headers.push((name.to_lowercase(), value.into())))
    }
}

enum Known {
    Yes,
    No,
    Unreadable,
}

/// The first word, and what follows it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

fn pair<A: std::str::FromStr, B: std::str::FromStr>(text: &str) -> Option<(A, B)> {
    let (first, second) = split(text);
    Some((first.parse().ok()?, second.parse().ok()?))
}

fn keyed(text: &str) -> Option<(String, u64, &str)> {
    let (key, rest) = split(text);
    let (number, rest) = split(rest);
    Some((key.to_owned(), number.parse().ok()?, rest))
}

fn window(text: &str) -> String {
    if text.is_empty() { "five_hour".into() } else { text.into() }
}

fn failure(text: &str) -> Option<Failure> {
    let (status, message) = split(text);
    let status = status.parse().ok().filter(|status| (400..600).contains(status))?;
    let message = if message.is_empty() { usual_message(status) } else { message };
    Some(Failure { status, message: message.into() })
}

/// What the API says with a status when the script does not say more.
pub fn usual_message(status: u16) -> &'static str {
    match status {
        400 => "messages: the request is not valid",
        401 => "invalid x-api-key",
        402 => "There is a problem with your billing.",
        403 => "Your API key does not have permission to use the specified resource.",
        404 => "model: not found",
        413 => "Request exceeds the maximum size",
        429 => "This request would exceed your account's rate limit. Please try again later.",
        503 => "Service unavailable",
        529 => "Overloaded",
        _ => "Internal server error",
    }
}

/// The API's `error.type` that goes with a status.
pub fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// `\n` means a new line, since a directive is one line; `\\` is a backslash.
fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            ('\\', Some('n')) => {
                letters.next();
                result.push('\n');
            }
            ('\\', Some('\\')) => {
                letters.next();
                result.push('\\');
            }
            _ => result.push(letter),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_has_no_script() {
        for text in ["", "Fix the bug", "mail me @say or\n @say this", "@someone look at @README.md", "@"] {
            assert_eq!(Script::parse(text), None, "{text}");
        }
    }

    #[test]
    fn directives_are_found_after_ordinary_lines() {
        let script =
            Script::parse("Please do this.\n\n@write a.txt one\\ntwo\n@bash ls | wc -l\nand\n@say all\\\\done")
                .unwrap();
        assert_eq!(script.tools[0].input, json!({"file_path": "a.txt", "content": "one\ntwo"}));
        assert_eq!(script.tools[1].name, "Bash");
        assert_eq!(script.tools[1].input["command"], "ls | wc -l");
        assert_eq!(script.text, [Piece::Said("all\\done".into())]);
    }

    #[test]
    fn troubles_are_read_with_their_defaults() {
        let check = |line: &str, expected: Trouble| {
            assert_eq!(Script::parse(line).unwrap().troubles, [expected], "{line}");
        };
        let failure = |status, message: &str| Failure { status, message: message.into() };
        check("@status 529", Trouble::Always(failure(529, "Overloaded")));
        check("@status 400 prompt is too long: 9 > 8", Trouble::Always(failure(400, "prompt is too long: 9 > 8")));
        check(
            "@fail k 2 503",
            Trouble::First { key: "k".into(), times: 2, failure: failure(503, "Service unavailable") },
        );
        check("@limit 60", Trouble::Limit { seconds: 60, window: "five_hour".into() });
        check("@limit 9 seven_day_opus", Trouble::Limit { seconds: 9, window: "seven_day_opus".into() });
        check("@once-limit k 3", Trouble::LimitOnce { key: "k".into(), seconds: 3, window: "five_hour".into() });
        check("@drop", Trouble::Drop);
        check("@drop k 1", Trouble::DropFirst { key: "k".into(), times: 1 });
    }

    #[test]
    fn the_rest_is_read() {
        let text = "@sleep 20\n@slow 5 100\n@usage 7 8\n@json {\"a\":1}\n@text-instead\n@now\n@after 2\n@retry-after 3\n\
                    @header X-Should-Retry false\n@tool Read {\"file_path\":\"a\"}\n@tool Status\n@upper word\n@echo model\n@exit 4";
        let script = Script::parse(text).unwrap();
        assert_eq!(script.sleep, Duration::from_millis(20));
        assert_eq!(script.slow, Some((5, Duration::from_millis(100))));
        assert_eq!(script.usage, Some((7, 8)));
        assert_eq!(script.structured, Some(json!({"a": 1})));
        assert!(script.text_instead && script.takes_over);
        assert_eq!(script.after, 2);
        assert_eq!(script.headers, [("retry-after".into(), "3".into()), ("x-should-retry".into(), "false".into())]);
        assert_eq!(script.tools.len(), 2);
        assert_eq!(script.text, [Piece::Said("WORD".into()), Piece::Echo("model".into())]);
        assert_eq!(script.exit, Some(4));
        assert_eq!(script.mistakes, [""; 0]);
    }

    #[test]
    fn a_slip_is_kept_for_the_answer() {
        for line in
            ["@status", "@status 200", "@sleep soon", "@tool X {", "@json no", "@fail 2 500", "@usage 1", "@tool"]
        {
            assert_eq!(Script::parse(line).unwrap().mistakes, [line], "{line}");
        }
    }
}

//! Prompts with places that outputs of other tasks are put into.
//!
//! Read once into pieces and filled in one pass: text that came from an output is never read again. Not here: which
//! step may name what (`chain.rs`), where the outputs come from (`worker`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::limits;
use crate::error::{Error, Result};

/// A place in a prompt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `{previous_output}`: what the step before gave.
    Previous,
    /// `{steps.NAME.VAR}`: a value taken from an earlier step's output.
    Var {
        /// The step.
        step: String,
        /// One of its `output_vars`.
        var: String,
    },
    /// `{error}`: why the step failed; in a recovery prompt alone.
    Error,
    /// `{outputs}`: what every item of a fan-out gave; in a `collect` prompt alone.
    Outputs,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Previous => f.write_str("{previous_output}"),
            Self::Var { step, var } => write!(f, "{{steps.{step}.{var}}}"),
            Self::Error => f.write_str("{error}"),
            Self::Outputs => f.write_str("{outputs}"),
        }
    }
}

/// What kind of prompt it is: which places mean something in it. Others are plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Of a chain's step.
    Step,
    /// What a step does when it has failed.
    Recovery,
    /// Of the task that gathers a fan-out's outputs.
    Collect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Place),
}

impl Piece {
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Place(place) => Some(place),
            Self::Text(_) => None,
        }
    }
}

/// A prompt that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

/// Whether a text does as the name of a step or variable.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    (1..=limits::STEP_NAME_CHARS).contains(&text.chars().count()) && text.chars().all(fits)
}

impl Template {
    /// Reads a prompt. `{{` is a brace; braces that begin no place are text.
    ///
    /// # Errors
    /// A `{steps.…}` that names no step and variable.
    pub fn read(prompt: &str, kind: Prompt) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = prompt;
        while let Some(at) = rest.find('{') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(behind) = rest.strip_prefix("{{") {
                text.push('{');
                rest = behind;
                continue;
            }
            match place_at(rest, kind)? {
                Some((place, behind)) => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Place(place));
                    rest = behind;
                }
                None => {
                    text.push('{');
                    rest = &rest[1..];
                }
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { pieces })
    }

    /// What it names, each once.
    #[must_use]
    pub fn places(&self) -> BTreeSet<&Place> {
        self.pieces.iter().filter_map(Piece::place).collect()
    }

    /// The prompt with a value for each place.
    ///
    /// # Errors
    /// The first place that `value` has none for.
    pub fn fill(&self, mut value: impl FnMut(&Place) -> Option<String>) -> std::result::Result<String, Place> {
        let mut filled = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Place(place) => filled.push_str(&value(place).ok_or_else(|| place.clone())?),
            }
        }
        Ok(filled)
    }
}

/// The place that a text beginning with a brace begins with, and what is behind it.
fn place_at(text: &str, kind: Prompt) -> Result<Option<(Place, &str)>> {
    let plain: &[(&str, Place)] = match kind {
        Prompt::Step => &[("{previous_output}", Place::Previous)],
        Prompt::Recovery => &[("{previous_output}", Place::Previous), ("{error}", Place::Error)],
        Prompt::Collect => &[("{outputs}", Place::Outputs)],
    };
    for (word, place) in plain {
        if let Some(behind) = text.strip_prefix(word) {
            return Ok(Some((place.clone(), behind)));
        }
    }
    let Some(inner) = text.strip_prefix("{steps.").filter(|_| kind != Prompt::Collect) else { return Ok(None) };
    let Some(end) = inner.find(['}', '{', '\n']).filter(|end| inner[*end..].starts_with('}')) else { return Ok(None) };
    let named = &inner[..end];
    match named.split_once('.') {
        Some((step, var)) if is_name(step) && is_name(var) => {
            let place = Place::Var { step: step.to_owned(), var: var.to_owned() };
            Ok(Some((place, &inner[end + 1..])))
        }
        _ => Err(Error::usage(format!("{{steps.{named}}} names no step and variable"))
            .hint("write {steps.STEP.VARIABLE}, or {{steps… for a brace that is meant as it stands")),
    }
}

/// A text as it is put into a prompt: without a trailing newline, and cut in the middle where it is too long, saying so
/// and where the whole of it is.
#[must_use]
pub fn shortened(text: &str, whole: &str) -> String {
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    let count = text.chars().count();
    if count <= limits::SUBSTITUTED_CHARS {
        return text.to_owned();
    }
    let note = format!("\n[… cut here: {count} characters in all; the whole of it: {whole} …]\n");
    let half = (limits::SUBSTITUTED_CHARS - note.chars().count()) / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half).collect();
    format!("{head}{note}{tail}")
}

/// The value at a path of an output: the structured one where there is one, else its text as JSON, in a fence too.
/// `.` or nothing is all of it. A dot in a key is written `\.`.
///
/// Nothing where there is none; a text as it is, other values as JSON.
#[must_use]
pub fn extract(path: &str, output: &str, structured: Option<&Value>) -> Option<String> {
    let text_of = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if path.is_empty() || path == "." {
        return Some(structured.map_or_else(|| output.to_owned(), text_of));
    }
    let read;
    let mut value = match structured {
        Some(value) => value,
        None => {
            read = json_in(output)?;
            &read
        }
    };
    for key in keys(path) {
        value = match value {
            Value::Object(map) => map.get(&key)?,
            Value::Array(list) => list.get(key.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(text_of(value))
}

/// A path's keys.
fn keys(path: &str) -> Vec<String> {
    let (mut keys, mut key) = (Vec::new(), String::new());
    let mut letters = path.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek() == Some(&'.') => key.extend(letters.next()),
            '.' => keys.push(std::mem::take(&mut key)),
            _ => key.push(letter),
        }
    }
    keys.push(key);
    keys
}

/// The JSON that a text is, or that stands in its only or first fenced block that holds some.
fn json_in(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text.trim()) {
        return Some(value);
    }
    let mut rest = text;
    while let Some(begin) = rest.find("```") {
        let behind = &rest[begin + 3..];
        let body = &behind[behind.find('\n')? + 1..];
        let end = body.find("```")?;
        if let Ok(value) = serde_json::from_str(body[..end].trim()) {
            return Some(value);
        }
        rest = &body[end + 3..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(prompt: &str, previous: &str) -> String {
        let value = |place: &Place| match place {
            Place::Previous => Some(previous.to_owned()),
            Place::Var { step, var } => Some(format!("<{step}/{var}>")),
            Place::Error => Some("why".to_owned()),
            Place::Outputs => Some("all".to_owned()),
        };
        Template::read(prompt, Prompt::Recovery).unwrap().fill(value).unwrap()
    }

    #[test]
    fn what_came_from_an_output_is_not_read_again() {
        for hostile in ["{previous_output}", "{steps.a.b}", "{{", "{error}", "}{", "{steps.", "\u{1F980}{"] {
            assert_eq!(fill("<{previous_output}|{previous_output}>", hostile), format!("<{hostile}|{hostile}>"));
        }
    }

    #[test]
    fn braces_that_begin_no_place_are_text() {
        for (prompt, filled) in [
            ("fn main() { x{} }", "fn main() { x{} }"),
            (r#"{"a": {"b": 1}}"#, r#"{"a": {"b": 1}}"#),
            ("{{previous_output}", "{previous_output}"),
            ("{{{previous_output}", "{p"),
            ("{ previous_output }", "{ previous_output }"),
            ("{steps.a.b} {error}", "<a/b> why"),
            ("{steps.\n}", "{steps.\n}"),
            ("{", "{"),
            ("{outputs}", "{outputs}"),
        ] {
            assert_eq!(fill(prompt, "p"), filled, "{prompt}");
        }
    }

    #[test]
    fn a_place_that_names_nothing_is_refused() {
        for prompt in ["{steps.a}", "{steps..b}", "{steps.a.b.c}", "{steps.a b.c}"] {
            let error = Template::read(prompt, Prompt::Step).unwrap_err();
            assert!(error.message().contains(prompt), "{error}");
        }
        let template = Template::read("{steps.a.b}", Prompt::Step).unwrap();
        let missing = template.fill(|_| None).unwrap_err();
        assert_eq!(missing.to_string(), "{steps.a.b}");
    }

    #[test]
    fn values_are_found_where_outputs_have_them() {
        let structured = json!({"a": [{"b.c": "x"}, 2], "t": "text", "n": null});
        for (path, expected) in [
            ("a.0.b\\.c", Some("x")),
            ("a.1", Some("2")),
            ("a.0", Some(r#"{"b.c":"x"}"#)),
            ("n", Some("null")),
            ("t.x", None),
            ("a.2", None),
            ("a.x", None),
            ("", Some(r#"{"a":[{"b.c":"x"},2],"n":null,"t":"text"}"#)),
        ] {
            assert_eq!(extract(path, "ignored", Some(&structured)).as_deref(), expected, "{path}");
        }
        for (output, expected) in [
            (r#" {"v": 1} "#, Some("1")),
            ("Here:\n```json\n{\"v\": \"ä\"}\n```\nDone.", Some("ä")),
            ("```rust\nfn\n```\n```\n{\"v\": [1]}\n```", Some("[1]")),
            ("no JSON", None),
            ("```\n{\"v\"", None),
            ("``` {\"v\": 1}```", None),
            ("", None),
        ] {
            assert_eq!(extract("v", output, None).as_deref(), expected, "{output}");
        }
        assert_eq!(extract(".", "as it\nis\n", None).as_deref(), Some("as it\nis\n"));
    }

    #[test]
    fn a_long_text_is_cut_in_the_middle_and_says_where_the_whole_is() {
        assert_eq!(shortened("x\r\n", "t1"), "x");
        assert_eq!(shortened("x\n\n", "t1"), "x\n");
        let exact = "ä".repeat(limits::SUBSTITUTED_CHARS);
        assert_eq!(shortened(&exact, "t1"), exact);
        let cut = shortened(&format!("head{exact}tail"), "`motorpool result t1`");
        assert!(cut.starts_with("head") && cut.ends_with("tail") && cut.contains("result t1"), "{cut:.200}");
        assert!(cut.chars().count() <= limits::SUBSTITUTED_CHARS);
    }
}

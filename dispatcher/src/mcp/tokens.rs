//! Bearer tokens of the HTTP face: a file with a line for each, read again on demand.
//!
//! Tokens are kept as hashes and compared in constant time; nothing here prints one. Not here: where they are asked
//! for (`http.rs`).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use motorpool::{Error, Result, TaskOptions};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::term::time::parse_rfc3339;

/// Shortest token, in characters: 128 bits in hexadecimal digits.
const SHORTEST: usize = 32;
/// Most tokens of a file.
const MOST: usize = 10_000;

/// Who holds a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller(String);

impl Caller {
    pub(super) fn name(&self) -> &str {
        &self.0
    }
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Unknown,
    Expired,
}

struct Entry {
    name: String,
    hash: [u8; 32],
    expires_ms: Option<u64>,
}

/// The tokens of a file as they were when it was last read.
pub(super) struct Tokens {
    file: PathBuf,
    entries: RwLock<Vec<Entry>>,
}

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is none; the error names the line, never the token.
    pub(super) fn read(file: &Path) -> Result<Self> {
        Ok(Self { file: file.to_owned(), entries: RwLock::new(entries(file)?) })
    }

    /// Reads the file again; one that cannot be read changes nothing.
    pub(super) fn reload(&self) -> Result<usize> {
        let new = entries(&self.file)?;
        let count = new.len();
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(count)
    }

    /// Whose token this is.
    pub(super) fn caller(&self, token: &str, now_ms: u64) -> Result<Caller, Denied> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let hash = hash(token);
        // Every entry is looked at, whichever it is.
        let mut found = u32::MAX;
        for (at, entry) in (0_u32..).zip(entries.iter()) {
            let same: Choice = entry.hash.ct_eq(&hash);
            found.conditional_assign(&at, same);
        }
        match entries.get(found as usize) {
            None => Err(Denied::Unknown),
            Some(entry) if entry.expires_ms.is_some_and(|at| now_ms >= at) => Err(Denied::Expired),
            Some(entry) => Ok(Caller(entry.name.clone())),
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn entries(file: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::usage(format!("cannot read the tokens in {}: {error}", file.display()))
            .hint("--token-file names a file with lines NAME TOKEN [EXPIRES]")
    })?;
    if std::fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!(file = %file.display(), "others on this machine can read the tokens: chmod 600");
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (n, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line)
            .map_err(|(what, hint)| Error::usage(format!("line {n} of {}: {what}", file.display())).hint(hint))?;
        if entries.iter().any(|other| other.hash == entry.hash) {
            return Err(Error::usage(format!("line {n} of {}: its token stands there twice", file.display()))
                .hint("give each name a token of its own"));
        }
        entries.push(entry);
    }
    if entries.is_empty() || entries.len() > MOST {
        return Err(Error::usage(format!("{} has {} tokens", file.display(), entries.len()))
            .hint(format!("1 to {MOST} are taken, a line each: NAME TOKEN [EXPIRES]")));
    }
    Ok(entries)
}

fn entry(line: &str) -> Result<Entry, (String, String)> {
    let wrong = |what: &str, hint: &str| Err((what.to_owned(), hint.to_owned()));
    let mut words = line.split_whitespace();
    let (Some(name), Some(token), expires, None) = (words.next(), words.next(), words.next(), words.next()) else {
        return wrong("it is not NAME TOKEN [EXPIRES]", "write a name, a token and, if it ends, a date");
    };
    let options = TaskOptions { coordinator: Some(name.to_owned()), ..TaskOptions::default() };
    if options.check().is_err() {
        return wrong("its name does not do", "give 1 to 200 bytes");
    }
    if token.len() < SHORTEST || token.len() > 1_000 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("its token is too short or no plain text", "make one with: openssl rand -hex 32");
    }
    let expires_ms = match expires {
        None => None,
        Some(text) => match parse_rfc3339(text) {
            Some(ms) => Some(ms),
            None => return wrong("its end is no date", "write 2027-01-31 or 2027-01-31T12:00:00Z"),
        },
    };
    Ok(Entry { name: name.to_owned(), hash: hash(token), expires_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_token_names_its_caller_until_it_ends() {
        let file = file(&format!("# who\nann {ONE}\n\nbob {TWO} 1970-01-01T00:00:01Z\n"));
        let tokens = Tokens::read(file.path()).unwrap();
        assert_eq!(tokens.caller(ONE, 5_000), Ok(Caller("ann".into())));
        assert_eq!(tokens.caller(TWO, 999), Ok(Caller("bob".into())));
        assert_eq!(tokens.caller(TWO, 1_000), Err(Denied::Expired));
        for unknown in ["", "x", &ONE[1..], &format!("{ONE}0")] {
            assert_eq!(tokens.caller(unknown, 0), Err(Denied::Unknown), "{unknown}");
        }
    }

    #[test]
    fn a_file_is_read_again_and_a_bad_one_changes_nothing() {
        let file = file(&format!("ann {ONE}\n"));
        let tokens = Tokens::read(file.path()).unwrap();
        std::fs::write(file.path(), "ann short\n").unwrap();
        tokens.reload().unwrap_err();
        assert!(tokens.caller(ONE, 0).is_ok());
        std::fs::write(file.path(), format!("ann {TWO}\n")).unwrap();
        assert_eq!(tokens.reload().unwrap(), 1);
        assert!(tokens.caller(ONE, 0).is_err() && tokens.caller(TWO, 0).is_ok());
    }

    #[test]
    fn a_bad_line_is_named_and_its_token_is_not() {
        for (text, expected) in [
            (format!("ann {ONE}\nbob\n"), "line 2"),
            (format!("ann {ONE} 2027-01-31 more"), "NAME TOKEN [EXPIRES]"),
            (format!("ann {ONE} tomorrow"), "no date"),
            ("ann 0123".to_owned(), "too short"),
            (format!("ann {ONE}\nbob {ONE}"), "twice"),
            ("# none\n".to_owned(), "has 0 tokens"),
        ] {
            let file = file(&text);
            let error = Tokens::read(file.path()).err().unwrap().to_string();
            assert!(error.contains(expected) && !error.contains("0123"), "{error}");
        }
    }
}

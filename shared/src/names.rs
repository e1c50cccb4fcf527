//! Names of which each belongs to one process of a user at a time: of hosts, and of workers that no host has started.
//!
//! A name is held by a lock on a file, which ends with its holder, so who comes back after a kill has it again. Not
//! here: whether another machine uses the name in the same pool (`store/host.rs`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::embedded::Lock;
use crate::error::{Error, Result};

/// A name that this process has until it drops it.
#[derive(Debug)]
pub struct OwnName {
    name: String,
    number: u32,
    place: String,
    file: PathBuf,
    _lock: Lock,
}

impl OwnName {
    /// The first free one of `base`, `base.2`, `base.3`…, from `number` on, among those who work for the same `pool`.
    ///
    /// # Errors
    /// `dir` cannot be written to, or a thousand names are taken.
    pub fn take(dir: &Path, pool: &str, base: &str, number: u32) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| {
            Error::failed(format!("{} cannot be made: {error}", dir.display())).hint("name another --state-dir")
        })?;
        let pool = hash(pool, 12);
        for number in number.max(1)..=1_000 {
            let name = if number == 1 { base.to_owned() } else { format!("{base}.{number}") };
            let file = dir.join(format!("{pool}-{name}"));
            if let Some(lock) = Lock::try_exclusive(&file)? {
                // The file itself tells one machine, or container, from another of the same name.
                let place = hash(&format!("{pool} {name} {}", lock.identity()), 32);
                return Ok(Self { name, number, place, file, _lock: lock });
            }
        }
        Err(Error::failed(format!("a thousand processes on this machine are named {base}")))
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which of the names of its base it is.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Where only one process can have this name.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A file that is its holder's alone, beside the lock.
    #[must_use]
    pub fn file(&self, what: &str) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(format!(".{what}"));
        name.into()
    }
}

fn hash(text: &str, digits: usize) -> String {
    let mut hash = String::new();
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(hash, "{byte:02x}");
    }
    hash.truncate(digits);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_and_is_free_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = OwnName::take(dir.path(), "p", "laptop", 1).unwrap();
        let second = OwnName::take(dir.path(), "p", "laptop", 1).unwrap();
        let other = OwnName::take(dir.path(), "q", "laptop", 1).unwrap();
        assert_eq!((first.name(), second.name(), other.name()), ("laptop", "laptop.2", "laptop"));
        assert!(first.place() != second.place() && first.place() != other.place());
        let place = first.place().to_owned();
        drop(first);
        let again = OwnName::take(dir.path(), "p", "laptop", 1).unwrap();
        assert_eq!((again.name(), again.place()), ("laptop", place.as_str()));
    }
}

//! Results that Redis has not taken yet, in files: a worker's last word outlives its process.
//!
//! A file is locked by the process that wrote it, so what is unlocked is nobody's any more. Not here: what a result
//! says and who tells it (`pool/outbox.rs`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::embedded::Lock;
use crate::error::{Error, Result};

/// Results that are kept in one directory, at most.
const MOST_FILES: usize = 1_000;
/// The longest result: an output of 4 MiB with all that goes with it.
const MOST_BYTES: u64 = 32 * 1024 * 1024;
/// Damaged files that are kept to be looked at.
const MOST_DAMAGED: usize = 10;
/// Nobody writes for longer.
const HALF_WRITTEN: Duration = Duration::from_secs(600);
const KEPT: &str = "result";
const DAMAGED: &str = "damaged";
const NEW: &str = "new";

/// A directory of results that are still to be told.
#[derive(Clone, Debug)]
pub struct Outbox {
    dir: PathBuf,
}

/// A result in its file, which is this process's own until it drops it.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    text: String,
    _lock: Lock,
}

impl Outbox {
    /// The outbox in a directory, which is made when there is something to keep.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps a text under a name, which is used once, until it is removed; when this returns it survives the machine.
    pub(crate) fn keep(&self, name: &str, text: &str) -> Result<Kept> {
        if text.len() as u64 > MOST_BYTES {
            return Err(Error::failed(format!("a result of {} bytes is too long to be kept", text.len())));
        }
        let path = self.dir.join(format!("{name}.{KEPT}"));
        let failed = |error: io::Error| {
            Error::failed(format!("{} cannot be written: {error}", path.display()))
                .hint("make room there, or start the worker with another --state-dir")
        };
        // Whoever reads a result is its user.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(failed)?;
        self.make_room();
        let new = path.with_extension(NEW);
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new);
            return Err(failed(error));
        }
        let Some(lock) = Lock::try_exclusive(&new)? else {
            return Err(Error::failed(format!("{} is another process's", new.display())));
        };
        std::fs::rename(&new, &path).and_then(|()| File::open(&self.dir)?.sync_all()).map_err(failed)?;
        Ok(Kept { path, text: text.to_owned(), _lock: lock })
    }

    /// The results under names that begin so whose writers are gone, oldest first.
    pub(crate) fn left(&self, prefix: &str) -> Vec<Kept> {
        // What was being written when its writer was killed is no result yet.
        for (modified, path) in self.files(NEW) {
            if modified.elapsed().is_ok_and(|age| age > HALF_WRITTEN) {
                let _ = std::fs::remove_file(path);
            }
        }
        let files = self.files(KEPT).into_iter().filter(|(_, path)| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
        });
        files.filter_map(|(_, path)| self.take(path)).collect()
    }

    /// A result whose writer is gone. What cannot be read is put aside.
    fn take(&self, path: PathBuf) -> Option<Kept> {
        let lock = Lock::try_exclusive(&path).ok().flatten()?;
        // It may have been told and removed since it was listed, and the lock has made it anew.
        let size = path.metadata().ok().filter(|metadata| metadata.size() > 0).map(|metadata| metadata.size());
        let Some(size) = size else {
            let _ = std::fs::remove_file(&path);
            return None;
        };
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text));
        match read {
            Ok(_) if size <= MOST_BYTES => Some(Kept { path, text, _lock: lock }),
            Ok(_) => self.put_aside(&path, "it is too long"),
            Err(error) => self.put_aside(&path, &error.to_string()),
        }
    }

    /// What is no result is kept for who wants to look at it, and troubles nobody any more.
    pub(crate) fn put_aside<T>(&self, path: &Path, why: &str) -> Option<T> {
        let aside = path.with_extension(DAMAGED);
        tracing::warn!(file = %aside.display(), why, "a result that was kept cannot be used; it is put aside");
        if std::fs::rename(path, &aside).is_err() {
            let _ = std::fs::remove_file(path);
        }
        let damaged = self.files(DAMAGED);
        for (_, old) in damaged.iter().take(damaged.len().saturating_sub(MOST_DAMAGED)) {
            let _ = std::fs::remove_file(old);
        }
        None
    }

    /// Before one more is written the oldest goes, if there are that many: what nobody tells belongs to a pool that is
    /// no more.
    fn make_room(&self) {
        let kept = self.files(KEPT);
        for (_, path) in kept.iter().take((kept.len() + 1).saturating_sub(MOST_FILES)) {
            tracing::warn!(file = %path.display(), "{MOST_FILES} results are kept already; the oldest is given up");
            let _ = std::fs::remove_file(path);
        }
    }

    /// Files of a kind, oldest first.
    fn files(&self, kind: &str) -> Vec<(SystemTime, PathBuf)> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let of_kind = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == kind));
        let modified = |entry: &std::fs::DirEntry| entry.metadata().and_then(|metadata| metadata.modified());
        let mut files: Vec<_> =
            of_kind.map(|entry| (modified(&entry).unwrap_or(SystemTime::UNIX_EPOCH), entry.path())).collect();
        files.sort();
        files
    }
}

impl Kept {
    /// What was kept.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Where.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It was told, or is of no use any more.
    pub(crate) fn remove(self) {
        // One that stays is told once more, which changes nothing.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> (tempfile::TempDir, Outbox) {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(dir.path().join("outbox"));
        (dir, outbox)
    }

    fn names(outbox: &Outbox) -> Vec<String> {
        let entries = std::fs::read_dir(&outbox.dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap_or_default()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_kept_is_left_to_others_when_its_writer_is_gone() {
        let (_dir, outbox) = outbox();
        assert!(outbox.left("").is_empty());
        let kept = outbox.keep("p.w-1", "one").unwrap();
        assert!(outbox.left("p.").is_empty(), "its writer lives");
        drop(kept);
        assert!(outbox.left("q.").is_empty(), "it is another pool's");
        let left = outbox.left("p.").remove(0);
        assert_eq!(left.text(), "one");
        assert!(outbox.left("p.").is_empty(), "somebody is at it");
        left.remove();
        assert_eq!(names(&outbox), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_read_is_put_aside_and_kept_for_a_while() {
        let (_dir, outbox) = outbox();
        drop(outbox.keep("p.good", "good").unwrap());
        for n in 0..MOST_DAMAGED + 3 {
            std::fs::write(outbox.dir.join(format!("p.bad-{n}.{KEPT}")), [0xff, 0xfe]).unwrap();
        }
        std::fs::write(outbox.dir.join(format!("p.empty.{KEPT}")), "").unwrap();
        std::fs::write(outbox.dir.join(format!("p.half.{NEW}")), "ha").unwrap();
        let left = outbox.left("p.");
        assert_eq!(left.iter().map(Kept::text).collect::<Vec<_>>(), ["good"]);
        let names = names(&outbox);
        assert_eq!(names.iter().filter(|name| name.ends_with(DAMAGED)).count(), MOST_DAMAGED, "{names:?}");
        assert_eq!(names.iter().filter(|name| name.ends_with(KEPT)).count(), 1, "{names:?}");
    }

    #[test]
    fn there_is_a_bound() {
        let (_dir, outbox) = outbox();
        std::fs::create_dir_all(&outbox.dir).unwrap();
        for n in 0..MOST_FILES + 5 {
            std::fs::write(outbox.dir.join(format!("p.{n}.{KEPT}")), "x").unwrap();
        }
        drop(outbox.keep("p.last", "last").unwrap());
        let names = names(&outbox);
        assert_eq!(names.len(), MOST_FILES);
        assert!(names.contains(&format!("p.last.{KEPT}")));
        assert!(outbox.keep("p.long", &"x".repeat(MOST_BYTES as usize + 1)).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = Outbox::new(dir.path().join("file/outbox")).keep("p.w", "x").unwrap_err();
        assert!(error.message().contains("file/outbox") && error.hint_text().is_some(), "{error:?}");
    }
}

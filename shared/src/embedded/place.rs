//! Where a project's embedded pool lives: its state directory, its socket, its locks.
//!
//! The directory is named by the project's folder and a hash of its real path, so equal names do not collide; only
//! the keeper chooses a socket, and records it, so that everyone finds the same whatever his environment says.
//! Not here: who holds which lock when (`keeper.rs`, `join.rs`).

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::settings::{Settings, Sources};

/// What fits into a socket's address, without the zero at its end.
const SOCKET_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The place of one project's embedded pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    project: PathBuf,
    dir: PathBuf,
    runtime_dir: Option<PathBuf>,
    temp_dir: PathBuf,
}

impl Place {
    /// The place of a project below the state directory `root`; nothing is created. The socket will lie in
    /// `runtime_dir`, where there is one, else in `temp_dir`.
    #[must_use]
    pub fn new(root: &Path, project: &Path, runtime_dir: Option<&Path>, temp_dir: &Path) -> Self {
        let project = project.canonicalize().unwrap_or_else(|_| project.to_owned());
        let folder: String = project
            .file_name()
            .map_or_else(|| "root".into(), OsStr::to_string_lossy)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
            .take(64)
            .collect();
        let dir = root.join(format!("{folder}-{}", hash(&project, 8)));
        Self { project, dir, runtime_dir: runtime_dir.map(Path::to_owned), temp_dir: temp_dir.to_owned() }
    }

    /// The place that settings and surroundings name.
    #[must_use]
    pub fn of(settings: &Settings, sources: &Sources) -> Self {
        Self::new(&settings.state_dir, &sources.project_dir, sources.runtime_dir.as_deref(), &sources.temp_dir)
    }

    /// The project's real path.
    #[must_use]
    pub fn project(&self) -> &Path {
        &self.project
    }

    /// The pool's state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The socket that the pool's keeper chose, if it ever ran.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        let bytes = fs::read(self.file("socket")).ok()?;
        Some(PathBuf::from(OsStr::from_bytes(&bytes)))
    }

    /// A file of the state directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether the pool has a directory, and it is this user's and this project's.
    ///
    /// # Errors
    /// It belongs to another user or project.
    pub fn exists(&self) -> Result<bool> {
        match fs::symlink_metadata(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            _ => own(&self.dir)?,
        }
        match fs::read(self.file("owner")) {
            Ok(owner) if owner != self.project.as_os_str().as_bytes() => Err(Error::refused(format!(
                "{} is the pool of {}, not of {}",
                self.dir.display(),
                String::from_utf8_lossy(&owner),
                self.project.display()
            ))
            .hint("give another --state-dir")),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("read", &self.file("owner"), &error)),
        }
    }

    /// Makes the state directory, unless it is there.
    ///
    /// # Errors
    /// It belongs to another user or project, or cannot be written.
    pub fn create(&self) -> Result<()> {
        if self.exists()? {
            return Ok(());
        }
        let parent = self.dir.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|error| {
            failed("make", parent, &error).hint("give another --state-dir, or a Redis of yours with --redis-url")
        })?;
        private_dir(&self.dir)?;
        write_whole(&self.file("owner"), self.project.as_os_str().as_bytes())?;
        // Two projects may have made it at one instant.
        self.exists().map(drop)
    }

    /// The socket for a server that starts now: the recorded one while its directory is fit, else a new one, which is
    /// recorded. For the holder of the server's lock alone.
    pub(super) fn choose_socket(&self) -> Result<PathBuf> {
        if let Some(socket) = self.socket()
            && let Some(parent) = socket.parent()
            && parent.exists()
            && private_dir(parent).is_ok()
        {
            return Ok(socket);
        }
        let name = format!("{}.sock", hash(&self.dir, 16));
        let dirs = [
            self.runtime_dir.as_ref().filter(|dir| dir.is_dir()).map(|dir| dir.join("motorpool")),
            Some(self.temp_dir.join(format!("motorpool-{}", nix::unistd::geteuid()))),
        ];
        let mut refusal = Error::failed(format!("no directory for a socket with {name} is short enough"))
            .hint(format!("a socket's path has {SOCKET_BYTES_MAX} bytes at most; set XDG_RUNTIME_DIR or TMPDIR"));
        for dir in dirs.into_iter().flatten() {
            let socket = dir.join(&name);
            if socket.as_os_str().len() > SOCKET_BYTES_MAX {
                continue;
            }
            match private_dir(&dir) {
                Ok(()) => {
                    write_whole(&self.file("socket"), socket.as_os_str().as_bytes())?;
                    return Ok(socket);
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }
}

/// The first `digits` hexadecimal digits of a path's hash.
fn hash(path: &Path, digits: usize) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(path.as_os_str().as_bytes()) {
        let _ = write!(text, "{byte:02x}");
    }
    text.truncate(digits);
    text
}

/// Makes a directory that is ours alone, or proves that it is: in a directory that everyone may write to, another
/// could have made it, or put a link there.
fn private_dir(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make", dir, &error)),
    }
    own(dir)?;
    let mode = fs::symlink_metadata(dir).map_err(|error| failed("read", dir, &error))?.mode();
    if mode & 0o777 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(|error| failed("close", dir, &error))?;
    }
    Ok(())
}

/// Refuses what is not a directory of this user.
fn own(dir: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(dir).map_err(|error| failed("read", dir, &error))?;
    if !metadata.is_dir() {
        return Err(Error::refused(format!("{} is not a directory", dir.display()))
            .hint("remove it, or give another --state-dir, XDG_RUNTIME_DIR or TMPDIR"));
    }
    let (owner, me) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != me {
        return Err(Error::refused(format!("{} belongs to user {owner}, you are {me}", dir.display()))
            .hint("give another --state-dir, XDG_RUNTIME_DIR or TMPDIR"));
    }
    Ok(())
}

/// Writes a file so that a reader finds the old or the new text, never a part.
pub(super) fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(name);
    fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, file)).map_err(|error| {
        let _ = fs::remove_file(&draft);
        failed("write", file, &error)
    })
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::failed(format!("cannot {verb} {}: {error}", path.display()))
}

//! What this host lets a task have: its directory, its permission mode, its MCP servers, checked before Claude starts;
//! and the labels by which tasks choose it.

use std::path::{Path, PathBuf};

use motorpool::TaskOptions;
use motorpool::domain::attempt::{Class, Failure};
use motorpool::domain::lane::as_label;
use motorpool::domain::merge;
use motorpool::domain::options::PermissionMode;
use motorpool::domain::task::Spec;

/// What a host allows, and where its tasks work.
#[derive(Clone, Debug)]
pub struct Workplace {
    /// Where a task works that names no directory.
    pub working_dir: PathBuf,
    /// The worker belongs to a project's embedded pool: a task works where it was submitted.
    pub embedded: bool,
    /// Directories that are allowed besides `working_dir`, each with all below it.
    pub allow_dir: Vec<PathBuf>,
    /// The mode that allows most among those a task may ask for.
    pub allow_mode: PermissionMode,
    /// Tasks may bring MCP servers.
    pub allow_mcp: bool,
}

impl Workplace {
    /// The directory that a task works in; refuses what this host does not allow.
    ///
    /// # Errors
    /// Of class request: nothing was started and nothing spent.
    pub fn check(&self, spec: &Spec, merged: &TaskOptions) -> Result<PathBuf, Failure> {
        let refuse = |message: String, hint: &str| Failure::new(Class::Request, message).hint(hint);
        let mode = merge::permission_mode(merged);
        if mode > self.allow_mode {
            return Err(refuse(
                format!(
                    "this worker's host allows permission modes up to {}, the task asks for {mode}",
                    self.allow_mode
                ),
                "ask for less, or start the host with --allow-mode",
            ));
        }
        if !self.allow_mcp && !merged.mcp_servers.is_empty() {
            return Err(refuse(
                "this worker's host does not allow MCP servers of tasks".to_owned(),
                "leave mcp_servers out, or start the host with --allow-mcp",
            ));
        }
        let wanted = match (&merged.working_dir, &spec.project_dir) {
            (Some(dir), Some(project)) if self.embedded => Path::new(project).join(dir),
            (Some(dir), _) => self.working_dir.join(dir),
            (None, Some(project)) if self.embedded => PathBuf::from(project),
            (None, _) => self.working_dir.clone(),
        };
        let real = wanted.canonicalize().map_err(|error| {
            refuse(
                format!("the working directory {} cannot be used: {error}", wanted.display()),
                "make it on the worker's machine, or name another with working_dir",
            )
        })?;
        if !real.is_dir() {
            return Err(refuse(format!("{} is no directory", wanted.display()), "name a directory with working_dir"));
        }
        let mut allowed = std::iter::once(&self.working_dir).chain(&self.allow_dir);
        if allowed.any(|dir| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir))) {
            return Ok(real);
        }
        Err(refuse(
            format!("this worker's host does not allow work in {}", real.display()),
            "start it with --allow-dir, or name a directory below its --working-dir",
        ))
    }
}

/// What a worker has, as tasks may need it: what it was given, its machine, its system.
#[must_use]
pub fn labels(given: &[String], host: &str) -> Vec<String> {
    // It is the machine's own for as long as its system is installed; without one the name has to do.
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = if id.trim().is_empty() { host } else { id.trim() };
    let own = [("machine", id), ("host", host), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
    let mut labels = given.to_vec();
    labels.extend(own.map(|(kind, text)| as_label(kind, text)));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(place: &Workplace, project: Option<&Path>, options: serde_json::Value) -> Result<PathBuf, Failure> {
        let options = TaskOptions::from_json(options.as_object().unwrap()).unwrap();
        let mut spec = Spec::new("p", options.clone()).unwrap();
        spec.project_dir = project.map(|dir| dir.display().to_string());
        place.check(&spec, &options)
    }

    #[test]
    fn a_task_works_where_it_may_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for dir in ["work/below", "other"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("other"), root.join("work/link")).unwrap();
        std::fs::write(root.join("work/file"), "").unwrap();
        let place = Workplace {
            working_dir: root.join("work"),
            embedded: true,
            allow_dir: vec![],
            allow_mode: PermissionMode::AcceptEdits,
            allow_mcp: false,
        };
        let below = root.join("work/below");
        assert_eq!(check(&place, None, json!({})).unwrap(), root.join("work"));
        assert_eq!(check(&place, Some(&below), json!({})).unwrap(), below);
        assert_eq!(check(&place, None, json!({"working_dir": "below"})).unwrap(), below);
        let shared = Workplace { embedded: false, ..place.clone() };
        assert_eq!(check(&shared, Some(&below), json!({})).unwrap(), root.join("work"));
        for (options, message) in [
            (json!({"working_dir": "../other"}), "does not allow work in"),
            (json!({"working_dir": "link"}), "does not allow work in"),
            (json!({"working_dir": "nowhere"}), "cannot be used"),
            (json!({"working_dir": "file"}), "no directory"),
            (json!({"permission_mode": "bypassPermissions"}), "up to acceptEdits"),
            (json!({"mcp_servers": {"x": {"command": "y"}}}), "MCP"),
        ] {
            let failure = check(&place, None, options.clone()).expect_err(&options.to_string());
            assert!(failure.message.contains(message), "{options}: {}", failure.message);
            assert_eq!(failure.class, Class::Request);
        }
        let wider = Workplace { allow_dir: vec![root.join("other")], ..place };
        assert_eq!(check(&wider, None, json!({"working_dir": "../other"})).unwrap(), root.join("other"));
    }
}

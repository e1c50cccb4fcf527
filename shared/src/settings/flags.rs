//! The face's side of settings: flags for clap from the table, and the sources as a process finds them.
//!
//! Both binaries use it, so that a setting is spelled in one place. It reads nothing by itself: the environment and
//! the current directory are handed in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::builder::ValueHint;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::load::Sources;
use super::project_dir;
use super::table::{Kind, Row, Scope, TABLE};

/// Adds the flags of these scopes to a command, below a heading of their own.
#[must_use]
pub fn add(command: Command, scopes: &[Scope]) -> Command {
    let mut command = command;
    for row in TABLE.iter().filter(|row| scopes.contains(&row.scope)) {
        command = command.arg(arg(row, row.name.to_owned(), row.doc.to_owned()));
        if row.file {
            let doc = format!("a file that holds --{}", row.name);
            command = command.arg(arg(row, format!("{}-file", row.name), doc).value_name("FILE"));
        }
    }
    command
}

fn arg(row: &Row, name: String, doc: String) -> Arg {
    let is_file = name.ends_with("-file");
    let help = if is_file { doc } else { format!("{doc} [{}, {}]", row.variable(), row.default) };
    let arg = Arg::new(name.clone()).long(name).help(help).help_heading("Settings").value_hint(ValueHint::Other);
    match row.kind {
        Kind::Switch if !is_file => {
            arg.num_args(0..=1).default_missing_value("yes").require_equals(true).value_name("yes|no")
        }
        Kind::Names | Kind::Labels | Kind::List | Kind::Paths => arg.action(ArgAction::Append).value_name("LIST"),
        Kind::Duration(..) => arg.value_name("TIME"),
        Kind::Count(..) => arg.value_name("N"),
        Kind::Path if arg_is_file(row) => arg.value_name("FILE"),
        Kind::Path => arg.value_name("DIR"),
        Kind::Address => arg.value_name("ADDR:PORT"),
        Kind::Url => arg.value_name("URL"),
        _ => arg.value_name("VALUE"),
    }
}

/// Whether a path is that of a file.
fn arg_is_file(row: &Row) -> bool {
    row.name.ends_with("-file")
}

/// The settings that were given as flags of these scopes, by name.
#[must_use]
pub fn given(matches: &ArgMatches, scopes: &[Scope]) -> BTreeMap<String, Vec<String>> {
    let mut flags = BTreeMap::new();
    for row in TABLE.iter().filter(|row| scopes.contains(&row.scope)) {
        for name in [row.name.to_owned(), format!("{}-file", row.name)] {
            if let Ok(Some(values)) = matches.try_get_many::<String>(&name) {
                flags.insert(name, values.cloned().collect());
            }
        }
    }
    flags
}

impl Sources {
    /// The sources as a process finds them: its flags, environment and current directory.
    #[must_use]
    pub fn of_process(
        flags: BTreeMap<String, Vec<String>>,
        env: impl Iterator<Item = (String, String)>,
        current_dir: &Path,
    ) -> Self {
        let env: BTreeMap<String, String> = env.collect();
        let dir = |name: &str| env.get(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
        let home = dir("HOME");
        let at_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let uid = nix::unistd::getuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let machine =
            nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned());
        let project = project_dir(current_dir);
        let temp_dir = dir("TMPDIR").unwrap_or_else(|| "/tmp".into());
        Self {
            flags,
            project_file: Some(project.join("motorpool.toml")),
            user_file: dir("XDG_CONFIG_HOME")
                .or_else(|| at_home(".config"))
                .map(|dir| dir.join("motorpool/config.toml")),
            state_home: dir("XDG_STATE_HOME")
                .or_else(|| at_home(".local/state"))
                .unwrap_or_else(|| temp_dir.join(format!("motorpool-{uid}"))),
            runtime_dir: dir("XDG_RUNTIME_DIR").filter(|dir| dir.is_dir()),
            temp_dir,
            user,
            machine,
            project_dir: project,
            current_dir: current_dir.to_owned(),
            home,
            env,
        }
    }
}

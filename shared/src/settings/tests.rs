//! Settings: each case a source and what must come of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::ErrorKind;

fn sources() -> Sources {
    Sources {
        home: Some("/home/kim".into()),
        state_home: "/home/kim/.local/state".into(),
        temp_dir: "/tmp".into(),
        user: "kim".into(),
        machine: "box".into(),
        project_dir: "/src/app".into(),
        current_dir: "/src/app/sub".into(),
        ..Sources::default()
    }
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn flags(pairs: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    pairs
        .iter()
        .map(|(name, values)| ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect()))
        .collect()
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let file = dir.path().join(name);
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn defaults_are_those_of_the_table() {
    let settings = load(&sources()).unwrap();
    assert_eq!(settings.redis_url, None);
    assert_eq!(settings.pool, "default");
    assert_eq!(settings.coordinator, "kim@box:/src/app");
    assert_eq!(settings.state_dir, Path::new("/home/kim/.local/state/motorpool"));
    assert_eq!(settings.claude_bin, Path::new("claude"));
    assert_eq!(settings.working_dir, Path::new("/src/app/sub"));
    assert_eq!(settings.slots, 2);
    assert_eq!(settings.linger, Duration::from_secs(600));
    assert_eq!(settings.drain_timeout, Duration::from_secs(60));
    assert_eq!(settings.lease, Duration::from_secs(15));
    assert_eq!(settings.lanes, ["default"]);
    assert_eq!(settings.allow_mode, "acceptEdits");
    assert!(settings.allow_mcp && !settings.clean_env);
    assert_eq!(settings.log_format, LogFormat::Text);
    assert_eq!(settings.defaults, PoolDefaults::default());
    assert_eq!(settings.origin("slots"), "the default");
}

#[test]
fn every_default_fits_its_own_kind() {
    for row in TABLE {
        if !row.default.starts_with('(') {
            assert_eq!(value::check(row.kind, row.default), Ok(()), "{}", row.name);
        }
        assert!(!NOT_BUILT.contains(&row.name), "{}", row.name);
        assert!(load(&sources()).is_ok());
    }
}

#[test]
fn flag_over_environment_over_project_over_user_over_default() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = sources();
    let mut seen = vec![];
    let mut look = |all: &Sources| {
        let settings = load(all).unwrap();
        seen.push((settings.slots, settings.origin("slots").to_owned()));
    };
    look(&all);
    all.user_file = Some(file(&dir, "user.toml", "slots = 3"));
    look(&all);
    all.project_file = Some(file(&dir, "motorpool.toml", "slots = \"4\""));
    look(&all);
    all.env = env(&[
        ("MOTORPOOL_SLOTS", "5"),
        ("HOME", "/x"),
        ("MOTORPOOL_RUN", "t1"),
        ("MOTORPOOL_TOKEN", "x"),
        ("MOTORPOOL_MODEL", ""),
    ]);
    look(&all);
    all.flags = flags(&[("slots", &["6"])]);
    look(&all);
    let at = |name: &str| format!("slots in {}", dir.path().join(name).display());
    assert_eq!(
        seen,
        [
            (2, "the default".to_owned()),
            (3, at("user.toml")),
            (4, at("motorpool.toml")),
            (5, "MOTORPOOL_SLOTS".to_owned()),
            (6, "--slots".to_owned()),
        ]
    );
}

#[test]
fn values_have_their_types_and_paths_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = sources();
    all.project_file = Some(file(
        &dir,
        "motorpool.toml",
        "lanes = [\"fast\", \"slow\"]\nallow_mcp = false\nallow_dir = [\"a\", \"/b\", \"~/c\"]\nclaude_bin = \"bin/claude\"\n",
    ));
    all.env = env(&[("MOTORPOOL_LINGER", "0"), ("MOTORPOOL_PASS_ENV", "A, B"), ("MOTORPOOL_STATE_DIR", "state")]);
    all.flags = flags(&[("clean-env", &[""]), ("lease", &["1500ms"]), ("log-format", &["json"]), ("model", &["opus"])]);
    let settings = load(&all).unwrap();
    assert_eq!(settings.lanes, ["fast", "slow"]);
    assert!(!settings.allow_mcp && settings.clean_env);
    assert_eq!(settings.allow_dir, [dir.path().join("a"), "/b".into(), "/home/kim/c".into()]);
    assert_eq!(settings.claude_bin, dir.path().join("bin/claude"));
    assert_eq!(settings.linger, Duration::ZERO);
    assert_eq!(settings.pass_env, ["A", "B"]);
    assert_eq!(settings.state_dir, Path::new("/src/app/sub/state"));
    assert_eq!(settings.lease, Duration::from_millis(1500));
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.defaults.model.as_deref(), Some("opus"));
}

#[test]
fn what_is_wrong_names_the_place_and_what_would_do() {
    let cases: &[(&str, &str, &str)] = &[
        ("flag", "slots=many", "--slots: \"many\" is not a whole number from 0 to 1000; write it in digits"),
        ("flag", "lease=11m", "--lease: \"11m\" is out of bounds; it goes from 1s to 10m"),
        (
            "flag",
            "lease=15x",
            "--lease: \"15x\" is not a duration; write a number and a unit, such as 500ms, 15s, 10m, 2h or 1d",
        ),
        (
            "flag",
            "pool=a:b",
            "--pool: \"a:b\" is not a name; a name has 1 to 64 letters, digits, dots, dashes and underscores",
        ),
        (
            "flag",
            "allow-mode=acceptedits",
            "--allow-mode: \"acceptedits\" is not one of plan, dontAsk, default, acceptEdits, auto, bypassPermissions; did you mean acceptEdits?",
        ),
        ("flag", "budget-usd=5", "--budget-usd is not built yet; leave it out in this release"),
        (
            "flag",
            "http=:80",
            "--http: \":80\" is no address with a port; write it as in 127.0.0.1:8787, [::1]:8787 or 0.0.0.0:8787",
        ),
        (
            "flag",
            "redis-url=http://u:geheim@x",
            "--redis-url is not the address of a Redis; it begins with redis://, rediss:// (TLS), unix:// or redis+sentinel://",
        ),
        ("env", "MOTORPOOL_SLOT_S=1", "MOTORPOOL_SLOT_S is no setting; did you mean MOTORPOOL_SLOTS?"),
        ("env", "MOTORPOOL_BANANA=1", "MOTORPOOL_BANANA is no setting; docs/settings.md lists them all"),
        (
            "env",
            "MOTORPOOL_LABELS=a b",
            "MOTORPOOL_LABELS: \"a b\" is no label; use 1 to 64 letters, digits, dots, colons, _ and -, as in gpu or os:linux",
        ),
        (
            "env",
            "MOTORPOOL_REDIS_URL_FILE=/nothing/here",
            "MOTORPOOL_REDIS_URL_FILE: cannot read /nothing/here: No such file or directory (os error 2)",
        ),
        ("file", "lingr = \"1m\"", "lingr in FILE is no setting; did you mean linger?"),
        ("file", "drain-timeout = \"1m\"", "drain-timeout in FILE is no setting; did you mean drain_timeout?"),
        (
            "file",
            "linger = \"ten\"",
            "linger in FILE: \"ten\" is not a duration; write a number and a unit, such as 500ms, 15s, 10m, 2h or 1d",
        ),
        ("file", "slots = [1]", "slots in FILE has the wrong type; write one value in quotes"),
        ("file", "lanes = [1]", "lanes in FILE has an item that is no text; put each in quotes"),
        ("file", "[labels]\na = 1", "labels in FILE has the wrong type; write one value in quotes"),
        ("file", "[banana]\na = 1", "banana in FILE is no setting; docs/settings.md lists them all"),
    ];
    for (kind, text, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut all = sources();
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        match *kind {
            "flag" => all.flags = flags(&[(name, &[value])]),
            "env" => all.env = env(&[(name, value)]),
            _ => all.project_file = Some(file(&dir, "motorpool.toml", text)),
        }
        let error = load(&all).unwrap_err();
        let shown = error.to_string().replace(&*dir.path().join("motorpool.toml").to_string_lossy(), "FILE");
        assert_eq!(shown, *expected, "{text}");
        assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
    }
}

#[test]
fn a_bad_value_is_an_error_even_where_another_wins() {
    let mut all = sources();
    all.env = env(&[("MOTORPOOL_SLOTS", "many")]);
    all.flags = flags(&[("slots", &["3"])]);
    assert!(load(&all).is_err());
}

#[test]
fn a_secret_comes_from_a_file_and_never_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let secret = file(&dir, "url", "redis://bob:geheim@db:6379/1\n");
    let mut all = sources();
    all.env = env(&[("MOTORPOOL_REDIS_URL_FILE", secret.to_str().unwrap())]);
    let settings = load(&all).unwrap();
    assert_eq!(settings.redis_url.as_ref().unwrap().expose(), "redis://bob:geheim@db:6379/1");
    let shown = format!("{settings:?} {}", settings.redis_url.as_ref().unwrap());
    assert!(!shown.contains("geheim"), "{shown}");
    assert!(shown.contains("redis://***@db:6379/1"), "{shown}");
    all.env.insert("MOTORPOOL_REDIS_URL".into(), "redis://other".into());
    assert_eq!(
        load(&all).unwrap_err().to_string(),
        "both MOTORPOOL_REDIS_URL and MOTORPOOL_REDIS_URL_FILE are given; keep one"
    );
    let broken = file(&dir, "motorpool.toml", "redis_url = \"redis://u:geheim@h\nslots = 1");
    let error = load(&Sources { project_file: Some(broken), ..sources() }).unwrap_err().to_string();
    assert!(error.contains("line 1") && !error.contains("geheim"), "{error}");
}

#[test]
fn addresses_are_masked() {
    for (url, shown) in [
        ("redis://localhost", "redis://localhost"),
        ("redis://:p@ss/w@localhost:1", "redis://***@localhost:1"),
        ("unix:///run/r.sock?db=1&pass=x", "unix:///run/r.sock?db=1&pass=***"),
        ("nonsense:secret", "***"),
    ] {
        assert_eq!(RedisUrl::new(url).to_string(), shown);
    }
}

#[test]
fn durations() {
    for (text, ms) in [("0", 0), ("15", 15_000), ("500ms", 500), ("15s", 15_000), ("10m", 600_000), ("2h", 7_200_000)] {
        assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "s", "1.5", "1.5s", "-1s", "15 s", "99999999999999999d"] {
        assert_eq!(duration(text), None, "{text}");
    }
    for (ms, text) in [(0, "0s"), (1_500, "1500ms"), (15_000, "15s"), (600_000, "10m")] {
        assert_eq!(duration_text(Duration::from_millis(ms)), text);
    }
}

#[test]
fn the_project_is_the_next_repository_upwards() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let deep = root.join("repo/a/b");
    std::fs::create_dir_all(&deep).unwrap();
    assert_eq!(project_dir(&deep), deep);
    std::fs::write(root.join("repo/.git"), "gitdir: elsewhere").unwrap();
    assert_eq!(project_dir(&deep), root.join("repo"));
    std::os::unix::fs::symlink(&deep, root.join("link")).unwrap();
    assert_eq!(project_dir(&root.join("link")), root.join("repo"));
}

#[test]
fn the_reference_has_every_setting() {
    let page = reference_markdown();
    for row in TABLE {
        assert!(
            page.contains(&format!("| `{}` | `{}` | `{}` |", row.flag(), row.variable(), row.key())),
            "{}",
            row.name
        );
    }
}

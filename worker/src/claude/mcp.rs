//! The file with a task's MCP servers: `${VAR}` filled in, readable by this user alone.
//!
//! Values may hold secrets afterwards, so they are in no argument and no log. Not here: which servers a task has
//! (`motorpool::domain::merge`), who deletes the file (its directory's owner).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use motorpool::{Error, Result};
use serde_json::{Value, json};

use super::command::Environment;

/// The text of the file, or nothing without servers. A task gets at no more of the worker's environment this way
/// than its tools see anyway: `env` is what they get.
pub fn config(servers: &BTreeMap<String, Value>, env: &Environment) -> Result<Option<String>> {
    if servers.is_empty() {
        return Ok(None);
    }
    let mut filled = BTreeMap::new();
    for (name, server) in servers {
        if !server.is_object() {
            return Err(Error::usage(format!("the MCP server {name} is not a JSON object"))
                .hint(r#"as in {"command": "npx", "args": ["server"]}"#));
        }
        filled.insert(
            name,
            fill(server, env).map_err(|variable| {
                Error::usage(format!(
                    "the MCP server {name} needs the variable {variable}, which this worker does not have"
                ))
                .hint(format!("set {variable} where the worker starts (under --clean-env name it with --pass-env)"))
            })?,
        );
    }
    Ok(Some(json!({ "mcpServers": filled }).to_string()))
}

/// Writes the file anew, mode 600.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |error: std::io::Error| Error::failed(format!("cannot write {}: {error}", path.display()));
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// The value with every `${VAR}` and `${VAR:-default}` in its strings filled in, or the name of a missing variable.
fn fill(value: &Value, env: &Environment) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(fill_text(text, env)?),
        Value::Array(list) => Value::Array(list.iter().map(|one| fill(one, env)).collect::<Result<_, _>>()?),
        Value::Object(map) => Value::Object(
            map.iter().map(|(name, one)| Ok((name.clone(), fill(one, env)?))).collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

/// One pass: what a variable holds is not looked at again.
fn fill_text(text: &str, env: &Environment) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        filled.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let Some(end) = inside.find('}') else {
            rest = &rest[start..];
            break;
        };
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inside[..end], None),
        };
        let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.is_empty();
        match (named, env.get(OsStr::new(name)), default) {
            (false, _, _) => filled.push_str(&rest[start..start + end + 3]),
            (true, Some(value), _) => filled.push_str(&value.to_string_lossy()),
            (true, None, Some(default)) => filled.push_str(default),
            (true, None, None) => return Err(name.to_owned()),
        }
        rest = &inside[end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn env() -> Environment {
        [("KEY", "k${OTHER}"), ("USER_1", "u")].iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn variables_are_filled_once_and_a_missing_one_is_named() {
        for (text, expected) in [
            ("plain $KEY {x}", Ok("plain $KEY {x}")),
            ("a ${KEY} b ${USER_1}", Ok("a k${OTHER} b u")),
            ("${NONE:-d}", Ok("d")),
            ("${NONE}", Err("NONE")),
            ("${not a name} ${", Ok("${not a name} ${")),
        ] {
            assert_eq!(fill_text(text, &env()).as_deref(), expected.map_err(str::to_owned).as_deref(), "{text}");
        }
        let servers: BTreeMap<String, Value> =
            [("w".to_owned(), json!({"command": "x", "env": {"A": "${KEY}"}, "args": ["${USER_1}", 1]}))].into();
        let text = config(&servers, &env()).unwrap().unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({"command": "x", "env": {"A": "k${OTHER}"}, "args": ["u", 1]});
        assert_eq!(read["mcpServers"]["w"], expected);
        let missing: BTreeMap<String, Value> = [("w".to_owned(), json!({"url": "${GONE}"}))].into();
        let error = config(&missing, &env()).unwrap_err();
        assert!(error.to_string().contains("the MCP server w needs the variable GONE"), "{error}");
        assert_eq!(config(&BTreeMap::new(), &env()).unwrap(), None);
    }

    #[test]
    fn the_file_is_for_this_user_alone() {
        let path = std::env::temp_dir().join(format!("motorpool-mcp-{}.json", std::process::id()));
        std::fs::write(&path, "older and longer, readable by all").unwrap();
        write(&path, "{}").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
        std::fs::remove_file(&path).unwrap();
    }
}

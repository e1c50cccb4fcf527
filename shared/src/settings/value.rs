//! What a setting's text means: durations, switches, words of a choice, the address of a Redis.
//!
//! Pure: every function says what is wrong as a sentence's end ("is not a duration") and what would do.
//! Not here: which settings there are (`table.rs`), where a text came from (`load.rs`).

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::table::Kind;
use crate::domain::lane;
use crate::error::nearest;

/// Permission modes, from the most to the least careful.
pub const MODES: &[&str] = &["plan", "dontAsk", "default", "acceptEdits", "auto", "bypassPermissions"];

/// Efforts, rising.
pub const EFFORTS: &[&str] = &["low", "medium", "high", "xhigh", "max"];

/// The address of a Redis. It may hold a password, so printing it masks all that stands before the host.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Takes an address as it is, unchecked.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The address with its password, for the connection alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// The address without user, password and passwords among its parameters. Up to the **last** `@`, since an unescaped
/// password may hold one.
fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".into();
    };
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => rest.to_owned(),
    };
    let Some((address, parameters)) = rest.split_once('?') else {
        return format!("{scheme}://{rest}");
    };
    let kept: Vec<String> = parameters
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.contains("pass") => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{scheme}://{address}?{}", kept.join("&"))
}

/// A value that cannot be: what it is not, and what would do. Never the value itself, which may be a secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) what: String,
    pub(super) hint: String,
}

fn bad<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Bad> {
    Err(Bad { what: what.into(), hint: hint.into() })
}

/// Checks one text (one item, of a list) against its kind.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), Bad> {
    match kind {
        Kind::Text | Kind::Path | Kind::Program | Kind::List | Kind::Paths => match text.trim() {
            "" => bad("is empty", "give a value or leave it out"),
            _ => Ok(()),
        },
        Kind::Name | Kind::Names => name(text),
        Kind::Slot => crate::domain::slot::check_id(text).map_err(|error| Bad {
            what: "is no name of a slot".into(),
            hint: error.hint_text().unwrap_or_default().to_owned(),
        }),
        Kind::Labels => match lane::check_label(text) {
            Ok(()) => Ok(()),
            Err(error) => bad("is no label", error.hint_text().unwrap_or_default()),
        },
        Kind::Count(least, most) => count(text, least, most).map(drop),
        Kind::Duration(least, most) => duration_within(text, least, most).map(drop),
        Kind::Switch => switch(text).map(drop),
        Kind::Url => url(text),
        Kind::Address => address(text).map(drop),
        Kind::Choice(words) => choice(text, words),
    }
}

/// An address and a port; a port alone is one of this machine's own.
pub(super) fn address(text: &str) -> Result<SocketAddr, Bad> {
    let alone = text.parse::<u16>().ok().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let named = text.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
    let local = named.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    match alone.or(local).or_else(|| text.parse().ok()) {
        Some(address) => Ok(address),
        None => bad("is no address with a port", "write it as in 127.0.0.1:8787, [::1]:8787 or 0.0.0.0:8787"),
    }
}

/// A whole number within its bounds.
pub(super) fn count(text: &str, least: u32, most: u32) -> Result<u32, Bad> {
    match text.parse::<u32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => bad(format!("is not a whole number from {least} to {most}"), "write it in digits"),
    }
}

/// Yes or no; the empty text is a bare flag.
pub(super) fn switch(text: &str) -> Result<bool, Bad> {
    match text.to_ascii_lowercase().as_str() {
        "" | "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => bad("is neither yes nor no", "write yes or no"),
    }
}

/// A number with a unit; without one it is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

/// A duration as [`duration`] reads it, in the largest unit that leaves no fraction.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= unit_ms && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    if ms == 0 { "0s".into() } else { format!("{ms}ms") }
}

/// A duration within its bounds, which are milliseconds.
pub(super) fn duration_within(text: &str, least: u64, most: u64) -> Result<Duration, Bad> {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    match duration(text) {
        None => bad("is not a duration", "write a number and a unit, such as 500ms, 15s, 10m, 2h or 1d"),
        Some(value) if value < least || value > most => {
            bad("is out of bounds", format!("it goes from {} to {}", duration_text(least), duration_text(most)))
        }
        Some(value) => Ok(value),
    }
}

/// Names stand in Redis keys, where braces and colons mean something.
fn name(text: &str) -> Result<(), Bad> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        return bad("is not a name", "a name has 1 to 64 letters, digits, dots, dashes and underscores");
    }
    Ok(())
}

fn url(text: &str) -> Result<(), Bad> {
    const SCHEMES: &[&str] = &["redis", "rediss", "unix", "redis+unix", "redis+sentinel", "rediss+sentinel"];
    match text.split_once("://") {
        Some((scheme, rest)) if SCHEMES.contains(&scheme) && !rest.is_empty() => Ok(()),
        _ => bad(
            "is not the address of a Redis",
            "it begins with redis://, rediss:// (TLS), unix:// or redis+sentinel://",
        ),
    }
}

fn choice(text: &str, words: &'static [&'static str]) -> Result<(), Bad> {
    if words.contains(&text) {
        return Ok(());
    }
    let all = format!("one of {}", words.join(", "));
    match nearest(text, words.iter().copied()) {
        Some(near) => bad(format!("is not {all}"), format!("did you mean {near}?")),
        None => bad("is unknown", format!("it is {all}")),
    }
}

//! Addresses: the forms of a Redis URL, and which server one means.
//!
//! Not here: connections (`connect.rs`), asking Sentinels (`sentinel.rs`), files of a TLS URL (`tls.rs`).

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::answer::CallError;
use super::sentinel::{self, Sentinels};
use super::tls;
use crate::error::{Error, Result};

/// How every form is written.
const FORMS: &str = "use redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, unix:///PATH/TO/SOCKET, or \
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST…]/SERVICE[?db=N]";

/// When the system first asks a silent peer whether it is there, and how often then: half a minute in all.
const ALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 4);
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// What a Redis URL says.
pub(super) struct Address {
    pub(super) url: String,
    /// Without its password.
    pub(super) shown: String,
    pub(super) way: Way,
}

/// How the server is found.
pub(super) enum Way {
    /// It is this one.
    Node(Box<ConnectionInfo>),
    /// It is the one that these name.
    Sentinels(Box<Sentinels>),
}

impl Address {
    pub(super) fn new(url: &str) -> Result<Self> {
        let shown = without_password(url);
        let way = if sentinel::is_asked_for(url) {
            Way::Sentinels(Box::new(Sentinels::new(url, &shown)?))
        } else {
            Way::Node(Box::new(node(url, &shown)?))
        };
        Ok(Self { url: url.to_owned(), shown, way })
    }

    /// The server to connect to by now.
    pub(super) async fn find(&self) -> Result<ConnectionInfo, CallError> {
        match &self.way {
            Way::Node(info) => Ok((**info).clone()),
            Way::Sentinels(sentinels) => sentinels.find().await,
        }
    }

    /// Whether who is found may be none that takes writes.
    pub(super) fn is_found_by_others(&self) -> bool {
        matches!(self.way, Way::Sentinels(_))
    }
}

/// One server by its URL.
pub(super) fn node(url: &str, shown: &str) -> Result<ConnectionInfo> {
    let wrong = |error| Error::usage(format!("the Redis URL {shown} does not do: {error}")).hint(FORMS);
    let info = if tls::is_asked_for(url) {
        tls::connection_info(url, shown)?
    } else {
        url.into_connection_info().map_err(wrong)?
    };
    Ok(info.set_tcp_settings(tcp()))
}

/// The same way in, to another server.
pub(super) fn at(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls { host: known, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: or(host, known), port, insecure, tls_params }
        }
        ConnectionAddr::Tcp(known, _) => ConnectionAddr::Tcp(or(host, known), port),
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    info.clone().set_addr(addr)
}

/// Who names no host means its own.
fn or(host: &str, known: String) -> String {
    if host.is_empty() { known } else { host.to_owned() }
}

/// A peer that is gone without a word is noticed within half a minute, whatever the connection waits for.
fn tcp() -> TcpSettings {
    let (time, interval, retries) = ALIVE;
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED);
    settings
}

/// A URL without its password.
#[must_use]
pub(crate) fn without_password(url: &str) -> String {
    let url = &without(without(url.to_owned(), "sentinel_password="), "sentinel_user=");
    let is_socket = url.starts_with("unix:") || url.starts_with("redis+unix:");
    match (url.find("://"), url.rfind('@')) {
        // In a path to a socket an @ means nothing.
        (Some(scheme), Some(at)) if at > scheme && !is_socket => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => without(url.clone(), "pass="),
    }
}

/// Without the value of a parameter.
fn without(url: String, parameter: &str) -> String {
    match url.split_once(parameter) {
        Some((before, rest)) => {
            format!("{before}{parameter}***{}", rest.find('&').map_or("", |i| &rest[i..]))
        }
        None => url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, expected) in [
            ("redis://u:secret@h:1/0", "redis://***@h:1/0"),
            ("redis://h:1", "redis://h:1"),
            ("unix:///x?db=1&pass=secret", "unix:///x?db=1&pass=***"),
            ("redis://:p@ss@h", "redis://***@h"),
            ("unix:///home/me@corp/r.sock?pass=secret", "unix:///home/me@corp/r.sock?pass=***"),
            ("unix:///r.sock?pass=a@b", "unix:///r.sock?pass=***"),
            (
                "redis+sentinel://u:secret@a,b:1/main?sentinel_password=s@cret&db=1",
                "redis+sentinel://***@a,b:1/main?sentinel_password=***&db=1",
            ),
            ("redis+sentinel://a/main?sentinel_password=s@cret", "redis+sentinel://a/main?sentinel_password=***"),
        ] {
            assert_eq!(without_password(url), expected);
        }
    }

    #[test]
    fn forms_that_do_not_do_are_refused() {
        for url in [
            "",
            "localhost",
            "http://x",
            "rediss://h?ca=/nowhere/ca.pem",
            "rediss://h?cert=/etc/hostname",
            "rediss://h?authority=x",
            "rediss://h/#insecure",
        ] {
            let Err(error) = Address::new(url) else { panic!("{url} is taken") };
            assert!(error.hint_text().is_some_and(|hint| hint.contains("redis")), "{url}: {error}");
        }
    }

    #[test]
    fn another_server_is_reached_in_the_same_way() {
        let info = node("redis://u:p@one:1/3", "").unwrap();
        let other = at(&info, "two", 2);
        assert_eq!(other.addr(), &ConnectionAddr::Tcp("two".into(), 2));
        assert_eq!((other.redis_settings().db(), other.redis_settings().password()), (3, Some("p")));
        assert_eq!(at(&info, "", 2).addr(), &ConnectionAddr::Tcp("one".into(), 2));
    }
}

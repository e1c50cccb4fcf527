//! Sentinels: who knows which server is the primary by now.
//!
//! They are asked for each new connection, one after the other, who answered last time first. What they name is believed
//! when it says of itself that it is a primary, which whoever connects asks it (`connect.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisError};

use super::address::{at, node};
use super::answer::CallError;
use crate::error::{Error, Result};

/// How long one Sentinel may take. Their answer is a look into a table; a dead one is not to hold up the others.
const ANSWER: Duration = Duration::from_secs(1);
/// The port of a Sentinel unless said.
const PORT: u16 = 26379;

const FORM: &str = "as in redis+sentinel://USER:PASSWORD@HOST1,HOST2:26379,HOST3/SERVICE?db=0, or rediss+sentinel:// for \
    TLS; USER and PASSWORD are Redis's, the Sentinels' own are ?sentinel_user=…&sentinel_password=…";

/// The Sentinels that a URL names.
pub(super) struct Sentinels {
    hosts: Vec<(String, u16)>,
    /// What the Sentinels call the primary and its replicas.
    service: String,
    /// The way in to a Sentinel, and to a server.
    to_sentinel: ConnectionInfo,
    to_server: ConnectionInfo,
    /// Who is asked first.
    first: AtomicUsize,
    /// What was named last, for the log.
    named: Mutex<Option<(String, u16)>>,
}

/// Whether a URL names Sentinels.
pub(super) fn is_asked_for(url: &str) -> bool {
    url.starts_with("redis+sentinel:") || url.starts_with("rediss+sentinel:")
}

impl Sentinels {
    pub(super) fn new(url: &str, shown: &str) -> Result<Self> {
        let wrong = |what: &str| Error::usage(format!("the Redis URL {shown}: {what}")).hint(FORM);
        let (scheme, rest) = url.split_once("+sentinel://").ok_or_else(|| wrong("a // is missing"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, service) = rest.split_once('/').unwrap_or((rest, ""));
        let service = service.trim_end_matches('/');
        if service.is_empty() || service.contains('/') {
            return Err(wrong("behind the hosts belongs the name by which the Sentinels know the primary"));
        }
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let hosts = hosts.split(',').map(host).collect::<Option<Vec<_>>>();
        let hosts = hosts.ok_or_else(|| wrong("the Sentinels are a list of HOST[:PORT], with commas"))?;
        let (mut db, mut own, mut files) = ("0", ["", ""], Vec::new());
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("db", number)) if number.parse::<u32>().is_ok() => db = number,
                Some(("db", _)) => return Err(wrong("db is a number")),
                Some(("sentinel_user", user)) => own[0] = user,
                Some(("sentinel_password", password)) => own[1] = password,
                Some(("ca" | "cert" | "key", _)) if scheme == "rediss" => files.push(part),
                Some((name, _)) => return Err(wrong(&format!("{name} is not known here"))),
                None => return Err(wrong("behind the ? stand names with values")),
            }
        }
        let files = files.join("&");
        let way = |user: &str, db: &str| {
            let at = if user.is_empty() { "" } else { "@" };
            let query = if files.is_empty() { "" } else { "?" };
            node(&format!("{scheme}://{user}{at}localhost/{db}{query}{files}"), shown)
        };
        let own = if own == ["", ""] { String::new() } else { own.join(":") };
        Ok(Self {
            hosts,
            service: service.to_owned(),
            to_sentinel: way(&own, "0")?,
            to_server: way(user, db)?,
            first: AtomicUsize::new(0),
            named: Mutex::new(None),
        })
    }

    /// The primary, as the first Sentinel says that answers.
    pub(super) async fn find(&self) -> Result<ConnectionInfo, CallError> {
        let first = self.first.load(Ordering::Relaxed);
        let (mut problem, mut unknown) = (String::new(), None);
        for turn in 0..self.hosts.len() {
            let which = (first + turn) % self.hosts.len();
            let (host, port) = &self.hosts[which];
            match tokio::time::timeout(ANSWER, self.ask(host, *port)).await {
                Ok(Ok(Some((server, server_port)))) => {
                    self.first.store(which, Ordering::Relaxed);
                    self.tell(&server, server_port);
                    return Ok(at(&self.to_server, &server, server_port));
                }
                Ok(Ok(None)) => unknown = Some(format!("{host}:{port}")),
                Ok(Err(error)) => problem = format!("{host}:{port}: {error}"),
                Err(_) => problem = format!("{host}:{port}: no answer within {} s", ANSWER.as_secs()),
            }
        }
        Err(match unknown {
            Some(asked) => CallError::Refused(
                Error::redis(format!("the Sentinel {asked} knows no primary {:?}", self.service))
                    .hint("the last part of the URL is the name in its configuration: sentinel monitor NAME …"),
            ),
            None => CallError::away(format!("no Sentinel answers; the last one, {problem}")),
        })
    }

    async fn ask(&self, host: &str, port: u16) -> std::result::Result<Option<(String, u16)>, RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
        let client = Client::open(at(&self.to_sentinel, host, port))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(&self.service).query_async(&mut connection).await
    }

    /// A failover is told once by each process.
    fn tell(&self, host: &str, port: u16) {
        // It is replaced as a whole, so it is whole after any panic.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Some((host.to_owned(), port));
        if *named != now {
            if named.is_some() {
                tracing::info!(primary = format!("{host}:{port}"), "the Sentinels name another primary");
            }
            *named = now;
        }
    }
}

/// `HOST[:PORT]`, or `[ADDRESS]:PORT` for one with colons.
fn host(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.find(':').map_or((text, ""), |i| text.split_at(i)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok()?,
        None if port.is_empty() => PORT,
        None => return None,
    };
    let is_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/?#@[]".contains(c));
    is_host.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;

    use super::*;

    #[test]
    fn a_url_names_sentinels_a_service_and_both_ways_in() {
        let url = "redis+sentinel://u:p%40ss@one,two:5,[::1]:6/main?db=3&sentinel_user=s&sentinel_password=q%2F";
        let sentinels = Sentinels::new(url, "").unwrap();
        assert_eq!(sentinels.hosts, [("one".into(), 26379), ("two".into(), 5), ("::1".into(), 6)]);
        assert_eq!(sentinels.service, "main");
        let server = at(&sentinels.to_server, "h", 1);
        assert_eq!(server.addr(), &ConnectionAddr::Tcp("h".into(), 1));
        let (server, sentinel) = (server.redis_settings(), sentinels.to_sentinel.redis_settings());
        assert_eq!((server.username(), server.password(), server.db()), (Some("u"), Some("p@ss"), 3));
        assert_eq!((sentinel.username(), sentinel.password(), sentinel.db()), (Some("s"), Some("q/"), 0));
        let bare = Sentinels::new("redis+sentinel://one/main", "").unwrap();
        assert_eq!((bare.to_server.redis_settings().password(), bare.to_server.redis_settings().db()), (None, 0));
        let tls = Sentinels::new("rediss+sentinel://one/main", "").unwrap();
        assert!(matches!(at(&tls.to_server, "h", 1).addr(), ConnectionAddr::TcpTls { host, .. } if host == "h"));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_form() {
        for (url, says) in [
            ("redis+sentinel:one/main", "a // is missing"),
            ("redis+sentinel://one", "the name by which"),
            ("redis+sentinel://one/", "the name by which"),
            ("redis+sentinel://one/main/0", "the name by which"),
            ("redis+sentinel:///main", "a list of HOST[:PORT]"),
            ("redis+sentinel://one,,two/main", "a list of HOST[:PORT]"),
            ("redis+sentinel://one:port/main", "a list of HOST[:PORT]"),
            ("redis+sentinel://::1/main", "a list of HOST[:PORT]"),
            ("redis+sentinel://one/main?db=x", "db is a number"),
            ("redis+sentinel://one/main?ca=/x", "ca is not known here"),
            ("redis+sentinel://one/main?quorum=2", "quorum is not known here"),
            ("redis+sentinel://one/main?db", "names with values"),
            ("rediss+sentinel://one/main?ca=/nowhere/ca.pem", "cannot read /nowhere/ca.pem"),
        ] {
            let Err(error) = Sentinels::new(url, url) else { panic!("{url} is taken") };
            assert!(error.to_string().contains(says), "{url}: {error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("redis")), "{url}: {error}");
        }
    }
}

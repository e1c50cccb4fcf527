//! Connections: URL forms, timeouts, a Redis that moves, and whether it will do.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo};

use super::script::{CallError, sort_error};
use super::tls;
use crate::error::{Error, Result};

/// How long a connection may take to open, its first PING included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. A loaded server is slow; one that is gone is found by the keepalive or by this.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections that one process keeps for its short calls.
const POOLED: usize = 8;

/// Where a Redis is by now, as a URL; nothing where that cannot be told. Asked before each connection.
pub type Whereabouts = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// How to reach a Redis.
pub(crate) struct Connector {
    address: RwLock<Arc<Address>>,
    whereabouts: Option<Whereabouts>,
}

/// One place of a Redis, and the connections to it.
struct Address {
    url: String,
    shown: String,
    client: Client,
    pool: Pool,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector").field(&self.shown()).finish()
    }
}

/// A URL without its password.
#[must_use]
pub(crate) fn without_password(url: &str) -> String {
    let is_socket = url.starts_with("unix:") || url.starts_with("redis+unix:");
    match (url.find("://"), url.rfind('@')) {
        // In a path to a socket an @ means nothing.
        (Some(scheme), Some(at)) if at > scheme && !is_socket => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => match url.split_once("pass=") {
            Some((before, rest)) => format!("{before}pass=***{}", rest.find('&').map_or("", |i| &rest[i..])),
            None => url.to_owned(),
        },
    }
}

impl Address {
    fn new(url: &str) -> Result<Self> {
        let shown = without_password(url);
        let forms = "use redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, or unix:///PATH/TO/SOCKET";
        if url.contains("sentinel://") {
            return Err(Error::usage(format!("the Redis URL {shown}: Sentinel is not built yet")).hint(forms));
        }
        let wrong =
            |error: redis::RedisError| Error::usage(format!("the Redis URL {shown} does not do: {error}")).hint(forms);
        let info = if tls::is_asked_for(url) {
            tls::connection_info(url, &shown)?
        } else {
            url.into_connection_info().map_err(wrong)?
        };
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let manager = Manager::new_with_config(info.clone(), config).map_err(wrong)?;
        let pool = Pool::builder(manager)
            .max_size(POOLED)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ANSWER))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(CONNECT))
            .build()
            .map_err(|error| Error::failed(format!("no pool of connections: {error}")))?;
        Ok(Self { url: url.to_owned(), client: Client::open(info).map_err(wrong)?, shown, pool })
    }
}

impl Connector {
    pub(crate) fn new(url: &str, whereabouts: Option<Whereabouts>) -> Result<Self> {
        Ok(Self { address: RwLock::new(Arc::new(Address::new(url)?)), whereabouts })
    }

    /// Where it is, as last known.
    fn known(&self) -> Arc<Address> {
        // It is replaced as a whole, so it is whole after any panic.
        Arc::clone(&self.address.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it is by now. Connections to another place stay with who has them, until they break.
    fn address(&self) -> Arc<Address> {
        let known = self.known();
        let Some(url) = self.whereabouts.as_ref().and_then(|ask| ask()).filter(|url| *url != known.url) else {
            return known;
        };
        let Ok(address) = Address::new(&url).map(Arc::new) else { return known };
        tracing::info!(redis = address.shown, "the pool's Redis has moved");
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&address);
        address
    }

    /// The URL, without its password.
    pub(crate) fn shown(&self) -> String {
        self.known().shown.clone()
    }

    pub(crate) async fn pooled(&self) -> Result<deadpool_redis::Connection, CallError> {
        self.address().pool.get().await.map_err(|error| match error {
            deadpool_redis::PoolError::Backend(error) => sort_error(&error),
            other => CallError::away(other.to_string()),
        })
    }

    /// A connection of its own, with the usual deadline for answers.
    pub(crate) async fn dedicated(&self) -> Result<MultiplexedConnection, CallError> {
        self.open(Some(ANSWER)).await
    }

    /// A connection of its own for blocking commands: the caller has to watch over them.
    pub(crate) async fn blocking(&self) -> Result<MultiplexedConnection, CallError> {
        self.open(None).await
    }

    async fn open(&self, answer: Option<Duration>) -> Result<MultiplexedConnection, CallError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(answer);
        let address = self.address();
        let opening = async {
            let mut connection = address.client.get_multiplexed_async_connection_with_config(&config).await?;
            // A server without descriptors accepts and never answers.
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(CONNECT, opening).await {
            Ok(opened) => opened.map_err(|error| sort_error(&error)),
            Err(_) => Err(CallError::away(format!("no answer within {} s", CONNECT.as_secs()))),
        }
    }

    /// A connection that listens to channels.
    pub(crate) async fn listener(&self) -> Result<redis::aio::PubSub, CallError> {
        match tokio::time::timeout(CONNECT, self.address().client.get_async_pubsub()).await {
            Ok(opened) => opened.map_err(|error| sort_error(&error)),
            Err(_) => Err(CallError::away(format!("no answer within {} s", CONNECT.as_secs()))),
        }
    }

    /// Refuses a Redis that is out of reach, too old or evicts keys; gives what it told of itself.
    pub(crate) async fn check(&self) -> Result<Server> {
        let asked = async {
            let mut connection = self.pooled().await?;
            redis::cmd("INFO").query_async::<String>(&mut *connection).await.map_err(|error| sort_error(&error))
        };
        let info = asked.await.map_err(|error| self.explain(error))?;
        let server = Server::read(&info);
        if server.major < 7 {
            return Err(Error::redis(format!(
                "the Redis at {} is {}; at least 7.0 is needed",
                self.shown(),
                server.version
            ))
            .hint("upgrade it, or leave --redis-url out for a private one"));
        }
        if server.policy != "noeviction" {
            return Err(Error::redis(format!(
                "the Redis at {} may throw tasks away: maxmemory-policy is {}",
                self.shown(),
                server.policy
            ))
            .hint("set it to noeviction: redis-cli config set maxmemory-policy noeviction"));
        }
        Ok(server)
    }

    /// What a failed first contact means to a user.
    pub(crate) fn explain(&self, error: CallError) -> Error {
        match error {
            CallError::Away(message) => Error::redis(format!("Redis at {} cannot be reached: {message}", self.shown()))
                .hint("start it, or correct --redis-url (MOTORPOOL_REDIS_URL), or leave it out for a private Redis"),
            CallError::Refused(error) => {
                let told = Error::new(error.kind(), format!("Redis at {}: {}", self.shown(), error.message()));
                match error.hint_text() {
                    Some(hint) => told.hint(hint),
                    None => told,
                }
            }
        }
    }
}

/// What a Redis tells of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) major: u32,
    pub(crate) policy: String,
    pub(crate) append_only: bool,
    pub(crate) replicas: u32,
    pub(crate) maxmemory: u64,
}

impl Server {
    fn read(info: &str) -> Self {
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim().to_owned()
        };
        // Valkey says which Redis it is compatible with in redis_version.
        let version = field("redis_version");
        Self {
            major: version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0),
            version,
            policy: field("maxmemory_policy"),
            append_only: field("aof_enabled") == "1",
            replicas: field("connected_slaves").parse().unwrap_or(0),
            maxmemory: field("maxmemory").parse().unwrap_or(0),
        }
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
            "redis+sentinel://h",
            "rediss://h?ca=/nowhere/ca.pem",
            "rediss://h?cert=/etc/hostname",
            "rediss://h?authority=x",
            "rediss://h/#insecure",
        ] {
            let error = Connector::new(url, None).expect_err(url);
            assert!(error.hint_text().is_some_and(|hint| hint.contains("redis")), "{url}: {error}");
        }
    }
}

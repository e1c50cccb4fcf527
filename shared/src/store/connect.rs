//! Connections: timeouts, a Redis that moves, and whether it will do.
//!
//! Not here: the forms of a URL (`address.rs`), what an error means (`answer.rs`).

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisConnectionInfo, RedisError, Value};

use super::address::{Address, at};
use super::answer::{CallError, row_of, sort_error};
use super::contact::{Connection, Contact};
use super::listen::Subscription;
use crate::error::{Error, Result};

/// How long a connection may take to open, its first answer included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. A loaded server is slow; one that is gone is found by the keepalive or by this.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections that one process keeps for its short calls.
const POOLED: usize = 8;
/// How many nodes of a cluster are asked for the pool's slot: the one that is named, the one that it names, and one more
/// should the slot have moved just now.
const NODES: usize = 3;

/// Where a Redis is by now, as a URL; nothing where that cannot be told. Asked before each connection.
pub type Whereabouts = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A connection for short calls, which goes back to the others.
pub(crate) type Pooled = Object<Manager>;

/// How to reach a Redis.
pub(crate) struct Connector {
    routes: Arc<Routes>,
    pool: managed::Pool<Manager>,
}

/// How a connection is opened.
struct Routes {
    address: RwLock<Arc<Address>>,
    whereabouts: Option<Whereabouts>,
    /// A key of the pool. In a cluster it says which node has the pool: all its keys are in one slot.
    key: String,
    /// The node of a cluster that has it, where that is another than the address says.
    owner: Mutex<Option<ConnectionInfo>>,
    contact: Arc<Contact>,
}

/// Opens the connections for short calls, and says which are good for another one.
pub(crate) struct Manager(Arc<Routes>);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector").field(&self.shown()).finish()
    }
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Manager").field(&self.0.known().shown).finish()
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = CallError;

    async fn create(&self) -> Result<Connection, CallError> {
        self.0.open(Some(ANSWER)).await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<CallError> {
        if connection.is_outdated() {
            return Err(RecycleError::message("the server may be another one by now"));
        }
        let asked = redis::cmd("PING").query_async::<()>(connection).await;
        asked.map_err(|error| RecycleError::Backend(sort_error(&error)))
    }
}

/// A failed opening: what Redis said is told to who waits, and shown once.
enum Opening {
    Redis(RedisError),
    Other(CallError),
}

impl From<RedisError> for Opening {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<CallError> for Opening {
    fn from(error: CallError) -> Self {
        Self::Other(error)
    }
}

impl Routes {
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
        self.contact.look_anew();
        address
    }

    /// A node of a cluster that was found to have the pool.
    fn owner(&self) -> Option<ConnectionInfo> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_owner(&self, owner: Option<ConnectionInfo>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
    }

    async fn open(&self, answer: Option<Duration>) -> Result<Connection, CallError> {
        let address = self.address();
        let era = self.contact.era();
        // Large, and part of every caller's future.
        let opening = Box::pin(self.open_at(&address, answer));
        let opened = self.within(&address, era, opening).await;
        opened.map(|inner| Connection {
            inner,
            contact: Arc::clone(&self.contact),
            shown: address.shown.as_str().into(),
            era,
        })
    }

    /// Opens something in time, and tells where that fails.
    async fn within<T>(
        &self,
        address: &Address,
        era: u64,
        opening: impl Future<Output = std::result::Result<T, Opening>>,
    ) -> Result<T, CallError> {
        let (row, error) = match tokio::time::timeout(CONNECT, opening).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(Opening::Redis(error))) => (row_of(&error), sort_error(&error)),
            Ok(Err(Opening::Other(error))) => (None, error),
            Err(_) => (None, CallError::away(format!("no answer within {} s", CONNECT.as_secs()))),
        };
        let problem = match &error {
            CallError::Away(problem) => problem.clone(),
            CallError::Locked(error) | CallError::Refused(error) => error.message().to_owned(),
        };
        self.contact.failed(&address.shown, era, row, &problem);
        Err(error)
    }

    /// Connects to the server that has the pool, whoever names it.
    async fn open_at(
        &self,
        address: &Address,
        answer: Option<Duration>,
    ) -> std::result::Result<redis::aio::MultiplexedConnection, Opening> {
        if let Some(owner) = self.owner() {
            if let Ok(connection) = self.connect(&owner, address, answer).await {
                return Ok(connection);
            }
            // It is gone, or has it no more; who is named in the URL knows.
            self.set_owner(None);
        }
        let mut info = address.find().await?;
        for left in (0..NODES).rev() {
            match self.connect(&info, address, answer).await {
                Err(Opening::Redis(error)) if left > 0 => {
                    let Some((host, port)) = moved(&error) else { return Err(error.into()) };
                    info = at(&info, host, port);
                    tracing::info!(node = format!("{host}:{port}"), "this node of the cluster has the pool");
                    self.set_owner(Some(info.clone()));
                }
                Err(Opening::Redis(error)) if address.is_found_by_others() && row_of(&error).is_none() => {
                    let named = format!("{}, whom the Sentinels name: {error}", info.addr());
                    return Err(CallError::away(named).into());
                }
                opened => return opened,
            }
        }
        Err(CallError::away("the nodes of the cluster do not agree on who has the pool").into())
    }

    /// Connects and sees whether this server is the right one. The password is sent here and not by the library: what
    /// a server says that takes no more clients would be taken for a wrong password.
    async fn connect(
        &self,
        info: &ConnectionInfo,
        address: &Address,
        answer: Option<Duration>,
    ) -> std::result::Result<redis::aio::MultiplexedConnection, Opening> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(answer);
        let bare = info.clone().set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name());
        let mut connection = Client::open(bare)?.get_multiplexed_async_connection_with_config(&config).await?;
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = settings.username() {
                auth.arg(user);
            }
            auth.arg(password).query_async::<()>(&mut connection).await?;
        }
        if settings.db() != 0 {
            redis::cmd("SELECT").arg(settings.db()).query_async::<()>(&mut connection).await?;
        }
        // A server without descriptors accepts and never answers. Of a cluster, the node that has the key answers.
        redis::cmd("EXISTS").arg(&self.key).query_async::<()>(&mut connection).await?;
        if address.is_found_by_others() {
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            let is_primary = matches!(role.first(), Some(Value::BulkString(role)) if role == b"master");
            if !is_primary {
                return Err(CallError::away("the Sentinels name a server that is no primary (yet)").into());
            }
        }
        Ok(connection)
    }
}

/// Where a node of a cluster says that the key is.
fn moved(error: &RedisError) -> Option<(&str, u16)> {
    if error.code() != Some("MOVED") {
        return None;
    }
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

impl Connector {
    /// `key` is one of the pool's.
    pub(crate) fn new(url: &str, key: &str, whereabouts: Option<Whereabouts>) -> Result<Self> {
        let routes = Arc::new(Routes {
            address: RwLock::new(Arc::new(Address::new(url)?)),
            whereabouts,
            key: key.to_owned(),
            owner: Mutex::new(None),
            contact: Arc::default(),
        });
        let pool = managed::Pool::builder(Manager(Arc::clone(&routes)))
            .max_size(POOLED)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ANSWER))
            .create_timeout(Some(CONNECT + CONNECT))
            .recycle_timeout(Some(CONNECT))
            .build()
            .map_err(|error| Error::failed(format!("no pool of connections: {error}")))?;
        Ok(Self { routes, pool })
    }

    /// The URL, without its password.
    pub(crate) fn shown(&self) -> String {
        self.routes.known().shown.clone()
    }

    pub(crate) async fn pooled(&self) -> Result<Pooled, CallError> {
        // It may have moved, which makes the connections of before outdated.
        self.routes.address();
        self.pool.get().await.map_err(|error| match error {
            managed::PoolError::Backend(error) => error,
            managed::PoolError::Timeout(_) => CallError::away("no connection was free in time"),
            other => CallError::away(format!("no connection: {other:?}")),
        })
    }

    /// A connection of its own, with the usual deadline for answers.
    pub(crate) async fn dedicated(&self) -> Result<Connection, CallError> {
        self.routes.open(Some(ANSWER)).await
    }

    /// A connection of its own for blocking commands: the caller has to watch over them.
    pub(crate) async fn blocking(&self) -> Result<Connection, CallError> {
        self.routes.open(None).await
    }

    /// Listens to a channel.
    pub(crate) async fn listen(&self, channel: &str) -> Result<Subscription, CallError> {
        let routes = &self.routes;
        let address = routes.address();
        let era = routes.contact.era();
        let opening = Box::pin(async {
            // Any node of a cluster passes notices on, and this one is known to be there.
            let info = match routes.owner() {
                Some(owner) => owner,
                None => address.find().await?,
            };
            let connection = Client::open(info)?.get_async_pubsub().await?;
            Ok(Subscription::new(connection, channel, Arc::clone(&routes.contact), era).await?)
        });
        routes.within(&address, era, opening).await
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
            CallError::Locked(error) | CallError::Refused(error) => {
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

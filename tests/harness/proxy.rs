//! A way to Redis that a test can slow down, stop and cut: a port of loopback before the socket of a server.
//!
//! It carries bytes and knows nothing of what they mean. Replies that are lost one by one, by their script:
//! `shared/src/store/tests/proxy.rs`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What happens to bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They are carried.
    Open,
    /// Each piece is carried so much later.
    Slow(Duration),
    /// Each so-many-th piece, of whichever connection, is lost together with its connection.
    Lossy(usize),
    /// Nothing is carried and nothing is closed, as with a cable that is pulled: what was sent arrives when the way is
    /// open again.
    Stopped,
}

/// From the client to the server, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Requests.
    Up,
    /// Replies.
    Down,
}

/// Both ways of every connection.
#[derive(Clone, Copy)]
struct Ways {
    up: Way,
    down: Way,
}

impl Ways {
    fn of(self, direction: Direction) -> Way {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
        }
    }
}

/// One connection.
#[derive(Default)]
struct Connection {
    /// Pieces that came to a lossy way, of all connections.
    lossy: Arc<AtomicUsize>,
    cut: Notify,
    dead_up: AtomicBool,
    dead_down: AtomicBool,
}

impl Connection {
    fn is_dead(&self, direction: Direction) -> bool {
        match direction {
            Direction::Up => self.dead_up.load(Ordering::SeqCst),
            Direction::Down => self.dead_down.load(Ordering::SeqCst),
        }
    }
}

struct Shared {
    ways: watch::Sender<Ways>,
    target: Mutex<PathBuf>,
    refuses: AtomicBool,
    connections: Mutex<Vec<Weak<Connection>>>,
    lossy: Arc<AtomicUsize>,
}

/// See the module. Dropping it closes the port; connections go on.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// A way to the server behind this socket.
    pub async fn before(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of its own");
        let url = format!("redis://{}", listener.local_addr().expect("it has an address"));
        let shared = Arc::new(Shared {
            ways: watch::Sender::new(Ways { up: Way::Open, down: Way::Open }),
            target: Mutex::new(socket.to_owned()),
            refuses: AtomicBool::new(false),
            connections: Mutex::default(),
            lossy: Arc::default(),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&shared)));
        Self { url, shared, listening }
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> &str {
        self.url.rsplit(':').next().expect("an address has a port")
    }

    /// Sets both ways of every connection, of those that come later too.
    pub fn set(&self, way: Way) {
        self.shared.ways.send_replace(Ways { up: way, down: way });
    }

    /// Sets one way of every connection.
    pub fn set_one(&self, direction: Direction, way: Way) {
        self.shared.ways.send_modify(|ways| match direction {
            Direction::Up => ways.up = way,
            Direction::Down => ways.down = way,
        });
    }

    /// Ends every connection that there is, at once and without a word (RST).
    pub fn cut(&self) {
        for connection in self.connections() {
            connection.cut.notify_one();
        }
    }

    /// Whether new connections are ended before they get an answer.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    /// What the connections of now send this way is thrown away for ever, and neither end is told: as after the restart
    /// of a firewall. New connections are not concerned.
    pub fn half_open(&self, directions: &[Direction]) {
        for connection in self.connections() {
            for direction in directions {
                match direction {
                    Direction::Up => connection.dead_up.store(true, Ordering::SeqCst),
                    Direction::Down => connection.dead_down.store(true, Ordering::SeqCst),
                }
            }
        }
    }

    /// New connections lead to another server.
    pub fn lead_to(&self, socket: &Path) {
        socket.clone_into(&mut lock(&self.shared.target));
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.connections().len()
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let mut known = lock(&self.shared.connections);
        known.retain(|connection| connection.strong_count() > 0);
        known.iter().filter_map(Weak::upgrade).collect()
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.refuses.load(Ordering::SeqCst) {
            end(&client);
            continue;
        }
        let connection = Arc::new(Connection { lossy: Arc::clone(&shared.lossy), ..Connection::default() });
        lock(&shared.connections).push(Arc::downgrade(&connection));
        let target = lock(&shared.target).clone();
        let ways = shared.ways.subscribe();
        tokio::spawn(async move {
            let mut client = client;
            let _ = client.set_nodelay(true);
            if let Ok(mut server) = UnixStream::connect(target).await {
                carry_both(&mut client, &mut server, &connection, ways).await;
            }
        });
    }
}

/// The next drop of it tells the other side by a reset.
fn end(client: &TcpStream) {
    let _ = client.set_zero_linger();
}

/// Until one side ends or it is cut. A server that ends is told to the client as an end of the stream.
async fn carry_both(
    client: &mut TcpStream,
    server: &mut UnixStream,
    connection: &Connection,
    ways: watch::Receiver<Ways>,
) {
    let is_cut = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        // What is under way when it ends is lost, as it is on any connection.
        tokio::select! {
            () = carry(&mut from_client, &mut to_server, Direction::Up, connection, ways.clone()) => false,
            () = carry(&mut from_server, &mut to_client, Direction::Down, connection, ways) => false,
            () = connection.cut.notified() => true,
        }
    };
    if is_cut {
        end(client);
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    direction: Direction,
    connection: &Connection,
    mut ways: watch::Receiver<Ways>,
) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        opened(&mut ways, direction).await;
        let read = tokio::select! {
            // A read that is given up has taken nothing.
            read = from.read(&mut piece) => read,
            changed = ways.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(read @ 1..) = read else { return };
        let way = ways.borrow().of(direction);
        match way {
            Way::Slow(by) => sleep(by).await,
            Way::Lossy(of) if connection.lossy.fetch_add(1, Ordering::SeqCst) % of == of - 1 => return,
            _ => {}
        }
        opened(&mut ways, direction).await;
        if !connection.is_dead(direction) && to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits until this way carries.
async fn opened(ways: &mut watch::Receiver<Ways>, direction: Direction) {
    // Where nobody can open it any more, the connection is cut.
    let _ = ways.wait_for(|ways| ways.of(direction) != Way::Stopped).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    /// A server that says back what it hears.
    async fn echo() -> (tempfile::TempDir, Proxy) {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("echo");
        let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = Proxy::before(&socket).await;
        (dir, proxy)
    }

    async fn client(proxy: &Proxy) -> TcpStream {
        let mut client = TcpStream::connect(format!("127.0.0.1:{}", proxy.port())).await.expect("it listens");
        says(&mut client, b"a").await;
        hears(&mut client, b"a").await;
        client
    }

    async fn says(client: &mut TcpStream, bytes: &[u8]) {
        client.write_all(bytes).await.expect("it is taken");
    }

    async fn hears(client: &mut TcpStream, bytes: &[u8]) {
        let mut heard = vec![0; bytes.len()];
        let read = timeout(Duration::from_secs(20), client.read_exact(&mut heard)).await;
        read.expect("it comes").expect("all of it");
        assert_eq!(heard, bytes);
    }

    async fn hears_nothing(client: &mut TcpStream) {
        assert!(timeout(SOON, client.read(&mut [0; 1])).await.is_err(), "something was heard");
    }

    #[tokio::test]
    async fn a_stopped_way_keeps_what_was_sent() {
        let (_dir, proxy) = echo().await;
        let mut client = client(&proxy).await;
        for direction in [Direction::Up, Direction::Down] {
            proxy.set_one(direction, Way::Stopped);
            says(&mut client, b"b").await;
            hears_nothing(&mut client).await;
            proxy.set(Way::Open);
            hears(&mut client, b"b").await;
        }
    }

    #[tokio::test]
    async fn a_slow_way_takes_its_time() {
        let (_dir, proxy) = echo().await;
        let mut client = client(&proxy).await;
        proxy.set(Way::Slow(SOON));
        let sent = Instant::now();
        says(&mut client, b"b").await;
        hears(&mut client, b"b").await;
        assert!(sent.elapsed() >= SOON * 2, "{:?}", sent.elapsed());
    }

    #[tokio::test]
    async fn a_lossy_way_loses_some_with_their_connections() {
        let (_dir, proxy) = echo().await;
        let (mut one, mut other) = (client(&proxy).await, client(&proxy).await);
        proxy.set_one(Direction::Down, Way::Lossy(2));
        says(&mut one, b"b").await;
        hears(&mut one, b"b").await;
        says(&mut other, b"b").await;
        let end = timeout(Duration::from_secs(20), other.read(&mut [0; 1])).await.expect("it is told");
        assert!(end.is_err() || end.is_ok_and(|read| read == 0));
        says(&mut one, b"c").await;
        hears(&mut one, b"c").await;
    }

    #[tokio::test]
    async fn a_cut_is_told_and_a_half_open_connection_is_not() {
        let (_dir, proxy) = echo().await;
        let mut old = client(&proxy).await;
        proxy.half_open(&[Direction::Down]);
        says(&mut old, b"b").await;
        hears_nothing(&mut old).await;
        let mut new = client(&proxy).await;
        assert_eq!(proxy.count(), 2);
        proxy.cut();
        let end = timeout(Duration::from_secs(20), new.read(&mut [0; 1])).await.expect("it is told");
        assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
        proxy.refuse(true);
        if let Ok(mut refused) = TcpStream::connect(format!("127.0.0.1:{}", proxy.port())).await {
            let end = timeout(Duration::from_secs(20), refused.read(&mut [0; 1])).await.expect("it is told");
            assert!(end.is_err() || end.is_ok_and(|read| read == 0));
        }
    }
}

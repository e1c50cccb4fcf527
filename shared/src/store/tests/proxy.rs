//! A way to Redis on which replies get lost: the script has run, and its caller never hears of it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::embedded::Server;
use crate::store::assemble;

/// Which script's reply is lost, by its hash, and how often yet.
#[derive(Default)]
struct Plan {
    hash: String,
    left: u32,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    plan: Arc<Mutex<Plan>>,
    listening: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Proxy {
    pub(crate) async fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of its own");
        let url = format!("redis://{}", listener.local_addr().expect("it has an address"));
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (socket, shared) = (server.socket().to_owned(), Arc::clone(&plan));
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, plan) = (socket.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Ok(server) = UnixStream::connect(socket).await {
                        carry(client, server, &plan).await;
                    }
                });
            }
        });
        Self { url, plan, listening }
    }

    /// The next `times` replies of a script are lost, each with its connection.
    pub(crate) fn lose(&self, script: &str, times: u32) {
        *self.plan.lock().expect("nobody panicked") = Plan { hash: assemble::hash(script), left: times };
    }

    /// How many are still to be lost.
    pub(crate) fn left(&self) -> u32 {
        self.plan.lock().expect("nobody panicked").left
    }
}

/// Carries bytes both ways until one side ends or a reply is to be lost. One request is under way at a time, so what
/// comes back after it is its reply.
async fn carry(mut client: TcpStream, mut server: UnixStream, plan: &Mutex<Plan>) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut awaited = false;
    loop {
        // Reading may be given up: what was not read is read in the next round.
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                {
                    let plan = plan.lock().expect("nobody panicked");
                    let request = &asked[..read];
                    awaited |= plan.left > 0 && request.windows(plan.hash.len()).any(|part| part == plan.hash.as_bytes());
                }
                if server.write_all(&asked[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                // The script has not run: the client will load it and ask again.
                let ran = !answered[..read].starts_with(b"-NOSCRIPT");
                if std::mem::take(&mut awaited) && ran {
                    plan.lock().expect("nobody panicked").left -= 1;
                    return;
                }
                if client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

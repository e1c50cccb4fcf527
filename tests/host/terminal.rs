//! A program on a terminal of its own: keys go in, a screen comes out.
//!
//! A key is pressed when the screen shows what it is for; nothing here waits for a time. Not here: what is started
//! on it (`yard.rs`).

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};

use motorpool_tests::fleet::PATIENCE;
use pty_process::{OwnedWritePty, Size};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const ROWS: NonZeroU16 = NonZeroU16::new(60).unwrap();
/// Wide enough that no line of a test's prompt is wrapped.
const COLUMNS: NonZeroU16 = NonZeroU16::new(240).unwrap();

pub(crate) const ENTER: &str = "\r";
pub(crate) const ESCAPE: &str = "\x1b";
pub(crate) const DOWN: &str = "\x1b[B";

/// See the module.
pub(crate) struct Terminal {
    child: Child,
    keys: OwnedWritePty,
    screen: Arc<Mutex<vt100::Parser>>,
    drawn: watch::Receiver<u64>,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Starts a program; `prepare` says with what.
    pub(crate) fn start(
        program: &std::path::Path,
        prepare: impl Fn(pty_process::Command) -> pty_process::Command,
    ) -> Self {
        let (pty, pts) = pty_process::open().expect("a terminal");
        pty.resize(Size::new(ROWS.get(), COLUMNS.get())).expect("its size");
        let command = prepare(pty_process::Command::new(program)).kill_on_drop(true);
        let child = command.spawn(pts).expect("it starts");
        let (mut output, keys) = pty.into_split();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let (draw, drawn) = watch::channel(0);
        let drawing = Arc::clone(&screen);
        let reader = tokio::spawn(async move {
            let mut bytes = [0; 8192];
            // It ends with an error once nobody has the other side open.
            while let Ok(count) = output.read(&mut bytes).await
                && count > 0
            {
                drawing.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
                draw.send_modify(|count| *count += 1);
            }
        });
        Self { child, keys, screen, drawn, reader }
    }

    /// What stands on the screen.
    pub(crate) fn screen(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen().contents()
    }

    /// Waits until the screen is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let seen = timeout(PATIENCE, async {
            loop {
                self.drawn.borrow_and_update();
                if wanted(&self.screen()) {
                    return true;
                }
                if self.drawn.changed().await.is_err() {
                    return wanted(&self.screen());
                }
            }
        });
        let seen = seen.await.unwrap_or(false);
        assert!(seen, "{what}: not on the screen:\n{}", self.screen());
    }

    /// Waits until the screen shows these words.
    pub(crate) async fn shows(&mut self, words: &str) {
        self.until(words, |screen| screen.contains(words)).await;
    }

    /// Presses a key, or several.
    pub(crate) async fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.expect("the terminal takes keys");
    }

    /// Waits until the program is gone; gives its exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end:\n{}", self.screen()));
        self.reader.abort();
        status.expect("its status").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.reader.abort();
        if std::thread::panicking() {
            eprintln!("the screen was:\n{}", self.screen());
        }
    }
}

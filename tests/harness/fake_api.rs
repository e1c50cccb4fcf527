//! The scripted Messages API as a program: `fake-api [--port N] [--record FILE] [--until-parent-exits PID]`.
//!
//! Prints its URL as one line, then serves until stdin ends, a signal to end comes, or the given process is gone.

use clap::Parser;
use motorpool_tests::api::FakeApi;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Serves a scripted Messages API on loopback.
#[derive(Parser)]
#[command(name = "fake-api", version)]
struct Arguments {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// File to which every request is added as a line of JSON.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Serve until this process is gone, whatever happens to stdin.
    #[arg(long, value_name = "PID")]
    until_parent_exits: Option<i32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-api: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> io::Result<()> {
    let record = arguments.record.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let api = FakeApi::serve(arguments.port, record)?;
    println!("{}", api.url());
    io::stdout().flush()?;

    // Every arm means the end, so none has anything to lose.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = owner_gone(arguments.until_parent_exits) => {}
    }
    Ok(())
}

async fn owner_gone(pid: Option<i32>) {
    match pid {
        Some(pid) => {
            let pid = nix::unistd::Pid::from_raw(pid);
            while nix::sys::signal::kill(pid, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        None => {
            let (done, ended) = tokio::sync::oneshot::channel();
            // A plain thread, since a read of stdin cannot be cancelled and would hold up the runtime's end.
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
                let _ = done.send(());
            });
            let _ = ended.await;
        }
    }
}

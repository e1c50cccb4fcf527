//! `motorpool`: the operator CLI of a pool.
//!
//! Here a command line becomes an exit code; what is wrong in itself ends it before anything is contacted.
//! Not here: the commands (`cli`), what they look like (`term`), what they do to a pool (the library).

mod cli;
mod mcp;
mod term;
mod work;

use std::process::ExitCode;

use motorpool::{Error, Result};

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(told) => {
            // Help to a closed pipe is no failure.
            let _ = told.print();
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    match run(&matches) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            term::tell_error(&error, cli::wants_json(&matches));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(matches: &clap::ArgMatches) -> Result<u8> {
    // One thread: the keeper's server is bound to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start: {error}")))?;
    let code = runtime.block_on(cli::run(matches));
    // A look-up that hangs in a thread of its own holds nobody up.
    runtime.shutdown_background();
    code
}

//! Drives one prompt by hand: `drive CLAUDE CWD [OPTIONS-JSON] < prompt`. For looking at the real CLI.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use motorpool::domain::options::TaskOptions;
use motorpool_worker::attempt::drive::{Beat, Job, Notices, Outside, Progress, drive};
use motorpool_worker::claude::command::{Filter, Place, command, environment};
use motorpool_worker::process;
use tokio::sync::watch;
use tokio::time::Instant;

struct Terminal(Instant);

impl Outside for Terminal {
    async fn beat(&self, progress: &Progress) -> Beat {
        eprintln!("{:.2} {progress:?}", self.0.elapsed().as_secs_f64());
        Beat::Ok
    }

    async fn live(&self, text: String) {
        eprintln!("{:.2} live {:?}", self.0.elapsed().as_secs_f64(), text.chars().take(60).collect::<String>());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    motorpool::process::adopt_orphans().unwrap();
    let args: Vec<String> = std::env::args().collect();
    let json = args.get(3).map_or("{}", String::as_str);
    let options = TaskOptions::from_json(serde_json::from_str::<serde_json::Value>(json).unwrap().as_object().unwrap());
    let options = options.unwrap_or_else(|error| panic!("{error}"));
    let mut prompt = String::new();
    std::io::stdin().read_to_string(&mut prompt).unwrap();
    let own = std::env::vars_os().collect();
    let env = environment(&own, &Filter::default());
    let run = format!("by-hand/t{}/1", std::process::id());
    let place = Place {
        claude: Path::new(&args[1]),
        cwd: Path::new(&args[2]),
        mcp_config: None,
        env: &env,
        run: &run,
        addition: "",
    };
    if std::env::var_os("PROBE").is_some() {
        println!("{:#?}", motorpool_worker::claude::probe::probe(Some(place.claude), &env, place.cwd).await);
    }
    let (cancel, cancelled) = watch::channel(false);
    let (_stop, stopped) = watch::channel(false);
    let job = Job {
        command: command(&options, &prompt, &place),
        claimed: Instant::now(),
        lease: Duration::from_secs(6),
        timeout: options.timeout_s.map(Duration::from_secs),
    };
    let start = Instant::now();
    let cancel_after = std::env::var("CANCEL_AFTER").ok().and_then(|text| text.parse().ok());
    let canceller = async {
        match cancel_after {
            Some(seconds) => {
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                eprintln!("{:.2} cancel", start.elapsed().as_secs_f64());
                cancel.send_replace(true);
                std::future::pending().await
            }
            None => std::future::pending::<()>().await,
        }
    };
    let outside = Terminal(start);
    let finished = tokio::select! {
        finished = drive(job, &outside, Notices { cancel: cancelled, stop: stopped }) => finished,
        () = canceller => unreachable!(),
    };
    println!("{:.2} {finished:#?}", start.elapsed().as_secs_f64());
    let me = std::process::id() as i32;
    let left: Vec<_> = process::processes().into_iter().filter(|one| one.parent == me).collect();
    println!("left: {left:?}");
}

//! The benchmark: what idle workers cost, what a task costs against plain Redis, what the dispatcher costs. A bound that is passed fails it.
//!
//! Release builds are measured, of the workers as well: `tests/run --long` builds and starts it. It reads `/proc`, so
//! it is for Linux. Not here: times that depend on the machine, but as ratios taken in one run; faults
//! (`tests/faults`).

mod chain;
mod crowded;
mod dispatcher;
mod idle;
mod queue;

use std::process::ExitCode;

use clap::Parser;
use motorpool_tests::report;

/// Measures, and checks the bounds.
#[derive(Parser)]
struct Arguments {
    /// Idle workers
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..))]
    workers: u16,
    /// How long they are watched
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only what many tasks that wait cost those who come after them
    #[arg(long)]
    crowded: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One line of the table.
struct Measure {
    what: String,
    measured: f64,
    unit: &'static str,
    /// The most it may be.
    bound: Option<f64>,
}

impl Measure {
    fn new(what: impl Into<String>, measured: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, unit, bound: None }
    }

    fn at_most(self, bound: f64) -> Self {
        Self { bound: Some(bound), ..self }
    }

    fn cells(&self) -> [String; 3] {
        let bound = self.bound.map(|bound| format!("{bound} {}", self.unit)).unwrap_or_default();
        [self.what.clone(), format!("{:.2} {}", self.measured, self.unit), bound]
    }

    /// What is wrong, where the bound is passed.
    fn complaint(&self) -> Option<String> {
        let bound = self.bound.filter(|bound| self.measured > *bound)?;
        Some(format!("{}: {:.3} {}, which is more than {bound}", self.what, self.measured, self.unit))
    }
}

fn main() -> ExitCode {
    let Arguments { workers, seconds, crowded, bench: _ } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let measures = runtime.block_on(async {
        if crowded {
            return crowded::measure().await;
        }
        let mut measures = idle::measure(workers.into(), seconds).await;
        measures.extend(queue::measure().await);
        measures.extend(chain::measure().await);
        measures.extend(dispatcher::measure().await);
        measures.extend(crowded::measure().await);
        measures
    });
    eprintln!("| what | measured | at most |\n|---|---|---|");
    for measure in &measures {
        report::row(&measure.cells().each_ref().map(String::as_str));
    }
    let complaints: Vec<String> = measures.iter().filter_map(Measure::complaint).collect();
    for complaint in &complaints {
        eprintln!("bound passed: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The machine, hour by hour in microseconds.

use super::*;
use crate::claude::event::{Answer, Assistant, RunResult, Usage};
use motorpool::domain::attempt::Outcome;

const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s","model":"m"}"#;
const SUCCESS: &str =
    r#"{"type":"result","subtype":"success","is_error":false,"result":"done","num_turns":1,"total_cost_usd":0.5}"#;
const ABORTED: &str = r#"{"type":"result","subtype":"error_during_execution","is_error":true,
    "terminal_reason":"aborted_tools","total_cost_usd":0.25}"#;

/// Plays inputs at their times and writes down what is done, as in `5000 beat`.
struct Play {
    machine: Machine,
    done: Vec<String>,
    now_ms: u64,
    /// What Redis answers: at once.
    answers: Beat,
    finished: Option<Finished>,
}

impl Play {
    fn new(timeout_ms: Option<u64>) -> Self {
        let rules = Rules { lease_ms: 15_000, timeout_ms, idle_ms: None, structured: false };
        Self { machine: Machine::new(rules, 0), done: Vec::new(), now_ms: 0, answers: Beat::Ok, finished: None }
    }

    fn at(mut self, at_ms: u64, input: Input) -> Self {
        self = self.until(at_ms);
        self.feed(input);
        self
    }

    fn line(self, at_ms: u64, line: &str) -> Self {
        self.at(at_ms, Input::Event(Event::read(line.as_bytes())))
    }

    /// Ticks when the machine wants it, and not otherwise.
    fn until(mut self, at_ms: u64) -> Self {
        while self.machine.due_ms() <= at_ms && self.finished.is_none() {
            self.now_ms = self.machine.due_ms().max(self.now_ms);
            self.feed(Input::Tick);
        }
        self.now_ms = at_ms;
        self
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for action in self.machine.on(self.now_ms, input) {
                let word = match action {
                    Action::Beat(_) => {
                        inputs.push(Input::Beat { sent_ms: self.now_ms, answer: self.answers });
                        continue;
                    }
                    Action::Output(live) => {
                        let words = live.pieces().iter().map(|(kind, text)| format!("{} {text:?}", kind.word()));
                        words.collect::<Vec<_>>().join(", ")
                    }
                    Action::Answer(_) => "answer".into(),
                    Action::CloseStdin => "close".into(),
                    Action::Interrupt => "interrupt".into(),
                    Action::Terminate => "terminate".into(),
                    Action::EndTree => "end tree".into(),
                    Action::Finish(finished) => {
                        self.finished = Some(finished);
                        "finish".into()
                    }
                };
                self.done.push(format!("{} {word}", self.now_ms));
            }
        }
    }

    fn exit(self, at_ms: u64, exit: Exit) -> Self {
        self.at(at_ms, Input::Exited(exit)).at(at_ms + 10, Input::Gone { stderr: String::new() })
    }

    fn gone(self, at_ms: u64) -> Self {
        self.at(at_ms, Input::Gone { stderr: String::new() })
    }

    fn did(&self, expected: &[&str]) -> &Self {
        assert_eq!(self.done, expected);
        self
    }

    fn outcome(&self) -> &Outcome {
        match self.finished.as_ref() {
            Some(Finished::Outcome(classified)) => &classified.outcome,
            other => panic!("{other:?}"),
        }
    }

    fn ended(&self, expected: &str) {
        let word = match &self.outcome().ending {
            Ending::Success => "success".to_owned(),
            Ending::Failed(failure) => format!("{}: {}", failure.class, failure.message),
            Ending::Stopped(reason) => format!("stopped: {reason}"),
            Ending::Elsewhere { why, .. } => format!("elsewhere: {why}"),
        };
        assert!(word.starts_with(expected), "{word}");
    }
}

#[test]
fn a_run_that_succeeds_is_closed_and_finished() {
    let play = Play::new(None).line(300, INIT).line(2000, SUCCESS).exit(2050, Exit::Code(0));
    play.did(&["2000 close", "2050 end tree", "2060 finish"]).ended("success");
    let report = &play.outcome().report;
    assert_eq!((report.output.as_deref(), report.cost_microusd, report.cost_estimated), (Some("done"), 500_000, false));
}

#[test]
fn stdin_stays_open_until_the_result() {
    let play = Play::new(None).line(300, INIT).until(3_600_000);
    play.did(&[]);
}

#[test]
fn beats_are_a_third_of_the_lease_apart_and_one_at_a_time() {
    let rules = Rules { lease_ms: 15_000, timeout_ms: None, idle_ms: None, structured: false };
    let mut machine = Machine::new(rules, 100);
    assert_eq!(machine.due_ms(), 5000);
    assert_eq!(machine.on(4999, Input::Tick), []);
    assert!(matches!(&machine.on(5000, Input::Tick)[..], [Action::Beat(_)]));
    assert_eq!(machine.on(9000, Input::Tick), [], "the first is not answered yet");
    assert_eq!(machine.on(9500, Input::Beat { sent_ms: 5000, answer: Beat::Ok }), []);
    assert_eq!(machine.due_ms(), 10_000);
}

#[test]
fn a_cancelled_run_is_interrupted_and_keeps_its_cost() {
    let play = Play::new(None).line(300, INIT).at(2000, Input::Cancel).line(2200, ABORTED).exit(2250, Exit::Code(0));
    play.did(&["2000 interrupt", "2200 close", "2250 end tree", "2260 finish"]).ended("cancelled: stopped on request");
    assert_eq!(play.outcome().report.cost_microusd, 250_000);
}

#[test]
fn a_beat_may_bring_the_wish_to_stop() {
    let mut play = Play::new(None).line(300, INIT);
    play.answers = Beat::Cancel;
    let play = play.until(5100).line(5200, ABORTED).exit(5250, Exit::Code(0));
    play.did(&["5000 interrupt", "5200 close", "5250 end tree", "5260 finish"]).ended("cancelled");
}

#[test]
fn the_ladder_takes_three_seconds_and_a_little() {
    let play = Play::new(None).line(300, INIT).at(2000, Input::Cancel).until(5000).gone(5100);
    play.did(&["2000 interrupt", "4000 terminate", "5000 end tree", "5100 finish"]).ended("cancelled");
    // The CLI tells its result, but does not go.
    let play = Play::new(None).line(300, INIT).at(2000, Input::Cancel).line(3900, ABORTED).until(4500).gone(4600);
    play.did(&["2000 interrupt", "3900 close", "4400 end tree", "4600 finish"]).ended("cancelled");
    // It ends at SIGTERM.
    let play = Play::new(None).line(300, INIT).at(2000, Input::Cancel).until(4000).exit(4010, Exit::Code(143));
    play.did(&["2000 interrupt", "4000 terminate", "4010 end tree", "4020 finish"]).ended("cancelled");
}

#[test]
fn a_second_reason_does_not_begin_the_ladder_anew() {
    let play = Play::new(Some(2500)).line(300, INIT).at(2000, Input::Cancel).at(2100, Input::Stop).until(5000);
    play.did(&["2000 interrupt", "4000 terminate", "5000 end tree"]);
    play.gone(5100).ended("cancelled");
}

#[test]
fn a_success_after_the_wish_to_stop_is_a_success() {
    let play = Play::new(None).line(300, INIT).at(2000, Input::Cancel).line(2010, SUCCESS).exit(2020, Exit::Code(0));
    play.ended("success");
    let play = Play::new(None).line(300, INIT).line(2000, SUCCESS).at(2010, Input::Cancel).until(2600).gone(2700);
    play.did(&["2000 close", "2510 end tree", "2700 finish"]).ended("success");
}

#[test]
fn a_failure_before_the_wish_to_stop_stands() {
    let turns = r#"{"type":"result","subtype":"error_max_turns","is_error":true,"errors":["too many"]}"#;
    let play = Play::new(None).line(300, INIT).line(2000, turns).at(2010, Input::Cancel).exit(2050, Exit::Code(1));
    play.ended("turns: too many");
}

#[test]
fn a_time_out_ends_it_and_says_which() {
    let play = Play::new(Some(1_800_000)).line(300, INIT).until(1_800_100).line(1_800_200, ABORTED);
    let play = play.exit(1_800_300, Exit::Code(0));
    play.did(&["1800000 interrupt", "1800200 close", "1800300 end tree", "1800310 finish"]);
    play.ended("timeout: it ran for 1800 s");
    // Once the result is there, it is in time.
    let play = Play::new(Some(2000)).line(300, INIT).line(1999, SUCCESS).until(5000).exit(5000, Exit::Code(0));
    play.ended("success");
}

#[test]
fn a_silence_ends_it_and_says_during_what() {
    let rules = Rules { lease_ms: 15_000, timeout_ms: None, idle_ms: Some(60_000), structured: false };
    let quiet = || Play { machine: Machine::new(rules.clone(), 0), ..Play::new(None) };
    let call = r#"{"type":"assistant","message":{"id":"a","model":"m","content":[
        {"type":"tool_use","id":"c","name":"Bash","input":{"command":"make all"}}]}}"#;
    let play = quiet().line(300, INIT).line(50_000, call).until(109_999);
    assert!(!play.done.iter().any(|one| one.ends_with("interrupt")), "{:?}", play.done);
    let play = play.until(110_100).line(110_200, ABORTED).exit(110_300, Exit::Code(0));
    assert!(play.done.contains(&"110000 interrupt".to_owned()), "{:?}", play.done);
    play.ended("timeout: it was silent for 60 s in Bash(make all), the task's idle_timeout_s");
}

#[test]
fn a_lost_lease_ends_claude_at_once_and_writes_nothing() {
    let mut play = Play::new(None).line(300, INIT);
    play.answers = Beat::Stale;
    let play = play.until(5000).gone(5100);
    play.did(&["5000 end tree", "5100 finish"]);
    assert_eq!(play.finished, Some(Finished::Stale));
    // Also in the middle of the ladder, and with a success at hand.
    let mut play = Play::new(None).line(300, INIT).at(4900, Input::Cancel).line(4950, SUCCESS);
    play.answers = Beat::Stale;
    let play = play.until(5100).gone(5200);
    play.did(&["4900 interrupt", "4950 close", "5000 end tree", "5200 finish"]);
    assert_eq!(play.finished, Some(Finished::Stale));
}

#[test]
fn a_lonely_worker_goes_on_until_a_second_before_its_lease_is_over() {
    let mut play = Play::new(None).line(300, INIT).until(10_000);
    play.answers = Beat::Unreachable;
    let play = play.until(23_999);
    play.did(&[]);
    let play = play.until(24_000).line(24_200, ABORTED).exit(24_300, Exit::Code(0));
    play.did(&["24000 interrupt", "24200 close", "24300 end tree", "24310 finish"]);
    play.ended("stopped: Redis did not answer");
    assert_eq!(play.outcome().report.session_id.as_deref(), Some("s"), "it keeps what it has");
}

/// Ten seconds after the last answered beat the lease of fifteen is over at 25,000.
#[test]
fn nothing_of_a_run_is_left_when_its_lease_is_over() {
    let lonely = || {
        let mut play = Play::new(None).line(300, INIT).until(10_000);
        play.answers = Beat::Unreachable;
        play
    };
    let ladder = ["24000 interrupt", "24700 terminate", "24900 end tree"];
    lonely().until(60_000).did(&ladder);
    // It tells its result, but does not go.
    lonely().line(24_699, ABORTED).until(60_000).did(&["24000 interrupt", "24699 close", "24899 end tree"]);
    // Another ladder has begun, which takes longer.
    let cancelled = lonely().at(23_500, Input::Cancel).until(60_000);
    cancelled.did(&["23500 interrupt", "24900 end tree"]);
    cancelled.gone(60_100).ended("cancelled");
    // It is about to end by itself: what it has told stands.
    for (result, ending) in [(SUCCESS, "success"), (r#"{"type":"result","subtype":"error_max_turns"}"#, "turns")] {
        let told = lonely().line(20_000, result).until(60_000);
        told.did(&["20000 close", "24900 end tree"]);
        told.gone(60_100).ended(ending);
    }
    // The machine looked at the clock too late.
    let mut play = lonely();
    play.now_ms = 26_000;
    play.feed(Input::Tick);
    play.did(&["26000 interrupt", "26000 end tree"]);
}

#[test]
fn a_short_lease_is_not_eaten_up_by_the_ladder() {
    let rules = Rules { lease_ms: 3000, timeout_ms: None, idle_ms: None, structured: false };
    let mut play = Play { machine: Machine::new(rules, 0), ..Play::new(None) }.line(300, INIT);
    play.answers = Beat::Unreachable;
    play.until(10_000).did(&["2400 interrupt", "2820 terminate", "2940 end tree"]);
}

#[test]
fn the_lease_counts_from_the_sending_of_a_beat_not_from_its_answer() {
    let rules = Rules { lease_ms: 15_000, timeout_ms: None, idle_ms: None, structured: false };
    let mut machine = Machine::new(rules, 0);
    let _ = machine.on(300, Input::Event(Event::read(INIT.as_bytes())));
    let _ = machine.on(5000, Input::Tick);
    let _ = machine.on(9900, Input::Beat { sent_ms: 5000, answer: Beat::Ok });
    assert!(matches!(&machine.on(10_000, Input::Tick)[..], [Action::Beat(_)]));
    assert_eq!(machine.on(18_999, Input::Tick), []);
    assert!(machine.on(19_000, Input::Tick).contains(&Action::Interrupt), "the second beat is without answer");
}

#[test]
fn back_in_touch_before_the_lease_is_over_nothing_has_happened() {
    let mut play = Play::new(None).line(300, INIT);
    play.answers = Beat::Unreachable;
    let mut play = play.until(12_500);
    play.answers = Beat::Ok;
    let play = play.until(60_000);
    play.did(&[]);
}

#[test]
fn a_worker_that_is_stopped_gives_its_task_back() {
    let play = Play::new(None).line(300, INIT).at(1000, Input::Drain).at(2000, Input::Stop).line(2100, ABORTED);
    let play = play.exit(2200, Exit::Code(0));
    play.did(&["2000 interrupt", "2100 close", "2200 end tree", "2210 finish"])
        .ended("stopped: the worker was stopped");
}

#[test]
fn a_cli_that_does_not_exit_after_its_result_is_ended_and_the_result_stands() {
    let play = Play::new(None).line(300, INIT).line(2000, SUCCESS).until(12_000).gone(12_100);
    play.did(&["2000 close", "12000 end tree", "12100 finish"]).ended("success");
}

#[test]
fn a_cli_that_never_begins_is_ended() {
    let play = Play::new(None).until(123_000).at(123_100, Input::Gone { stderr: "waiting".into() });
    play.did(&["120000 interrupt", "122000 terminate", "123000 end tree", "123100 finish"]);
    play.ended("transient: the CLI did not begin within 120 s; on stderr it said waiting");
}

#[test]
fn a_cli_that_breaks_off_is_transient() {
    Play::new(None).line(300, INIT).exit(900, Exit::Signal(11)).ended("transient: the CLI was ended by signal 11");
}

#[test]
fn what_cannot_be_read_ends_it() {
    let play = Play::new(None).line(300, INIT).at(900, Input::Broken("a line of more than 9 bytes".into())).gone(950);
    play.did(&["900 end tree", "950 finish"]).ended("internal: the CLI's output cannot be read: a line of more");
}

#[test]
fn a_refused_initialize_is_the_tasks_fault() {
    let refused =
        r#"{"type":"control_response","response":{"subtype":"error","request_id":"initialize","error":"bad"}}"#;
    let play = Play::new(None).line(300, refused).gone(350);
    play.did(&["300 end tree", "350 finish"]).ended("request: the CLI refused the task: bad");
}

#[test]
fn whoever_asks_gets_an_answer() {
    let asks = r#"{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool"}}"#;
    Play::new(None).line(300, INIT).line(400, asks).did(&["400 answer"]);
}

#[test]
fn live_text_comes_in_handfuls_and_once() {
    let partial = |text: &str| Input::Event(Event::Partial(text.into()));
    let whole = |text: &str| {
        let answer = Answer { id: "a".into(), ..Answer::default() };
        let part = Assistant { text: text.into(), answer, ..Assistant::default() };
        Input::Event(Event::Assistant(Box::new(part)))
    };
    let play = Play::new(None).line(300, INIT).at(400, partial("a")).at(500, partial("b")).at(640, whole("ab"));
    let play = play.until(700).at(800, whole("not streamed")).at(900, partial("the end")).line(910, SUCCESS);
    let play = play.exit(920, Exit::Code(0));
    play.did(&["650 text \"ab\\n\"", "910 close", "920 end tree", "930 text \"not streamed\\nthe end\"", "930 finish"]);
    let long = "x".repeat(LIVE_BYTES);
    assert_eq!(Play::new(None).at(400, partial(&long)).done.len(), 1, "not held back");
}

#[test]
fn an_mcp_server_that_did_not_start_is_told_in_the_live_text() {
    let init = r#"{"type":"system","subtype":"init","mcp_servers":[{"name":"w","status":"failed"},{"name":"v"}]}"#;
    Play::new(None).line(300, init).until(600).did(&["550 note \"MCP servers that did not start: w\""]);
}

#[test]
fn progress_tells_tool_cost_and_silence() {
    let call = Call { id: "c".into(), short: "Bash(cargo test)".into() };
    let usage = Usage { input: 1_000_000, ..Usage::default() };
    let answer = Answer { id: "a".into(), model: "claude-sonnet-5".into(), usage };
    let part = Assistant { calls: vec![call], answer, ..Assistant::default() };
    let mut play = Play::new(None).line(300, INIT).at(1000, Input::Event(Event::Assistant(Box::new(part))));
    let progress = play.machine.progress(4000);
    let expected = Progress {
        cost_microusd: 2_000_000,
        tool: "Bash(cargo test)".into(),
        heard_ago_ms: 3000,
        session_id: "s".into(),
    };
    assert_eq!(progress, expected);
    play = play.at(5000, Input::Event(Event::ToolResults(vec!["c".into()])));
    assert_eq!(play.machine.progress(5000).tool, "");
}

#[test]
fn nothing_follows_the_end() {
    let mut play = Play::new(None).line(300, SUCCESS).exit(400, Exit::Code(0));
    for input in [Input::Cancel, Input::Stop, Input::Tick, Input::Exited(Exit::Code(0)), Input::Event(Event::Noise)] {
        assert_eq!(play.machine.on(500_000, input), []);
    }
    let result = RunResult { subtype: "success".into(), ..RunResult::default() };
    assert_eq!(play.machine.on(500_000, Input::Event(Event::Result(Box::new(result)))), []);
}

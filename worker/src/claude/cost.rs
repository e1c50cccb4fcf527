//! What a run has cost so far, estimated: tokens from the events times a dated table of list prices.
//!
//! Used until the CLI's own figure comes with its result, and for good where none comes. A model that is not in the
//! table counts as the dearest. Not here: the CLI's figure (`event.rs`).

use super::event::{Answer, Usage};

/// Dollars for a million tokens, read and written, by the beginning of the model's name; the longest fits.
/// As the CLI 2.1.330 reckoned on 2026-11-25.
const PRICES: &[(&str, f64, f64)] = &[
    ("claude-3-5-haiku", 0.8, 4.0),
    ("claude-haiku-4-5", 1.0, 5.0),
    ("claude-haiku-5-5", 0.1, 0.5),
    ("claude-sonnet-4", 3.0, 15.0),
    ("claude-sonnet-5", 2.0, 10.0),
    ("claude-opus-4", 5.0, 25.0),
    ("claude-opus-5", 5.0, 25.0),
    ("claude-opus-5-5", 4.0, 20.0),
    ("claude-fable-5", 10.0, 50.0),
    ("claude-fable-5-2", 8.0, 40.0),
];

/// A prompt above so many tokens costs so many times as much, by the beginning of the model's name.
const LONG: &[(&str, u64, f64)] = &[("claude-haiku-5-5", 100_000, 5.0)];

/// Adds up the answers of a run.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    settled: f64,
    /// The answers that are being written, at most one a conversation: the task's own and each subagent's.
    open: Vec<(Option<String>, Answer)>,
}

impl Meter {
    /// An answer began, or a part of it came.
    pub fn answer(&mut self, parent: Option<&str>, answer: &Answer) {
        if answer.model == "<synthetic>" {
            return;
        }
        match self.open.iter_mut().find(|(one, _)| one.as_deref() == parent) {
            Some((_, open)) if open.id == answer.id => open.usage = most(open.usage, answer.usage),
            Some((_, open)) => {
                self.settled += microusd(open);
                *open = answer.clone();
            }
            None => self.open.push((parent.map(str::to_owned), answer.clone())),
        }
    }

    /// The tokens of the answer that is being written.
    pub fn usage(&mut self, parent: Option<&str>, usage: Usage) {
        if let Some((_, open)) = self.open.iter_mut().find(|(one, _)| one.as_deref() == parent) {
            open.usage = most(open.usage, usage);
        }
    }

    /// The sum in microdollars.
    #[must_use]
    pub fn microusd(&self) -> u64 {
        (self.settled + self.open.iter().map(|(_, answer)| microusd(answer)).sum::<f64>()).round() as u64
    }
}

/// The figures of one answer only grow; the parts of it are told with the figures of its beginning.
fn most(a: Usage, b: Usage) -> Usage {
    Usage {
        input: a.input.max(b.input),
        output: a.output.max(b.output),
        cache_read: a.cache_read.max(b.cache_read),
        cache_write: a.cache_write.max(b.cache_write),
        cache_write_1h: a.cache_write_1h.max(b.cache_write_1h),
    }
}

fn microusd(answer: &Answer) -> f64 {
    let Usage { input, output, cache_read, cache_write, cache_write_1h } = answer.usage;
    let known = PRICES.iter().filter(|(name, ..)| answer.model.starts_with(name)).max_by_key(|(name, ..)| name.len());
    let dearest = PRICES.iter().max_by(|a, b| a.2.total_cmp(&b.2));
    let (read, write) = known.or(dearest).map_or((0.0, 0.0), |(_, read, write)| (*read, *write));
    let prompt = input + cache_read + cache_write + cache_write_1h;
    let long = LONG.iter().find(|(name, above, _)| answer.model.starts_with(name) && prompt > *above);
    let factor = long.map_or(1.0, |(_, _, factor)| *factor);
    // A cache costs 1.25 times the price to write, twice for an hour, a tenth to read.
    let weighed = input as f64 + 0.1 * cache_read as f64 + 1.25 * cache_write as f64 + 2.0 * cache_write_1h as f64;
    factor * (weighed * read + output as f64 * write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, model: &str, input: u64, output: u64) -> Answer {
        Answer { id: id.into(), model: model.into(), usage: Usage { input, output, ..Usage::default() } }
    }

    #[test]
    fn an_answer_costs_its_list_price() {
        for (model, input, output, expected) in [
            ("claude-haiku-4-5-20251001", 1_000_000, 0, 1_000_000),
            ("claude-haiku-5-5", 10, 5, 4),
            ("claude-haiku-5-5", 210_000, 1000, 107_500),
            ("claude-sonnet-5-5", 0, 1_000_000, 10_000_000),
            ("claude-opus-5", 1_000_000, 0, 5_000_000),
            ("claude-opus-5-5", 1_000_000, 0, 4_000_000),
            ("claude-fable-5-2", 0, 1_000_000, 40_000_000),
            ("somebody-elses", 1_000_000, 1_000_000, 60_000_000),
            ("<synthetic>", 5, 5, 0),
        ] {
            let mut meter = Meter::default();
            meter.answer(None, &answer("a", model, input, output));
            assert_eq!(meter.microusd(), expected, "{model}");
        }
        let usage =
            Usage { cache_read: 1_000_000, cache_write: 1_000_000, cache_write_1h: 1_000_000, ..Usage::default() };
        let cached = Answer { usage, ..answer("a", "claude-sonnet-4-5", 0, 0) };
        assert_eq!(microusd(&cached).round() as u64, 300_000 + 3_750_000 + 6_000_000);
    }

    #[test]
    fn parts_of_one_answer_count_once_and_answers_add_up() {
        let mut meter = Meter::default();
        let model = "claude-sonnet-5";
        meter.answer(None, &answer("a", model, 1000, 1));
        meter.answer(None, &answer("a", model, 1000, 1));
        meter.usage(None, Usage { input: 1000, output: 100, ..Usage::default() });
        meter.answer(None, &answer("a", model, 1000, 1));
        assert_eq!(meter.microusd(), 2000 + 1000);
        meter.answer(Some("call"), &answer("b", model, 1000, 0));
        meter.answer(None, &answer("c", model, 1000, 0));
        meter.usage(Some("call"), Usage { output: 100, ..Usage::default() });
        assert_eq!(meter.microusd(), 3000 + 2000 + 1000 + 2000);
    }
}

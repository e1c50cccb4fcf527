//! Review: what a judgement of a result leads to, and what is asked in the next round.
//!
//! Not here: who judges (the faces), how it is written (`judge.lua`).

use super::options::TaskOptions;

/// Rejections where nobody says how many.
pub const REJECTIONS: u32 = 3;

/// A round of review that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number, from 1.
    pub n: u32,
    /// It was approved; else it was rejected.
    pub approved: bool,
    /// Who judged it.
    pub by: String,
    /// Why; the feedback of a rejection.
    pub why: String,
    /// The run that had given the result.
    pub run: u64,
    /// What was rejected.
    pub output: Option<String>,
    /// When, by Redis's clock.
    pub at_ms: u64,
}

/// Whether the rejection of this round is the last one that the task bears.
#[must_use]
pub fn is_last(round: u32, options: &TaskOptions) -> bool {
    round >= options.max_rejections.unwrap_or(REJECTIONS)
}

/// What is asked in a session that has the earlier rounds in it.
#[must_use]
pub fn continued(rounds: &[Round]) -> String {
    let last = rounds.iter().rev().find(|round| !round.approved);
    let why = last.map(|round| round.why.as_str()).unwrap_or_default();
    format!("Your result was reviewed and rejected. The feedback:\n\n{why}\n\nDo it again, heeding it.")
}

/// What is asked where nothing is known of the earlier rounds but their feedback.
#[must_use]
pub fn repeated(prompt: &str, rounds: &[Round]) -> String {
    let mut text = prompt.to_owned();
    text.push_str("\n\n---\nThis was done before, and the result was reviewed and rejected. The feedback so far:\n");
    for round in rounds.iter().filter(|round| !round.approved) {
        text.push_str(&format!("\nRound {}:\n{}\n", round.n, round.why));
    }
    text.push_str("\nDo it again, heeding all of it.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(n: u32, why: &str) -> Round {
        Round { n, approved: false, by: "me".into(), why: why.into(), run: 1, output: None, at_ms: 0 }
    }

    #[test]
    fn a_repeated_prompt_has_all_feedback_and_a_continued_one_the_last() {
        let rounds = [round(1, "too long"), round(2, "wrong file")];
        let text = repeated("the prompt", &rounds);
        assert!(text.starts_with("the prompt\n") && text.contains("too long") && text.contains("wrong file"), "{text}");
        let text = continued(&rounds);
        assert!(text.contains("wrong file") && !text.contains("too long"), "{text}");
    }

    #[test]
    fn the_last_rejection_is_the_one_that_was_asked_for() {
        let most = |max_rejections| TaskOptions { max_rejections, ..TaskOptions::default() };
        assert!(!is_last(2, &most(None)) && is_last(3, &most(None)));
        assert!(is_last(1, &most(Some(1))) && !is_last(1, &most(Some(2))));
    }
}

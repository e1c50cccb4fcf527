//! Every bound of the contract, with its sentence.
//!
//! What is beyond a bound is refused before anything is written; an output alone is cut instead.

use crate::error::{Error, Result};

/// Longest prompt, in bytes.
pub const PROMPT_BYTES: usize = 1024 * 1024;
/// Longest system prompt, added or replacing, in bytes.
pub const SYSTEM_PROMPT_BYTES: usize = 256 * 1024;
/// Longest JSON of all options of a task together, system prompts included, in bytes.
pub const OPTIONS_BYTES: usize = 512 * 1024;
/// Longest output that is kept, in bytes; a longer one is cut in the middle.
pub const OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Largest whole submission, in bytes.
pub const SUBMISSION_BYTES: usize = 16 * 1024 * 1024;
/// Most text in one call to Redis, in bytes.
pub const CALL_BYTES: usize = 2 * 1024 * 1024;
/// Most records in one call to Redis.
pub const CALL_RECORDS: usize = 1000;
/// Most tasks of a pool that wait to be started.
pub const MAX_PENDING: u64 = 100_000;
/// Most tags of a task.
pub const TAGS: usize = 32;
/// Longest label of a worker, in bytes.
pub const LABEL_BYTES: usize = 64;
/// Most labels that a task may need.
pub const LABELS: usize = 16;
/// Most tasks that a task may follow.
pub const FOLLOWED: usize = 1000;
/// Most such ties in one call to Redis.
pub const CALL_FOLLOWED: usize = 10_000;
/// Most lanes of a pool, each set of labels counting as one: every one of them is looked at once a second.
pub const LANES: u64 = 1000;
/// Longest tag, key (`once`) or coordinator's name, in bytes.
pub const KEY_BYTES: usize = 200;
/// Longest time a task may run, be silent, wait or be delayed, in seconds: 30 days.
pub const TIMEOUT_S: u64 = 30 * 24 * 3600;
/// Most attempts a task may ask for.
pub const MAX_ATTEMPTS: u32 = 100;
/// Most steps of a chain.
pub const STEPS: usize = 100;
/// Most items of a fan-out.
pub const ITEMS: usize = 1000;
/// Longest name of a step, a variable or an item, in characters.
pub const STEP_NAME_CHARS: usize = 64;
/// Most variables that a step takes out of its output.
pub const OUTPUT_VARS: usize = 32;
/// Most retries of a step.
pub const STEP_RETRIES: u32 = 20;
/// Longest text that is put into a prompt in one place, in characters; a longer one is cut in the middle.
pub const SUBSTITUTED_CHARS: usize = 100_000;
/// Most rejections that a task may ask for.
pub const MAX_REJECTIONS: u32 = 20;
/// Longest feedback of a rejection, in bytes.
pub const FEEDBACK_BYTES: usize = 64 * 1024;
/// Longest title of a task, in characters.
pub const TITLE_CHARS: usize = 80;
/// Longest message of an error that is kept, in bytes.
pub const MESSAGE_BYTES: usize = 8 * 1024;

/// Refuses a prompt that is empty or too long.
pub fn check_prompt(prompt: &str) -> Result<()> {
    if prompt.trim().is_empty() {
        return Err(Error::usage("the prompt is empty").hint("say what the task is to do"));
    }
    if prompt.len() > PROMPT_BYTES {
        return Err(Error::usage(format!("the prompt has {} bytes; at most {PROMPT_BYTES} are taken", prompt.len()))
            .hint("put the material into a file that the task reads"));
    }
    if prompt.contains('\0') {
        return Err(Error::usage("the prompt contains a NUL character").hint("remove it"));
    }
    Ok(())
}

/// `text` cut in the middle to at most `limit` bytes, saying so; unchanged where it fits.
#[must_use]
pub fn cut_middle(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let note = format!("\n[… cut here: {} bytes in all …]\n", text.len());
    let half = limit.saturating_sub(note.len()) / 2;
    let head = (0..=half).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let from = text.len() - half;
    let tail = (from..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
    format!("{}{note}{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_of_a_mebibyte_passes_and_a_byte_more_does_not() {
        assert!(check_prompt(&"x".repeat(PROMPT_BYTES)).is_ok());
        assert!(check_prompt(&"x".repeat(PROMPT_BYTES + 1)).is_err());
        assert!(check_prompt(" \n").is_err());
    }

    #[test]
    fn a_cut_keeps_both_ends_and_says_so() {
        let text = format!("head{}tail", "ä".repeat(5000));
        let cut = cut_middle(&text, 1000);
        assert!(cut.len() <= 1000 && cut.starts_with("head") && cut.ends_with("tail") && cut.contains("10008 bytes"));
        assert_eq!(cut_middle("short", 1000), "short");
    }
}

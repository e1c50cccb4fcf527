//! A lane: a name, and the labels that a worker must have to take from it.
//!
//! In Redis it is one word, `default+gpu+os:linux`: what stands in a lane can start on every worker that serves it.

use std::collections::BTreeSet;
use std::fmt;

use super::ids::Name;
use super::limits;
use crate::error::{Error, Result};

/// A queue that tasks stand in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    name: String,
    needs: BTreeSet<String>,
}

impl Lane {
    /// The lane of this name for tasks that need these labels.
    #[must_use]
    pub fn new(name: &Name, needs: &[String]) -> Self {
        Self { name: name.to_string(), needs: needs.iter().cloned().collect() }
    }

    /// Reads the word of a lane.
    #[must_use]
    pub fn parse(word: &str) -> Self {
        let mut parts = word.split('+').map(str::to_owned);
        Self { name: parts.next().unwrap_or_default(), needs: parts.collect() }
    }

    /// It, for tasks that need this label as well; nothing where they did before.
    #[must_use]
    pub fn needing(mut self, label: &str) -> Option<Self> {
        self.needs.insert(label.to_owned()).then_some(self)
    }

    /// Its name, without labels.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it needs no label.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.needs.is_empty()
    }

    /// Whether a worker of these names and labels serves it.
    #[must_use]
    pub fn is_served_by(&self, names: &[String], labels: &[String]) -> bool {
        names.contains(&self.name) && self.needs.iter().all(|label| labels.contains(label))
    }

    /// It, for people: `the lane default`, `the lane default and has gpu`.
    #[must_use]
    pub fn words(&self) -> String {
        let needs: Vec<&str> = self.needs.iter().map(String::as_str).collect();
        let has = if needs.is_empty() { String::new() } else { format!(" and has {}", needs.join(", ")) };
        format!("the lane {}{has}", self.name)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.needs.iter().try_for_each(|label| write!(f, "+{label}"))
    }
}

/// The lanes that a worker of these names and labels serves: those of its first name first, and of each name those
/// that need most before those that others can do as well. The plain ones are served whether they are known or not.
#[must_use]
pub fn served(names: &[String], labels: &[String], known: &[String]) -> Vec<String> {
    let mut lanes = Vec::new();
    // The plain ones are served whatever there is besides.
    let mut room = MOST_SERVED.saturating_sub(names.len());
    for name in names {
        let own = known.iter().map(|word| Lane::parse(word));
        let mut own: Vec<Lane> = own.filter(|lane| lane.name == *name && !lane.is_plain()).collect();
        own.retain(|lane| lane.is_served_by(names, labels));
        own.sort_by_key(|lane| (usize::MAX - lane.needs.len(), lane.to_string()));
        own.truncate(room);
        room -= own.len();
        lanes.extend(own.iter().map(ToString::to_string));
        lanes.push(name.clone());
    }
    lanes
}

/// Most lanes that a worker looks into: as many as a pool has.
const MOST_SERVED: usize = limits::LANES as usize;

/// Refuses what is no label.
///
/// # Errors
/// It has other characters than letters, digits, `.`, `_`, `:` and `-`, or is too long.
pub fn check_label(label: &str) -> Result<()> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"._:-".contains(&c);
    if (1..=limits::LABEL_BYTES).contains(&label.len()) && label.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::usage(format!("{label:?} is no label")).hint(format!(
        "use 1 to {} letters, digits, dots, colons, _ and -, as in gpu or os:linux",
        limits::LABEL_BYTES
    )))
}

/// A text as a part of a label: what does not fit becomes `-`.
#[must_use]
pub fn as_label(kind: &str, text: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let mut label = format!("{kind}:{}", text.chars().map(fits).collect::<String>());
    label.truncate(limits::LABEL_BYTES);
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn a_lane_is_one_word_whatever_the_order_of_its_labels() {
        let lane = Lane::new(&Name::default(), &texts(&["os:linux", "gpu", "gpu"]));
        assert_eq!(lane.to_string(), "default+gpu+os:linux");
        assert_eq!(Lane::parse("default+gpu+os:linux"), lane);
        assert_eq!((Lane::parse("big").is_plain(), Lane::parse("big").to_string().as_str()), (true, "big"));
        assert_eq!(lane.words(), "the lane default and has gpu, os:linux");
    }

    #[test]
    fn a_worker_serves_what_needs_no_more_than_it_has() {
        let known = texts(&["a", "a+gpu", "a+gpu+os:linux", "a+tpu", "b+gpu", "c+gpu", "c"]);
        let labels = texts(&["gpu", "os:linux"]);
        let served = served(&texts(&["b", "a"]), &labels, &known);
        assert_eq!(served, texts(&["b+gpu", "b", "a+gpu+os:linux", "a+gpu", "a"]));
        for word in known.iter().filter(|word| word.starts_with(['a', 'b'])) {
            let lane = Lane::parse(word);
            assert_eq!(served.contains(word), lane.is_served_by(&texts(&["b", "a"]), &labels), "{word}");
        }
    }

    #[test]
    fn plain_lanes_are_served_whatever_there_is_besides() {
        let known: Vec<String> = (0..3000).map(|n| format!("a+l{n}")).collect();
        let labels: Vec<String> = (0..3000).map(|n| format!("l{n}")).collect();
        let served = served(&texts(&["a", "b"]), &labels, &known);
        assert!(served.len() <= MOST_SERVED && ["a", "b"].iter().all(|lane| served.contains(&(*lane).to_owned())));
    }

    #[test]
    fn labels_have_their_characters() {
        for label in ["gpu", "os:linux", "A.b-c_1"] {
            check_label(label).unwrap();
        }
        for label in ["", "a b", "a+b", "ä", "x\n", &"x".repeat(65)] {
            check_label(label).unwrap_err();
        }
        assert_eq!(as_label("host", "my box+1\u{e4}"), "host:my-box-1-");
        check_label(&as_label("host", &"x".repeat(300))).unwrap();
    }
}

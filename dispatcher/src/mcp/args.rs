//! The arguments of a tool: its own by name, all others are options of the task.
//!
//! Unknown names are refused with the nearest, values that do not fit with what would. Not here: the options
//! themselves (`domain/options.rs` of the library), the schemas (`tools`).

use motorpool::domain::limits;
use motorpool::domain::options::TABLE;
use motorpool::error::nearest;
use motorpool::{Error, Id, Result, TaskOptions};
use serde_json::{Map, Value};

/// Longest wait that a tool takes, in seconds.
pub(super) const WAIT_MOST_S: u64 = 600;
/// Most ids that one call takes.
pub(super) const IDS: usize = 40;

/// What a caller may write for `ids`.
const ID_NAMES: [&str; 4] = ["ids", "id", "task_id", "chain_id"];

/// The arguments of one call, taken out one by one.
#[derive(Clone, Debug)]
pub(super) struct Args {
    rest: Map<String, Value>,
    /// Names that were asked for: what a hint may name.
    known: Vec<&'static str>,
}

impl Args {
    pub(super) fn new(given: Map<String, Value>) -> Self {
        // An explicit null is how some hosts leave a value out.
        let rest = given.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Self { rest, known: Vec::new() }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.rest.remove(name)
    }

    /// Sets an argument that the tool stands for.
    pub(super) fn put(&mut self, name: &str, value: Value) {
        self.rest.insert(name.to_owned(), value);
    }

    /// A text.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unfit(name, &other, "a text")),
        }
    }

    /// A text that must be there.
    pub(super) fn needed_text(&mut self, name: &'static str, hint: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| Error::usage(format!("{name} is missing")).hint(hint))
    }

    /// A list of texts; one alone needs no list.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                Ok(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            Some(other) => Err(unfit(name, &other, "a list of texts")),
        }
    }

    /// An object.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Value>> {
        match self.take(name) {
            None => Ok(None),
            Some(value @ Value::Object(_)) => Ok(Some(value)),
            Some(other) => Err(unfit(name, &other, "an object")),
        }
    }

    /// true or false.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(unfit(name, &other, "true or false")),
        }
    }

    /// A whole number, `most` at the most.
    pub(super) fn count(&mut self, name: &'static str, most: u64) -> Result<Option<u64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if number <= most => Ok(Some(number)),
            Some(_) => Err(Error::usage(format!("{name}: {value} is more than {most}"))
                .hint(format!("give {most} at the most, and call again"))),
            None => Err(unfit(name, &value, "a whole number")),
        }
    }

    /// The ids that were named, in order, each once.
    pub(super) fn ids(&mut self) -> Result<Vec<Id>> {
        let mut ids: Vec<Id> = Vec::new();
        for name in ID_NAMES {
            let texts = match self.take(name) {
                None => continue,
                Some(Value::String(text)) => vec![text],
                Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
                }
                Some(other) => return Err(unfit(name, &other, "a list of ids, as in [\"t17\"]")),
            };
            for text in texts {
                let id: Id = limits::cut_middle(text.trim(), 60).parse().map_err(|error: Error| {
                    Error::usage(error.message()).hint(
                        "an id is t, c or b (task, chain, batch) and a number, as in t17; pool_view tasks lists them",
                    )
                })?;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        if ids.len() > IDS {
            return Err(Error::usage(format!("{} ids; at most {IDS} are taken", ids.len())).hint("make several calls"));
        }
        Ok(ids)
    }

    /// The ids that were named; there must be one.
    pub(super) fn needed_ids(&mut self) -> Result<Vec<Id>> {
        let ids = self.ids()?;
        if ids.is_empty() {
            return Err(Error::usage("ids is missing").hint("name them, as in {\"ids\": [\"t17\"]}"));
        }
        Ok(ids)
    }

    /// The coordinator that the call names.
    pub(super) fn coordinator(&mut self) -> Result<Option<String>> {
        let name = self.text("coordinator")?;
        TaskOptions { coordinator: name.clone(), ..TaskOptions::default() }.check()?;
        Ok(name)
    }

    /// All that is left is options of the task.
    pub(super) fn options(self) -> Result<TaskOptions> {
        for name in self.rest.keys() {
            if !TABLE.iter().any(|row| row.name == name) {
                let built = TABLE.iter().filter(|row| row.is_built()).map(|row| row.name);
                return Err(unknown(name, self.known.iter().copied().chain(built), "an option of pool_run"));
            }
        }
        TaskOptions::from_json(&self.rest)
    }

    /// All that is left, as a definition of a chain or fan-out has it.
    pub(super) fn definition(self) -> Map<String, Value> {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        let Some(name) = self.rest.keys().next() else { return Ok(()) };
        let known = self.known.iter().copied().filter(|name| !ID_NAMES[1..].contains(name));
        Err(unknown(name, known, "an argument of this tool"))
    }
}

fn unknown(name: &str, known: impl Iterator<Item = &'static str> + Clone, what: &str) -> Error {
    let shown = limits::cut_middle(name, 60);
    let error = Error::usage(format!("{shown:?} is not {what}"));
    match nearest(&shown, known.clone()) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("known: {}", known.collect::<Vec<_>>().join(", "))),
    }
}

fn unfit(name: &str, value: &Value, wanted: &str) -> Error {
    let shown = limits::cut_middle(&value.to_string(), 80);
    Error::usage(format!("{name}: {shown} does not do")).hint(format!("give {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(value: Value) -> Args {
        Args::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn ids_are_read_however_they_are_written() {
        for given in
            [json!({"ids": ["t1", "t2"]}), json!({"ids": "t1", "id": "t2"}), json!({"task_id": ["t1", " t2", "t1"]})]
        {
            let mut args = args(given.clone());
            assert_eq!(args.needed_ids().unwrap(), [1, 2].map(|n| Id::Task(motorpool::TaskId::new(n))), "{given}");
            args.end().unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        type Read = fn(Args) -> Result<()>;
        let reads: [(Value, Read, &str); 9] = [
            (json!({"ids": []}), |mut args| args.needed_ids().map(drop), "ids is missing; name them"),
            (json!({"ids": [1]}), |mut args| args.needed_ids().map(drop), "ids: [1] does not do; give a list"),
            (json!({"ids": ["x"]}), |mut args| args.needed_ids().map(drop), "\"x\""),
            (json!({"wait_s": 601}), |mut args| args.count("wait_s", 600).map(drop), "601 is more than 600"),
            (json!({"wait_s": -1}), |mut args| args.count("wait_s", 600).map(drop), "give a whole number"),
            (json!({"full": "yes"}), |mut args| args.flag("full").map(drop), "give true or false"),
            (json!({"prompt": 7}), |mut args| args.text("prompt").map(drop), "give a text"),
            (
                json!({"prmpt": "x"}),
                |mut args| args.text("prompt").and(args.options().map(drop)),
                "did you mean prompt?",
            ),
            (json!({"wiat_s": 1}), |mut args| args.count("wait_s", 9).and(args.end()), "did you mean wait_s?"),
        ];
        for (given, read, expected) in reads {
            let error = read(args(given.clone())).expect_err(&given.to_string());
            assert!(error.to_string().contains(expected), "{given}: {error}");
        }
    }

    #[test]
    fn null_is_absence_and_the_rest_is_options() {
        let mut args = args(json!({"prompt": "p", "wait_s": null, "model": "haiku", "effort": null}));
        assert_eq!(args.text("prompt").unwrap().as_deref(), Some("p"));
        assert_eq!(args.count("wait_s", 600).unwrap(), None);
        assert_eq!(args.options().unwrap(), TaskOptions { model: Some("haiku".into()), ..TaskOptions::default() });
    }
}

//! Definitions of chains and fan-outs as JSON: what files and tools give.
//!
//! What is said of the whole holds for each step or item that does not say otherwise. Unknown names are refused with
//! the nearest. Not here: what a chain may be (`chain.rs`), files and YAML (the faces).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::batch::{FanOut, Item};
use super::chain::{Chain, ChainStep};
use super::limits;
use super::options::{TABLE, TaskOptions};
use super::task::Spec;
use crate::error::{Error, Result, nearest};

/// Options that are of the whole and not of its parts.
const OF_WHOLE: [&str; 7] = ["coordinator", "once", "after", "after_failure", "delay_s", "review", "max_rejections"];
/// What a step has besides options.
const OF_STEP: [&str; 5] = ["name", "prompt", "output_vars", "retries", "recovery_prompt"];

/// Values for `{vars.NAME}` in the prompts of a definition, and which of them were used.
#[derive(Clone, Debug, Default)]
pub struct Vars {
    values: BTreeMap<String, String>,
    used: BTreeSet<String>,
    /// Whether places for them are looked for at all.
    wanted: bool,
}

impl Vars {
    /// Those that were given; places without a value are refused.
    #[must_use]
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, used: BTreeSet::new(), wanted: true }
    }

    /// A prompt with their values in it, as text that is not read again.
    fn fill(&mut self, prompt: &str) -> Result<String> {
        if !self.wanted {
            return Ok(prompt.to_owned());
        }
        let mut filled = String::new();
        let mut rest = prompt;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("{{") {
                filled.push_str("{{");
                rest = &rest[2..];
                continue;
            }
            let name = rest.strip_prefix("{vars.").and_then(|inner| inner.split_once('}')).map(|(name, _)| name);
            let Some(name) = name.filter(|name| super::template::is_name(name)) else {
                filled.push('{');
                rest = &rest[1..];
                continue;
            };
            let Some(value) = self.values.get(name) else {
                return Err(Error::usage(format!("{{vars.{name}}} has no value")).hint(format!("give --var {name}=…")));
            };
            filled.push_str(&value.replace('{', "{{"));
            self.used.insert(name.to_owned());
            rest = &rest["{vars.}".len() + name.len()..];
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Refuses values that no prompt names.
    pub fn check_all_used(&self) -> Result<()> {
        match self.values.keys().find(|name| !self.used.contains(*name)) {
            Some(name) => Err(Error::usage(format!("no prompt has {{vars.{name}}}"))
                .hint("leave the value out, or name it in a prompt")),
            None => Ok(()),
        }
    }
}

fn within(what: &str, error: &Error) -> Error {
    let told = Error::usage(format!("{what}: {}", error.message()));
    match error.hint_text() {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn refuse_unknown<'a>(given: &Map<String, Value>, own: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let options = TABLE.iter().filter(|row| row.is_built()).map(|row| row.name);
    let known = own.chain(options);
    let is_option = |name: &str| TABLE.iter().any(|row| row.name == name);
    match given.keys().find(|name| !known.clone().any(|one| one == *name) && !is_option(name)) {
        None => Ok(()),
        Some(name) => {
            let shown = limits::cut_middle(name, 60);
            let hint = match nearest(&shown, known.clone()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
            };
            Err(Error::usage(format!("unknown name {shown:?}")).hint(hint))
        }
    }
}

fn text(given: &mut Map<String, Value>, name: &str) -> Result<Option<String>> {
    match given.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Error::usage(format!("{name}: {} is no text", limits::cut_middle(&other.to_string(), 80)))
            .hint("write it as a text in quotes")),
    }
}

/// What the parts take over from the whole, and what is the whole's own.
fn split(common: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let mut whole = Map::new();
    let mut parts = Map::new();
    for (name, value) in common.iter().filter(|(_, value)| !value.is_null()) {
        if OF_WHOLE.contains(&name.as_str()) {
            whole.insert(name.clone(), value.clone());
        } else {
            parts.insert(name.clone(), value.clone());
        }
    }
    if let Some(tags) = parts.get("tags") {
        whole.insert("tags".to_owned(), tags.clone());
    }
    (whole, parts)
}

/// A part's options: its own over those of the whole; the tools that need no permission add up.
fn merged(common: &Map<String, Value>, own: Map<String, Value>) -> Map<String, Value> {
    let mut merged = common.clone();
    for (name, value) in own.into_iter().filter(|(_, value)| !value.is_null()) {
        if name == "allowed_tools"
            && let (Some(Value::Array(before)), Value::Array(more)) = (merged.get_mut("allowed_tools"), &value)
        {
            before.extend(more.iter().filter(|tool| !before.contains(tool)).cloned().collect::<Vec<_>>());
            continue;
        }
        merged.insert(name, value);
    }
    merged
}

fn step(at: usize, value: &Value, common: &Map<String, Value>, vars: &mut Vars) -> Result<ChainStep> {
    let mut given = match value {
        Value::String(prompt) => Map::from_iter([("prompt".to_owned(), Value::from(prompt.as_str()))]),
        Value::Object(map) => map.clone(),
        _ => return Err(Error::usage("it is neither a prompt nor an object").hint("give {name, prompt, …}")),
    };
    refuse_unknown(&given, OF_STEP.into_iter())?;
    let name = text(&mut given, "name")?.unwrap_or_else(|| format!("step-{}", at + 1));
    let Some(prompt) = text(&mut given, "prompt")? else {
        return Err(Error::usage("it has no prompt").hint("say what the step is to do"));
    };
    let recovery_prompt = text(&mut given, "recovery_prompt")?;
    let retries = match given.remove("retries") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_u64().and_then(|count| u32::try_from(count).ok()).ok_or_else(|| {
            Error::usage(format!("retries: {value} is no whole number"))
                .hint(format!("give 0 to {}", limits::STEP_RETRIES))
        })?,
    };
    let mut output_vars = BTreeMap::new();
    match given.remove("output_vars") {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) if map.values().all(Value::is_string) => {
            output_vars.extend(map.into_iter().filter_map(|(name, path)| Some((name, path.as_str()?.to_owned()))));
        }
        Some(_) => {
            return Err(Error::usage("output_vars is no object of texts")
                .hint("give each variable the path of its value, as in {\"file\": \"files.0.name\"}"));
        }
    }
    let options = TaskOptions::from_json(&merged(common, given))?;
    let recovery_prompt = recovery_prompt.map(|prompt| vars.fill(&prompt)).transpose()?;
    Ok(ChainStep { name, prompt: vars.fill(&prompt)?, options, output_vars, retries, recovery_prompt })
}

fn steps(value: &Value, common: &Map<String, Value>, vars: &mut Vars) -> Result<Vec<ChainStep>> {
    let Value::Array(list) = value else {
        return Err(Error::usage("steps is no list").hint("give [{name, prompt, …}, …]"));
    };
    if list.len() > limits::STEPS {
        return Err(Error::usage(format!("there are {} steps", list.len()))
            .hint(format!("at most {} are taken", limits::STEPS)));
    }
    let one = |(at, value): (usize, &Value)| {
        let named =
            value.get("name").and_then(Value::as_str).map(|name| format!(" ({})", limits::cut_middle(name, 60)));
        let what = format!("step {}{}", at + 1, named.unwrap_or_default());
        step(at, value, common, vars).map_err(|error| within(&what, &error))
    };
    list.iter().enumerate().map(one).collect()
}

/// A chain: `{steps: […], OPTIONS}`.
///
/// # Errors
/// What cannot be meant, with the step that it is about.
pub fn chain(definition: &Map<String, Value>, vars: &mut Vars) -> Result<Chain> {
    let mut common = definition.clone();
    refuse_unknown(&common, std::iter::once("steps"))?;
    let Some(list) = common.remove("steps") else {
        return Err(Error::usage("there are no steps").hint("give steps: [{name, prompt, …}, …]"));
    };
    let (whole, parts) = split(&common);
    let chain =
        Chain { steps: steps(&list, &parts, vars)?, options: TaskOptions::from_json(&whole)?, project_dir: None };
    chain.check()?;
    Ok(chain)
}

/// What a task of a fan-out is: a prompt, or `{prompt, OPTIONS}`.
fn task(value: &Value, common: &Map<String, Value>, vars: &mut Vars) -> Result<Spec> {
    let mut given = match value {
        Value::String(prompt) => Map::from_iter([("prompt".to_owned(), Value::from(prompt.as_str()))]),
        Value::Object(map) => map.clone(),
        _ => return Err(Error::usage("it is neither a prompt nor an object").hint("give a prompt, or {prompt, …}")),
    };
    refuse_unknown(&given, std::iter::once("prompt"))?;
    let Some(prompt) = text(&mut given, "prompt")? else {
        return Err(Error::usage("it has neither prompt nor steps").hint("give a prompt, {prompt, …} or {steps, …}"));
    };
    // Plain text, not a prompt with places: a doubled brace stays what it is.
    let prompt = vars.fill(&prompt)?;
    let prompt = if vars.wanted { prompt.replace("{{", "{") } else { prompt };
    Spec::new(prompt, TaskOptions::from_json(&merged(common, given))?)
}

/// A fan-out: `{items: [prompt, {prompt, OPTIONS}, {steps, OPTIONS}], collect, OPTIONS}`.
///
/// # Errors
/// What cannot be meant, with the item that it is about.
pub fn fan_out(definition: &Map<String, Value>, vars: &mut Vars) -> Result<FanOut> {
    let mut common = definition.clone();
    refuse_unknown(&common, ["items", "collect"].into_iter())?;
    let items = match common.remove("items") {
        Some(Value::Array(items)) if !items.is_empty() => items,
        _ => {
            return Err(Error::usage("there are no items").hint("give items: [prompt or {prompt, …} or {steps, …}, …]"));
        }
    };
    if items.len() > limits::ITEMS {
        return Err(Error::usage(format!("there are {} items", items.len()))
            .hint(format!("at most {} are taken in one fan-out", limits::ITEMS)));
    }
    let collect = common.remove("collect").filter(|value| !value.is_null());
    let (whole, parts) = split(&common);
    let item = |(at, value): (usize, &Value)| {
        let read = match value {
            Value::Object(map) if map.contains_key("steps") => chain_item(map, &parts, vars).map(Item::Chain),
            other => task(other, &parts, vars).map(Item::Task),
        };
        read.map_err(|error| within(&format!("item {}", at + 1), &error))
    };
    let items = items.iter().enumerate().map(item).collect::<Result<_>>()?;
    // What gathers has none of the parts' own words.
    let collect = collect.map(|value| collecting(&value, &parts, vars)).transpose();
    let collect = collect.map_err(|error| within("collect", &error))?;
    Ok(FanOut { items, collect, options: TaskOptions::from_json(&whole)? })
}

fn collecting(value: &Value, common: &Map<String, Value>, vars: &mut Vars) -> Result<Spec> {
    let mut given = match value {
        Value::String(prompt) => Map::from_iter([("prompt".to_owned(), Value::from(prompt.as_str()))]),
        Value::Object(map) => map.clone(),
        _ => return Err(Error::usage("it is neither a prompt nor an object").hint("give a prompt with {outputs}")),
    };
    refuse_unknown(&given, std::iter::once("prompt"))?;
    let Some(prompt) = text(&mut given, "prompt")? else {
        return Err(Error::usage("it has no prompt").hint("give a prompt with {outputs}"));
    };
    let mut common = common.clone();
    // A form that the parts answer in is not that of the whole.
    common.remove("json_schema");
    Spec::new(vars.fill(&prompt)?, TaskOptions::from_json(&merged(&common, given))?)
}

fn chain_item(map: &Map<String, Value>, common: &Map<String, Value>, vars: &mut Vars) -> Result<Chain> {
    let mut own = map.clone();
    refuse_unknown(&own, std::iter::once("steps"))?;
    let list = own.remove("steps").unwrap_or_default();
    let (whole, parts) = split(&merged(common, own));
    let chain =
        Chain { steps: steps(&list, &parts, vars)?, options: TaskOptions::from_json(&whole)?, project_dir: None };
    chain.check()?;
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_said_of_the_whole_holds_for_each_step_that_does_not_say_otherwise() {
        let definition = map(json!({
            "model": "haiku", "allowed_tools": ["Read"], "tags": ["x"], "once": "k", "review": true, "delay_s": 5,
            "steps": [
                {"prompt": "one", "output_vars": {"v": "a.0"}, "retries": 2, "recovery_prompt": "r {error}"},
                {"name": "two", "prompt": "{steps.step-1.v}", "model": "opus", "allowed_tools": ["Bash"]},
            ],
        }));
        let chain = chain(&definition, &mut Vars::default()).unwrap();
        let (one, two) = (&chain.steps[0], &chain.steps[1]);
        assert_eq!((one.name.as_str(), one.retries, one.output_vars["v"].as_str()), ("step-1", 2, "a.0"));
        assert_eq!(one.options.model.as_deref(), Some("haiku"));
        assert_eq!((two.options.model.as_deref(), two.options.allowed_tools.len()), (Some("opus"), 2));
        assert_eq!((two.options.once.as_ref(), two.options.review, two.options.tags.len()), (None, None, 1));
        assert_eq!((chain.options.once.as_deref(), chain.options.review), (Some("k"), Some(true)));
        assert_eq!((chain.options.model.as_ref(), chain.options.delay_s), (None, Some(5)));
    }

    #[test]
    fn items_are_prompts_tasks_and_chains() {
        let definition = map(json!({
            "effort": "low", "json_schema": {"type": "object"}, "collect": "all: {outputs}",
            "items": ["one {{", {"prompt": "two", "effort": "high", "priority": "low"}, {"steps": ["a", "{previous_output}"], "tags": ["t"]}],
        }));
        let fan_out = fan_out(&definition, &mut Vars::default()).unwrap();
        let Item::Task(one) = &fan_out.items[0] else { panic!() };
        assert_eq!((one.prompt.as_str(), one.options.effort.map(|one| one.word())), ("one {{", Some("low")));
        let Item::Chain(chain) = &fan_out.items[2] else { panic!() };
        assert_eq!((chain.steps.len(), chain.options.tags.len()), (2, 1));
        let collect = fan_out.collect.as_ref().unwrap();
        assert_eq!((collect.options.json_schema.as_ref(), collect.options.effort.is_some()), (None, true));
        assert_eq!(fan_out.nodes().unwrap().len(), 7);
    }

    #[test]
    fn values_of_variables_are_text_that_is_not_read_again() {
        let values = BTreeMap::from([("x".to_owned(), "{previous_output} {vars.x} {".to_owned())]);
        let mut vars = Vars::new(values.clone());
        let definition = map(json!({"steps": ["first {vars.x} {{vars.x}", "{previous_output} {y}"]}));
        let read = chain(&definition, &mut vars).unwrap();
        vars.check_all_used().unwrap();
        assert_eq!(read.steps[0].prompt, "first {{previous_output} {{vars.x} {{ {{vars.x}");
        // In a plain task there are no places, so its braces are as they were.
        let plain = fan_out(&map(json!({"items": ["<{vars.x}>"]})), &mut Vars::new(values)).unwrap();
        let Item::Task(spec) = &plain.items[0] else { panic!() };
        assert_eq!(spec.prompt, "<{previous_output} {vars.x} {>");
        let error = chain(&definition, &mut Vars::new(BTreeMap::new())).unwrap_err();
        assert_eq!(error.message(), "step 1: {vars.x} has no value");
        let unused = Vars::new(BTreeMap::from([("z".to_owned(), String::new())]));
        assert!(unused.check_all_used().unwrap_err().message().contains("{vars.z}"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for (definition, message, hint) in [
            (json!({}), "no steps", "steps"),
            (json!({"steps": "x"}), "no list", "prompt"),
            (json!({"steps": [{"promt": "x"}]}), "step 1: unknown name \"promt\"", "did you mean prompt?"),
            (json!({"stpes": []}), "unknown name \"stpes\"", "did you mean steps?"),
            (json!({"steps": [{"name": "a", "prompt": "x", "modle": "y"}]}), "step 1 (a): unknown name", "model?"),
            (json!({"steps": ["x"], "effort": "hihg"}), "step 1: option effort", "high?"),
            (json!({"steps": [{"prompt": 7}]}), "step 1: prompt: 7 is no text", "quotes"),
            (json!({"steps": ["x", 7]}), "step 2: it is neither", "prompt"),
            (json!({"steps": [{"prompt": "x", "retries": -1}]}), "retries", "0 to"),
            (json!({"steps": [{"prompt": "x", "output_vars": {"v": 1}}]}), "output_vars", "path"),
            (json!({"steps": ["x", {"prompt": "y", "once": "k"}]}), "once is not for a single one", "whole"),
            (json!({"steps": ["{steps.q.v}"]}), "called q", "none"),
            (json!({"steps": ["x"], "isolation": "worktree"}), "not built yet", "none"),
        ] {
            let error = chain(&map(definition.clone()), &mut Vars::default()).expect_err(&definition.to_string());
            assert!(error.message().contains(message), "{definition}: {error}");
            assert!(error.hint_text().unwrap_or("").contains(hint), "{definition}: {error}");
        }
        for (definition, message) in [
            (json!({"items": []}), "no items"),
            (json!({"items": ["x", {"steps": []}]}), "item 2: the chain has no steps"),
            (json!({"items": [{"model": "x"}]}), "item 1: it has neither prompt nor steps"),
            (json!({"items": ["x"], "collect": 3}), "collect: it is neither"),
            (json!({"items": vec!["x"; 1001]}), "1001 items"),
        ] {
            let error = fan_out(&map(definition.clone()), &mut Vars::default()).map(FanOut::nodes);
            let error = error.map_or_else(|error| error, |nodes| nodes.unwrap_err());
            assert!(error.message().contains(message), "{definition}: {error}");
        }
    }
}

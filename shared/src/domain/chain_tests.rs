//! What a chain may be, and the records that it and a fan-out come to.

use super::*;
use crate::domain::batch::{FanOut, Item};

fn chain(steps: Vec<ChainStep>) -> Chain {
    Chain { steps, ..Chain::default() }
}

#[test]
fn a_step_follows_the_one_before_and_the_chain_holds_them() {
    let options = TaskOptions { after: vec!["b2".parse().unwrap()], delay_s: Some(5), ..TaskOptions::default() };
    let steps = vec![ChainStep::new("a", "one").output_var("v", "."), ChainStep::new("b", "{steps.a.v}")];
    let nodes = Chain { steps, options, project_dir: None }.nodes().unwrap();
    let Node::Task { spec, follows, group } = &nodes[0] else { panic!("{nodes:?}") };
    assert_eq!((spec.options.after.len(), spec.options.delay_s, follows.len(), *group), (1, Some(5), 0, Some(2)));
    let Node::Task { spec, follows, group } = &nodes[1] else { panic!("{nodes:?}") };
    assert_eq!((spec.options.after.len(), spec.options.delay_s, *group), (0, None, Some(2)));
    assert_eq!(follows, &[Ref::Here(0)]);
    let Node::Group { spec, members, title, .. } = &nodes[2] else { panic!("{nodes:?}") };
    assert_eq!((spec.names.join(" "), members.len(), title.as_str()), ("a b".to_owned(), 2, "one"));
}

#[test]
fn a_chain_that_goes_on_takes_what_is_done() {
    let steps = ["a", "b", "c"].map(|name| ChainStep::new(name, name)).to_vec();
    let nodes = chain(steps).nodes_from(&[TaskId::new(7)], "c1".parse().unwrap()).unwrap();
    let Node::Task { follows, group, .. } = &nodes[0] else { panic!("{nodes:?}") };
    assert_eq!((follows.as_slice(), *group), (&[Ref::Known(TaskId::new(7).into())][..], Some(2)));
    let Node::Group { members, .. } = &nodes[2] else { panic!("{nodes:?}") };
    assert_eq!(members.iter().map(ToString::to_string).collect::<Vec<_>>(), ["t7", "@0", "@1"]);
}

#[test]
fn what_a_chain_cannot_do_is_refused_with_the_step() {
    let var = |prompt: &str| ChainStep::new("b", prompt);
    let recovery = ChainStep { recovery_prompt: Some("{previous_output} {error}".into()), ..ChainStep::new("a", "x") };
    for (steps, message, hint) in [
        (vec![], "no steps", "at least one"),
        (vec![ChainStep::new("a", "{previous_output}")], "step 1 (a): its prompt", "{{previous_output}"),
        (vec![recovery], "step 1 (a): its recovery_prompt", "{{previous_output}"),
        (vec![ChainStep::new("a b", "x")], "step 1 (a b): the name", "letters"),
        (vec![ChainStep::new("a", " ")], "step 1 (a): the prompt is empty", ""),
        (vec![ChainStep::new("a", "x"), ChainStep::new("a", "y")], "step 2 (a): there is another", "own"),
        (vec![ChainStep::new("a", "x"), var("{steps.c.v}")], "no step before it is called c", "before it: a"),
        (vec![ChainStep::new("a", "x").output_var("w", "."), var("{steps.a.v}")], "a does not give", "of a: w"),
        (vec![ChainStep::new("a", "{steps.b.v}"), var("x").output_var("v", "")], "called b", "none"),
        (vec![ChainStep::new("a", "x"); 101], "101 steps", "at most 100"),
    ] {
        let error = chain(steps).nodes().expect_err(message);
        assert!(error.message().contains(message), "{error}");
        assert!(error.hint_text().unwrap_or("").contains(hint), "{error}");
    }
}

#[test]
fn items_of_a_fan_out_stand_in_order_and_what_collects_behind_them() {
    let task = |prompt: &str| Item::Task(Spec::new(prompt, TaskOptions::default()).unwrap());
    let steps = vec![ChainStep::new("a", "one"), ChainStep::new("b", "two")];
    let fan_out = FanOut {
        items: vec![task("first"), Item::Chain(chain(steps)), task("last")],
        collect: Some(Spec::new("{outputs}", TaskOptions::default()).unwrap()),
        options: TaskOptions { coordinator: Some("me".into()), ..TaskOptions::default() },
    };
    let nodes = fan_out.nodes().unwrap();
    assert_eq!(nodes.len(), 7);
    let Node::Group { members, kind: GroupKind::Batch, .. } = &nodes[6] else { panic!("{nodes:?}") };
    assert_eq!(members, &[0, 3, 4, 5].map(Ref::Here));
    let Node::Task { spec, follows, group: Some(6) } = &nodes[5] else { panic!("{nodes:?}") };
    assert_eq!((follows.as_slice(), spec.collects), (&[0, 3, 4].map(Ref::Here)[..], true));
    let own = |node: &Node| match node {
        Node::Task { spec, .. } => spec.options.coordinator.clone(),
        Node::Group { options, .. } => options.coordinator.clone(),
    };
    assert!(nodes.iter().all(|node| own(node).as_deref() == Some("me")));
    let wrong = FanOut { items: vec![task("x"), Item::Chain(chain(vec![]))], ..FanOut::default() };
    assert!(wrong.nodes().unwrap_err().message().starts_with("item 2: the chain has no steps"));
}

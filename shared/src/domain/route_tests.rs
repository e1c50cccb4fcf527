//! What answers of a classification come to.

use super::*;

fn decided(answer: &Value) -> Decision {
    decide("the work", &Hints { max_parallel: Some(3), max_chain_steps: Some(2), ..Hints::default() }, Some(answer))
}

#[test]
fn a_good_answer_is_the_route() {
    let parallel = decided(&json!({"route": "parallel", "prompts": [" a ", "", "b"], "steps": 7}));
    assert_eq!(parallel.route, Route::Parallel { prompts: vec!["a".into(), "b".into()] });
    assert_eq!(parallel.fallback, None);
    let single = decided(&json!({"route": "single", "prompt": "something else"}));
    assert_eq!(single, Decision { route: Route::Single { prompt: "the work".into() }, fallback: None });
    let chain = decided(&json!({"route": "chain", "steps": [
        {"name": "a b", "prompt": "x"}, {"name": "step-1", "prompt": "{previous_output}"},
    ]}));
    let Route::Chain { steps } = &chain.route else { panic!("{chain:?}") };
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["step-1", "step-2-1"]);
}

#[test]
fn what_does_not_do_is_one_task_and_says_why() {
    for (answer, why) in [
        (json!(null), "names no route"),
        (json!([1]), "names no route"),
        (json!({"route": 7}), "names no route"),
        (json!({"route": "sideways"}), "a route that there is not"),
        (json!({"route": "parallel"}), "without prompts"),
        (json!({"route": "parallel", "prompts": "x"}), "without prompts"),
        (json!({"route": "parallel", "prompts": ["x", " ", 3]}), "parallel of 1 part"),
        (json!({"route": "parallel", "prompts": ["a", "b", "c", "d"]}), "4 parts, and at most 3"),
        (json!({"route": "chain", "steps": []}), "chain of 0 part"),
        (json!({"route": "chain", "steps": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]}), "at most 2"),
        (json!({"route": "chain", "steps": [{"prompt": "{previous_output}"}, {"prompt": "b"}]}), "before the first"),
        (json!({"route": "chain", "steps": [{"prompt": "a"}, {"prompt": "{steps.x.y}"}]}), "called x"),
    ] {
        let decision = decided(&answer);
        assert_eq!(decision.route, Route::Single { prompt: "the work".into() }, "{answer}");
        assert!(decision.fallback.as_deref().unwrap_or("").contains(why), "{answer}: {decision:?}");
    }
    assert!(decide("x", &Hints::default(), None).fallback.is_some());
}

#[test]
fn whatever_is_answered_there_is_a_route_within_its_bounds() {
    // Answers by chance, from what answers are made of.
    let mut state = 7_u64;
    let mut below = |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    fn any(below: &mut impl FnMut(u64) -> u64, depth: u32) -> Value {
        let words = ["single", "parallel", "chain", "", "{previous_output}", "{steps.a.b}", "a", "\u{0}", "{{", "ä"];
        match below(if depth > 3 { 4 } else { 8 }) {
            0 => Value::Null,
            1 => json!(below(5)),
            2 | 3 => words[below(10) as usize].into(),
            4 | 5 => (0..below(6)).map(|_| any(below, depth + 1)).collect(),
            _ => {
                let keys = ["route", "prompts", "steps", "name", "prompt"];
                let pairs = (0..below(6)).map(|_| (keys[below(5) as usize].to_owned(), any(below, depth + 1)));
                Value::Object(pairs.collect())
            }
        }
    }
    let hints = Hints { max_parallel: Some(2), max_chain_steps: Some(3), ..Hints::default() };
    let mut kinds = BTreeSet::new();
    for _ in 0..20_000 {
        let mut answer = any(&mut below, 0);
        if let Some(map) = answer.as_object_mut() {
            let kind = ["single", "parallel", "chain"][below(3) as usize];
            map.insert("route".into(), kind.into());
            if below(2) == 0 {
                let step = |_| json!({"name": any(&mut below, 3), "prompt": any(&mut below, 4)});
                map.insert("steps".into(), (0..3).map(step).collect());
            }
        }
        let decision = decide("the work", &hints, Some(&answer));
        let parts = decision.route.parts();
        match decision.route.kind() {
            RouteKind::Single => assert_eq!(decision.route, Route::Single { prompt: "the work".into() }),
            RouteKind::Parallel => assert_eq!(parts, 2, "{answer}"),
            RouteKind::Chain => assert!((2..=3).contains(&parts), "{answer}"),
        }
        if let Route::Parallel { prompts } = &decision.route {
            prompts.iter().for_each(|prompt| limits::check_prompt(prompt).unwrap());
        }
        if let Some(chain) = chain_of(&decision.route, TaskOptions::default()) {
            chain.nodes().unwrap();
        }
        kinds.insert(decision.route.kind());
    }
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

#[test]
fn the_question_cannot_leave_its_tags_and_the_prompt_names_the_limits() {
    assert_eq!(question("a</task>b").matches("</task>").count(), 1);
    let text = system_prompt(None, &Hints { prefer: Some(RouteKind::Chain), ..Hints::default() });
    assert!(text.contains("at most 12 parts") && text.contains("take `chain`"), "{text}");
    assert!(system_prompt(Some("mine"), &Hints::default()).starts_with("mine\n"));
    assert!(Hints { max_parallel: Some(0), ..Hints::default() }.check().is_err());
}

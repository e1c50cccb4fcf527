//! Resources, prompts, completion: what can be read and asked for beside the tools, and who is told that it moved.

use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::http::{Caller, Server};
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{ERAS, Era};
use serde_json::{Value, json};

use crate::t;

/// The text of a resource.
async fn read(it: &Coordinator, uri: &str) -> String {
    let answer = it.ask("resources/read", json!({ "uri": uri })).await.unwrap();
    let contents = answer["contents"].as_array().unwrap();
    assert_eq!((contents.len(), &contents[0]["uri"]), (1, &uri.into()), "{answer}");
    contents[0]["text"].as_str().unwrap().to_owned()
}

async fn read_json(it: &Coordinator, uri: &str) -> Value {
    serde_json::from_str(&read(it, uri).await).unwrap()
}

fn strings<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().filter_map(|one| one[key].as_str()).collect()
}

#[tokio::test]
async fn resources_are_listed_read_and_refused() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        it.call("pool_run", json!({"prompt": "@say one", "wait_s": 60})).await.good();

        let list = it.ask("resources/list", json!({})).await.unwrap();
        assert_eq!(strings(&list["resources"], "uri"), ["pool://status", "pool://slots", "pool://config"]);
        let list = it.ask("resources/templates/list", json!({})).await.unwrap();
        let templates = strings(&list["resourceTemplates"], "uriTemplate");
        assert_eq!(
            templates,
            [
                "pool://tasks/{id}",
                "pool://results/{id}",
                "pool://tasks/{id}/output",
                "pool://chains/{id}",
                "pool://slots/{id}"
            ]
        );

        assert_eq!(read_json(&it, "pool://status").await["tasks"], json!({"completed": 1}));
        assert!(read_json(&it, "pool://config").await.is_object());
        let slots = read_json(&it, "pool://slots").await;
        let slot = slots[0]["id"].as_str().unwrap();
        assert_eq!(read_json(&it, &format!("pool://slots/{slot}")).await["id"], slot);
        for uri in ["pool://tasks/t1", "pool://results/t1"] {
            let task = read_json(&it, uri).await;
            assert_eq!((&task["state"], &task["output"]), (&"completed".into(), &"one".into()), "{task}");
        }
        assert_eq!(read(&it, "pool://tasks/t1/output").await.trim(), "one");

        let code = if era == Era::Modern { -32602 } else { -32002 };
        let unknown = ["pool://tasks/t99", "pool://tasks/t99/output", "pool://slots/nobody", "pool://nothing"];
        for uri in unknown.into_iter().chain(["pool://tasks/17", "file:///etc/passwd", "", &"x".repeat(50_000)]) {
            let error = it.ask("resources/read", json!({ "uri": uri })).await.unwrap_err();
            assert_eq!(error["code"], code, "{error}");
            assert!(error.to_string().contains("pool://tasks/{id}"), "it says what there is: {error}");
            assert!(error.to_string().len() < 3_000, "{error}");
        }
        it.end().await;
        fleet.end().await;
    }
}

/// The next word that a resource has moved.
async fn moved(it: &Coordinator, uri: &str) -> Value {
    let updated = |message: &Value| message["method"] == "notifications/resources/updated";
    it.hears(&format!("{uri} has moved"), |message| updated(message) && message["params"]["uri"] == uri).await
}

#[tokio::test]
async fn who_subscribes_is_told_until_the_subscription_ends() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, Era::Legacy, &[]).await;
    for prompt in ["@say one", "@say two", "@say three"] {
        it.call("pool_submit", json!({ "prompt": prompt })).await.good();
    }
    it.ask("resources/subscribe", json!({"uri": "pool://tasks/t1"})).await.unwrap();
    // The first subscription begins with a word, since something may have moved before it stood.
    moved(&it, "pool://tasks/t1").await;
    for uri in ["pool://tasks/t2", "pool://results/t3", "pool://status"] {
        it.ask("resources/subscribe", json!({ "uri": uri })).await.unwrap();
    }
    it.ask("resources/subscribe", json!({"uri": "pool://nothing"})).await.unwrap_err();
    it.ask("resources/unsubscribe", json!({"uri": "pool://tasks/t2"})).await.unwrap();
    fleet.joined(&[]).await;
    for number in 1..=3 {
        fleet.over(t(number)).await;
    }
    moved(&it, "pool://tasks/t1").await;
    moved(&it, "pool://results/t3").await;
    moved(&it, "pool://status").await;
    assert!(!it.others().iter().any(|message| message["params"]["uri"] == "pool://tasks/t2"), "{:?}", it.others());
    it.ask("subscriptions/listen", json!({"notifications": {}})).await.unwrap_err();
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn who_listens_is_told_until_it_ends() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, Era::Modern, &[]).await;
    for prompt in ["@say one", "@say two"] {
        it.call("pool_submit", json!({ "prompt": prompt })).await.good();
    }
    let wanted = json!({"resourceSubscriptions": ["pool://tasks/t1", "pool://nothing"]});
    let listening = it.request("subscriptions/listen", json!({ "notifications": wanted })).await;
    let acknowledged = |message: &Value| message["method"] == "notifications/subscriptions/acknowledged";
    let accepted = it.hears("that it listens", acknowledged).await;
    assert_eq!(
        accepted["params"]["notifications"],
        json!({"resourceSubscriptions": ["pool://tasks/t1"]}),
        "{accepted}"
    );
    fleet.joined(&[]).await;
    fleet.over(t(2)).await;
    let told = moved(&it, "pool://tasks/t1").await;
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], listening, "{told}");
    it.cancel(listening, None).await;
    it.call("pool_run", json!({"prompt": "@say three", "wait_s": 60})).await.good();
    assert!(!it.others().iter().any(|message| message["params"]["uri"] == "pool://tasks/t2"), "{:?}", it.others());
    it.ask("resources/subscribe", json!({"uri": "pool://status"})).await.unwrap_err();
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn listeners_over_http_are_told_too() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let server = Server::start(&fleet, &[]).await;
    let ann = Caller::meet(&server, Era::Modern, None).await;
    ann.call("pool_submit", json!({"prompt": "@say one"})).await.good();
    let wanted = json!({"notifications": {"resourceSubscriptions": ["pool://tasks/t1"]}});
    let mut listening = ann.post(&ann.message("subscriptions/listen", wanted)).await;
    let first = listening.message().await.unwrap();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    fleet.joined(&[]).await;
    let told = listening.message().await.unwrap();
    assert_eq!(
        (&told["method"], &told["params"]["uri"]),
        (&"notifications/resources/updated".into(), &"pool://tasks/t1".into())
    );
    fleet.over(t(1)).await;
    drop(listening);
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn prompts_are_listed_got_and_refused() {
    for era in ERAS {
        let fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        let list = it.ask("prompts/list", json!({})).await.unwrap();
        assert_eq!(strings(&list["prompts"], "name"), ["coordinate", "status"]);
        let get = async |params: Value| {
            let prompt = it.ask("prompts/get", params).await.unwrap();
            assert_eq!(prompt["messages"][0]["role"], "user", "{prompt}");
            prompt["messages"][0]["content"]["text"].as_str().unwrap().to_owned()
        };
        let goal = get(json!({"name": "coordinate", "arguments": {"goal": "fewer bugs"}})).await;
        assert!(goal.contains("pool_wait") && goal.ends_with("\n\nThe goal: fewer bugs"), "{goal}");
        let plain = get(json!({"name": "coordinate"})).await;
        assert!(goal.starts_with(&plain) && !plain.contains("The goal"), "{plain}");
        let status = get(json!({"name": "status"})).await;
        assert!(status.contains("\"state\": \"idle\""), "{status}");
        let error = it.ask("prompts/get", json!({"name": "nonsense"})).await.unwrap_err();
        assert_eq!(error["code"], -32602, "{error}");
        assert!(error["message"].as_str().unwrap().contains("there are coordinate and status"), "{error}");
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn ids_are_completed() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        for _ in 0..11 {
            fleet.submit("@say one", json!({})).await;
        }
        let complete = async |uri: &str, name: &str, typed: &str| {
            let reference = json!({"type": "ref/resource", "uri": uri});
            let params = json!({"ref": reference, "argument": {"name": name, "value": typed}});
            it.ask("completion/complete", params).await.unwrap()["completion"].clone()
        };
        let found = complete("pool://tasks/{id}", "id", "t1").await;
        assert_eq!((&found["values"], &found["total"]), (&json!(["t11", "t10", "t1"]), &3.into()), "{found}");
        assert_eq!(complete("pool://tasks/{id}/output", "id", "t2").await["values"], json!(["t2"]));
        assert_eq!(complete("pool://tasks/{id}", "id", "x").await["values"], json!([]));
        assert_eq!(complete("pool://tasks/{id}", "name", "t").await["values"], json!([]));
        let pid = fleet.joined(&[]).await;
        let worker = fleet.worker_is(pid, "known", |_| true).await.id;
        let found = complete("pool://slots/{id}", "id", &worker[..4]).await;
        assert_eq!(found["values"], json!([worker]), "{found}");
        it.end().await;
        fleet.end().await;
    }
}

//! host and scale: presence of hosts, what they are to keep; set: what slots keep.

use super::{TestPool, pool_test};
use crate::domain::slot::SlotSettings;
use crate::store::attempt;
use crate::store::fleet::{self, Presence};
use crate::store::host::{self, HostIdentity, HostPresence};
use crate::store::script::Call;

const LEASE_MS: i64 = 15_000;

fn identity(name: &str, instance: &str, place: &str) -> HostIdentity {
    HostIdentity { name: name.into(), instance: instance.into(), place: place.into() }
}

fn word(verb: &str, name: &str, instance: &str, place: &str) -> Call {
    let presence = HostPresence { pid: 7, wanted: 2, actual: 1, min: 0, max: 8, slots: vec![] };
    host::host(&identity(name, instance, place), verb, &presence, "pool-1", 15_000).unwrap()
}

async fn names(pool: &TestPool) -> Vec<String> {
    pool.store.hosts().await.unwrap().into_iter().map(|host| host.name).collect()
}

#[tokio::test]
async fn a_host_is_listed_from_its_first_word_to_its_last() {
    pool_test(async |pool| {
        assert_eq!(pool.words(&word("report", "a", "i1", "p1")).await, ["ok", "pool-1", "15000", "", "0"]);
        let shown = pool.store.hosts().await.unwrap().remove(0);
        assert_eq!((shown.wanted, shown.actual, shown.min, shown.max, shown.pid), (2, 1, 0, 8, 7));
        pool.refuses_foreign_schema(&word("report", "a", "i1", "p1")).await;
        pool.call(&word("leave", "a", "i1", "p1")).await;
        assert_eq!(names(pool).await, Vec::<String>::new());
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("host:a"))).await;
        assert!((3_500_000..=3_600_000).contains(&left), "an hour: {left}");
    })
    .await;
}

#[tokio::test]
async fn a_name_has_one_live_host_and_a_place_the_newest() {
    pool_test(async |pool| {
        pool.call(&word("report", "a", "i1", "p1")).await;
        assert_eq!(pool.refused(&word("report", "a", "i2", "p2")).await, ["taken", "i1"]);
        // After a kill, before anyone has noticed.
        assert_eq!(pool.words(&word("report", "a", "i3", "p1")).await[0], "ok");
        // The farewell of who was followed by another says nothing.
        pool.call(&word("leave", "a", "i1", "p1")).await;
        assert_eq!(names(pool).await, ["a"]);
        pool.forward(LEASE_MS + 1).await;
        assert_eq!(pool.words(&word("report", "a", "i2", "p2")).await[0], "ok", "the other was not heard for a lease");
    })
    .await;
}

#[tokio::test]
async fn the_dead_go_with_the_sweep_and_their_target_stays() {
    pool_test(async |pool| {
        pool.call(&word("report", "a", "i1", "p1")).await;
        pool.call(&word("report", "b", "i2", "p2")).await;
        assert_eq!(pool.words(&host::scale("a", 5, None)).await, ["ok", "5"]);
        assert_eq!(pool.sweep("s").await.dead, 0);
        pool.forward(LEASE_MS + 1).await;
        assert_eq!(pool.sweep("s").await.dead, 2);
        assert_eq!(names(pool).await, Vec::<String>::new());
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("host:a"))).await;
        assert!(left > 29 * 24 * 3_600_000, "{left}");
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("host:b"))).await;
        assert!(left <= 3_600_000, "{left}");
        assert_eq!(pool.words(&word("report", "a", "i9", "p1")).await[3..], ["5", "1"]);
        let left: i64 = pool.redis(redis::cmd("PTTL").arg(pool.key("host:a"))).await;
        assert_eq!(left, -1, "it is back");
    })
    .await;
}

#[tokio::test]
async fn a_scale_is_a_target_and_a_relative_one_holds_for_what_was_seen() {
    pool_test(async |pool| {
        assert_eq!(pool.refused(&host::scale("a", 3, None)).await, ["no_host", "a"]);
        pool.call(&word("report", "a", "i1", "p1")).await;
        assert_eq!(pool.words(&host::scale("a", 3, Some(2))).await, ["ok", "3"]);
        // Its answer was lost, and it is made again.
        assert_eq!(pool.words(&host::scale("a", 3, Some(2))).await, ["ok", "3"]);
        assert_eq!(pool.refused(&host::scale("a", 1, Some(2))).await, ["moved", "3"]);
        assert_eq!(pool.words(&host::scale("a", 1, None)).await, ["ok", "1"]);
        assert_eq!(pool.store.hosts().await.unwrap()[0].wanted, 1);
        pool.refuses_foreign_schema(&host::scale("a", 1, None)).await;
    })
    .await;
}

fn role(text: &str) -> SlotSettings {
    SlotSettings { role: Some(text.into()), ..SlotSettings::default() }
}

#[tokio::test]
async fn a_slot_keeps_what_it_was_told_until_it_is_forgotten() {
    pool_test(async |pool| {
        let set = |version: &str, settings: Option<&SlotSettings>| host::slot_set("h-1", version, settings).unwrap();
        assert_eq!(pool.words(&set("0", Some(&role("a")))).await, ["ok", "1", "written"]);
        assert_eq!(pool.refused(&set("0", Some(&role("b")))).await, ["ok", "1", "kept"]);
        assert_eq!(pool.words(&set("1", Some(&role("c")))).await, ["ok", "2", "written"]);
        assert_eq!(pool.store.slot("h-1").await.unwrap(), ("2".to_owned(), role("c")));
        assert_eq!(pool.store.slots().await.unwrap(), [("h-1".to_owned(), role("c"))].into());
        let presence = Presence { slot: "h-1".into(), ..Presence::default() };
        pool.call(&fleet::presence("w1", "join", "pool-1", 15_000, &presence)).await;
        assert_eq!(pool.refused(&set("2", None)).await, ["in_use", "w1"]);
        pool.call(&fleet::presence("w1", "leave", "pool-1", 15_000, &presence)).await;
        assert_eq!(pool.words(&set("2", None)).await, ["ok", "0", "written"]);
        assert!(!pool.exists("slot:h-1").await && !pool.exists("slots").await);
        assert_eq!(pool.words(&set("0", None)).await, ["ok", "0", "written"], "nothing is forgotten twice");
    })
    .await;
}

#[tokio::test]
async fn a_pool_has_settings_for_a_thousand_slots_at_most() {
    pool_test(async |pool| {
        let script = "for n = 1, 1000 do redis.call('HSET', ARGV[1]..'slot:s'..n, 'version', '1', 'options', '{}')\n\
                      redis.call('ZADD', ARGV[1]..'slots', 1, 's'..n) end return 1";
        let _: i64 = pool.redis(redis::cmd("EVAL").arg(script).arg("1").arg(pool.key("x")).arg(pool.key(""))).await;
        assert_eq!(pool.refused(&host::slot_set("new", "0", Some(&role("a"))).unwrap()).await, ["slots", "1000"]);
        assert_eq!(pool.words(&host::slot_set("s7", "1", Some(&role("a"))).unwrap()).await[2], "written");
    })
    .await;
}

#[tokio::test]
async fn newer_settings_of_its_slot_come_with_a_workers_claim() {
    pool_test(async |pool| {
        let presence = Presence { slot: "h-1".into(), ..Presence::default() };
        pool.call(&fleet::presence("w1", "join", "pool-1", 15_000, &presence)).await;
        let claim = |call, known: &str| attempt::claim("w1", call, "", known, &["default".to_owned()]);
        assert_eq!(pool.words(&claim(1, "0")).await[2..4], ["0", ""]);
        pool.call(&host::slot_set("h-1", "0", Some(&role("a"))).unwrap()).await;
        assert_eq!(pool.words(&claim(2, "0")).await[2..4], ["0:1", "\n{\"role\":\"a\",\"options\":{}}"]);
        assert_eq!(pool.words(&claim(3, "0:1")).await[2..4], ["0:1", ""]);
        let options = crate::TaskOptions { model: Some("haiku".into()), ..crate::TaskOptions::default() };
        pool.call(&host::defaults("0", &options).unwrap()).await;
        let both = "{\"model\":\"haiku\"}\n{\"role\":\"a\",\"options\":{}}";
        assert_eq!(pool.words(&claim(4, "0:1")).await[2..4], ["1:1", both]);
        // Forgotten while nobody had it; the worker is back.
        let _: i64 = pool.redis(redis::cmd("DEL").arg(pool.key("slot:h-1")).arg(pool.key("slots"))).await;
        assert_eq!(pool.words(&claim(5, "1:1")).await[2..4], ["1", "{\"model\":\"haiku\"}\n"]);
    })
    .await;
}

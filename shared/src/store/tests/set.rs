//! set: the pool's defaults.

use super::pool_test;
use crate::domain::options::TaskOptions;
use crate::store::host;

#[tokio::test]
async fn defaults_are_set_once() {
    pool_test(async |pool| {
        let model = |name: &str| TaskOptions { model: Some(name.into()), ..TaskOptions::default() };
        assert_eq!(pool.words(&host::defaults("0", &model("a")).unwrap()).await, ["ok", "1", "written"]);
        assert_eq!(pool.refused(&host::defaults("0", &model("b")).unwrap()).await, ["ok", "1", "kept"]);
        assert_eq!(pool.store.config().await.unwrap().1, model("a"));
        pool.refuses_foreign_schema(&host::defaults("0", &model("c")).unwrap()).await;
    })
    .await;
}

//! set: the pool's defaults.

use super::pool_test;
use crate::domain::options::TaskOptions;
use crate::store::fleet;

#[tokio::test]
async fn defaults_are_set_once() {
    pool_test(async |pool| {
        let model = |name: &str| TaskOptions { model: Some(name.into()), ..TaskOptions::default() };
        assert_eq!(pool.words(&fleet::defaults(&model("a")).unwrap()).await, ["ok", "1", "written"]);
        assert_eq!(pool.refused(&fleet::defaults(&model("b")).unwrap()).await, ["ok", "1", "kept"]);
        assert_eq!(pool.store.config().await.unwrap(), model("a"));
        pool.refuses_foreign_schema(&fleet::defaults(&model("c")).unwrap()).await;
    })
    .await;
}

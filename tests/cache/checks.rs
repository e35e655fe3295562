//! Comparison of hits with fresh searches, which only happens in idle time.

use crate::common::{eventually, insert, metric, runtime, search, vector};
use crate::{DIMENSION, find, start};

#[test]
fn hits_are_compared_in_idle_time() {
    let inside = start(&[("cache.query_cache_checks_per_second", "1000")]);
    let cache = &inside.server().observed().gateway.cache;
    runtime().block_on(async {
        let mut client = inside.client().await;
        for id in 1..=50 {
            client.insert(insert(id, &vector(id, DIMENSION), &[("n", "1")])).await.unwrap();
        }
        let question = search(&vector(1, DIMENSION), 10);
        eventually("hits are compared", || {
            let (mut client, question) = (client.clone(), question.clone());
            async move {
                find(&mut client, &question).await;
                cache.checked.get() >= 3
            }
        })
        .await;
    });
    let text = crate::common::get(inside.server().http_address(), "/metrics").unwrap().1;
    assert_eq!(metric(&text, "kyrodb_cache_overlap_ratio"), Some(1.0));
    assert_eq!(metric(&text, "kyrodb_cache_enabled"), Some(1.0));
    assert_eq!(cache.check_wanted.get(), cache.check_hits.get());
}

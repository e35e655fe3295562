//! Two tenants with queries that are equal byte for byte: neither gets an answer kept for the other. A hit is charged,
//! counted and limited as any search.

use kyrodb::proto::{InsertRequest, SearchRequest};
use serde_json::Value;
use tonic::{Code, Request};

use crate::common::{Client, Inside, directory, http_with, insert, runtime, search, vector};
use crate::{DIMENSION, SETTINGS, answer, is_hit};

const TENANTS: [&str; 2] = ["acme", "beta"];

fn key(tenant: &str) -> String {
    format!("kyro_{tenant}_{}", "k".repeat(32))
}

fn by<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-api-key", key(tenant).parse().unwrap());
    request
}

/// A server with these tenants, each with a key and a rate of `max_qps` requests per second.
fn start(max_qps: u32) -> Inside {
    let directory = directory();
    let mut text = String::from("api_keys:\n");
    for tenant in TENANTS {
        text += &format!(
            "  - key: {}\n    tenant_id: {tenant}\n    tenant_name: {tenant}\n    enabled: true\n    \
             max_vectors: 1000\n    max_qps: {max_qps}\n",
            key(tenant)
        );
    }
    let path = directory.path().join("keys.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_string_lossy().into_owned();
    let own = [("auth.enabled", "true"), ("auth.api_keys_file", path.as_str())];
    Inside::start_in(directory, &[SETTINGS, &own].concat())
}

async fn put(client: &mut Client, tenant: &str, id: u64, namespace: &str) {
    let document = insert(id, &vector(id, DIMENSION), &[("owner", tenant)]);
    let document = InsertRequest { namespace: namespace.into(), ..document };
    client.insert(by(tenant, document)).await.unwrap();
}

#[test]
fn a_tenant_is_never_given_an_answer_kept_for_another() {
    let inside = start(0);
    runtime().block_on(async {
        let mut client = inside.client().await;
        for tenant in TENANTS {
            for id in 1..=10 {
                put(&mut client, tenant, id, if id % 2 == 0 { "even" } else { "" }).await;
            }
        }
        let plain = search(&vector(1, DIMENSION), 10);
        let even = SearchRequest { namespace: "even".into(), ..plain.clone() };
        for question in [&plain, &even] {
            for round in 0..3 {
                for tenant in TENANTS {
                    let found = client.search(by(tenant, question.clone())).await.unwrap();
                    let found = found.into_inner();
                    assert_eq!(is_hit(&found), round > 0, "{tenant}, round {round}");
                    assert!(!found.results.is_empty());
                    assert!(found.results.iter().all(|result| result.metadata["owner"] == tenant));
                }
            }
        }
        // A write of one tenant does not invalidate the answers of the other.
        put(&mut client, "acme", 11, "").await;
        let mut ask = async |tenant: &str, question: &SearchRequest| {
            client.search(by(tenant, question.clone())).await.unwrap().into_inner()
        };
        assert!(!is_hit(&ask("acme", &plain).await) && is_hit(&ask("acme", &even).await));
        let kept = ask("beta", &plain).await;
        assert!(is_hit(&kept) && is_hit(&ask("beta", &even).await));
        assert_eq!(answer(&kept), answer(&ask("beta", &plain).await));
        let refused = client.search(plain.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    });
}

#[test]
fn a_hit_is_limited_and_counted_as_any_search() {
    const LIMIT: u32 = 20;
    let inside = start(LIMIT);
    runtime().block_on(async {
        let mut client = inside.client().await;
        put(&mut client, "acme", 1, "").await;
        let question = search(&vector(1, DIMENSION), 1);
        let (mut hits, mut answered, mut refused) = (0, 0, None);
        for _ in 0..20 * LIMIT {
            match client.search(by("acme", question.clone())).await {
                Ok(found) => {
                    answered += 1;
                    hits += u64::from(is_hit(found.get_ref()));
                }
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        assert_eq!(refused.expect("at some time it is too much").code(), Code::ResourceExhausted);
        assert!(hits > 0 && hits == answered - 1, "{hits} of {answered}");
        let address = inside.server().http_address();
        let usage = http_with(address, "GET", "/usage", &[("x-api-key", &key("acme"))]).unwrap();
        let usage: Value = serde_json::from_str(&usage.body).unwrap();
        assert_eq!(usage["tenants"][0]["query_count"], answered);
    });
}

//! The truth table of filters: a search and a batch delete select equal documents.

use std::collections::{BTreeSet, HashMap};

use kyrodb::proto::{InsertRequest, MetadataFilter, SearchRequest};

use super::common::documents::{delete_where, is_stored};
use super::common::filters::{
    and, empty, exact, gt, gte, lt, lte, not, not_absent, one_of, or, unbounded,
};
use super::common::{Client, Inside, ids, insert, runtime, search, vector};
use super::{SETTINGS, find};

type Pairs = &'static [(&'static str, &'static str)];

/// Legacy pairs, a filter and a namespace, and the documents that pass all of them.
type LegacyCase = (Pairs, Option<MetadataFilter>, &'static str, &'static [u64]);

/// Value of `n` in documents 1, 2, …
const VALUES: [&str; 15] = [
    "10", "9", "1e3", " 5", "nan", "inf", "-inf", "abc", "", "+7", ".5", "10.0", "0x10", "NaN",
    "-0",
];

/// Without `n`: one without metadata, one with an empty key, one with other words, and two in namespaces.
const OTHERS: [(u64, Pairs, &str); 5] = [
    (16, &[], ""),
    (17, &[("", "x")], ""),
    (18, &[("t", "z"), ("g", "a")], ""),
    (19, &[("t", "é"), ("g", "a")], "red"),
    (20, &[("g", "b")], "blue"),
];

const ALL: std::ops::RangeInclusive<u64> = 1..=20;

fn documents() -> Vec<InsertRequest> {
    let mut documents: Vec<_> =
        (1..).zip(VALUES).map(|(id, value)| insert(id, &vector(id, 4), &[("n", value)])).collect();
    for (id, pairs, namespace) in OTHERS {
        let request = insert(id, &vector(id, 4), pairs);
        documents.push(InsertRequest { namespace: namespace.into(), ..request });
    }
    documents
}

/// All documents but these.
fn except(ids: &[u64]) -> Vec<u64> {
    ALL.filter(|id| !ids.contains(id)).collect()
}

type Case = (MetadataFilter, Vec<u64>);

fn words() -> Vec<Case> {
    let with_n: Vec<u64> = (1..=15).collect();
    vec![
        (empty(), ALL.collect()),
        (exact("n", "10"), vec![1]),
        (exact("n", "10.0"), vec![12]),
        (exact("n", ""), vec![9]),
        (exact("n", "nan"), vec![5]),
        (exact("n", "Abc"), vec![]),
        (exact("missing", ""), vec![]),
        (exact("", "x"), vec![17]),
        (one_of("n", &["abc", "10", "zzz", ""]), vec![1, 8, 9]),
        (one_of("n", &[]), vec![]),
        (one_of("missing", &["", "10"]), vec![]),
        (unbounded("n"), with_n),
        (unbounded("missing"), vec![]),
        (unbounded(""), vec![17]),
        (exact("__namespace__", "red"), vec![19]),
        (exact("__namespace__", ""), vec![]),
        (one_of("__namespace__", &["red", "blue"]), vec![19, 20]),
        (unbounded("__namespace__"), vec![19, 20]),
        (gt("__namespace__", "c"), vec![19]),
        (not(exact("__namespace__", "red")), except(&[19])),
    ]
}

/// Numbers are compared as numbers if both sides are; anything else bytewise.
fn ranges() -> Vec<Case> {
    vec![
        (gte("n", "10"), vec![1, 3, 6, 8, 12]),
        (gt("n", "10"), vec![3, 6, 8]),
        (lte("n", "10"), vec![1, 2, 4, 7, 9, 10, 11, 12, 13, 15]),
        (lt("n", "10"), vec![2, 4, 7, 9, 10, 11, 13, 15]),
        (gte("n", "1e1"), vec![1, 3, 6, 8, 12]),
        (gte("n", "1000"), vec![3, 6, 8]),
        (gt("n", "inf"), vec![]),
        (gte("n", "inf"), vec![6]),
        (lt("n", "+Infinity"), vec![1, 2, 3, 4, 7, 9, 10, 11, 12, 15]),
        (lte("n", "-inf"), vec![4, 7, 9]),
        (gte("n", "0"), vec![1, 2, 3, 6, 8, 10, 11, 12, 13, 15]),
        (lt("n", "-0.0"), vec![4, 7, 9]),
        // NaN is neither above nor below any number; text beside it is compared as text.
        (gte("n", "nan"), vec![]),
        (lte("n", "nan"), vec![4, 8, 9, 13]),
        (gt("n", "NaN"), vec![8]),
        // Bounds that are not numbers.
        (gte("n", "abc"), vec![5, 6, 8]),
        (gt("n", "abc"), vec![5, 6]),
        (lt("n", "abc"), vec![1, 2, 3, 4, 7, 9, 10, 11, 12, 13, 14, 15]),
        (lte("n", "abc"), vec![1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (lte("n", " 5"), vec![4, 9]),
        (lt("n", "10 "), vec![1, 4, 7, 9, 10, 11, 13, 15]),
        (gte("n", "0x10"), vec![1, 2, 3, 5, 6, 8, 12, 13, 14]),
        (gte("n", ""), (1..=15).collect()),
        (lte("n", ""), vec![9]),
        (lt("n", ""), vec![]),
        (gt("t", "z"), vec![19]),
        (lte("t", "z"), vec![18]),
        (gte("missing", ""), vec![]),
        (gte("missing", "0"), vec![]),
        (lt("missing", "0"), vec![]),
    ]
}

fn connectives() -> Vec<Case> {
    let ten = || exact("n", "10");
    vec![
        (and(&[]), ALL.collect()),
        (or(&[]), vec![]),
        (and(&[ten()]), vec![1]),
        (or(&[ten()]), vec![1]),
        (and(&[ten(), exact("n", "9")]), vec![]),
        (or(&[ten(), exact("n", "9")]), vec![1, 2]),
        (and(&[ten(), empty()]), vec![1]),
        (or(&[ten(), empty()]), ALL.collect()),
        (and(&[gte("n", "9"), lt("n", "11")]), vec![1, 2, 12]),
        (and(&[and(&[]), or(&[ten(), and(&[exact("g", "a"), unbounded("t")])])]), vec![1, 18, 19]),
        (not(ten()), except(&[1])),
        (not(not(ten())), vec![1]),
        (not(unbounded("n")), (16..=20).collect()),
        (not(gte("n", "10")), except(&[1, 3, 6, 8, 12])),
        (not(one_of("n", &[])), ALL.collect()),
        (not(and(&[])), vec![]),
        (not(or(&[])), ALL.collect()),
        (not(empty()), vec![]),
        (not_absent(), vec![]),
        (not(not_absent()), ALL.collect()),
        (not(not(empty())), ALL.collect()),
        (and(&[exact("g", "a"), not(exact("t", "z"))]), vec![19]),
        (or(&[not_absent(), exact("g", "b")]), vec![20]),
    ]
}

async fn found(client: &mut Client, request: SearchRequest) -> Vec<u64> {
    let answer = find(client, request).await;
    let mut found = ids(&answer);
    assert_eq!(answer.total_found as usize, found.len());
    found.sort_unstable();
    found
}

/// Runs each case in a search, and then in a delete whose documents are put back.
fn check(cases: Vec<Case>) {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let documents = documents();
        for document in &documents {
            client.insert(document.clone()).await.unwrap();
        }
        for (filter, expected) in cases {
            let mut request = search(&vector(1, 4), 1_000);
            request.filter = Some(filter.clone());
            assert_eq!(found(&mut client, request).await, expected, "search for {filter:?}");
            let request = delete_where(filter.clone(), "");
            let deleted = client.batch_delete(request).await.unwrap().into_inner().deleted_count;
            let mut gone = BTreeSet::new();
            for document in &documents {
                if !is_stored(&client, document.doc_id).await {
                    gone.insert(document.doc_id);
                    client.insert(document.clone()).await.unwrap();
                }
            }
            assert_eq!(gone.into_iter().collect::<Vec<_>>(), expected, "delete of {filter:?}");
            assert_eq!(deleted, expected.len() as u64, "delete of {filter:?}");
        }
    });
}

#[test]
fn words_match_exactly() {
    check(words());
}

#[test]
fn ranges_decide_for_each_document_whether_they_compare_numbers_or_text() {
    check(ranges());
}

#[test]
fn connectives_combine_what_their_children_say() {
    check(connectives());
}

#[test]
fn legacy_filters_and_the_namespace_narrow_what_the_filter_selects() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        for document in documents() {
            client.insert(document).await.unwrap();
        }
        let cases: [LegacyCase; 9] = [
            (&[("n", "10")], None, "", &[1]),
            (&[("g", "a")], None, "", &[18, 19]),
            (&[("g", "a"), ("t", "z")], None, "", &[18]),
            (&[("g", "a"), ("t", "x")], None, "", &[]),
            (&[("n", "10")], Some(gte("n", "5")), "", &[1]),
            (&[("n", "10")], Some(gte("n", "50")), "", &[]),
            (&[("g", "a")], Some(not(exact("t", "z"))), "", &[19]),
            (&[("g", "a")], None, "red", &[19]),
            (&[("g", "a")], Some(exact("t", "z")), "red", &[]),
        ];
        for (pairs, filter, namespace, expected) in cases {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let request = SearchRequest {
                metadata_filters: pairs.collect::<HashMap<_, _>>(),
                filter,
                namespace: namespace.into(),
                ..search(&vector(1, 4), 1_000)
            };
            assert_eq!(found(&mut client, request.clone()).await, expected, "{request:?}");
        }
    });
}

//! Listings, compared with a look at every document: the contents of pages, and the work for them.

#![allow(clippy::disallowed_methods, reason = "a test")]

use std::time::{Duration, Instant};

use super::filter::Filter;
use super::filter_tests::{IDS, disturb, put, random_filter};
use super::listing::LISTING_IDLE;
use super::testing::Pair;
use super::*;

/// One page as a shard makes it, and the numbers of slots and documents looked at.
fn page(
    engine: &mut Engine,
    filter: &Filter,
    mut after: DocId,
    max: usize,
    now: Instant,
) -> (Vec<DocId>, u64) {
    let (mut ids, mut looked) = (Vec::new(), 0);
    loop {
        let left = max - ids.len();
        let mut page = match engine.page_of_kept(filter, after, left, now) {
            Some(page) => page,
            None => {
                let mut sweep = engine.begin_listing(filter.clone(), after, now);
                while !sweep.step(engine) {}
                looked += sweep.looked();
                engine.begin_page(sweep, left, now)
            }
        };
        while !page.step(engine) {}
        looked += page.looked();
        let (found, goes_on) = page.finish();
        ids.extend(found);
        match goes_on {
            Some(through) => after = through,
            None => return (ids, looked),
        }
    }
}

#[test]
fn going_through_all_pages_looks_at_each_slot_a_few_times() {
    // With more documents than a sweep keeps, several sweeps are needed.
    for (count, looks_max) in [(1_000, 2), (6_000, 16)] {
        let (mut pair, now) = (Pair::new(41), Instant::now());
        let ids = (1..=count).map(|number| number * 7_919 % 65_521);
        ids.clone().for_each(|id| pair.put(id));
        let (mut after, mut all, mut looked) = (DocId(0), Vec::new(), 0);
        loop {
            let (ids, looks) = page(&mut pair.engine, &Filter::All, after, 10, now);
            looked += looks;
            let Some(&last) = ids.last() else { break };
            after = last;
            all.extend(ids);
        }
        assert!(all.iter().eq(pair.model.0.keys()));
        assert!(looked <= looks_max * count, "{looked} looks at {count} documents");
    }
}

/// Whatever is written between two pages, a page has the documents of its moment, even if another client asked for it
/// in the middle of a listing.
#[test]
fn a_page_is_of_its_own_moment() {
    for seed in 0..30 {
        let (mut pair, now) = (Pair::new(4_200 + seed), Instant::now());
        (1..=IDS).for_each(|id| put(&mut pair, id));
        let filters = [random_filter(&mut pair.random, 2), Filter::All];
        for _ in 0..60 {
            disturb(&mut pair, 6);
            let filter = &filters[pair.random.below(2) as usize];
            let after = DocId(pair.random.below(IDS));
            let max = 1 + pair.random.below(40) as usize;
            let (ids, _) = page(&mut pair.engine, filter, after, max, now);
            let passing =
                pair.model.0.iter().filter(|(id, (_, p))| **id > after && filter.matches(p));
            let wanted: Vec<DocId> = passing.map(|(id, _)| *id).take(max).collect();
            assert_eq!(ids, wanted, "seed {seed}: behind {after:?} by {filter:?}");
        }
        assert!(pair.engine.end_idle_listings(now));
        pair.link_all();
        assert_eq!(pair.engine.store().retired_count(), 0, "no snapshot is open");
    }
}

#[test]
fn listings_that_are_not_used_are_forgotten() {
    let (mut pair, now) = (Pair::new(43), Instant::now());
    (1..=300).for_each(|id| pair.put(id));
    for number in 0..40_u64 {
        let filter = Filter::Exact("colour".into(), number.to_string());
        page(&mut pair.engine, &filter, DocId(0), 10, now);
    }
    let filter = |number: u64| Filter::Exact("colour".into(), number.to_string());
    let is_kept = |engine: &mut Engine, number, now| {
        engine.page_of_kept(&filter(number), DocId(0), 1, now).is_some()
    };
    assert!(is_kept(&mut pair.engine, 39, now) && !is_kept(&mut pair.engine, 3, now));
    let later = now + LISTING_IDLE - Duration::from_secs(1);
    assert!(is_kept(&mut pair.engine, 39, later));
    assert!(is_kept(&mut pair.engine, 39, later + LISTING_IDLE / 2));
    assert!(!is_kept(&mut pair.engine, 38, later + LISTING_IDLE));
    // A listing that is given up is forgotten, and so is one while very many documents are written.
    let sweep = pair.engine.begin_listing(filter(1), DocId(0), later);
    pair.engine.abandon_listing(sweep);
    assert!(!is_kept(&mut pair.engine, 1, later));
    page(&mut pair.engine, &filter(1), DocId(0), 10, later);
    assert!(is_kept(&mut pair.engine, 1, later));
    (1..=250).for_each(|id| pair.put(id));
    assert!(!is_kept(&mut pair.engine, 1, later));
}

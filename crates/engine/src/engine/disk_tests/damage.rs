//! Vectors that can't be read: their documents are left out and named, the others are found.

use super::*;

/// Sets bytes of the row of `id` on disk; returns its slot.
fn damage(kept: &mut Kept, id: u64) -> Slot {
    let engine = &kept.pair.engine;
    let slot = engine.get(DocId(id), &Realm::default(), true).unwrap().on_disk.unwrap();
    let spot = engine.spot(slot).unwrap();
    let file = kept.files.contents.get_mut(&(spot.owner, spot.file)).unwrap();
    file[spot.offset as usize + 5] ^= 1;
    slot
}

fn saved(seed: u64, documents: u64) -> Kept {
    let mut kept = Kept::new(seed);
    (1..=documents).for_each(|id| kept.pair.put(id));
    kept.link_all();
    kept.save();
    kept.link_all();
    kept
}

#[test]
fn a_document_with_a_damaged_vector_is_left_out_and_named() {
    let mut kept = saved(41, 3_000);
    for round in 0..12 {
        let query = Query { ef: 100, filter: None, ..(*kept.query(round)).clone() };
        let query = Arc::new(query);
        let nearest = kept.pair.model.nearest(&query)[0].0;
        damage(&mut kept, nearest.0);
        let search = kept.pair.engine.begin_search(query.clone()).unwrap();
        let outcome = kept.files.finish(&mut kept.pair.engine, search);
        assert!(outcome.complete);
        assert_eq!(outcome.hits.iter().find(|hit| hit.id == nearest).map(|hit| hit.score), None);
        assert_eq!(outcome.hits.len(), 10);
        assert!(!outcome.lost.is_empty() && outcome.lost[0].0 == 0);
        kept.assert_hits(&query, &outcome);
        // After a new write the document is there again.
        kept.pair.put(nearest.0);
        kept.link_all();
        kept.save();
        kept.link_all();
    }
}

#[test]
fn a_snapshot_has_every_vector_or_fails_and_names_the_document() {
    let mut kept = saved(42, 5_000);
    damage(&mut kept, 77);
    // An unchanged block stays where it is, though its file is worn out.
    kept.pair.put(5);
    kept.next_file = kept.next_file.next_multiple_of(4);
    kept.files.save(&mut kept.pair.engine, kept.next_file).unwrap();
    kept.link_all();
    // Another document is written to the same block.
    let mut kept = saved(42, 2_000);
    damage(&mut kept, 77);
    kept.pair.put(5);
    kept.next_file += 1;
    let why = kept.files.save(&mut kept.pair.engine, kept.next_file).unwrap_err();
    assert!(why.contains("document 77"), "{why}");
    let why = kept.files.save(&mut kept.pair.engine, kept.next_file).unwrap_err();
    assert!(why.contains("document 77"), "what has changed is not forgotten: {why}");
    // Once deleted, the document is not missed.
    kept.pair.delete(77, "");
    kept.link_all();
    kept.next_file += 1;
    kept.files.save(&mut kept.pair.engine, kept.next_file).unwrap();
    kept.link_all();
    kept.assert_documents(2_000);
}

/// Once a document whose vector was lost is written again, or deleted, the block around it is written again, so that
/// the files are whole.
#[test]
fn damaged_blocks_are_replaced() {
    for is_deleted in [false, true] {
        let mut kept = saved(46, 10_000);
        let slot = damage(&mut kept, 77);
        // As a reader of the row does.
        kept.pair.engine.note_damaged(slot);
        let file_before = kept.pair.engine.spot(slot).unwrap().file;
        kept.save();
        assert_eq!(kept.pair.engine.spot(slot).unwrap().file, file_before, "it is still needed");
        match is_deleted {
            true => kept.pair.delete(77, ""),
            false => kept.pair.put(77),
        }
        kept.link_all();
        kept.save();
        let is_there = |extent: &&Extent| {
            extent.part == Part::Vectors && extent.file == file_before && extent.block == 0
        };
        assert_eq!(kept.files.extents[&0].iter().filter(is_there).count(), 0);
        kept.link_all();
        kept.assert_documents(10_000);
        // A block that is whole again stays where it is.
        let vectors = |kept: &Kept| -> Vec<Extent> {
            let extents = kept.files.extents[&0].iter();
            extents.filter(|extent| extent.part == Part::Vectors).copied().collect()
        };
        let before = vectors(&kept);
        kept.next_file = kept.next_file.next_multiple_of(4);
        kept.save();
        let stays = vectors(&kept).iter().filter(|extent| before.contains(extent)).count();
        assert_eq!((before.len(), stays), (3, 3));
    }
}

#[test]
fn a_file_that_is_gone_or_cut_off_loses_its_documents_alone() {
    for is_gone in [true, false] {
        let mut kept = saved(43, 5_000);
        let file = *kept.files.contents.keys().next().unwrap();
        if is_gone {
            kept.files.contents.remove(&file);
        } else {
            let vectors = kept.files.extents[&0].iter().filter(|e| e.part == Part::Vectors);
            let last = vectors.map(|extent| extent.offset).max().unwrap();
            kept.files.contents.get_mut(&file).unwrap().truncate(last as usize);
        }
        (6_001..=6_100).for_each(|id| kept.pair.put(id));
        let query = kept.query(0);
        let search = kept.pair.engine.begin_search(query.clone()).unwrap();
        let outcome = kept.files.finish(&mut kept.pair.engine, search);
        let lost = outcome.lost.iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(lost, if is_gone { 5_000 } else { 5_000 - 4_096 });
        assert_eq!(outcome.hits.len(), 10);
        kept.assert_hits(&query, &outcome);
        if is_gone {
            assert!(outcome.hits.iter().all(|hit| hit.id.0 > 6_000));
        }
    }
}

/// At its deadline a search has the vectors that were in memory, or were given.
#[test]
fn a_search_that_waits_for_the_disk_ends_with_the_vectors_it_has() {
    let mut kept = saved(44, 3_000);
    for given in [0, 3, 1_000] {
        let query = Query { include_embeddings: false, ..(*kept.pair.query(10, None)).clone() };
        let mut search = kept.pair.engine.begin_search(Arc::new(query)).unwrap();
        while search.wanted().is_empty() {
            assert!(!search.step(&kept.pair.engine));
        }
        let wanted = search.wanted().to_vec();
        for (index, &slot) in wanted.iter().enumerate().take(given) {
            let row = kept.files.row(&kept.pair.engine, slot).unwrap();
            search.give(index, &row);
        }
        let outcome = kept.pair.engine.finish_search(search);
        assert!(!outcome.complete && outcome.awaits_disk && outcome.lost.is_empty());
        assert_eq!(outcome.hits.len(), given.min(wanted.len()).min(10));
    }
}

/// At any step, a search whose time is over does not claim that it has looked at everything.
#[test]
fn a_search_that_is_cut_off_is_not_complete() {
    let mut kept = Kept::new(45);
    (1..=3_000).for_each(|id| kept.pair.put(id));
    let far = kept.pair.random.vector();
    for is_linked in [false, true] {
        if is_linked {
            kept.link_all();
        }
        for (is_exact, filter, min_score) in [
            (true, None, 0.0),
            (false, None, 0.0),
            (false, None, 0.999),
            (false, Some(Filter::namespace("nobody's")), 0.0),
            (true, Some(Filter::namespace("a")), 0.0),
        ] {
            let vector = far.clone().into();
            let query =
                Query { vector, is_exact, min_score, ..(*kept.pair.query(10, filter)).clone() };
            let query = Arc::new(query);
            for steps in 0.. {
                let mut search = kept.pair.engine.begin_search(query.clone()).unwrap();
                let is_done = (0..steps).any(|_| search.step(&kept.pair.engine));
                search.wind_up(&kept.pair.engine);
                let outcome = kept.pair.engine.finish_search(search);
                assert_eq!(outcome.complete, is_done, "{query:?} after {steps} steps");
                if is_done {
                    let expected = kept.pair.model.nearest(&query).len();
                    assert!(min_score > 0.0 || outcome.hits.len() == expected, "{query:?}");
                    break;
                }
            }
        }
    }
}

//! Tests of the vector cache through its public functions.

use std::collections::HashMap;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;

const ROW_BYTES: usize = 64 + OVERHEAD_BYTES;

fn key(slot: u32) -> Key {
    Key { shard: ShardId(0), slot: Slot(slot), born: 7 }
}

fn row(slot: u32) -> [f32; 16] {
    [slot as f32; 16]
}

fn ask(cache: &mut Cache, slot: u32) -> bool {
    let found = cache.get(key(slot), slot % 9);
    let is_here = found.is_some();
    assert!(found.is_none_or(|found| found == row(slot)));
    if !is_here {
        cache.put(key(slot), &row(slot), slot % 9);
    }
    is_here
}

#[test]
fn lru_keeps_the_last_used_and_nothing_else() {
    let mut cache = Cache::new(100 * ROW_BYTES, Strategy::Lru, 0);
    let mut order: Vec<u32> = Vec::new();
    for round in 0..20_000_u64 {
        let slot = mix(round) as u32 % 150;
        let at = order.iter().position(|&other| other == slot);
        assert_eq!(ask(&mut cache, slot), at.is_some());
        at.map(|at| order.remove(at));
        order.push(slot);
        if order.len() > 100 {
            order.remove(0);
        }
    }
}

#[test]
fn learned_protects_rows_in_use_from_a_scan() {
    let mut cache = Cache::new(200 * ROW_BYTES, Strategy::Learned, 0);
    for _ in 0..5 {
        (0..100).for_each(|slot| _ = ask(&mut cache, slot));
    }
    (1_000..3_000).for_each(|slot| _ = ask(&mut cache, slot));
    // Some rows of the scan share counters with others, and are let in.
    let kept = (0..100).filter(|&slot| ask(&mut cache, slot)).count();
    assert!(kept >= 70, "{kept} of 100");
}

/// A trained cache of `rows` rows, and its trainer.
struct Trained {
    cache: Cache,
    trainer: Trainer,
    uses: Vec<Use>,
}

impl Trained {
    fn new(rows_max: usize) -> Self {
        let cache = Cache::new(rows_max * ROW_BYTES, Strategy::Learned, 512);
        Self { cache, trainer: Trainer::new(rows_max), uses: Vec::new() }
    }

    fn ask(&mut self, slot: u32) -> bool {
        let is_here = ask(&mut self.cache, slot);
        if self.cache.log_len() >= 256 {
            self.cache.take_log(&mut self.uses);
            self.trainer.learn(&self.uses);
            self.uses.clear();
            self.cache.adopt(self.trainer.model());
        }
        is_here
    }
}

#[test]
fn learned_follows_a_hot_set_that_moves() {
    let mut trained = Trained::new(200);
    let hot = |round: u64| 1_000 * (round / 20_000) as u32 + mix(round) as u32 % 150;
    let hits = (0..100_000).filter(|&round| trained.ask(hot(round))).count();
    assert!(hits > 95_000, "{hits}");
    assert_eq!(trained.cache.log_dropped(), 0);
}

#[test]
fn a_trained_cache_has_what_an_untrained_one_can_not() {
    // Each document comes twice, the second time after a narrow window has lost it, and never again.
    let asked =
        |round: u32| if round.is_multiple_of(2) { round } else { round.saturating_sub(141) };
    let mut trained = Trained::new(200);
    let hits = (0..50_000).filter(|&round| trained.ask(asked(round))).count();
    let mut untrained = Trained::new(200).cache;
    let hits_before = (0..50_000).filter(|&round| ask(&mut untrained, asked(round))).count();
    assert!(hits > 15_000 && hits_before < 5_000, "{hits}, and {hits_before}");
}

#[test]
fn the_log_has_uses_in_order() {
    let mut cache = Cache::new(20 * ROW_BYTES, Strategy::Learned, 100);
    (0..130).for_each(|slot| _ = ask(&mut cache, slot));
    assert_eq!((cache.log_len(), cache.log_dropped()), (100, 30));
    let mut uses = Vec::new();
    cache.take_log(&mut uses);
    let expected = (30..130).map(|slot| Use { hash: key(slot).hash(), region: slot % 9 });
    assert!(uses.into_iter().eq(expected));
    assert_eq!((cache.log_len(), cache.log_dropped()), (0, 30));
    let mut lru = Cache::new(20 * ROW_BYTES, Strategy::Lru, 100);
    (0..130).for_each(|slot| _ = ask(&mut lru, slot));
    assert_eq!((lru.log_len(), lru.figures()), (0, Figures::default()), "it learns nothing");
}

#[test]
fn rows_used_before_the_start_are_kept_from_the_first_scan_on() {
    let kept = |uses: &[Use]| {
        let mut cache = Cache::new(200 * ROW_BYTES, Strategy::Learned, 1_000);
        cache.warm(uses);
        // The hot ones come once, among many others.
        (0..1_000).for_each(|slot| _ = ask(&mut cache, slot));
        (0..100).filter(|&index| cache.get(key(200 + 2 * index), 0).is_some()).count()
    };
    let hot = |index: u32| Use { hash: key(200 + 2 * (index % 100)).hash(), region: 0 };
    let hot = (0..500).map(hot);
    let (cold, warm) = (kept(&[]), kept(&hot.collect::<Vec<Use>>()));
    assert!(cold < 10 && warm > 90, "{cold}, and {warm}");
}

#[test]
fn figures_tell_how_predictions_turn_out() {
    let mut cache = Cache::new(100 * ROW_BYTES, Strategy::Learned, 0);
    (0..3).for_each(|_| (0..100).for_each(|slot| _ = ask(&mut cache, slot)));
    let before = cache.figures();
    assert_eq!((before.predictions, before.resolved, before.accuracy()), (0, 0, None));
    assert!(!before.is_trained && before.hot_rows > 10, "{before:?}");
    assert!((80..120).contains(&before.tracked_keys), "{before:?}");
    // A scan is turned away, rightly.
    (1_000..3_000).for_each(|slot| _ = ask(&mut cache, slot));
    let scanned = cache.figures();
    assert!(scanned.predictions >= 1_990 && scanned.resolved > 1_500, "{scanned:?}");
    assert_eq!(scanned.predictions_by_region, 0);
    assert_eq!((scanned.false_negatives, scanned.accuracy()), (0, Some(1.0)));
    // The rows turned away last are asked for again.
    (2_980..2_995).for_each(|slot| _ = ask(&mut cache, slot));
    let again = cache.figures();
    assert!(again.false_negatives > 5 && again.accuracy() < Some(1.0), "{again:?}");
    // The former hot rows cool down: others that are asked for often enough are let in, and are not used.
    for round in 0..200 {
        (0..8).for_each(|_| _ = ask(&mut cache, 5_000 + round));
    }
    let moved = cache.figures();
    assert!(moved.false_positives > 5, "{moved:?}");
    cache.adopt(Trainer::new(100).model());
    assert!(cache.figures().is_trained);
}

#[test]
fn rows_of_another_width_find_an_empty_cache_and_figures_as_they_were() {
    let mut cache = Cache::new(100 * ROW_BYTES, Strategy::Learned, 10);
    (0..3_000).for_each(|slot| _ = ask(&mut cache, slot));
    let (evictions, predictions) = (cache.evictions, cache.figures().predictions);
    assert!(evictions > 0 && predictions > 0);
    cache.put(key(1), &[1.0; 4], 0);
    assert_eq!((cache.len(), cache.evictions), (1, evictions));
    assert!(cache.rows_max() > 100);
    assert_eq!(cache.figures().predictions, predictions);
}

#[test]
fn without_room_nothing_is_kept() {
    for strategy in [Strategy::Lru, Strategy::Learned] {
        let mut cache = Cache::new(0, strategy, 0);
        cache.put(key(1), &row(1), 0);
        assert_eq!(cache.get(key(1), 0), None);
        assert_eq!(cache.bytes(), 0);
    }
}

proptest! {
    #[test]
    fn a_row_is_that_of_its_version_and_all_are_within_the_bound(
        rows_max in 1_usize..90,
        is_lru: bool,
        steps in prop::collection::vec((0_u32..2, 0_u32..60, 1_u64..4, 0_u32..5, any::<bool>()), 1..800),
    ) {
        let strategy = if is_lru { Strategy::Lru } else { Strategy::Learned };
        let mut cache = Cache::new(rows_max * ROW_BYTES + ROW_BYTES / 2, strategy, 0);
        let mut model: HashMap<Key, [f32; 16]> = HashMap::new();
        for (shard, slot, born, region, is_put) in steps {
            let key = Key { shard: ShardId(shard), slot: Slot(slot), born };
            if is_put {
                let row = [(shard * 1_000 + slot * 10) as f32 + born as f32; 16];
                cache.put(key, &row, region);
                model.insert(key, row);
                prop_assert_eq!(cache.get(key, region), Some(&row[..]), "it has just come");
            } else if let Some(found) = cache.get(key, region) {
                prop_assert_eq!(Some(found), model.get(&key).map(|row| &row[..]));
            }
            prop_assert!(cache.keys.len() <= rows_max);
            prop_assert!(cache.bytes() <= rows_max * ROW_BYTES);
        }
        prop_assert!(cache.evictions as usize + cache.keys.len() >= model.len());
    }
}

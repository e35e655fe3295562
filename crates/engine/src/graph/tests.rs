//! The graph as a whole: found neighbours, invariants, reproducibility, readers on other threads.

use super::adopt::{Adopters, Adoption};
use super::check::check;
use super::insert::{Linker, Rows};
use super::reach::Reach;
use super::search::{Beam, Key, Scratch};
use super::space::{Coded, Exact, Space};
use super::unlink::{Context, Unlinker};
use super::*;
use crate::kernels::{Distance, NegatedDot, SquaredEuclidean, normalize};
use crate::store::{Codes, OwnCode, Vectors};

const PARAMS: Params = Params { m: 16, ef_construction: 100, seed: 7 };

/// Points around `clusters` centres, as real data is; uniform ones would be harder and unreal.
fn points(seed: u64, count: u64, dimension: u64, clusters: u64) -> Vec<Vec<f32>> {
    let value = |a: u64, b: u64| (mix(mix(seed ^ a) ^ b) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..count)
        .map(|i| {
            let centre = mix(i) % clusters;
            let mut point: Vec<f32> =
                (0..dimension).map(|d| value(1_000_000 + centre, d) + 0.4 * value(i, d)).collect();
            assert!(normalize(&mut point));
            point
        })
        .collect()
}

fn link_all<D: Distance>(graph: &Graph, vectors: &Vectors, points: &[Vec<f32>]) {
    link_by::<D>(graph, vectors, None, points, true);
}

fn link_by<D: Distance>(
    graph: &Graph,
    vectors: &Vectors,
    codes: Option<&Codes>,
    points: &[Vec<f32>],
    by_vectors: bool,
) {
    let mut scratch = Scratch::default();
    for point in points {
        let slot = Slot(graph.linked_count());
        graph.reserve(slot);
        #[expect(unsafe_code, reason = "the rows of nodes that are not linked yet")]
        // SAFETY: no other code has the name of the slot yet, and one thread links.
        unsafe {
            vectors.put(slot, point);
        }
        if let Some(codes) = codes {
            #[expect(unsafe_code, reason = "the rows of nodes that are not linked yet")]
            // SAFETY: as above.
            unsafe {
                codes.put(slot, point);
            }
        }
        let mut linker = Linker::new(graph, slot, DocId(u64::from(slot.0) + 1));
        let rows = Rows { vectors: by_vectors.then_some(vectors), codes };
        while !linker.step::<D>(graph, rows, &mut scratch, |_| true) {}
    }
}

fn walk<S: Space>(
    graph: &Graph,
    space: S,
    scratch: &mut Scratch,
    width: usize,
    accept: impl Fn(Slot) -> bool,
) {
    let beam = Beam { graph, space, level: 0, width };
    let (entry, top) = graph.entry().unwrap();
    beam.enter(scratch, entry, top, &accept);
    while !beam.advance(scratch, 3, &accept) {}
}

fn search<D: Distance>(
    graph: &Graph,
    vectors: &Vectors,
    query: &[f32],
    width: usize,
    accept: impl Fn(Slot) -> bool,
) -> Vec<Slot> {
    let query = &vectors.pad(query);
    let mut scratch = Scratch::default();
    walk(graph, Exact::<D>::new(query, vectors), &mut scratch, width, accept);
    let found: Vec<Key> = scratch.nearest().collect();
    assert!(found.is_sorted());
    found.into_iter().map(Key::slot).collect()
}

/// Searches by codes, and then rescores by vectors.
fn search_by_codes<D: Distance>(
    graph: &Graph,
    vectors: &Vectors,
    codes: &Codes,
    query: &[f32],
    width: usize,
) -> Vec<Slot> {
    let (mut scratch, mut code) = (Scratch::default(), OwnCode::default());
    codes.encode_into(query, &mut code);
    walk(graph, Coded::<D>::new(code.get(), codes), &mut scratch, width, |_| true);
    let query = &vectors.pad(query);
    let found = scratch.nearest_by(Exact::<D>::new(query, vectors));
    found.into_iter().map(Key::slot).collect()
}

fn exact<D: Distance>(points: &[Vec<f32>], query: &[f32], k: usize) -> Vec<Slot> {
    let mut keys: Vec<Key> = points
        .iter()
        .enumerate()
        .map(|(i, point)| Key::new(D::between(point, query), Slot(i as u32)))
        .collect();
    keys.sort_unstable();
    keys.into_iter().take(k).map(Key::slot).collect()
}

/// Shares of the ten nearest that a walk finds: by vectors; by codes in a graph whose links were looked for by codes;
/// and by codes where links were chosen by codes as well.
fn recalls<D: Distance>(dimension: u64, are_unit: bool) -> [f64; 3] {
    let base = points(1, 4_000, dimension, 40);
    let queries = points(2, 100, dimension, 40);
    let vectors = [0, 1].map(|_| Vectors::new(dimension as usize));
    let graphs = [0, 1, 2].map(|_| Graph::new(PARAMS));
    let codes = Codes::new(dimension as usize, are_unit);
    link_all::<D>(&graphs[0], &vectors[0], &base);
    link_by::<D>(&graphs[1], &vectors[1], Some(&codes), &base, true);
    link_by::<D>(&graphs[2], &vectors[1], Some(&codes), &base, false);
    for graph in &graphs {
        let report = check(graph, graph.linked_count()).unwrap();
        assert_eq!((report.linked, report.unreachable.len()), (4_000, 0));
    }
    let mut hits = [0; 3];
    for query in &queries {
        let truth = exact::<D>(&base, query, 10);
        let found = [
            search::<D>(&graphs[0], &vectors[0], query, 64, |_| true),
            search_by_codes::<D>(&graphs[1], &vectors[1], &codes, query, 64),
            search_by_codes::<D>(&graphs[2], &vectors[1], &codes, query, 64),
        ];
        for (hits, found) in hits.iter_mut().zip(found) {
            *hits += truth.iter().filter(|slot| found[..10].contains(slot)).count();
        }
    }
    hits.map(|hits| hits as f64 / 1_000.0)
}

#[test]
fn walk_finds_the_nearest_under_each_distance() {
    for (name, recalls) in [
        ("dot", recalls::<NegatedDot>(32, true)),
        ("dot, squares kept", recalls::<NegatedDot>(32, false)),
        ("l2", recalls::<SquaredEuclidean>(20, false)),
    ] {
        let [by_vectors, by_codes, chosen_by_codes] = recalls;
        assert!(by_vectors >= 0.97, "{name}: recall@10 {by_vectors} at ef 64");
        assert!(by_codes >= by_vectors - 0.005, "{name}: {by_codes} by codes, {by_vectors} else");
        assert!(chosen_by_codes >= by_codes - 0.002, "{name}: {chosen_by_codes} for {by_codes}");
    }
}

#[test]
fn one_order_of_inserts_gives_one_graph() {
    let base = points(3, 600, 16, 10);
    let build = |seed| {
        let (graph, vectors) = (Graph::new(Params { seed, ..PARAMS }), Vectors::new(16));
        link_all::<NegatedDot>(&graph, &vectors, &base);
        let lists: Vec<_> = (0..600)
            .flat_map(|slot| {
                let level = graph.level(Slot(slot)).unwrap();
                (0..=level).map(|l| graph.neighbours(Slot(slot), l)).collect::<Vec<_>>()
            })
            .collect();
        (graph.entry(), lists)
    };
    assert_eq!(build(1), build(1));
    assert_ne!(build(1), build(2));
}

#[test]
fn walk_goes_through_unwanted_nodes() {
    let base = points(4, 3_000, 24, 30);
    let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(24));
    link_all::<NegatedDot>(&graph, &vectors, &base);
    let wanted = |slot: Slot| slot.0 % 10 == 3;
    let mut hits = 0;
    for query in points(5, 50, 24, 30) {
        let found = search::<NegatedDot>(&graph, &vectors, &query, 50, wanted);
        assert!(found.iter().all(|&slot| wanted(slot)));
        let truth: Vec<Slot> =
            exact::<NegatedDot>(&base, &query, 3_000).into_iter().filter(|&s| wanted(s)).collect();
        hits += truth[..10].iter().filter(|slot| found[..10].contains(slot)).count();
    }
    assert!(hits >= 485, "{hits} of 500");
}

#[test]
fn duplicates_and_tiny_graphs_are_no_special_case() {
    for count in [1, 2, 3, 17, 300] {
        let base = vec![vec![1.0, 0.0, 0.0]; count];
        let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(3));
        link_all::<SquaredEuclidean>(&graph, &vectors, &base);
        assert_eq!(check(&graph, graph.linked_count()).unwrap().linked, count as u32);
        let found = search::<SquaredEuclidean>(&graph, &vectors, &[1.0, 0.0, 0.0], 10, |_| true);
        assert_eq!(found.len(), count.min(10));
    }
}

/// Many copies of one vector: none may crowd out the links that lead to the others and away.
#[test]
fn copies_of_a_vector_do_not_become_an_island() {
    for copies in [40, 200, 900] {
        let mut base = points(11, 2_500, 16, 20);
        let copied = base[1_234].clone();
        for i in 0..copies {
            base.insert(1_300 + i, copied.clone());
        }
        let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(16));
        link_all::<NegatedDot>(&graph, &vectors, &base);
        let report = check(&graph, graph.linked_count()).unwrap();
        assert_eq!(report.unreachable, [], "{copies} copies");
        let width = copies + 150;
        let found = search::<NegatedDot>(&graph, &vectors, &copied, width, |_| true);
        assert_eq!(found.len(), width, "{copies} copies: the walk gets out again");
        let mut hits = 0;
        for query in points(12, 50, 16, 20) {
            let found = search::<NegatedDot>(&graph, &vectors, &query, 100, |_| true);
            let truth = exact::<NegatedDot>(&base, &query, 10);
            let worst = NegatedDot::between(&base[truth[9].index()], &query);
            let is_hit = |slot: &&Slot| NegatedDot::between(&base[slot.index()], &query) <= worst;
            hits += found[..10].iter().filter(is_hit).count();
        }
        assert!(hits >= 480, "{copies} copies: {hits} of 500");
    }
}

/// Under the inner product the longest vectors are nearest to everything.
#[test]
fn short_vectors_stay_reachable_under_the_inner_product() {
    let scaled = |seed, count| {
        let mut points = points(seed, count, 16, 20);
        for (i, point) in points.iter_mut().enumerate() {
            // Lengths between 1/8 and 8.
            let length = 2_f32.powf((mix(seed + i as u64) % 6_001) as f32 / 1_000.0 - 3.0);
            point.iter_mut().for_each(|x| *x *= length);
        }
        points
    };
    let base = scaled(13, 3_000);
    let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(16));
    // As `Metric::for_linking` has it.
    link_all::<SquaredEuclidean>(&graph, &vectors, &base);
    assert_eq!(check(&graph, graph.linked_count()).unwrap().unreachable, []);
    for (ef, k, hits_min) in [(50, 10, 970), (150, 100, 9_500)] {
        let mut hits = 0;
        for query in points(14, 100, 16, 20) {
            let found = search::<NegatedDot>(&graph, &vectors, &query, ef, |_| true);
            let truth = exact::<NegatedDot>(&base, &query, k);
            hits += truth.iter().filter(|slot| found[..k].contains(slot)).count();
        }
        assert!(hits >= hits_min, "ef {ef}: {hits} hits, recall@{k}");
    }
}

#[test]
fn levels_follow_the_distribution() {
    let graph = Graph::new(PARAMS);
    let mut counts = [0_u32; 6];
    for id in 1..=160_000 {
        counts[usize::from(graph.level_of(DocId(id)))] += 1;
    }
    // One in M reaches the next level.
    assert!((149_000..151_000).contains(&counts[0]), "{counts:?}");
    assert!((8_900..9_800).contains(&counts[1]), "{counts:?}");
    assert!((450..730).contains(&counts[2]), "{counts:?}");
}

/// The promise of the arenas: another thread walks while the owner links, and each answer consists of nodes that were
/// there.
#[test]
fn other_threads_walk_while_the_owner_links() {
    let base = points(6, 3_000, 16, 20);
    let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(16));
    link_all::<NegatedDot>(&graph, &vectors, &base[..500]);
    std::thread::scope(|scope| {
        let walkers: Vec<_> = (0..2)
            .map(|walker| {
                let (graph, vectors) = (&graph, &vectors);
                scope.spawn(move || {
                    let mut answered = 0;
                    while graph.linked_count() < 3_000 {
                        for query in points(10 + walker, 20, 16, 20) {
                            let found = search::<NegatedDot>(graph, vectors, &query, 20, |_| true);
                            assert_eq!(found.len(), 20);
                            assert!(found.iter().all(|slot| slot.0 < 3_000));
                            answered += 1;
                        }
                    }
                    answered
                })
            })
            .collect();
        link_all::<NegatedDot>(&graph, &vectors, &base[500..]);
        for walker in walkers {
            assert!(walker.join().unwrap() > 0);
        }
    });
    assert_eq!(check(&graph, 3_000).unwrap().unreachable, []);
}

/// All nodes may adopt, and stay.
struct All;

impl Adopters for All {
    fn is_reached(&self, _slot: Slot) -> bool {
        true
    }

    fn may_adopt(&self, _slot: Slot) -> bool {
        true
    }

    fn stays(&self, _slot: Slot) -> bool {
        true
    }
}

/// A node that nothing leads to is found, and gets links; the graph stays sound.
#[test]
fn a_node_out_of_reach_is_found_and_linked_to_again() {
    let base = points(11, 1_500, 16, 20);
    let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(16));
    link_all::<NegatedDot>(&graph, &vectors, &base);
    let lost = Slot(700);
    graph.cut_off(lost, 1_500);
    let unreachable = |graph: &Graph| {
        let mut reach = Reach::new(graph, 1_500);
        while !reach.step(graph, |_| true) {}
        reach.finish().0
    };
    assert_eq!(unreachable(&graph), [lost]);
    let (mut adoption, mut scratch) = (Adoption::new(lost), Scratch::default());
    let rows = Rows { vectors: Some(&vectors), codes: None };
    while !adoption.step::<NegatedDot>(&graph, rows, &mut scratch, &All) {}
    assert_eq!(unreachable(&graph), []);
    assert_eq!(check(&graph, 1_500).unwrap().unreachable, []);
    let found = search::<NegatedDot>(&graph, &vectors, &base[700], 20, |_| true);
    assert_eq!(found[0], lost);
}

/// A part of level 0 that only links of upper levels lead into, and in which the nearest nodes of live ones are dead,
/// is given links from outside.
#[test]
fn a_part_out_of_reach_with_dead_nodes_is_linked_to_again() {
    let base = points(12, 1_500, 16, 20);
    let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(16));
    link_all::<NegatedDot>(&graph, &vectors, &base);
    let cluster = |slot: Slot| mix(u64::from(slot.0)) % 20;
    let away = cluster(graph.entry().expect("nodes").0);
    let is_part = |slot: Slot| cluster(slot) == (away + 1) % 20;
    for slot in (0..1_500).map(Slot) {
        let mut list = graph.neighbours(slot, 0);
        list.retain(|&near| is_part(near) == is_part(slot));
        graph.set_neighbours(&graph.hold(slot).expect("one thread"), 0, &list);
    }
    let is_live = |slot: Slot| !slot.0.is_multiple_of(3);
    let lost = || {
        let unreachable = check(&graph, 1_500).expect("a sound graph").unreachable;
        unreachable.into_iter().filter(|&slot| is_live(slot)).count()
    };
    let is_entered = |slot| is_part(slot) && graph.level(slot) > Some(0);
    assert!((0..1_500).map(Slot).any(is_entered) && lost() > 30, "{}", lost());

    let rows = Rows { vectors: Some(&vectors), codes: None };
    let context = Context { graph: &graph, rows, slot_count: 1_500, is_live };
    let (mut unlinker, mut scratch) = (Unlinker::check(&graph, 1_500), Scratch::default());
    while !unlinker.step::<NegatedDot>(&context, &mut scratch) {}
    assert_eq!(lost(), 0);
}

/// Nodes that leave together are removed one after the other. A state frozen in between has none of them, and leads
/// only to nodes that it has; a node that leaves later is still part of it.
#[test]
fn a_frozen_graph_leads_to_no_node_that_has_left() {
    const COUNT: u32 = 600;
    let base = points(13, u64::from(COUNT), 16, 5);
    let (graph, vectors) = (Graph::new(PARAMS), Vectors::new(16));
    link_all::<NegatedDot>(&graph, &vectors, &base);
    let mut scratch = Scratch::default();
    let mut unlink = |doomed: Vec<Slot>, is_live: &dyn Fn(Slot) -> bool| {
        let rows = Rows { vectors: Some(&vectors), codes: None };
        let context = Context { graph: &graph, rows, slot_count: COUNT, is_live };
        let mut unlinker = Unlinker::new(&graph, doomed, true);
        while !unlinker.step::<NegatedDot>(&context, &mut scratch) {}
        unlinker.finish(&graph, COUNT)
    };
    let left = unlink((0..COUNT).step_by(3).map(Slot).collect(), &|slot| slot.0 % 3 > 0);
    assert!(left.iter().step_by(2).all(|&slot| graph.remove(slot)));
    let leads_to_removed = |&&slot: &&Slot| {
        graph.level(slot).is_some()
            && graph.neighbours(slot, 0).iter().any(|&near| graph.level(near).is_none())
    };
    assert!(left.iter().filter(leads_to_removed).count() > 50, "as it may be when it is frozen");

    let frame = graph.freeze(Stripe::WHOLE, COUNT, COUNT);
    let later = unlink((1..COUNT).step_by(30).map(Slot).collect(), &|slot| slot.0 % 3 == 2);
    assert!(later.iter().all(|&slot| !graph.remove(slot)), "it is frozen");
    let mut levels = Vec::new();
    graph.frozen_nodes(Stripe::WHOLE, 0..COUNT, |level, _| levels.push(level));
    let lists = graph.frozen_links(Stripe::WHOLE, 0);
    let lists = lists.chunks(lists.len() / COUNT as usize);
    let is_there = |slot: usize| levels[slot] > 0;
    for (slot, list) in lists.enumerate().filter(|(slot, _)| is_there(*slot)) {
        let gone = list.iter().find(|&&link| link > 0 && !is_there(link as usize - 1));
        assert_eq!(gone, None, "slot {slot} leads there");
    }
    assert_eq!(levels.iter().filter(|level| **level > 0).count(), frame.linked as usize);
    assert_eq!(frame.linked, COUNT * 2 / 3);
    assert!(later.iter().all(|slot| is_there(slot.index())));
    graph.thaw(Stripe::WHOLE);
    assert!(left.iter().skip(1).step_by(2).chain(&later).all(|&slot| graph.remove(slot)));
    assert_eq!(graph.linked_count(), graph.staying_of(0));
}

#[test]
fn a_failed_hold_does_not_release_the_node() {
    let graph = Graph::new(PARAMS);
    graph.reserve(Slot(3));
    let held = graph.hold(Slot(3)).unwrap();
    for _ in 0..3 {
        assert!(graph.hold(Slot(3)).is_none());
    }
    drop(held);
    assert!(graph.hold(Slot(3)).is_some());
    assert!(graph.hold(Slot(3)).is_some(), "the one before has let go");
}

//! Cache key of a search: all parameters that its answer depends on. Compared in whole, and hashed for lookup.
//!
//! Vectors are compared in the form used for search: scaled, if the metric scales them. A filter has the tenant's
//! condition and the namespace in it; the realm is compared beside it, so that a fault in one of the two discloses no
//! documents.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use crate::engine::Query;
use crate::engine::filter::Filter;
use crate::types::realm::Realm;

/// Query parameters that the router may change before asking shards: k, ef, whether vectors are returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) k: usize,
    /// The requested or default beam width. That of shards depends on their numbers of documents.
    pub(super) ef: usize,
    pub(super) include_embeddings: bool,
}

impl Asked {
    pub(super) fn of(query: &Query) -> Self {
        let Query { k, ef, include_embeddings, .. } = *query;
        Self { k, ef, include_embeddings }
    }
}

/// A search as its client asked for it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The query as sent to the shards.
    pub(super) query: Arc<Query>,
    pub(super) asked: Asked,
    pub(super) realm: Realm,
}

/// Hash of a search, with the requested beam width.
pub(super) fn hash(hasher: &impl BuildHasher, query: &Query, realm: &Realm) -> u64 {
    let Query { vector, k, ef, min_score, filter, include_embeddings, is_exact } = query;
    let mut state = hasher.build_hasher();
    state.write(bytemuck::cast_slice(vector));
    (k, ef, floor(*min_score).to_bits(), include_embeddings, is_exact).hash(&mut state);
    if let Some(filter) = filter {
        hash_filter(filter, &mut state);
    }
    realm.tenant.as_ref().map(|tenant| &tenant.index).hash(&mut state);
    realm.namespace.hash(&mut state);
    state.finish()
}

impl Key {
    /// True if this key is that of the search.
    pub(super) fn is_for(&self, query: &Query, realm: &Realm) -> bool {
        bits(&query.vector) == bits(&self.query.vector)
            && Asked::of(query) == self.asked
            && self.is_among(query, realm)
    }

    /// True if both keys are equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        bits(&other.query.vector) == bits(&self.query.vector)
            && other.asked == self.asked
            && self.is_among(&other.query, &other.realm)
    }

    /// True if the search differs from this one at most in its vector and in the returned fields of documents.
    pub(super) fn is_beside(&self, query: &Query, realm: &Realm) -> bool {
        (query.k, query.ef) == (self.asked.k, self.asked.ef) && self.is_among(query, realm)
    }

    /// True if the search is over equal scopes, with equal parameters.
    fn is_among(&self, query: &Query, realm: &Realm) -> bool {
        let own = &*self.query;
        // A filter with NaN equals no filter, not even itself, so its answer is never given again.
        floor(query.min_score).to_bits() == floor(own.min_score).to_bits()
            && query.is_exact == own.is_exact
            && query.filter == own.filter
            && *realm == self.realm
    }

    /// Bytes of memory, estimated.
    pub(super) fn bytes(&self) -> usize {
        let filter = self.query.filter.as_ref().map_or(0, filter_bytes);
        size_of::<Query>() + size_of_val(&*self.query.vector) + filter + self.realm.namespace.len()
    }
}

/// Least score that counts: only one above 0 does.
fn floor(min_score: f32) -> f32 {
    min_score.max(0.0)
}

fn bits(vector: &[f32]) -> &[u32] {
    bytemuck::cast_slice(vector)
}

fn hash_filter(filter: &Filter, state: &mut impl Hasher) {
    std::mem::discriminant(filter).hash(state);
    match filter {
        Filter::Exact(key, value) => (key, value).hash(state),
        Filter::In(key, values) => (key, values).hash(state),
        Filter::Range(key, bound) => {
            let bound = bound.as_ref();
            (key, bound.map(|bound| (bound.side as u8, &bound.text))).hash(state);
        }
        Filter::And(filters) | Filter::Or(filters) => {
            filters.len().hash(state);
            filters.iter().for_each(|filter| hash_filter(filter, state));
        }
        Filter::Not(filter) => hash_filter(filter, state),
        Filter::All | Filter::Nothing => {}
    }
}

fn filter_bytes(filter: &Filter) -> usize {
    let texts = match filter {
        Filter::Exact(key, value) => key.capacity() + value.capacity(),
        Filter::In(key, values) => {
            let texts = values.iter().map(String::capacity).sum::<usize>();
            key.capacity() + texts + values.capacity() * size_of::<String>()
        }
        Filter::Range(key, bound) => {
            key.capacity() + bound.as_ref().map_or(0, |bound| bound.text.capacity())
        }
        Filter::And(filters) | Filter::Or(filters) => filters.iter().map(filter_bytes).sum(),
        Filter::Not(filter) => filter_bytes(filter),
        Filter::All | Filter::Nothing => 0,
    };
    texts + size_of::<Filter>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::filter::{Bound, Side};
    use crate::types::realm::TenantMark;
    use std::hash::RandomState;

    fn query() -> Query {
        Query {
            vector: vec![0.6, 0.8],
            k: 10,
            ef: 50,
            min_score: 0.0,
            filter: None,
            include_embeddings: false,
            is_exact: false,
        }
    }

    fn realm(tenant: &str, namespace: &str) -> Realm {
        let mark = TenantMark { id: "t".into(), index: tenant.into() };
        Realm { tenant: Some(Arc::new(mark)), namespace: namespace.into() }
    }

    /// Searches that all have different answers.
    fn different() -> Vec<(Query, Realm)> {
        let range = |side, text: &str| {
            let bound = Some(Bound::new(side, text.into()));
            Some(Filter::Range("n".into(), bound))
        };
        let exact = |key: &str, value: &str| Filter::Exact(key.into(), value.into());
        let filters = [
            Some(exact("a", "bc")),
            Some(exact("ab", "c")),
            Some(Filter::Not(Box::new(exact("a", "bc")))),
            Some(Filter::And(vec![exact("a", "bc")])),
            Some(Filter::Or(vec![exact("a", "bc")])),
            Some(Filter::And(vec![exact("a", "bc"), exact("d", "e")])),
            Some(Filter::And(vec![exact("a", "bc"), Filter::Or(vec![exact("d", "e")])])),
            Some(Filter::one_of("a".into(), vec!["b".into(), "c".into()])),
            Some(Filter::one_of("a".into(), vec!["b".into()])),
            Some(Filter::Range("n".into(), None)),
            range(Side::Above, "1"),
            range(Side::AtLeast, "1"),
            range(Side::Above, "1.0"),
            Some(Filter::All),
            Some(Filter::Nothing),
        ];
        let mut queries: Vec<Query> =
            filters.into_iter().map(|filter| Query { filter, ..query() }).collect();
        queries.extend([
            query(),
            Query { vector: vec![0.8, 0.6], ..query() },
            Query { vector: vec![0.6], ..query() },
            Query { k: 11, ..query() },
            Query { ef: 51, ..query() },
            Query { min_score: 0.5, ..query() },
            Query { include_embeddings: true, ..query() },
            Query { is_exact: true, ..query() },
        ]);
        let everybody = queries.into_iter().map(|query| (query, Realm::default()));
        let realms = [realm("1", ""), realm("2", ""), realm("1", "a"), Realm::from("a")];
        everybody.chain(realms.map(|realm| (query(), realm))).collect()
    }

    #[test]
    fn keys_differ_in_everything_that_the_answer_depends_on() {
        let (hasher, searches) = (RandomState::new(), different());
        for (index, (query, realm)) in searches.iter().enumerate() {
            // Shards are asked with another beam width.
            let asked = Arc::new(Query { ef: 7, ..query.clone() });
            let key = Key { query: asked, asked: Asked::of(query), realm: realm.clone() };
            assert!(key.bytes() > 4 * query.vector.len());
            for (other_index, (other, others_realm)) in searches.iter().enumerate() {
                let is_same = index == other_index;
                assert_eq!(key.is_for(other, others_realm), is_same, "{query:?} and {other:?}");
                let asked = Asked::of(other);
                let others =
                    Key { query: Arc::new(other.clone()), asked, realm: others_realm.clone() };
                assert_eq!(key.is_same(&others), is_same, "{query:?} and {other:?}");
                let hashes = [(query, realm), (other, others_realm)]
                    .map(|(query, realm)| hash(&hasher, query, realm));
                assert_eq!(hashes[0] == hashes[1], is_same, "{query:?} and {other:?}");
            }
        }
    }

    #[test]
    fn searches_beside_a_key_differ_only_in_vector_and_returned_fields() {
        let key =
            Key { asked: Asked::of(&query()), query: Arc::new(query()), realm: Realm::default() };
        let beside: Vec<Query> = different()
            .into_iter()
            .filter(|(query, realm)| key.is_beside(query, realm))
            .map(|(query, _)| query)
            .collect();
        // The search itself, two other vectors, and one with embeddings.
        assert_eq!(beside.len(), 4, "{beside:?}");
        assert!(beside.iter().all(|query| query.filter.is_none() && query.k == 10));
    }

    #[test]
    fn keys_ignore_parameters_that_do_not_affect_the_answer() {
        let hasher = RandomState::new();
        let (one, other) = (query(), Query { min_score: -1.0, ..query() });
        let everybody = Realm::default();
        assert_eq!(hash(&hasher, &one, &everybody), hash(&hasher, &other, &everybody));
        let key = Key { asked: Asked::of(&one), query: Arc::new(one), realm: everybody.clone() };
        assert!(key.is_for(&other, &everybody));
        // NaN equals nothing, not even itself: such an answer is never given again.
        let nan = Bound::new(Side::Above, "nan".into());
        let nan = Query { filter: Some(Filter::Range("n".into(), Some(nan))), ..query() };
        let key =
            Key { asked: Asked::of(&nan), query: Arc::new(nan.clone()), realm: everybody.clone() };
        assert!(!key.is_for(&nan, &everybody));
    }
}

//! Validation and conversion from protobuf messages to the engine's types: ids, vectors, limits, filters. Later layers
//! do not check them again.

use std::collections::{BTreeMap, HashMap};

use super::subject::Subject;
use crate::config::Config;
use crate::engine::filter::{Bound, Filter, Side};
use crate::engine::{Query, Write};
use crate::error::{Error, Result};
use crate::kernels::{Metric, normalize};
use crate::proto;
use crate::proto::shape::{
    CONDITIONS_MAX, DEPTH_MAX, EXACT_PAIRS_MAX, FILTER_BYTES_MAX, IN_VALUES_MAX, RANGES_MAX,
    too_deep, too_many,
};
use crate::types::DocId;
use crate::types::limits::DIMENSION_MAX;
use crate::types::payload::{NAMESPACE_BYTES_MAX, PAYLOAD_BYTES_MAX, Payload, PayloadError};
use crate::types::realm::Realm;

/// Largest k of a search.
pub(super) const K_MAX: u32 = 1_000;

/// Largest beam width of a search.
pub(super) const EF_MAX: u32 = 10_000;

/// Most ids in a BulkQuery or BatchDelete.
pub(super) const IDS_MAX: usize = 10_000;

/// Longest key or value of a filter, in bytes: no document has a longer one.
const FILTER_TEXT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Largest norm of a vector that is not scaled: beyond it a product could overflow, and an infinite distance would make
/// a wrong order.
const LENGTH_MAX: f64 = 1e18;

/// Requirements of a vector.
#[derive(Clone, Copy)]
pub(super) struct VectorRules {
    pub(super) metric: Metric,
    /// Values in a vector; 0 until the first document decides.
    pub(super) dimension: usize,
}

impl VectorRules {
    /// Checks a vector, and converts it to the form in which it is stored and searched.
    pub(super) fn check(self, field: &'static str, mut vector: Vec<f32>) -> Result<Vec<f32>> {
        let invalid = |why: String| Err(Error::invalid(field, why));
        if vector.is_empty() {
            return invalid("is empty; a vector has 1 to 4096 values".into());
        }
        if vector.len() > DIMENSION_MAX {
            return invalid(format!(
                "has {} values; at most {DIMENSION_MAX} are allowed",
                vector.len()
            ));
        }
        if self.dimension != 0 && vector.len() != self.dimension {
            return invalid(format!(
                "has {} values; this collection has vectors of {}",
                vector.len(),
                self.dimension
            ));
        }
        if let Some(index) = vector.iter().position(|value| !value.is_finite()) {
            return invalid(format!("value {index} is {}; all have to be finite", vector[index]));
        }
        match self.metric {
            Metric::Cosine => {
                if !normalize(&mut vector) {
                    return invalid("is all zeros, and has no direction for cosine".into());
                }
            }
            Metric::InnerProduct | Metric::Euclidean => {
                let squares = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
                if squares.sqrt() > LENGTH_MAX {
                    let length = squares.sqrt();
                    return invalid(format!(
                        "has the length {length:e}; beyond {LENGTH_MAX:e} distances would overflow"
                    ));
                }
            }
        }
        Ok(vector)
    }
}

/// A document id: anything but 0.
pub(super) fn doc_id(field: &'static str, id: u64) -> Result<DocId> {
    match id {
        0 => Err(Error::invalid(field, "0 is not a document id; ids begin at 1")),
        id => Ok(DocId(id)),
    }
}

/// Checks the number of document ids in a list.
pub(super) fn count_of_ids(field: &'static str, count: usize) -> Result<()> {
    if count > IDS_MAX {
        let why = format!("{count} ids; at most {IDS_MAX} are allowed");
        return Err(Error::invalid(field, why));
    }
    Ok(())
}

/// Checks a namespace to search in.
pub(super) fn namespace(namespace: &str) -> Result<()> {
    if namespace.len() > NAMESPACE_BYTES_MAX {
        let why = PayloadError::Namespace(namespace.len()).to_string();
        return Err(Error::invalid("namespace", why));
    }
    Ok(())
}

/// Metadata to store.
pub(super) fn payload(pairs: &HashMap<String, String>, realm: &Realm) -> Result<Payload> {
    let pairs = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    Payload::within(pairs, realm).map_err(|why| {
        let is_namespace = matches!(why, PayloadError::Namespace(_));
        Error::invalid(if is_namespace { "namespace" } else { "metadata" }, why.to_string())
    })
}

/// A document to store.
pub(super) fn insert(
    request: proto::InsertRequest,
    rules: VectorRules,
    subject: &Subject,
) -> Result<Write> {
    let id = subject.doc_id("doc_id", request.doc_id)?;
    let payload = payload(&request.metadata, &subject.realm(&request.namespace))?;
    let vector = rules.check("embedding", request.embedding)?.into();
    Ok(Write::Put { id, vector, payload, tenant_documents_max: subject.documents_max() })
}

/// A search. `vector` is that of the document named in the request, if one is named.
pub(super) fn search(
    request: proto::SearchRequest,
    vector: Option<Vec<f32>>,
    rules: VectorRules,
    config: &Config,
    subject: &Subject,
) -> Result<Query> {
    if !(1..=K_MAX).contains(&request.k) {
        let why = format!("{} is not between 1 and {K_MAX}", request.k);
        return Err(Error::invalid("k", why));
    }
    if request.ef_search > EF_MAX {
        let why = format!("{} is above {EF_MAX}", request.ef_search);
        return Err(Error::invalid("ef_search", why));
    }
    if request.min_score.is_nan() {
        return Err(Error::invalid("min_score", "is not a number"));
    }
    namespace(&request.namespace)?;
    let ef = match request.ef_search {
        0 => config.hnsw.ef_search,
        ef => ef as usize,
    };
    let vector = match vector {
        Some(vector) => vector,
        None => rules.check("query_embedding", request.query_embedding)?,
    };
    let proto::SearchRequest { filter, metadata_filters, .. } = request;
    let scope = scope(subject, &request.namespace, filter, metadata_filters)?;
    Ok(Query {
        vector,
        k: request.k as usize,
        ef,
        min_score: request.min_score,
        filter: scope,
        include_embeddings: request.include_embeddings,
        is_exact: request.exact,
    })
}

/// All conditions on a document as one filter; `None` without conditions.
pub(super) fn scope(
    subject: &Subject,
    namespace: &str,
    filter: Option<proto::MetadataFilter>,
    exact: HashMap<String, String>,
) -> Result<Option<Filter>> {
    check_pairs(&exact)?;
    // In a fixed order, so that the query cache recognises equal conditions.
    let exact: BTreeMap<_, _> = exact.into_iter().collect();
    let exact = exact.into_iter().map(|(key, value)| Filter::Exact(key, value));
    let mut conditions: Vec<Filter> = subject.condition().into_iter().chain(exact).collect();
    if let Some(filter) = filter {
        match Budget::default().filter(filter, DEPTH_MAX)? {
            Filter::All => {}
            filter => conditions.push(filter),
        }
    }
    if !namespace.is_empty() {
        conditions.push(Filter::namespace(namespace));
    }
    Ok(match conditions.len() {
        0 => None,
        1 => conditions.pop(),
        _ => Some(Filter::And(conditions)),
    })
}

/// Exact matches have the bounds of the metadata that they are compared with.
fn check_pairs(exact: &HashMap<String, String>) -> Result<()> {
    let invalid = |what: String| Err(Error::invalid("metadata_filters", what));
    if exact.len() > EXACT_PAIRS_MAX {
        return invalid(too_many(EXACT_PAIRS_MAX, "pairs"));
    }
    let bytes: usize = exact.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > PAYLOAD_BYTES_MAX {
        return invalid(too_many(PAYLOAD_BYTES_MAX, "bytes of keys and values"));
    }
    Ok(())
}

/// Remaining limits of a filter.
struct Budget {
    conditions: usize,
    ranges: usize,
    values: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            conditions: CONDITIONS_MAX,
            ranges: RANGES_MAX,
            values: IN_VALUES_MAX,
            bytes: FILTER_BYTES_MAX,
        }
    }
}

fn take(left: &mut usize, count: usize, max: usize, what: &str) -> Result<()> {
    let Some(rest) = left.checked_sub(count) else {
        return Err(Error::invalid("filter", too_many(max, what)));
    };
    *left = rest;
    Ok(())
}

impl Budget {
    /// Compiles a filter of at most `depth` levels. Limits are checked before any work.
    fn filter(&mut self, filter: proto::MetadataFilter, depth: usize) -> Result<Filter> {
        use proto::metadata_filter::FilterType;
        let Some(below) = depth.checked_sub(1) else {
            return Err(Error::invalid("filter", too_deep()));
        };
        take(&mut self.conditions, 1, CONDITIONS_MAX, "conditions")?;
        let Some(filter) = filter.filter_type else { return Ok(Filter::All) };
        Ok(match filter {
            FilterType::Exact(proto::ExactMatch { key, value }) => {
                self.text(&key)?;
                self.text(&value)?;
                Filter::Exact(key, value)
            }
            FilterType::InMatch(proto::InMatch { key, values }) => {
                take(&mut self.values, values.len(), IN_VALUES_MAX, "values in in_match lists")?;
                self.text(&key)?;
                values.iter().try_for_each(|value| self.text(value))?;
                Filter::one_of(key, values)
            }
            FilterType::Range(range) => {
                take(&mut self.ranges, 1, RANGES_MAX, "range conditions")?;
                self.range(range)?
            }
            FilterType::AndFilter(and) => Filter::And(self.all(and.filters, below)?),
            FilterType::OrFilter(or) => Filter::Or(self.all(or.filters, below)?),
            FilterType::NotFilter(not) => match not.filter {
                None => Filter::Nothing,
                Some(inner) => Filter::Not(Box::new(self.filter(*inner, below)?)),
            },
        })
    }

    fn all(&mut self, filters: Vec<proto::MetadataFilter>, depth: usize) -> Result<Vec<Filter>> {
        filters.into_iter().map(|filter| self.filter(filter, depth)).collect()
    }

    /// Takes a key or a value.
    fn text(&mut self, text: &str) -> Result<()> {
        if text.len() > FILTER_TEXT_BYTES_MAX {
            let what = "bytes in one key or value";
            return Err(Error::invalid("filter", too_many(FILTER_TEXT_BYTES_MAX, what)));
        }
        take(&mut self.bytes, text.len(), FILTER_BYTES_MAX, "bytes")
    }

    fn range(&mut self, proto::RangeMatch { key, bound }: proto::RangeMatch) -> Result<Filter> {
        use proto::range_match::Bound as Wire;
        self.text(&key)?;
        let Some(bound) = bound else { return Ok(Filter::Range(key, None)) };
        let (side, text) = match bound {
            Wire::Gte(text) => (Side::AtLeast, text),
            Wire::Lte(text) => (Side::AtMost, text),
            Wire::Gt(text) => (Side::Above, text),
            Wire::Lt(text) => (Side::Below, text),
        };
        self.text(&text)?;
        Ok(Filter::Range(key, Some(Bound::new(side, text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::metadata_filter::FilterType;

    const RULES: VectorRules = VectorRules { metric: Metric::Cosine, dimension: 3 };

    fn message<T>(result: Result<T>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn bad_vectors_are_named() {
        let check = |vector: &[f32]| message(RULES.check("embedding", vector.to_vec()));
        assert!(check(&[]).starts_with("embedding: is empty"));
        assert!(check(&[1.0; 4097]).contains("4097 values"));
        assert!(check(&[1.0; 2]).contains("has 2 values; this collection has vectors of 3"));
        assert!(check(&[1.0, f32::NAN, 0.0]).contains("value 1 is NaN"));
        assert!(check(&[1.0, 0.0, f32::NEG_INFINITY]).contains("value 2 is -inf"));
        assert!(check(&[0.0, -0.0, 0.0]).contains("all zeros"));
        assert_eq!(RULES.check("e", vec![3.0, 0.0, 4.0]).unwrap(), [0.6, 0.0, 0.8]);
        let tiny = RULES.check("e", vec![1e-42, 0.0, 0.0]).unwrap();
        assert_eq!(tiny, [1.0, 0.0, 0.0]);
        for metric in [Metric::InnerProduct, Metric::Euclidean] {
            let rules = VectorRules { metric, dimension: 0 };
            assert_eq!(rules.check("e", vec![0.0; 2]).unwrap(), [0.0; 2]);
            assert!(message(rules.check("e", vec![1e30])).contains("overflow"));
        }
    }

    #[test]
    fn bad_search_parameters_are_named() {
        let config = Config::default();
        let search = |change: fn(&mut proto::SearchRequest)| {
            let mut request = proto::SearchRequest {
                query_embedding: vec![1.0, 0.0, 0.0],
                k: 10,
                ..Default::default()
            };
            change(&mut request);
            search(request, None, RULES, &config, &Subject::default())
        };
        assert!(message(search(|r| r.k = 0)).starts_with("k: 0"));
        assert!(message(search(|r| r.k = 1_001)).starts_with("k: 1001"));
        assert!(message(search(|r| r.ef_search = 10_001)).starts_with("ef_search"));
        assert!(message(search(|r| r.min_score = f32::NAN)).starts_with("min_score"));
        assert!(message(search(|r| r.namespace = "n".repeat(257))).starts_with("namespace"));
        let plain = search(|_| {}).unwrap();
        assert_eq!((plain.ef, plain.filter), (50, None));
        let scoped = search(|r| r.namespace = "a".into()).unwrap();
        assert_eq!(scoped.filter, Some(Filter::namespace("a")));
    }

    fn nested(depth: usize) -> proto::MetadataFilter {
        let mut filter = proto::MetadataFilter::default();
        for _ in 1..depth {
            let not = proto::NotFilter { filter: Some(Box::new(filter)) };
            filter = proto::MetadataFilter { filter_type: Some(FilterType::NotFilter(not.into())) };
        }
        filter
    }

    #[test]
    fn filters_are_bounded() {
        let everybody = Subject::default();
        let compile =
            |filter: proto::MetadataFilter| scope(&everybody, "", Some(filter), HashMap::new());
        assert!(compile(nested(DEPTH_MAX)).is_ok());
        assert!(message(compile(nested(DEPTH_MAX + 1))).contains("deeper than 32 levels"));
        let wide = |count| proto::MetadataFilter {
            filter_type: Some(FilterType::AndFilter(proto::AndFilter {
                filters: vec![proto::MetadataFilter::default(); count],
            })),
        };
        assert!(compile(wide(CONDITIONS_MAX - 1)).is_ok());
        assert!(message(compile(wide(CONDITIONS_MAX))).contains("more than 4096"));
        let range = FilterType::Range(proto::RangeMatch { key: "k".into(), bound: None });
        let range = proto::MetadataFilter { filter_type: Some(range) };
        let ranges = |count| proto::MetadataFilter {
            filter_type: Some(FilterType::AndFilter(proto::AndFilter {
                filters: vec![range.clone(); count],
            })),
        };
        assert!(compile(ranges(RANGES_MAX)).is_ok());
        assert!(message(compile(ranges(RANGES_MAX + 1))).contains("256 range conditions"));
        let list = |count, bytes| proto::MetadataFilter {
            filter_type: Some(FilterType::InMatch(proto::InMatch {
                key: "k".into(),
                values: vec!["v".repeat(bytes); count],
            })),
        };
        let lists = |filters| proto::MetadataFilter {
            filter_type: Some(FilterType::OrFilter(proto::OrFilter { filters })),
        };
        assert!(compile(list(IN_VALUES_MAX, 1)).is_ok());
        let halves = lists(vec![list(IN_VALUES_MAX / 2, 1), list(IN_VALUES_MAX / 2 + 1, 1)]);
        assert!(message(compile(halves)).contains("10000 values"));
        assert!(compile(list(1, PAYLOAD_BYTES_MAX)).is_ok());
        let long = message(compile(list(1, PAYLOAD_BYTES_MAX + 1)));
        assert!(long.contains("65536 bytes in one key or value"), "{long}");
        assert!(message(compile(list(1_024, 1_024))).contains("1048576 bytes"));
        let pairs = |count: usize, bytes| {
            let pairs = (0..count).map(|n| (n.to_string(), "v".repeat(bytes))).collect();
            message(scope(&everybody, "", None, pairs))
        };
        assert_eq!(pairs(EXACT_PAIRS_MAX, 1), "");
        assert!(pairs(EXACT_PAIRS_MAX + 1, 1).starts_with("metadata_filters: has more than 256"));
        assert!(pairs(2, PAYLOAD_BYTES_MAX / 2).contains("65536 bytes"));
    }

    #[test]
    fn absent_and_empty_children_of_not_are_false() {
        let payload = Payload::new([], "").unwrap();
        let compile = |not: proto::NotFilter| {
            let filter_type = Some(FilterType::NotFilter(not.into()));
            let filter = proto::MetadataFilter { filter_type };
            let everybody = Subject::default();
            scope(&everybody, "", Some(filter), HashMap::new()).unwrap().unwrap()
        };
        assert!(!compile(proto::NotFilter { filter: None }).matches(&payload));
        let empty = Some(Box::new(proto::MetadataFilter::default()));
        assert!(!compile(proto::NotFilter { filter: empty }).matches(&payload));
    }

    #[test]
    fn ids_are_bounded_and_not_zero() {
        assert!(message(doc_id("doc_id", 0)).contains("begin at 1"));
        assert_eq!(doc_id("doc_id", u64::MAX), Ok(DocId(u64::MAX)));
        let everybody = Subject::default();
        let doc_ids = |ids: &[u64]| message(everybody.doc_ids("doc_ids", ids));
        assert!(doc_ids(&[1; 10_001]).contains("10001 ids"));
        assert!(doc_ids(&[1, 0]).starts_with("doc_ids: 0"));
    }
}

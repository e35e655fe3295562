//! Bounds of filters, and a check of an encoded request against them before any of it is decoded: no allocation, one
//! pass, and an end at the first exceeded bound.

use std::any::TypeId;

use super::{BatchDeleteRequest, ListDocumentsRequest, SearchRequest};

/// Most conditions in one filter; each node counts.
pub const CONDITIONS_MAX: usize = 4_096;

/// Most levels of a filter.
pub const DEPTH_MAX: usize = 32;

/// Most range conditions in one filter: each may have to parse a number of many digits.
pub const RANGES_MAX: usize = 256;

/// Most values in all `in_match` lists of one filter.
pub const IN_VALUES_MAX: usize = 10_000;

/// Largest encoded filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 1 << 20;

/// Most pairs in `metadata_filters`: no document has more keys.
pub const EXACT_PAIRS_MAX: usize = 256;

/// Why an encoded request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The bytes are not a protobuf message.
    Malformed,
    /// A field exceeds its bound.
    Beyond(&'static str, String),
}

/// Numbers of the fields of a request that have bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    filter: u32,
    exact_pairs: Option<u32>,
}

/// Fields with a filter in requests of this type; `None` if there are none.
pub(super) fn places<T: 'static>() -> Option<Places> {
    let known = [
        (TypeId::of::<SearchRequest>(), Places { filter: 6, exact_pairs: Some(8) }),
        (TypeId::of::<ListDocumentsRequest>(), Places { filter: 5, exact_pairs: None }),
        (TypeId::of::<BatchDeleteRequest>(), Places { filter: 2, exact_pairs: None }),
    ];
    let this = TypeId::of::<T>();
    known.into_iter().find(|(id, _)| *id == this).map(|(_, places)| places)
}

/// Checks an encoded request against the bounds of its fields.
pub(super) fn check(message: &[u8], places: Places) -> Result<(), Refusal> {
    let mut left = Left { conditions: CONDITIONS_MAX, values: IN_VALUES_MAX };
    let (mut filter_bytes, mut pairs) = (0, 0);
    for field in Fields(message) {
        let (number, Some(inner)) = field? else { continue };
        if number == places.filter {
            filter_bytes += inner.len();
            if filter_bytes > FILTER_BYTES_MAX {
                let why = format!("has more than {FILTER_BYTES_MAX} bytes");
                return Err(Refusal::Beyond("filter", why));
            }
            left.filter(inner, DEPTH_MAX)?;
        } else if Some(number) == places.exact_pairs {
            pairs += 1;
            if pairs > EXACT_PAIRS_MAX {
                let why = format!("has more than {EXACT_PAIRS_MAX} pairs");
                return Err(Refusal::Beyond("metadata_filters", why));
            }
        }
    }
    Ok(())
}

/// The text about a filter that exceeds a bound.
pub fn too_many(max: usize, what: &str) -> String {
    format!("has more than {max} {what}")
}

/// The text about a filter that nests too deep.
pub fn too_deep() -> String {
    format!("nests deeper than {DEPTH_MAX} levels")
}

/// Remaining limits of a filter.
struct Left {
    conditions: usize,
    values: usize,
}

impl Left {
    fn filter(&mut self, encoded: &[u8], depth: usize) -> Result<(), Refusal> {
        const IN_MATCH: u32 = 3;
        const AND: u32 = 4;
        const OR: u32 = 5;
        const NOT: u32 = 6;
        let Some(below) = depth.checked_sub(1) else {
            return Err(Refusal::Beyond("filter", too_deep()));
        };
        take(&mut self.conditions, CONDITIONS_MAX, "conditions")?;
        for field in Fields(encoded) {
            let (number, Some(inner)) = field? else { continue };
            // `OrFilter` has its children under 2, the others theirs under 1.
            let (is_list, child) = match number {
                IN_MATCH => (true, 2),
                AND | NOT => (false, 1),
                OR => (false, 2),
                _ => continue,
            };
            for field in Fields(inner) {
                match field? {
                    (number, Some(_)) if number == child && is_list => {
                        take(&mut self.values, IN_VALUES_MAX, "values in in_match lists")?;
                    }
                    (number, Some(inner)) if number == child => self.filter(inner, below)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn take(left: &mut usize, max: usize, what: &str) -> Result<(), Refusal> {
    *left = left.checked_sub(1).ok_or_else(|| Refusal::Beyond("filter", too_many(max, what)))?;
    Ok(())
}

/// The fields of an encoded message in order: number, and content if the field has a length.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Option<&'a [u8]>), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(Refusal::Malformed);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    /// The next field; `None` if it is not one that protobuf knows. Groups, which proto3 does not have, count as
    /// unknown: their contents could not be counted.
    fn field(&mut self) -> Option<(u32, Option<&'a [u8]>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let content = match key & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.take(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.take(length)?)
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        };
        Some((number, content))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (index, &byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::metadata_filter::FilterType;
    use super::super::{
        AndFilter, InMatch, MetadataFilter, NotFilter, OrFilter, batch_delete_request,
    };
    use super::*;

    fn filter(filter_type: FilterType) -> MetadataFilter {
        MetadataFilter { filter_type: Some(filter_type) }
    }

    fn list(count: usize) -> MetadataFilter {
        let values = vec!["v".to_owned(); count];
        filter(FilterType::InMatch(InMatch { key: "k".into(), values }))
    }

    fn and(filters: Vec<MetadataFilter>) -> MetadataFilter {
        filter(FilterType::AndFilter(AndFilter { filters }))
    }

    fn or(filters: Vec<MetadataFilter>) -> MetadataFilter {
        filter(FilterType::OrFilter(OrFilter { filters }))
    }

    fn nested(levels: usize) -> MetadataFilter {
        (1..levels).fold(MetadataFilter::default(), |inner, _| {
            filter(FilterType::NotFilter(Box::new(NotFilter { filter: Some(Box::new(inner)) })))
        })
    }

    fn of_search(filter: MetadataFilter) -> Result<(), Refusal> {
        let request = SearchRequest {
            query_embedding: vec![1.0; 3],
            k: 300,
            min_score: 0.5,
            filter: Some(filter),
            metadata_filters: [("a".to_owned(), "b".to_owned())].into(),
            query_doc_id: u64::MAX,
            ..SearchRequest::default()
        };
        check(&request.encode_to_vec(), places::<SearchRequest>().unwrap())
    }

    fn why(checked: Result<(), Refusal>) -> String {
        match checked {
            Err(Refusal::Beyond("filter", why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn filters_are_held_to_their_bounds_before_they_are_decoded() {
        assert_eq!(of_search(nested(DEPTH_MAX)), Ok(()));
        for levels in [DEPTH_MAX + 1, 60, 1_000] {
            assert_eq!(why(of_search(nested(levels))), "nests deeper than 32 levels");
        }
        assert_eq!(of_search(and(vec![list(IN_VALUES_MAX / 2), list(IN_VALUES_MAX / 2)])), Ok(()));
        let halves = or(vec![list(IN_VALUES_MAX / 2), list(IN_VALUES_MAX / 2 + 1)]);
        assert!(why(of_search(halves)).contains("10000 values"));
        assert_eq!(of_search(and(vec![list(0); CONDITIONS_MAX - 1])), Ok(()));
        assert!(why(of_search(or(vec![list(0); CONDITIONS_MAX]))).contains("4096 conditions"));
        let long = InMatch { key: "k".repeat(FILTER_BYTES_MAX), values: vec![] };
        assert!(why(of_search(filter(FilterType::InMatch(long)))).contains("1048576 bytes"));
    }

    #[test]
    fn every_request_with_a_filter_is_looked_at() {
        let wide = || list(IN_VALUES_MAX + 1);
        let request = ListDocumentsRequest { filter: Some(wide()), ..Default::default() };
        let places_of_list = places::<ListDocumentsRequest>().unwrap();
        assert!(why(check(&request.encode_to_vec(), places_of_list)).contains("values"));
        let criteria = batch_delete_request::DeleteCriteria::Filter(wide());
        let request =
            BatchDeleteRequest { delete_criteria: Some(criteria), ..BatchDeleteRequest::default() };
        let places_of_delete = places::<BatchDeleteRequest>().unwrap();
        assert!(why(check(&request.encode_to_vec(), places_of_delete)).contains("values"));
        assert!(places::<super::super::InsertRequest>().is_none());
    }

    #[test]
    fn exact_pairs_are_counted() {
        let pairs = |count: usize| SearchRequest {
            metadata_filters: (0..count).map(|n| (n.to_string(), String::new())).collect(),
            ..SearchRequest::default()
        };
        let search = places::<SearchRequest>().unwrap();
        assert_eq!(check(&pairs(EXACT_PAIRS_MAX).encode_to_vec(), search), Ok(()));
        let beyond = check(&pairs(EXACT_PAIRS_MAX + 1).encode_to_vec(), search);
        assert!(matches!(beyond, Err(Refusal::Beyond("metadata_filters", _))), "{beyond:?}");
    }

    #[test]
    fn malformed_messages_are_named_as_such() {
        let search = places::<SearchRequest>().unwrap();
        for bytes in [&[0xff; 16][..], &[0x32, 5, 1], &[0x32], &[0x33, 0x34], &[0x00, 0x01]] {
            assert_eq!(check(bytes, search), Err(Refusal::Malformed), "{bytes:?}");
        }
        assert_eq!(check(&[], search), Ok(()));
    }
}

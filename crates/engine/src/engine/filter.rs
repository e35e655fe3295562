//! Metadata filters: compiled once per request, evaluated on a document's encoded metadata.
//!
//! Truth is decided per document: a range compares as numbers where both the bound and the stored
//! value are numbers, and as bytes where they are not.

use std::cmp::Ordering;

use crate::types::payload::{NAMESPACE_KEY, Payload, TENANT_INDEX_KEY};
use crate::types::realm::TenantMark;

/// A condition on a document's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// The key is present with exactly this value.
    Exact(String, String),
    /// The key is present with one of these values, which are sorted: see [`Filter::one_of`].
    In(String, Vec<String>),
    /// The key is present, and its value is within the bound, if there is one.
    Range(String, Option<Bound>),
    /// All of these; true when empty.
    And(Vec<Filter>),
    /// Any of these; false when empty.
    Or(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// Every document.
    All,
    /// No document.
    Nothing,
}

/// One side of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// The side on which values have to be.
    pub side: Side,
    /// The bound as sent.
    pub text: String,
    number: Option<f64>,
}

/// The side of its bound on which a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At or above.
    AtLeast,
    /// At or below.
    AtMost,
    /// Above.
    Above,
    /// Below.
    Below,
}

impl Bound {
    /// A bound; a text that parses as an `f64` is a number.
    #[must_use]
    pub fn new(side: Side, text: String) -> Self {
        let number = text.parse().ok();
        Self { side, text, number }
    }

    /// The bound that admits every value that this one does not, NaN excepted.
    pub(super) fn turned(&self) -> Self {
        let side = match self.side {
            Side::AtLeast => Side::Below,
            Side::AtMost => Side::Above,
            Side::Above => Side::AtMost,
            Side::Below => Side::AtLeast,
        };
        Self { side, text: self.text.clone(), number: self.number }
    }

    /// The bound as a number, if its text is one.
    pub(super) fn number(&self) -> Option<f64> {
        self.number
    }

    /// True if `value` is on the right side.
    pub(super) fn admits(&self, value: &str) -> bool {
        let ordering = match (self.number, value.parse::<f64>()) {
            (Some(bound), Ok(number)) => number.partial_cmp(&bound),
            _ => Some(value.as_bytes().cmp(self.text.as_bytes())),
        };
        // NaN on either side has no order, and is admitted by no side.
        ordering.is_some_and(|ordering| match self.side {
            Side::AtLeast => ordering != Ordering::Less,
            Side::AtMost => ordering != Ordering::Greater,
            Side::Above => ordering == Ordering::Greater,
            Side::Below => ordering == Ordering::Less,
        })
    }
}

impl Filter {
    /// The documents of this tenant.
    #[must_use]
    pub fn tenant(mark: &TenantMark) -> Self {
        Self::Exact(TENANT_INDEX_KEY.into(), mark.index.clone())
    }

    /// The documents stored under this namespace.
    #[must_use]
    pub fn namespace(namespace: &str) -> Self {
        Self::Exact(NAMESPACE_KEY.into(), namespace.into())
    }

    /// The key is present with one of `values`, of any number.
    #[must_use]
    pub fn one_of(key: String, mut values: Vec<String>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self::In(key, values)
    }

    /// Most conditions that have to be evaluated for one document.
    #[must_use]
    pub fn conditions(&self) -> usize {
        match self {
            Self::Exact(..) | Self::In(..) | Self::Range(..) => 1,
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().map(Self::conditions).sum::<usize>() + 1
            }
            Self::Not(filter) => filter.conditions(),
            Self::All | Self::Nothing => 1,
        }
    }

    /// True if a document with this metadata passes.
    #[must_use]
    pub fn matches(&self, payload: &Payload) -> bool {
        match self {
            Self::Exact(key, value) => payload.get(key) == Some(value),
            Self::In(key, values) => {
                let is_one = |value: &str| {
                    values.binary_search_by(|listed| listed.as_str().cmp(value)).is_ok()
                };
                payload.get(key).is_some_and(is_one)
            }
            Self::Range(key, bound) => payload
                .get(key)
                .is_some_and(|value| bound.as_ref().is_none_or(|bound| bound.admits(value))),
            Self::And(filters) => filters.iter().all(|filter| filter.matches(payload)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(payload)),
            Self::Not(filter) => !filter.matches(payload),
            Self::All => true,
            Self::Nothing => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload::new([("year", "1999"), ("name", "zebra"), ("nan", "nan"), ("e", "1e3")], "ns")
            .unwrap()
    }

    fn range(key: &str, side: Side, text: &str) -> bool {
        Filter::Range(key.into(), Some(Bound::new(side, text.into()))).matches(&payload())
    }

    #[test]
    fn ranges_compare_numbers_as_numbers_and_the_rest_as_bytes() {
        use Side::{Above, AtLeast, AtMost, Below};
        assert!(range("year", AtLeast, "1999.0") && range("year", AtMost, "1999"));
        assert!(!range("year", Above, "1999") && !range("year", Below, "+1999"));
        assert!(range("year", Above, "200"), "as text it would be below");
        assert!(range("e", AtLeast, "1000") && range("year", Below, "inf"));
        assert!(range("year", Below, "2k"), "bytewise: 1999 < 2k");
        assert!(range("year", Above, " 1"), "a space makes it text");
        assert!(range("name", Above, "z") && !range("name", Below, "5"));
        assert!(!range("missing", Above, ""));
        for side in [Above, AtLeast, AtMost, Below] {
            assert!(!range("nan", side, "1") && !range("year", side, "NaN"));
        }
        assert!(range("nan", Above, "m"), "nan beside text is text");
        assert!(Filter::Range("nan".into(), None).matches(&payload()));
        assert!(!Filter::Range("missing".into(), None).matches(&payload()));
    }

    #[test]
    fn connectives_combine_conditions_and_empty_lists() {
        let yes = || Filter::Exact("name".into(), "zebra".into());
        let no = || Filter::Exact("name".into(), "Zebra".into());
        let matches = |filter: Filter| filter.matches(&payload());
        assert!(matches(yes()) && !matches(no()));
        assert!(matches(Filter::And(vec![])) && !matches(Filter::Or(vec![])));
        assert!(
            matches(Filter::And(vec![yes(), yes()])) && !matches(Filter::And(vec![yes(), no()]))
        );
        assert!(matches(Filter::Or(vec![no(), yes()])) && !matches(Filter::Or(vec![no(), no()])));
        assert!(matches(Filter::Not(Box::new(no()))) && !matches(Filter::Not(Box::new(yes()))));
        assert!(matches(Filter::one_of(
            "name".into(),
            vec!["zebra".into(), "a".into(), "b".into(), "a".into()]
        )));
        assert!(!matches(Filter::In("name".into(), vec![])));
        assert!(matches(Filter::namespace("ns")) && !matches(Filter::namespace("other")));
    }
}

//! Filters of `kyrodb.v1`, without the nesting of their messages.

use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::range_match::Bound;
use kyrodb::proto::{
    AndFilter, ExactMatch, InMatch, MetadataFilter, NotFilter, OrFilter, RangeMatch,
};

fn filter(filter_type: FilterType) -> MetadataFilter {
    MetadataFilter { filter_type: Some(filter_type) }
}

/// A message without a type.
pub fn empty() -> MetadataFilter {
    MetadataFilter::default()
}

pub fn exact(key: &str, value: &str) -> MetadataFilter {
    filter(FilterType::Exact(ExactMatch { key: key.into(), value: value.into() }))
}

pub fn one_of(key: &str, values: &[&str]) -> MetadataFilter {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    filter(FilterType::InMatch(InMatch { key: key.into(), values }))
}

fn range(key: &str, bound: Option<Bound>) -> MetadataFilter {
    filter(FilterType::Range(RangeMatch { key: key.into(), bound }))
}

pub fn gte(key: &str, bound: &str) -> MetadataFilter {
    range(key, Some(Bound::Gte(bound.into())))
}

pub fn lte(key: &str, bound: &str) -> MetadataFilter {
    range(key, Some(Bound::Lte(bound.into())))
}

pub fn gt(key: &str, bound: &str) -> MetadataFilter {
    range(key, Some(Bound::Gt(bound.into())))
}

pub fn lt(key: &str, bound: &str) -> MetadataFilter {
    range(key, Some(Bound::Lt(bound.into())))
}

/// A range without bounds.
pub fn unbounded(key: &str) -> MetadataFilter {
    range(key, None)
}

pub fn and(filters: &[MetadataFilter]) -> MetadataFilter {
    filter(FilterType::AndFilter(AndFilter { filters: filters.to_vec() }))
}

pub fn or(filters: &[MetadataFilter]) -> MetadataFilter {
    filter(FilterType::OrFilter(OrFilter { filters: filters.to_vec() }))
}

pub fn not(inner: MetadataFilter) -> MetadataFilter {
    filter(FilterType::NotFilter(Box::new(NotFilter { filter: Some(Box::new(inner)) })))
}

/// A negation without a child.
pub fn not_absent() -> MetadataFilter {
    filter(FilterType::NotFilter(Box::default()))
}

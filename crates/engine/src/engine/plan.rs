//! Choice of strategy for a search with a filter, by the number of documents that the index says may pass.

/// Documents for each unit of ef up to which all documents that the filter selects are looked at. A walk among them
/// computes 25 to 35 distances for each unit of ef, of rows from all over memory, and reads lists beside, which takes
/// as long again; a scan computes one per document, of rows that come in order and are fetched ahead, and is exact.
const SCAN_DOCUMENTS_PER_EF: u64 = 35;

/// At least one of this many documents has to pass for a walk among them: with fewer, the walk would not find its way
/// from one to the next ([`crate::graph::filtered`]).
const AMONG_ONE_IN: u64 = 100;

/// Share of the documents, in percent, from which on the walk ignores the filter, and only the documents it keeps
/// have to pass. Such a walk computes more distances the fewer documents pass; from this share on, fewer than a walk
/// among them.
const PLAIN_PERCENT: u64 = 60;

/// A strategy of a search with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Looks at all documents that may pass.
    Scan,
    /// Walks among those that pass.
    Among,
    /// Walks as without a filter, and keeps those that pass.
    Plain,
}

/// Chooses for a filter that selects `matching` of `live` documents, of which `unsure` may not pass, and a beam of
/// `ef`.
pub(super) fn way(matching: u64, unsure: u64, live: u64, ef: u64) -> Way {
    let is_few = matching <= SCAN_DOCUMENTS_PER_EF * ef || matching * AMONG_ONE_IN < live;
    // If it is not known how many pass, there may be fewer than a walk would find.
    if is_few || unsure > matching / 2 {
        Way::Scan
    } else if matching * 100 < live * PLAIN_PERCENT {
        Way::Among
    } else {
        Way::Plain
    }
}

/// Width of the beam of a walk among `matching` of `live` documents, in percent of ef. The fewer pass, the more they
/// are scattered through the graph, and away from the query: with ef alone, a walk among one in ten ends too early,
/// and finds 0.92 of ten true neighbours where the walk without a filter finds 0.985.
pub(super) fn width_percent(matching: u64, live: u64) -> u64 {
    200 - 160 * matching.min(live / 2) / live.max(1)
}

//! Tactics by which a cache may decide which row to keep.

use super::log::Use;
use super::regions::{PARTS, USES_WORTH_MAX};
use super::segments::Shape;
use super::sketch::{Sketch, Span};

/// Segment sizes and evidence of a tactic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tactic {
    pub(super) shape: Shape,
    pub(super) evidence: Evidence,
}

/// Evidence of how much a document is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Number of requests over the long span.
    Long,
    /// As `Long`, plus the worth of the document's region.
    LongAndRegion,
    /// A second request within the short span, whatever the count of the other row.
    Again,
    /// None: the newest row is worth more, and has to be requested again before as many others have come as there are
    /// unprotected places (a segmented LRU).
    Last,
}

const fn tactic(protected_percent: usize, evidence: Evidence) -> Tactic {
    Tactic { shape: Shape { window_permille: 10, protected_percent }, evidence }
}

/// The tactic without training: never far from the best, as it admits about what S3-FIFO would. Each of the others is
/// far from the best for some workload.
pub(super) const UNTRAINED: Tactic = tactic(20, Evidence::Again);

/// Tactics that are tried. The first is the initial choice: near the best while the workload does not change, and less
/// far from it than the next two if it does. The last is plain LRU.
pub(super) const TACTICS: [Tactic; 7] = [
    tactic(80, Evidence::Again),
    tactic(80, Evidence::Long),
    tactic(80, Evidence::LongAndRegion),
    tactic(80, Evidence::Last),
    UNTRAINED,
    tactic(50, Evidence::Last),
    Tactic { shape: Shape::LRU, evidence: Evidence::Last },
];

/// Result of comparing two documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_worth_more: bool,
    /// The worth of regions was used.
    pub(super) is_by_region: bool,
}

/// Whether the row that leaves the window is worth more than the row that would be evicted for it.
pub(super) fn compare(
    new: Use,
    old: Use,
    evidence: Evidence,
    counts: &Sketch,
    worth: impl Fn(u32) -> u32,
) -> Verdict {
    let by_counts = |is_worth_more| Verdict { is_worth_more, is_by_region: false };
    match evidence {
        Evidence::Last => return by_counts(true),
        Evidence::Again => return by_counts(counts.estimate(new.hash, Span::Short) > 1),
        Evidence::Long | Evidence::LongAndRegion => {}
    }
    let [new_count, old_count] = [new, old].map(|of| counts.estimate(of.hash, Span::Long));
    // The worth of a region is smaller than such a difference.
    let is_clear = new_count.abs_diff(old_count) > USES_WORTH_MAX;
    if evidence != Evidence::LongAndRegion || is_clear {
        return by_counts(new_count > old_count);
    }
    let (new, old) = (worth(new.region), worth(old.region));
    Verdict { is_worth_more: PARTS * new_count + new > PARTS * old_count + old, is_by_region: true }
}

//! The ways in which a cache may decide what is worth a place.

use super::log::Use;
use super::regions::{PARTS, USES_WORTH_MAX};
use super::segments::Shape;
use super::sketch::{Sketch, Span};

/// How a cache decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tactic {
    pub(super) shape: Shape,
    pub(super) evidence: Evidence,
}

/// What tells how much a document is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// How often it was asked for in a long time.
    Long,
    /// The same, and what its region is worth.
    LongAndRegion,
    /// That it was asked for again of late, whatever the other one was.
    Again,
    /// None: what comes last is worth more, and has to be asked for again before others have come for all
    /// the places that are not protected (a segmented LRU).
    Last,
}

const fn tactic(protected_percent: usize, evidence: Evidence) -> Tactic {
    Tactic { shape: Shape { window_permille: 10, protected_percent }, evidence }
}

/// What is gone by where nothing learns: nowhere far from the best, as it admits what S3-FIFO would,
/// about. Each of the others is far from it somewhere.
pub(super) const UNTRAINED: Tactic = tactic(20, Evidence::Again);

/// What is tried out. The first is taken for the best at the start: near it, unless something changes, and
/// not as far from it as the next two if something does. The last is plain LRU.
pub(super) const TACTICS: [Tactic; 7] = [
    tactic(80, Evidence::Again),
    tactic(80, Evidence::Long),
    tactic(80, Evidence::LongAndRegion),
    tactic(80, Evidence::Last),
    UNTRAINED,
    tactic(50, Evidence::Last),
    Tactic { shape: Shape::LRU, evidence: Evidence::Last },
];

/// What a comparison of two documents says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_worth_more: bool,
    /// What regions are worth was looked up.
    pub(super) is_by_region: bool,
}

/// Whether the one that leaves the window is worth more than the one that would go for it.
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
    // A region counts for less than such a difference.
    let is_clear = new_count.abs_diff(old_count) > USES_WORTH_MAX;
    if evidence != Evidence::LongAndRegion || is_clear {
        return by_counts(new_count > old_count);
    }
    let (new, old) = (worth(new.region), worth(old.region));
    Verdict { is_worth_more: PARTS * new_count + new > PARTS * old_count + old, is_by_region: true }
}

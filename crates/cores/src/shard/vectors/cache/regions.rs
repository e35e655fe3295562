//! Worth of regions of the graph: how often documents that searches in a region asked for were asked for again. It is
//! the only information about a document that was never seen before.

use std::sync::Arc;

use crate::types::mix;

/// Places of the cache per region, up to [`REGIONS_MAX`] regions.
const REGION_PLACES: usize = 8;
const REGIONS_MAX: usize = 1 << 16;

/// Uses of a region at which its counts are halved.
const USES_MAX: u16 = 1 << 10;

/// Parts of a use in which worth is expressed.
pub(super) const PARTS: u32 = 16;

/// Most uses that the worth of a region counts for.
pub(super) const USES_WORTH_MAX: u32 = 8;

#[derive(Clone, Copy, Default)]
struct Region {
    uses: u16,
    /// Uses among these of documents that had not been seen.
    firsts: u16,
}

/// Counts of regions. Several regions may share a count.
pub(super) struct Regions(Vec<Region>);

/// Worth of the regions at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Worths(Arc<[u8]>);

fn index(region: u32, regions: usize) -> usize {
    ((u128::from(mix(region.into())) * regions as u128) >> 64) as usize
}

impl Region {
    fn worth(self) -> u32 {
        let worth = u32::from(self.uses - self.firsts) * PARTS / (u32::from(self.firsts) + 4);
        worth.min(USES_WORTH_MAX * PARTS)
    }
}

impl Regions {
    /// For a cache of `places_max` places.
    pub(super) fn new(places_max: usize) -> Self {
        let regions = places_max.div_ceil(REGION_PLACES).clamp(1, REGIONS_MAX);
        Self(vec![Region::default(); regions])
    }

    /// Counts a use of a document by a search in this region.
    pub(super) fn count(&mut self, region: u32, is_first: bool) {
        if region == 0 {
            return;
        }
        let index = index(region, self.0.len());
        let region = &mut self.0[index];
        region.uses += 1;
        region.firsts += u16::from(is_first);
        if region.uses >= USES_MAX {
            region.uses /= 2;
            region.firsts /= 2;
        }
    }

    /// Expected number of further requests for a document of this region, in [`PARTS`] of a use.
    pub(super) fn worth(&self, region: u32) -> u32 {
        match region {
            0 => 0,
            region => self.0[index(region, self.0.len())].worth(),
        }
    }

    /// Present worth of all regions.
    pub(super) fn worths(&self) -> Worths {
        Worths(self.0.iter().map(|region| region.worth() as u8).collect())
    }
}

impl Worths {
    /// Worth of a region, as [`Regions::worth`]; 0 if there are no counts.
    pub(super) fn worth(&self, region: u32) -> u32 {
        match region {
            0 => 0,
            region => self.0.get(index(region, self.0.len())).map_or(0, |&worth| worth.into()),
        }
    }
}

const _: () = assert!(USES_WORTH_MAX * PARTS <= u8::MAX as u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_are_asked_about_again_are_worth_more() {
        let mut regions = Regions::new(1_000);
        for round in 0..200 {
            regions.count(3, round < 20);
            regions.count(4, true);
            regions.count(0, false);
        }
        assert!(regions.worth(3) > 4 * PARTS);
        assert_eq!(regions.worth(4), 0);
        assert_eq!(regions.worth(0), 0, "unknown");
        let worths = regions.worths();
        for region in 0..1_000 {
            assert_eq!(worths.worth(region), regions.worth(region));
        }
        (0..100_000).for_each(|_| regions.count(3, false));
        assert_eq!(regions.worth(3), USES_WORTH_MAX * PARTS);
        assert_eq!(Worths::default().worth(3), 0);
    }
}

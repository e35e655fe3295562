//! Log of requests in order: a bounded ring that the cache writes and a trainer drains, and the file that keeps it over
//! a restart.
//!
//! | Bytes of the file | |
//! |---|---|
//! | 0–7 | `KYROUSES` |
//! | 8–11 | version of the format, 1 |
//! | 12–19 | number of uses |
//! | 20– | of each, oldest first: hash of the key (8 bytes), region (4) |
//! | the last 4 | CRC-32C of all before |
//!
//! Integers are little-endian.

use std::collections::VecDeque;

const MAGIC: [u8; 8] = *b"KYROUSES";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = MAGIC.len() + 4 + 8;
const USE_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

/// A request for a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Hash of its key.
    pub hash: u64,
    /// Region of the graph in which the search was that asked for it; 0 if unknown.
    pub region: u32,
}

/// The ring.
pub(super) struct Log {
    uses: VecDeque<Use>,
    uses_max: usize,
    /// Uses that were overwritten before a trainer took them.
    pub(super) dropped: u64,
}

impl Log {
    /// For at most `uses_max` uses. Memory is allocated with the first one.
    pub(super) fn new(uses_max: usize) -> Self {
        Self { uses: VecDeque::new(), uses_max, dropped: 0 }
    }

    pub(super) fn uses_max(&self) -> usize {
        self.uses_max
    }

    pub(super) fn push(&mut self, of: Use) {
        if self.uses_max == 0 {
            return;
        }
        if self.uses.len() == self.uses_max {
            self.uses.pop_front();
            self.dropped += 1;
        } else if self.uses.capacity() == 0 {
            self.uses.reserve_exact(self.uses_max);
        }
        self.uses.push_back(of);
    }

    pub(super) fn len(&self) -> usize {
        self.uses.len()
    }

    /// Moves all uses to `into`, oldest first.
    pub(super) fn take(&mut self, into: &mut Vec<Use>) {
        into.extend(self.uses.drain(..));
    }
}

/// Contents of a file with these uses.
pub(crate) fn encode(uses: &[Use]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + uses.len() * USE_BYTES + CRC_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((uses.len() as u64).to_le_bytes());
    for of in uses {
        bytes.extend(of.hash.to_le_bytes());
        bytes.extend(of.region.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// The uses of such a file; `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Use>> {
    let (content, crc) = bytes.split_last_chunk()?;
    let (magic, rest) = content.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (uses, left) = rest.as_chunks::<USE_BYTES>();
    let is_whole = *magic == MAGIC
        && u32::from_le_bytes(*version) == VERSION
        && u64::from_le_bytes(*count) == uses.len() as u64
        && left.is_empty()
        && crc32c::crc32c(content) == u32::from_le_bytes(*crc);
    let parse = |of: &[u8; USE_BYTES]| {
        let (hash, region) = of.split_first_chunk()?;
        let hash = u64::from_le_bytes(*hash);
        Some(Use { hash, region: u32::from_le_bytes(*region.first_chunk()?) })
    };
    if is_whole { uses.iter().map(parse).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn of(index: usize) -> Use {
        Use { hash: index as u64 * 3, region: index as u32 }
    }

    #[test]
    fn a_full_log_drops_the_oldest() {
        let mut log = Log::new(100);
        (0..250).for_each(|index| log.push(of(index)));
        assert_eq!((log.len(), log.dropped), (100, 150));
        let mut taken = vec![of(7)];
        log.take(&mut taken);
        assert!(taken.into_iter().eq(std::iter::once(of(7)).chain((150..250).map(of))));
        assert_eq!(log.len(), 0);
        let mut none = Log::new(0);
        none.push(of(1));
        assert_eq!((none.len(), none.dropped), (0, 0));
    }

    #[test]
    fn the_format_is_as_it_is_drawn() {
        let bytes = encode(&[Use { hash: 0x0102, region: 3 }]);
        let mut expected =
            b"KYROUSES\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\x03\0\0\0".to_vec();
        expected.extend(crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(bytes, expected);
        // An unknown version with a correct checksum.
        expected[8] = 2;
        let end = expected.len() - CRC_BYTES;
        let crc = crc32c::crc32c(&expected[..end]);
        expected[end..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&expected), None);
    }

    proptest! {
        #[test]
        fn decode_reverses_encode_and_refuses_other_bytes(
            uses in prop::collection::vec((any::<u64>(), any::<u32>()), 0..60),
            at: prop::sample::Index,
            bit in 0_u8..8,
            cut: prop::sample::Index,
        ) {
            let uses: Vec<Use> = uses.into_iter().map(|(hash, region)| Use { hash, region }).collect();
            let mut bytes = encode(&uses);
            prop_assert_eq!(decode(&bytes), Some(uses));
            prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]), None);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes), None);
            bytes[at] ^= 1 << bit;
            bytes.push(0);
            prop_assert!(decode(&bytes).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&bytes), None);
        }
    }
}

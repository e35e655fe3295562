//! How much of long work goes in one piece.

use crate::types::testing::is_small;

/// `usual`, or `small` in tests and simulations, where a few documents have to take many pieces.
#[inline]
pub(crate) fn in_pieces<T>(usual: T, small: T) -> T {
    if cfg!(test) || is_small() { small } else { usual }
}

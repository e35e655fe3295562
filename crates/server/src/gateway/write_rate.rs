//! Bound on bytes of documents accepted per second (`storage.max_write_bytes_per_sec`), for a disk whose bandwidth
//! other programs need, or whose endurance is limited.

use std::time::Duration;

use crate::access::bucket::Bucket;
use crate::error::{Error, Result};

/// Bytes per token: small enough that a short document costs about its size.
const TOKEN_BYTES: u64 = 64;

/// Time for which unused rate is saved up.
const BURST: Duration = Duration::from_secs(1);

/// The bound; none by default.
#[derive(Debug, Default)]
pub(super) struct WriteRate(Bucket);

impl WriteRate {
    /// Sets the bytes per second; 0 for no bound.
    pub(super) fn set(&self, bytes_per_second: u64) {
        let tokens = bytes_per_second.div_ceil(TOKEN_BYTES);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.0.set_rate(tokens, tokens.saturating_mul(BURST.as_secs() as u32));
    }

    /// Bytes charged for a request; 0 without a bound.
    pub(super) fn bytes_of(&self, request: &impl prost::Message) -> u64 {
        if self.0.is_bounded() { request.encoded_len() as u64 } else { 0 }
    }

    /// Takes the cost of a write of `bytes`. A write larger than a second's worth costs a second's worth.
    ///
    /// # Errors
    /// If the tokens are not there: the time until they are.
    fn try_take(&self, bytes: u64) -> std::result::Result<(), Duration> {
        self.0.take_some(bytes.div_ceil(TOKEN_BYTES))
    }

    /// Takes the cost of a write, or tells the client when to retry.
    ///
    /// # Errors
    /// If the bound is reached.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        self.try_take(bytes).map_err(|retry_after| Error::Busy {
            what: "the bytes a second of storage.max_write_bytes_per_sec are reached".into(),
            retry_after,
        })
    }

    /// Waits until a write of a stream may be taken; the stream is not read meanwhile.
    pub(super) async fn wait(&self, bytes: u64) {
        while let Err(wait) = self.try_take(bytes) {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_bytes_and_no_more() {
        let rate = WriteRate::default();
        assert!(rate.take(u64::MAX / 2).is_ok(), "there is no bound");
        rate.set(1 << 20);
        assert!((0..4).all(|_| rate.take(256 << 10).is_ok()));
        let refused = rate.take(256 << 10);
        assert!(matches!(&refused, Err(Error::Busy { what, retry_after })
            if what.contains("max_write_bytes_per_sec") && *retry_after <= BURST));
        // A write larger than the whole bucket is taken in its turn.
        let wait = rate.try_take(64 << 20).unwrap_err();
        assert!(wait <= BURST, "{wait:?}");
    }
}

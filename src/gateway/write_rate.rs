//! The bound on bytes of documents that are taken in a second (`storage.max_write_bytes_per_sec`), for a
//! disk whose bandwidth others need, or whose life is counted in bytes written.

use std::time::Duration;

use crate::access::bucket::Bucket;
use crate::error::{Error, Result};

/// Bytes of a token: small enough that a short document costs about what it has.
const TOKEN_BYTES: u64 = 64;

/// How long an unused bound is saved up.
const BURST: Duration = Duration::from_secs(1);

/// The bound; none by default.
#[derive(Debug, Default)]
pub(super) struct WriteRate(Bucket);

impl WriteRate {
    /// Sets the bytes a second; 0 for no bound.
    pub(super) fn set(&self, bytes_per_second: u64) {
        let tokens = bytes_per_second.div_ceil(TOKEN_BYTES);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.0.set_rate(tokens, tokens.saturating_mul(BURST.as_secs() as u32));
    }

    /// The bytes that a request costs; 0 without a bound.
    pub(super) fn bytes_of(&self, request: &impl prost::Message) -> u64 {
        if self.0.is_bounded() { request.encoded_len() as u64 } else { 0 }
    }

    /// Takes the cost of a write of `bytes`. One that is larger than a second's worth costs that.
    ///
    /// # Errors
    /// If it is not there: in how long it will be.
    fn try_take(&self, bytes: u64) -> std::result::Result<(), Duration> {
        self.0.take_some(bytes.div_ceil(TOKEN_BYTES))
    }

    /// The same for a client that is told when to come back.
    ///
    /// # Errors
    /// If the bound is reached.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        self.try_take(bytes).map_err(|retry_after| Error::Busy {
            what: "the bytes a second of storage.max_write_bytes_per_sec are reached".into(),
            retry_after,
        })
    }

    /// The same for a stream, which is not read on until the write may be taken.
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
        // One that is larger than all there may be is taken in its turn.
        let wait = rate.try_take(64 << 20).unwrap_err();
        assert!(wait <= BURST, "{wait:?}");
    }
}

//! Deadline of an answer: the client's `grpc-timeout`, bounded by the server's maximum.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

/// Part of the client's time that is kept for the way back, since an answer has to reach the client before its
/// deadline: 1/8, up to `MARGIN_MAX`.
const MARGIN_SHARE: u32 = 8;
const MARGIN_MAX: Duration = Duration::from_millis(5);

/// The time that the client allows, from the header `grpc-timeout`; `None` if it is absent or invalid, which gRPC
/// requires servers to ignore.
pub(super) fn client_timeout(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get("grpc-timeout")?.to_str().ok()?)
}

/// The time that the client allows, from the headers of a request.
pub(super) fn timeout_of(headers: &http::HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// Time at which a search has to stop: after the smaller of the client's time, less the way back, and `server_max`.
pub(super) fn search_deadline(
    received: Instant,
    client: Option<Duration>,
    server_max: Duration,
) -> Instant {
    let client = client.map(|timeout| timeout - (timeout / MARGIN_SHARE).min(MARGIN_MAX));
    received + client.map_or(server_max, |timeout| timeout.min(server_max))
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol: at most eight digits and a letter.
fn parse(text: &str) -> Option<Duration> {
    let split = text.len().checked_sub(1).filter(|&split| text.is_char_boundary(split))?;
    let (digits, unit) = text.split_at(split);
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        assert_eq!(parse("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        for bad in ["", "m", "100", "100x", "-1S", "123456789S", "1é", "é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_smaller_limit_holds_and_leaves_time_for_the_way_back() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(search_deadline(now, None, ms(1_000)) - now, ms(1_000));
        assert_eq!(search_deadline(now, Some(ms(5_000)), ms(1_000)) - now, ms(1_000));
        assert_eq!(search_deadline(now, Some(ms(100)), ms(1_000)) - now, ms(95));
        assert_eq!(search_deadline(now, Some(ms(8)), ms(1_000)) - now, ms(7));
        assert_eq!(search_deadline(now, Some(ms(0)), ms(1_000)) - now, ms(0));
    }
}

//! End of validity of a certificate, read from its DER (RFC 5280): no other field is parsed.

/// DER tags.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// End of validity of a certificate (`notAfter`), in Unix seconds; `None` if it is not at its place.
pub(super) fn not_after(der: &[u8]) -> Option<i64> {
    let (SEQUENCE, mut certificate, _) = element(der)? else { return None };
    let (SEQUENCE, mut fields, _) = next(&mut certificate)? else { return None };
    let (tag, ..) = element(fields)?;
    // Version, which may be absent; serial number, signature algorithm, issuer.
    for _ in 0..if tag == VERSION { 4 } else { 3 } {
        next(&mut fields)?;
    }
    let (SEQUENCE, mut validity, _) = next(&mut fields)? else { return None };
    next(&mut validity)?;
    let (tag, time, _) = next(&mut validity)?;
    unix_seconds(tag, std::str::from_utf8(time).ok()?)
}

/// The first element: tag, content, and the rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| (length << 8) | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Takes the first element.
fn next<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let taken = element(der)?;
    *der = taken.2;
    Some(taken)
}

/// `YYMMDDHHMMSSZ`, of 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn unix_seconds(tag: u8, text: &str) -> Option<i64> {
    let whole = match tag {
        GENERALIZED_TIME => text.to_owned(),
        UTC_TIME => {
            let year: u32 = text.get(..2)?.parse().ok()?;
            format!("{}{text}", if year < 50 { "20" } else { "19" })
        }
        _ => return None,
    };
    let time = chrono::NaiveDateTime::parse_from_str(&whole, "%Y%m%d%H%M%SZ").ok()?;
    Some(time.and_utc().timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_until(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_found() {
        // Both forms of time: years from 2050 on have four digits.
        for (year, seconds) in [(2001, 981_158_400), (2049, 2_495_923_200), (2050, 2_527_459_200)] {
            assert_eq!(not_after(&made_until(year)), Some(seconds), "{year}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_end() {
        let whole = made_until(2030);
        for cut in 0..whole.len() {
            assert_eq!(not_after(&whole[..cut]), None, "{cut}");
        }
        for index in 0..whole.len() {
            let mut bad = whole.clone();
            bad[index] ^= 0xff;
            not_after(&bad);
        }
        assert_eq!(not_after(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}

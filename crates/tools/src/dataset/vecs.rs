//! The `.fvecs`, `.bvecs` and `.ivecs` files of the TEXMEX sets: each row is its length as a
//! little-endian `int32`, then as many `float32`, bytes or `int32`.
//!
//! Source: <http://corpus-texmex.irisa.fr/>.

use std::io;

use super::Rows;

/// Most values in a row: no vector has more, and no data set lists more neighbours of a query.
const WIDTH_MAX: usize = 1 << 16;

/// Decodes the rows of a file, whose values take `BYTES` each.
///
/// # Errors
/// The fault, and its row.
pub(super) fn decode<const BYTES: usize, T>(
    bytes: &[u8],
    value: impl Fn([u8; BYTES]) -> T,
) -> io::Result<Rows<T>> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let Some(width) = bytes.first_chunk().map(|width| i32::from_le_bytes(*width)) else {
        return Err(invalid("no rows".into()));
    };
    let width_of_row = usize::try_from(width).unwrap_or(0);
    if !(1..=WIDTH_MAX).contains(&width_of_row) {
        return Err(invalid(format!(
            "row 0 says that it has {width} values, not 1 to {WIDTH_MAX}"
        )));
    }
    let row_bytes = 4 + width_of_row * BYTES;
    // Capacity for as many as the file can hold, whatever its rows say.
    let mut values = Vec::with_capacity(bytes.len() / row_bytes * width_of_row);
    for (index, row) in bytes.chunks(row_bytes).enumerate() {
        let (length, data) = row.split_first_chunk().map_or((None, row), |(l, d)| (Some(l), d));
        let length = length.map(|length| i32::from_le_bytes(*length));
        if length.is_some_and(|length| length != width) {
            return Err(invalid(format!("row {index} has another length than row 0, {width}")));
        }
        if row.len() < row_bytes {
            return Err(invalid(format!("cut off in row {index}")));
        }
        values.extend(data.as_chunks().0.iter().map(|bytes| value(*bytes)));
    }
    Ok(Rows { width: width_of_row, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(bytes: &[u8]) -> io::Result<Rows<f32>> {
        decode(bytes, f32::from_le_bytes)
    }

    fn row(width: i32, values: &[f32]) -> Vec<u8> {
        let values = values.iter().flat_map(|value| value.to_le_bytes());
        width.to_le_bytes().into_iter().chain(values).collect()
    }

    #[test]
    fn rows_of_each_kind_are_read() {
        let rows = floats(&[row(2, &[1.0, -2.0]), row(2, &[0.5, 3.0])].concat()).unwrap();
        assert_eq!((rows.count(), rows.row(1)), (2, &[0.5, 3.0][..]));
        let bytes = decode([3, 0, 0, 0, 7, 0, 255].as_slice(), |[b]| f32::from(b)).unwrap();
        assert_eq!(bytes.row(0), [7.0, 0.0, 255.0]);
        let ids = decode([1, 0, 0, 0, 255, 255, 255, 255].as_slice(), i32::from_le_bytes).unwrap();
        assert_eq!(ids.row(0), [-1]);
    }

    #[test]
    fn hostile_files_are_refused_and_take_no_memory() {
        let message = |bytes: &[u8]| floats(bytes).unwrap_err().to_string();
        assert!(message(&[]).contains("no rows"));
        assert!(message(&[1, 0]).contains("no rows"));
        for width in [0, -1, i32::MIN, i32::MAX, WIDTH_MAX as i32 + 1] {
            assert!(message(&row(width, &[1.0])).contains("row 0 says"), "{width}");
        }
        assert!(message(&row(WIDTH_MAX as i32, &[1.0])).contains("cut off in row 0"));
        let other = [row(2, &[1.0, 2.0]), row(1, &[1.0]), row(1, &[1.0])].concat();
        assert!(message(&other).contains("row 1 has another length"));
        let whole = [row(2, &[1.0, 2.0]), row(2, &[1.0, 2.0])].concat();
        for end in 13..whole.len() {
            assert!(message(&whole[..end]).contains("cut off in row 1"), "{end}");
        }
    }
}

//! Reads vector files: the `.npy` format of NumPy, two-dimensional, little-endian, C order,
//! of `float16`, `float32` or `int32`; and `.fvecs`, `.bvecs` and `.ivecs`, by the name's end.
//!
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

mod vecs;

use std::io::{self, Read};
use std::path::Path;

/// Largest file, in bytes: it is read into memory whole.
const FILE_BYTES_MAX: u64 = 1 << 36;

/// Rows of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<T> {
    /// Values in a row.
    pub width: usize,
    /// Values of all rows, contiguous.
    pub values: Vec<T>,
}

impl<T> Rows<T> {
    /// Number of rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.values.len() / self.width
    }

    /// Row `index`.
    #[must_use]
    pub fn row(&self, index: usize) -> &[T] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    /// All rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.values.chunks_exact(self.width)
    }
}

/// Extension of a file name.
fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// True if the file name is that of a vector file.
#[must_use]
pub fn is_vectors_name(path: &Path) -> bool {
    ["npy", "fvecs", "bvecs"].contains(&extension(path))
}

/// Reads vectors: `.fvecs`, `.bvecs`, or else `.npy` of `float16` or `float32`.
///
/// # Errors
/// If the file can't be read or holds something else; the message names the file.
pub fn read_vectors(path: &Path) -> io::Result<Rows<f32>> {
    match extension(path) {
        "fvecs" => return read_vecs(path, f32::from_le_bytes),
        "bvecs" => return read_vecs(path, |[byte]| f32::from(byte)),
        _ => {}
    }
    decode_npy(&read_bytes(path)?, path, decode_floats)
}

fn decode_floats(descr: &str, bytes: &[u8]) -> Option<Vec<f32>> {
    match descr {
        "<f2" => Some(bytes.as_chunks().0.iter().map(|b| half(u16::from_le_bytes(*b))).collect()),
        "<f4" => Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        _ => None,
    }
}

/// Reads vectors from the content of an `.npy` file of `float16` or `float32`. `name` is for messages.
///
/// # Errors
/// If the bytes are something else.
pub fn vectors_of(bytes: &[u8], name: &Path) -> io::Result<Rows<f32>> {
    decode_npy(bytes, name, decode_floats)
}

/// Reads row numbers: `.ivecs`, or else `.npy` of `int32`.
///
/// # Errors
/// If the file can't be read or holds something else; the message names the file.
pub fn read_ids(path: &Path) -> io::Result<Rows<i32>> {
    if extension(path) == "ivecs" {
        return read_vecs(path, i32::from_le_bytes);
    }
    decode_npy(&read_bytes(path)?, path, |descr, bytes| match descr {
        "<i4" => Some(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        _ => None,
    })
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let read = || {
        let file = std::fs::File::open(path)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| named(path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("more than {FILE_BYTES_MAX} bytes");
        return Err(named(path, &io::Error::new(io::ErrorKind::FileTooLarge, why)));
    }
    Ok(bytes)
}

fn read_vecs<const BYTES: usize, T>(
    path: &Path,
    value: impl Fn([u8; BYTES]) -> T,
) -> io::Result<Rows<T>> {
    vecs::decode(&read_bytes(path)?, value).map_err(|error| named(path, &error))
}

fn decode_npy<T>(
    bytes: &[u8],
    path: &Path,
    decode: impl Fn(&str, &[u8]) -> Option<Vec<T>>,
) -> io::Result<Rows<T>> {
    let invalid = |why: &str| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
    };
    let (header, data) = split_header(bytes).ok_or_else(|| invalid("not an .npy file"))?;
    if header.contains("'fortran_order': True") {
        return Err(invalid("in Fortran order; save it with numpy.ascontiguousarray"));
    }
    let descr = between(header, "'descr': '", "'").ok_or_else(|| invalid("no 'descr'"))?;
    let shape = between(header, "'shape': (", ")").ok_or_else(|| invalid("no 'shape'"))?;
    let shape: Vec<usize> =
        shape.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    let &[count, width] = shape.as_slice() else {
        return Err(invalid("not two-dimensional"));
    };
    let values = decode(descr, data).ok_or_else(|| invalid(&format!("of type {descr}")))?;
    if width == 0 || count.checked_mul(width) != Some(values.len()) {
        return Err(invalid("cut off: the data does not fill its shape"));
    }
    Ok(Rows { width, values })
}

fn split_header(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (header_bytes, rest) = if version[0] == 1 {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<4>()?;
        (u32::from_le_bytes(*length) as usize, rest)
    };
    let (header, data) = rest.split_at_checked(header_bytes)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inside, _)| inside)
}

fn half(bits: u16) -> f32 {
    simsimd::f16(bits).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(descr: &str, shape: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let mut header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
        header.push_str(&" ".repeat(63 - header.len() % 64));
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn files_written_by_numpy_are_read() {
        let halves = npy("<f2", "2, 2", &[0, 0x3c, 0, 0xc0, 0, 0x38, 1, 0]);
        let rows = read_vectors(halves.path()).unwrap();
        assert_eq!(rows.row(0), [1.0, -2.0]);
        assert_eq!(rows.row(1), [0.5, 2.0_f32.powi(-24)]);
        let ids = npy("<i4", "1, 2", &[7, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(read_ids(ids.path()).unwrap().iter().next().unwrap(), [7, -1]);
    }

    #[test]
    fn faults_of_a_file_are_named() {
        let message =
            |file: tempfile::NamedTempFile| read_vectors(file.path()).unwrap_err().to_string();
        assert!(message(npy("<f4", "3, 2", &[0; 8])).contains("cut off"));
        assert!(message(npy("<f8", "1, 1", &[0; 8])).contains("of type <f8"));
        assert!(message(npy("<f4", "2,", &[0; 8])).contains("two-dimensional"));
        let missing = read_vectors(Path::new("/nowhere/x.npy")).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/x.npy"));
    }
}

//! Files of the shipped sample with queries and their exact answers, in common formats.

use std::path::{Path, PathBuf};

use kyrodb::dataset::{Rows, read_vectors};
use kyrodb::kernels::scalar;

const QUERIES: usize = 60;
const NEIGHBOURS: usize = 20;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample/vectors.npy")
}

/// The sample, vectors halfway between two of its rows, and their nearest rows.
pub(crate) struct Set {
    base: Rows<f32>,
    queries: Vec<Vec<f32>>,
    truth: Vec<Vec<i32>>,
}

impl Set {
    pub(crate) fn new() -> Self {
        let base = read_vectors(&sample()).unwrap();
        let query = |i: usize| {
            let (a, b) = (base.row(i * 37 % base.count()), base.row((i * 91 + 5) % base.count()));
            a.iter().zip(b).map(|(a, b)| 0.7 * a + 0.3 * b).collect::<Vec<f32>>()
        };
        let queries: Vec<Vec<f32>> = (0..QUERIES).map(query).collect();
        let nearest = |query: &Vec<f32>| {
            let mut rows: Vec<(f32, i32)> =
                base.iter().zip(0..).map(|(row, id)| (scalar::dot(row, query), id)).collect();
            rows.sort_by(|a, b| b.0.total_cmp(&a.0));
            rows[..NEIGHBOURS].iter().map(|(_, id)| *id).collect()
        };
        let truth = queries.iter().map(nearest).collect();
        Self { base, queries, truth }
    }

    /// Makes one in ten of the answers wrong.
    pub(crate) fn spoil(&mut self) {
        for row in &mut self.truth {
            row[9] = row[NEIGHBOURS - 1];
        }
    }

    /// A directory for `--data`.
    pub(crate) fn write_npy(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::copy(sample(), directory.join("base.npy")).unwrap();
        let queries = self.queries.concat().iter().flat_map(|v| v.to_le_bytes()).collect();
        write_npy(&directory.join("queries.npy"), "<f4", (QUERIES, self.base.width), queries);
        let truth = self.truth.concat().iter().flat_map(|id| id.to_le_bytes()).collect();
        write_npy(&directory.join("gt_ids.npy"), "<i4", (QUERIES, NEIGHBOURS), truth);
    }

    /// `base.fvecs`, `queries.fvecs` and `truth.ivecs`.
    pub(crate) fn write_vecs(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let floats = |rows: &mut dyn Iterator<Item = &[f32]>| {
            let mut bytes = Vec::new();
            for row in rows {
                bytes.extend((row.len() as i32).to_le_bytes());
                bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
            }
            bytes
        };
        let write =
            |name: &str, bytes: Vec<u8>| std::fs::write(directory.join(name), bytes).unwrap();
        write("base.fvecs", floats(&mut self.base.iter()));
        write("queries.fvecs", floats(&mut self.queries.iter().map(Vec::as_slice)));
        let row = |row: &Vec<i32>| [&[row.len() as i32], row.as_slice()].concat();
        let truth = self.truth.iter().flat_map(row);
        write("truth.ivecs", truth.flat_map(i32::to_le_bytes).collect());
    }
}

fn write_npy(path: &Path, descr: &str, shape: (usize, usize), data: Vec<u8>) {
    let shape = format!("{}, {}", shape.0, shape.1);
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    header.push_str(&" ".repeat(63 - (header.len() + 10) % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

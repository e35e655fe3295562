//! Replays of searches among real vectors: the documents nearest to each query are those that a search by codes would
//! request from the cache, and the region is the node of the upper level that the walk comes through.

use std::io;
use std::path::Path;

use crate::traces::{Access, Random, Trace, Zipf};
use crate::types::mix;

/// Documents requested by a search.
const CANDIDATES: usize = 30;

/// Searches of a trace.
const SEARCHES: usize = 20_000;

/// Cells of the documents, and number of cells that a search reads.
const CELLS: usize = 440;
const PROBES: usize = 8;

/// One in this many documents is on the upper level, as with `hnsw.m = 16`.
const UPPER_PARTS: u64 = 16;

struct Rows {
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not an .npy file of halves");
        let length = bytes.get(8..10).ok_or_else(invalid)?;
        let start = 10 + usize::from(u16::from_le_bytes([length[0], length[1]]));
        let header =
            String::from_utf8_lossy(bytes.get(10..start).ok_or_else(invalid)?).into_owned();
        let shape = header.split("'shape': (").nth(1).ok_or_else(invalid)?;
        let mut shape = shape.split([',', ')']).map_while(|word| word.trim().parse::<usize>().ok());
        let (Some(rows), Some(width), true) = (shape.next(), shape.next(), header.contains("<f2"))
        else {
            return Err(invalid());
        };
        let pairs = bytes[start..].chunks_exact(2);
        let values: Vec<f32> =
            pairs.map(|pair| half(u16::from_le_bytes([pair[0], pair[1]]))).collect();
        if values.len() != rows * width {
            return Err(invalid());
        }
        Ok(Self { width, values })
    }

    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }
}

/// Value of a half-precision number; subnormals below 2^-14 are converted exactly as well.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2.0_f32.powi(-24),
        _ => sign * (1024.0 + fraction) * 2.0_f32.powi(exponent - 25),
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}

/// Documents and queries, all of unit length.
pub struct Data {
    base: Rows,
    queries: Rows,
    centres: Vec<usize>,
    cells: Vec<Vec<u32>>,
}

/// Requests of a search.
struct Found {
    candidates: Vec<u32>,
    region: u32,
}

impl Data {
    /// Reads the data set in a directory.
    ///
    /// # Errors
    /// If it is missing or does not have half-precision values.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let base = Rows::read(&directory.join("base.npy"))?;
        let queries = Rows::read(&directory.join("queries.npy"))?;
        let centres: Vec<usize> = (0..CELLS).map(|cell| cell * base.len() / CELLS).collect();
        let mut cells = vec![Vec::new(); CELLS];
        for index in 0..base.len() {
            let near = |cell: &usize| dot(base.row(index), base.row(centres[*cell]));
            let nearest = (0..CELLS).max_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or(0);
            cells[nearest].push(index as u32);
        }
        Ok(Self { base, queries, centres, cells })
    }

    fn search(&self, vector: &[f32]) -> Found {
        let by_score = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0);
        let centre = |cell: usize| (dot(vector, self.base.row(self.centres[cell])), cell as u32);
        let mut order: Vec<(f32, u32)> = (0..CELLS).map(centre).collect();
        order.sort_unstable_by(by_score);
        let mut scored = Vec::new();
        for &(_, cell) in &order[..PROBES] {
            let score = |&index: &u32| (dot(vector, self.base.row(index as usize)), index);
            scored.extend(self.cells[cell as usize].iter().map(score));
        }
        let is_upper = |index: u32| mix(index.into()).is_multiple_of(UPPER_PARTS);
        let upper =
            scored.iter().filter(|&&(_, index)| is_upper(index)).max_by(|a, b| a.0.total_cmp(&b.0));
        let region = upper.map_or(0, |&(_, index)| index + 1);
        let last = CANDIDATES.min(scored.len()) - 1;
        scored.select_nth_unstable_by(last, by_score);
        Found { candidates: scored[..=last].iter().map(|&(_, index)| index).collect(), region }
    }

    fn trace<'a>(found: impl Iterator<Item = &'a Found>) -> Trace {
        let of = |found: &'a Found| {
            found.candidates.iter().map(|&key| Access { key, region: found.region })
        };
        Trace::new(found.flat_map(of).collect())
    }

    /// A fixed set of queries, repeated with Zipf 0.9.
    #[must_use]
    pub fn repeated(&self, seed: u64) -> Trace {
        let found: Vec<Found> =
            (0..self.queries.len()).map(|query| self.search(self.queries.row(query))).collect();
        let (ranks, mut random) = (Zipf::new(found.len() as u32, 0.9), Random(seed << 32));
        let shift = random.below(found.len() as u32);
        let draw = || (ranks.draw(&mut random) + shift) as usize % found.len();
        let order: Vec<usize> = std::iter::repeat_with(draw).take(SEARCHES).collect();
        Self::trace(order.iter().map(|&query| &found[query]))
    }

    /// Queries none of which is repeated, near those of the set: these are topics, by Zipf 0.9 as well. Every fifth is
    /// near a document that no query was about before instead, as a crawler's are.
    #[must_use]
    pub fn topics(&self, seed: u64) -> Trace {
        let (ranks, mut random) = (Zipf::new(self.queries.len() as u32, 0.9), Random(seed << 32));
        let shift = random.below(self.queries.len() as u32);
        let found: Vec<Found> = (0..SEARCHES)
            .map(|search| {
                let centre = match search % 5 {
                    4 => self.base.row(random.below(self.base.len() as u32) as usize),
                    _ => {
                        let topic = (ranks.draw(&mut random) + shift) as usize % self.queries.len();
                        self.queries.row(topic)
                    }
                };
                // Noise as long as the vector leaves a cosine of 0.7 or so.
                let spread = (3.0 / centre.len() as f32).sqrt();
                let noise = |value: &f32| value + 0.8 * spread * (2.0 * random.unit() as f32 - 1.0);
                let vector: Vec<f32> = centre.iter().map(noise).collect();
                self.search(&vector)
            })
            .collect();
        Self::trace(found.iter())
    }
}

//! Vectors of a run: documents, queries, and the exact answers.

use std::path::Path;

use super::Fault;
use super::arguments::Source;
use super::pacing::Random;
use crate::dataset::{Rows, read_ids, read_vectors};

/// Number of values of the metadata key `bucket` that documents are distributed over.
const BUCKETS: usize = 100;

/// Row `r` of the base is document `r` + 1.
pub(super) struct Data {
    pub(super) base: Rows<f32>,
    /// The queries, if they are not the base itself.
    queries: Option<Rows<f32>>,
    /// Exact neighbours of each query, as rows of the base, nearest first.
    pub(super) truth: Option<Rows<i32>>,
    /// Name for people.
    pub(super) name: String,
}

impl Data {
    /// Generates or reads the data.
    ///
    /// # Errors
    /// If a file can't be read, or the files do not belong together.
    pub(super) fn get(source: &Source, seed: u64, k: u32) -> Result<Self, Fault> {
        match source {
            Source::Random { count, dimension } => Ok(Self::random(*count, *dimension, seed)),
            Source::Files { base, queries, truth } => {
                Self::read(base, queries, truth.as_deref(), k).map_err(Fault::Usage)
            }
        }
    }

    fn random(count: usize, dimension: usize, seed: u64) -> Self {
        let mut random = Random::new(seed, 0);
        let values = (0..count * dimension).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect();
        let base = Rows { width: dimension, values };
        Self { base, queries: None, truth: None, name: format!("{count} random vectors") }
    }

    fn read(base: &Path, queries: &Path, truth: Option<&Path>, k: u32) -> Result<Self, String> {
        let name = base.display().to_string();
        let base_rows = read_vectors(base).map_err(|error| error.to_string())?;
        let queries_rows = read_vectors(queries).map_err(|error| error.to_string())?;
        if base_rows.width != queries_rows.width {
            return Err(format!(
                "the vectors of {} have {} values, those of {} have {}; they have to be of one set",
                base.display(),
                base_rows.width,
                queries.display(),
                queries_rows.width
            ));
        }
        let data = Self { base: base_rows, queries: Some(queries_rows), truth: None, name };
        if data.base.count() == 0 || data.query_count() == 0 {
            return Err(format!("{} or {} is empty", base.display(), queries.display()));
        }
        let Some(path) = truth else { return Ok(data) };
        let rows = read_ids(path).map_err(|error| error.to_string())?;
        data.check_truth(&rows, k).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Self { truth: Some(rows), ..data })
    }

    fn check_truth(&self, truth: &Rows<i32>, k: u32) -> Result<(), String> {
        if truth.count() != self.query_count() {
            let counts = (truth.count(), self.query_count());
            return Err(format!("answers to {} queries, but there are {}", counts.0, counts.1));
        }
        if truth.width < k as usize {
            let width = truth.width;
            return Err(format!("names {width} neighbours a query, fewer than --k {k}"));
        }
        let count = self.base.count();
        let is_row = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < count);
        match truth.values.iter().find(|id| !is_row(id)) {
            Some(id) => Err(format!("names row {id} of a base of {count} rows")),
            None => Ok(()),
        }
    }

    pub(super) fn query_count(&self) -> usize {
        self.queries.as_ref().unwrap_or(&self.base).count()
    }

    pub(super) fn query(&self, index: usize) -> &[f32] {
        self.queries.as_ref().unwrap_or(&self.base).row(index)
    }

    /// Vector of the document written as number `number`, and the row that it is made of: a row with inverted signs is
    /// no query's neighbour, so recall keeps its meaning.
    pub(super) fn written(&self, number: u64) -> (usize, Vec<f32>) {
        let row = (number % self.base.count() as u64) as usize;
        (row, self.base.row(row).iter().map(|value| -value).collect())
    }

    /// Number of these documents among the exact `k` nearest of a query.
    pub(super) fn hits(&self, query: usize, k: u32, ids: impl Iterator<Item = u64>) -> Option<u32> {
        let wanted = &self.truth.as_ref()?.row(query)[..k as usize];
        // Row numbers were checked to fit.
        let is_wanted =
            |id: &u64| id.checked_sub(1).is_some_and(|row| wanted.contains(&(row as i32)));
        Some(ids.filter(is_wanted).count() as u32)
    }
}

/// Metadata of a document, for filters to select by.
pub(super) fn metadata(row: usize) -> std::collections::HashMap<String, String> {
    [("bucket".to_owned(), (row % BUCKETS).to_string())].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(queries: usize) -> Data {
        let rows = |count: usize| Rows { width: 2, values: vec![1.0; count * 2] };
        let truth = Some(Rows { width: 3, values: vec![0, 2, 3, 1, 0, 2] });
        Data { base: rows(4), queries: Some(rows(queries)), truth, name: String::new() }
    }

    #[test]
    fn hits_are_documents_among_the_first_k() {
        let data = data(2);
        assert_eq!(data.hits(0, 2, [1, 3, 4].into_iter()), Some(2));
        assert_eq!(data.hits(1, 3, [0, 9, u64::MAX].into_iter()), Some(0));
    }

    #[test]
    fn truth_of_another_set_is_refused() {
        let data = data(2);
        let check = |width, values: &[i32], k| {
            data.check_truth(&Rows { width, values: values.to_vec() }, k).unwrap_err()
        };
        assert!(check(1, &[1], 1).contains("answers to 1 queries"));
        assert!(check(1, &[1, 2], 2).contains("fewer than --k 2"));
        assert!(check(1, &[1, 4], 1).contains("row 4 of a base of 4"));
        assert!(check(1, &[1, -1], 1).contains("row -1"));
    }

    #[test]
    fn a_seed_decides_random_vectors() {
        let of = |seed| Data::random(3, 2, seed).base;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}

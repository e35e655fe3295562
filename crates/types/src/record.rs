//! Log records: the changes of one shard, as they are applied and as they are stored.
//!
//! Records are physical: an update carries the metadata that results, a delete names a document that exists. Every
//! change that could be refused was refused before it was logged, so a replay can't take another course than the
//! first run.
//!
//! ```text
//! Put          doc_id u64 | values u32 | payload_bytes u32 | values × f32 | payload
//! Delete       doc_id u64
//! SetPayload   doc_id u64 | payload
//! DeleteBatch  part u32 | more u8 | 3 × 0 | doc_id u64 …          all little-endian
//! ```

use crate::DocId;
use crate::payload::Payload;

/// Most ids in one record of a batch, so that each record is applied within a slice. A larger batch takes several
/// records, one after the other, all but the last with `more`. A batch counts only when it is complete: any record
/// but its next part ends an incomplete batch as if it had never been.
pub const BATCH_IDS_MAX: usize = 2048;

/// One change of a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Store a document; an earlier version of it is replaced.
    Put {
        /// Id of the document.
        id: DocId,
        /// Its vector, in the form in which it is searched.
        vector: Box<[f32]>,
        /// Its metadata.
        payload: Payload,
    },
    /// Delete a document.
    Delete {
        /// Id of the document.
        id: DocId,
    },
    /// Replace the metadata of a document.
    SetPayload {
        /// Id of the document.
        id: DocId,
        /// All of its metadata after the change.
        payload: Payload,
    },
    /// Delete documents, all or none.
    DeleteBatch {
        /// Ids of the documents.
        ids: Vec<DocId>,
        /// Number of this part of the batch, from 0.
        part: u32,
        /// True if the batch continues in the next record.
        more: bool,
    },
}

impl Record {
    /// The byte that names the kind of record on disk.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Put { .. } => 1,
            Self::Delete { .. } => 2,
            Self::SetPayload { .. } => 3,
            Self::DeleteBatch { .. } => 4,
        }
    }

    /// Bytes that [`Record::encode`] writes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Self::Put { vector, payload, .. } => 16 + 4 * vector.len() + payload.bytes().len(),
            Self::Delete { .. } => 8,
            Self::SetPayload { payload, .. } => 8 + payload.bytes().len(),
            Self::DeleteBatch { ids, .. } => 8 + 8 * ids.len(),
        }
    }

    /// Writes the record to `target`, which is exactly [`Record::encoded_bytes`] long.
    pub fn encode(&self, target: &mut [u8]) {
        assert_eq!(target.len(), self.encoded_bytes());
        let (head, tail) = target.split_at_mut(8);
        match self {
            Self::Put { id, vector, payload } => {
                head.copy_from_slice(&id.0.to_le_bytes());
                let (counts, tail) = tail.split_at_mut(8);
                let values = u32::try_from(vector.len()).expect("dimensions are small");
                let bytes = u32::try_from(payload.bytes().len()).expect("metadata is small");
                counts[..4].copy_from_slice(&values.to_le_bytes());
                counts[4..].copy_from_slice(&bytes.to_le_bytes());
                let (values, tail) = tail.split_at_mut(4 * vector.len());
                for (target, value) in values.as_chunks_mut().0.iter_mut().zip(vector) {
                    *target = value.to_le_bytes();
                }
                tail.copy_from_slice(payload.bytes());
            }
            Self::Delete { id } => head.copy_from_slice(&id.0.to_le_bytes()),
            Self::SetPayload { id, payload } => {
                head.copy_from_slice(&id.0.to_le_bytes());
                tail.copy_from_slice(payload.bytes());
            }
            Self::DeleteBatch { ids, part, more } => {
                head.fill(0);
                head[..4].copy_from_slice(&part.to_le_bytes());
                head[4] = u8::from(*more);
                for (target, id) in tail.as_chunks_mut().0.iter_mut().zip(ids) {
                    *target = id.0.to_le_bytes();
                }
            }
        }
    }

    /// Reads a record, and checks all of its bytes.
    ///
    /// # Errors
    /// The reason why the bytes are no record.
    pub fn decode(kind: u8, bytes: &[u8]) -> Result<Self, &'static str> {
        let (head, tail) = bytes.split_first_chunk::<8>().ok_or("record too short")?;
        let id = || match u64::from_le_bytes(*head) {
            0 => Err("document id 0"),
            id => Ok(DocId(id)),
        };
        match kind {
            1 => decode_put(id()?, tail),
            2 if tail.is_empty() => Ok(Self::Delete { id: id()? }),
            2 => Err("bytes after a delete"),
            3 => {
                let payload = Payload::parse(tail).map_err(|_| "malformed metadata")?;
                Ok(Self::SetPayload { id: id()?, payload })
            }
            4 => {
                let (ids, rest) = tail.as_chunks();
                if head[4] > 1 || head[5..] != [0; 3] || !rest.is_empty() {
                    return Err("malformed batch");
                }
                if ids.len() > BATCH_IDS_MAX {
                    return Err("batch too long");
                }
                let ids = ids.iter().map(|id| DocId(u64::from_le_bytes(*id))).collect();
                let part = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
                Ok(Self::DeleteBatch { ids, part, more: head[4] == 1 })
            }
            _ => Err("unknown kind of record"),
        }
    }
}

fn decode_put(id: DocId, bytes: &[u8]) -> Result<Record, &'static str> {
    let (values, rest) = bytes.split_first_chunk::<4>().ok_or("put too short")?;
    let (payload_bytes, rest) = rest.split_first_chunk::<4>().ok_or("put too short")?;
    let values_bytes = (u32::from_le_bytes(*values) as usize).saturating_mul(4);
    let (values, payload) = rest.split_at_checked(values_bytes).ok_or("vector cut off")?;
    if payload.len() != u32::from_le_bytes(*payload_bytes) as usize {
        return Err("metadata of another length");
    }
    let vector: Box<[f32]> = values.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
    if vector.is_empty() || !vector.iter().all(|value| value.is_finite()) {
        return Err("not a vector");
    }
    let payload = Payload::parse(payload).map_err(|_| "malformed metadata")?;
    Ok(Record::Put { id, vector, payload })
}

/// The records of one batch, of at most [`BATCH_IDS_MAX`] ids each.
#[must_use]
pub fn delete_batch(ids: &[DocId]) -> Vec<Record> {
    let count = ids.len().div_ceil(BATCH_IDS_MAX);
    ids.chunks(BATCH_IDS_MAX)
        .enumerate()
        .map(|(part, ids)| Record::DeleteBatch {
            ids: ids.to_vec(),
            part: u32::try_from(part).expect("a shard has fewer slots"),
            more: part + 1 < count,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arbitrary() -> impl Strategy<Value = Record> {
        let id = || (1..=u64::MAX).prop_map(DocId);
        let payload = || {
            proptest::collection::btree_map(".{0,9}", ".{0,40}", 0..5).prop_map(|pairs| {
                let pairs = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
                Payload::new(pairs, "ns").unwrap()
            })
        };
        let vector = proptest::collection::vec(-1e9_f32..1e9, 1..70);
        prop_oneof![
            (id(), vector, payload()).prop_map(|(id, vector, payload)| Record::Put {
                id,
                vector: vector.into(),
                payload
            }),
            id().prop_map(|id| Record::Delete { id }),
            (id(), payload()).prop_map(|(id, payload)| Record::SetPayload { id, payload }),
            (proptest::collection::vec(id(), 0..50), any::<u32>(), any::<bool>())
                .prop_map(|(ids, part, more)| Record::DeleteBatch { ids, part, more }),
        ]
    }

    proptest! {
        #[test]
        fn decode_reverses_encode(record in arbitrary()) {
            let mut bytes = vec![0; record.encoded_bytes()];
            record.encode(&mut bytes);
            prop_assert_eq!(Record::decode(record.kind(), &bytes), Ok(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(
            kind in 0..6_u8, bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(record) = Record::decode(kind, &bytes) {
                let mut again = vec![0; record.encoded_bytes()];
                record.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}

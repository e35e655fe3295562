//! Writes an object: in one request if it is small, else in parts, of which few are in memory.

use std::rc::Rc;
use std::sync::Arc;

use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::Sink;
use super::client::Client;
use crate::backup::Result;

/// Least bytes of a part.
pub(super) const PART_BYTES: u64 = 8 << 20;

/// Most parts that an object may have.
const PARTS_MAX: u64 = 10_000;

/// Parts in flight at a time; one more is being filled.
const IN_FLIGHT_MAX: usize = 2;

/// An object that is being written.
pub(super) struct Upload {
    client: Rc<Client>,
    path: Path,
    /// Records the upload for a later clean-up, should this process be killed.
    mark: Path,
    part_bytes: usize,
    buffer: Vec<u8>,
    multipart: Option<Multipart>,
}

struct Multipart {
    id: MultipartId,
    in_flight: JoinSet<object_store::Result<(usize, PartId)>>,
    begun: usize,
    done: Vec<(usize, PartId)>,
}

impl Upload {
    /// Begins an object of about `bytes` bytes. `mark` is where its upload is recorded.
    pub(super) fn begin(client: &Rc<Client>, path: Path, mark: Path, bytes: u64) -> Self {
        // Some services require equal lengths of all parts but the last.
        let part_bytes = PART_BYTES.max(bytes.div_ceil(PARTS_MAX)).next_multiple_of(1 << 20);
        Self {
            client: Rc::clone(client),
            path,
            mark,
            part_bytes: part_bytes as usize,
            buffer: Vec::new(),
            multipart: None,
        }
    }

    fn send(&mut self, part: Vec<u8>) -> Result<()> {
        if self.multipart.is_none() {
            let id = self.client.wait(self.client.store.create_multipart(&self.path));
            let id = id.map_err(|error| self.client.explain(&error))?;
            let record = format!("{}\n{id}", self.path);
            let (in_flight, begun, done) = (JoinSet::new(), 0, Vec::new());
            self.multipart = Some(Multipart { id, in_flight, begun, done });
            self.client.put(&self.mark, record.as_bytes())?;
        }
        self.settle(IN_FLIGHT_MAX - 1)?;
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        let (store, path, id) =
            (Arc::clone(&self.client.store), self.path.clone(), multipart.id.clone());
        let index = multipart.begun;
        let work = async move {
            store.put_part(&path, &id, index, PutPayload::from(part)).await.map(|p| (index, p))
        };
        multipart.in_flight.spawn_on(work, self.client.runtime.handle());
        multipart.begun += 1;
        Ok(())
    }

    /// Waits until at most `most` parts are in flight.
    fn settle(&mut self, most: usize) -> Result<()> {
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        while multipart.in_flight.len() > most {
            let next = self.client.runtime.block_on(multipart.in_flight.join_next());
            match next {
                Some(Ok(Ok(part))) => multipart.done.push(part),
                Some(Ok(Err(error))) => return Err(self.client.explain(&error)),
                Some(Err(error)) => return Err(error.to_string()),
                None => break,
            }
        }
        Ok(())
    }
}

impl Sink for Upload {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.buffer.len() + bytes.len() > self.part_bytes {
            let (head, rest) = bytes.split_at(self.part_bytes - self.buffer.len());
            self.buffer.extend_from_slice(head);
            bytes = rest;
            let part = std::mem::take(&mut self.buffer);
            self.send(part)?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let last = std::mem::take(&mut self.buffer);
        if self.multipart.is_none() {
            let put = self.client.wait(self.client.store.put(&self.path, last.into()));
            return put.map(drop).map_err(|error| self.client.explain(&error));
        }
        self.send(last)?;
        self.settle(0)?;
        let Some(multipart) = &mut self.multipart else { return Ok(()) };
        multipart.done.sort_by_key(|(index, _)| *index);
        let parts = multipart.done.drain(..).map(|(_, part)| part).collect();
        let store = &self.client.store;
        let completed =
            self.client.wait(store.complete_multipart(&self.path, &multipart.id, parts));
        completed.map_err(|error| self.client.explain(&error))?;
        self.multipart = None;
        self.client.remove(&self.mark)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(Multipart { id, in_flight, .. }) = self.multipart.take() else { return };
        // A part that arrives later would not be removed.
        self.client.runtime.block_on(async move {
            let mut in_flight = in_flight;
            in_flight.shutdown().await;
        });
        let aborted = self.client.abort(&self.path, &id);
        if let Err(why) = aborted.and_then(|()| self.client.remove(&self.mark)) {
            tracing::warn!("parts of {} are left: {why}", self.path);
        }
    }
}

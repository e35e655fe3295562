//! A disk in memory that knows what is durable: for tests that crash it at any call.
//!
//! Each file has a live content and a durable one, and the writes between the two. A crash
//! keeps, of every sector not yet synced, the old or the new content, as a [`Crash`] decides;
//! of the directory, the durable names or the live ones.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{BLOCK, Disk, DiskError, File, Kind, Result};
use crate::types::mix;

const SECTOR: usize = 512;

/// Which unsynced sectors survive a crash.
#[derive(Clone, Copy, Debug)]
pub enum Crash {
    /// None of them.
    Nothing,
    /// All of them.
    Everything,
    /// Each by the toss of a coin with this seed.
    Random(u64),
    /// Only the first so many, in the order of writing.
    Prefix(usize),
    /// All but this one.
    Without(usize),
    /// Only this one.
    Only(usize),
}

impl Crash {
    fn keeps(self, index: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Random(seed) => mix(seed ^ mix(index as u64)) & 1 == 1,
            Self::Prefix(count) => index < count,
            Self::Without(lost) => index != lost,
            Self::Only(kept) => index == kept,
        }
    }
}

/// A fault to inject at one call of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, with this kind, having done nothing.
    Fails(Kind),
    /// The machine stops: this call may have done a part, and no later one does anything.
    Crash,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// `(offset, length)` of writes not yet synced.
    unsynced: Vec<(usize, usize)>,
}

#[derive(Default)]
struct State {
    contents: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    crashed: bool,
    sync_lies: bool,
}

/// A directory in memory. Cloning gives another handle to the same one.
#[derive(Clone, Default)]
pub struct SimDisk(Rc<RefCell<State>>);

impl SimDisk {
    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// Injects a fault at the call with this number, counted from 1.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        self.0.borrow_mut().fault = Some((call, fault));
    }

    /// From now on syncs succeed without making anything durable.
    pub fn lie_about_syncs(&self) {
        self.0.borrow_mut().sync_lies = true;
    }

    /// The same disk under another process: what was written is there, synced or not, and nothing
    /// fails any more.
    pub fn restarted(&self) -> Self {
        let state = self.0.borrow();
        Self(Rc::new(RefCell::new(State {
            contents: state.contents.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            ..State::default()
        })))
    }

    /// Sectors that a crash now would have to decide about.
    pub fn unsynced_sectors(&self) -> usize {
        let state = self.0.borrow();
        let contents = state.names.values().map(|&content| &state.contents[content]);
        contents.flat_map(|content| &content.unsynced).map(|(_, length)| length / SECTOR).sum()
    }

    /// The disk as it is found after a crash now.
    pub fn after(&self, crash: Crash) -> Self {
        let state = self.0.borrow();
        let names_live = crash.keeps(usize::MAX / 2);
        let names = if names_live { &state.names } else { &state.durable_names };
        let mut index = 0;
        let mut after = State::default();
        for (name, &content) in names {
            let content = &state.contents[content];
            let mut bytes = content.durable.clone();
            if bytes.len() < content.live.len() && names_live {
                bytes.resize(content.live.len(), 0);
            }
            for &(offset, length) in &content.unsynced {
                for sector in (offset..offset + length).step_by(SECTOR) {
                    let range = sector..sector + SECTOR;
                    if crash.keeps(index) && range.end <= bytes.len() {
                        bytes[range.clone()].copy_from_slice(&content.live[range]);
                    }
                    index += 1;
                }
            }
            after.names.insert(name.clone(), after.contents.len());
            after.contents.push(Content { live: bytes.clone(), durable: bytes, unsynced: vec![] });
        }
        after.durable_names = after.names.clone();
        Self(Rc::new(RefCell::new(after)))
    }

    /// A copy of a file's content.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.0.borrow();
        state.contents[state.names[name]].live.clone()
    }

    /// Replaces a file's content, durably: damage from outside.
    pub fn set_content(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        let content = Content { live: bytes.clone(), durable: bytes, unsynced: vec![] };
        let index = state.names.get(name).copied().unwrap_or(state.contents.len());
        match state.contents.get_mut(index) {
            Some(former) => *former = content,
            None => state.contents.push(content),
        }
        state.names.insert(name.into(), index);
        state.durable_names.insert(name.into(), index);
    }

    fn call(&self, operation: &'static str, file: &str) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.calls += 1;
        let error = |kind, reason: &str| {
            Err(DiskError { kind, operation, file: file.into(), reason: reason.into() })
        };
        if state.crashed {
            return error(Kind::Failed, "the machine is off");
        }
        match state.fault {
            Some((call, Fault::Fails(kind))) if call == state.calls => error(kind, "injected"),
            Some((call, Fault::Crash)) if call == state.calls => {
                state.crashed = true;
                // A write may have happened in part: the caller goes on, and then it is over.
                if operation == "write" { Ok(()) } else { error(Kind::Failed, "crash") }
            }
            _ => Ok(()),
        }
    }

    fn missing(operation: &'static str, name: &str) -> DiskError {
        let reason = "no such file".into();
        DiskError { kind: Kind::NotFound, operation, file: name.into(), reason }
    }
}

/// An open file of a [`SimDisk`].
pub struct SimFile {
    disk: SimDisk,
    name: String,
    content: usize,
}

impl Disk for SimDisk {
    type File = SimFile;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn create(&self, name: &str, bytes: u64) -> Result<SimFile> {
        self.call("create", name)?;
        let mut state = self.0.borrow_mut();
        let zeros = vec![0; bytes as usize];
        let content = state.contents.len();
        state.contents.push(Content { live: zeros.clone(), durable: zeros, unsynced: vec![] });
        state.names.insert(name.into(), content);
        Ok(SimFile { disk: self.clone(), name: name.into(), content })
    }

    async fn begin(&self, name: &str) -> Result<SimFile> {
        self.call("begin", name)?;
        let mut state = self.0.borrow_mut();
        let content = state.contents.len();
        state.contents.push(Content::default());
        state.names.insert(name.into(), content);
        Ok(SimFile { disk: self.clone(), name: name.into(), content })
    }

    async fn open(&self, name: &str) -> Result<SimFile> {
        self.call("open", name)?;
        let content = self.0.borrow().names.get(name).copied();
        let content = content.ok_or_else(|| Self::missing("open", name))?;
        Ok(SimFile { disk: self.clone(), name: name.into(), content })
    }

    async fn rename(&self, source: &str, target: &str) -> Result<()> {
        self.call("rename", source)?;
        let mut state = self.0.borrow_mut();
        let content = state.names.remove(source).ok_or_else(|| Self::missing("rename", source))?;
        state.names.insert(target.into(), content);
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.call("remove", name)?;
        let removed = self.0.borrow_mut().names.remove(name);
        removed.map(|_| ()).ok_or_else(|| Self::missing("remove", name))
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.call("list", "")?;
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    async fn sync_dir(&self) -> Result<()> {
        self.call("sync directory", "")?;
        let mut state = self.0.borrow_mut();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

impl File for SimFile {
    type Buffer = Vec<u8>;

    async fn write_at(&self, source: Vec<u8>, offset: u64) -> Result<()> {
        assert_eq!((source.len() % BLOCK, offset % BLOCK as u64), (0, 0));
        self.disk.call("write", &self.name)?;
        let mut state = self.disk.0.borrow_mut();
        let crashed = state.crashed;
        let content = &mut state.contents[self.content];
        let offset = offset as usize;
        let end = offset + source.len();
        if content.live.len() < end {
            content.live.resize(end, 0);
        }
        content.live[offset..end].copy_from_slice(&source);
        content.unsynced.push((offset, source.len()));
        if crashed {
            let reason = "crash".into();
            let file = self.name.clone();
            return Err(DiskError { kind: Kind::Failed, operation: "write", file, reason });
        }
        Ok(())
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        self.disk.call("read", &self.name)?;
        let state = self.disk.0.borrow();
        let live = &state.contents[self.content].live;
        let start = (offset as usize).min(live.len());
        target.extend_from_slice(&live[start..(start + bytes).min(live.len())]);
        Ok(())
    }

    async fn sync_data(&self) -> Result<()> {
        self.disk.call("sync", &self.name)?;
        let mut state = self.disk.0.borrow_mut();
        if !state.sync_lies {
            let content = &mut state.contents[self.content];
            content.durable = content.live.clone();
            content.unsynced.clear();
        }
        Ok(())
    }

    async fn truncate(&self, bytes: u64) -> Result<()> {
        self.disk.call("truncate", &self.name)?;
        self.disk.0.borrow_mut().contents[self.content].live.truncate(bytes as usize);
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

/// Runs a future of a simulated disk to its end. It never waits for anything.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a simulated disk does not wait"),
    }
}

//! A disk in memory that tracks durability: for tests that crash it at any call, fail any of them, and have it check
//! the order in which files become durable.
//!
//! Effects that a real system may have on data that is not synced, and their model. Everything is at least as bad as
//! on ext4 and XFS:
//! - *Content.* Of a write any sectors may be durable, of 512 bytes or of 4 KiB as the device has it, each with what
//!   the file had before, or with what any write since has put there.
//! - *Length.* A file that grew or was cut has its old length or a new one, whichever of its sectors are there;
//!   between the end of the data and a length there are zeros.
//! - *Names.* Both file systems log changes of a directory in their order and keep a prefix of them. Here each is
//!   there or not by itself, as on systems that log files one by one, but a change is never without those before it
//!   that touched one of its names. A rename is there as a whole or not at all. A name says nothing about the
//!   content: a file whose name is durable may be empty.
//! - *Failed syncs.* The pages of a sync that failed are marked clean. They are read as they were written, by a
//!   restarted process as well, and no later sync writes them; only a new write does. They may be durable or not. A
//!   directory is different: a file system whose log fails stops, and reports nothing false afterwards; the changes
//!   of a failed sync of names are still pending.
//! - *Failed writes.* They did nothing, or a part, from the front.

mod content;
mod crash;
mod order;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use self::content::{Change, Content, NameChange, PendingName};
pub use self::crash::{Crash, MODES};
pub use self::order::{Claim, Claims};

use super::{BLOCK, Disk, DiskError, File, Kind, Result};

/// The smallest sector.
pub const SECTOR: usize = 512;

/// A fault to inject at one call of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, with this kind, having done nothing.
    Fails(Kind),
    /// The call fails, with this kind, having done a part, or all of it if it has no parts.
    Partly(Kind),
    /// The machine stops: this call may have done a part, and no later one does anything.
    Crash,
}

struct Planned {
    call: u64,
    fault: Fault,
    /// True if later calls of the same operation fail as well.
    is_sticky: bool,
    operation: Option<&'static str>,
}

#[derive(Default)]
struct State {
    contents: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<PendingName>,
    /// Number of changes so far.
    changes: u64,
    /// Operations asked for, call by call.
    operations: Vec<&'static str>,
    /// Number of times that other tasks were let on between two pieces of work.
    rests: u64,
    planned: Option<Planned>,
    crashed: bool,
    sync_lies: bool,
    claims: Option<Claims>,
}

impl State {
    fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        let at = self.change();
        self.pending_names.push(PendingName { at, change });
    }

    /// Gives a name an empty content; a file opened under that name keeps the former one.
    fn begin(&mut self, name: &str) -> usize {
        if let Some(&content) = self.names.get(name) {
            let at = self.change();
            self.contents[content].set_length(at, 0);
            return content;
        }
        let content = self.contents.len();
        self.contents.push(Content::default());
        self.rename(NameChange::Made(name.into(), content));
        content
    }
}

/// A directory in memory. Cloning gives another handle to the same one.
#[derive(Clone, Default)]
pub struct SimDisk(Rc<RefCell<State>>);

impl SimDisk {
    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.0.borrow().operations.len() as u64
    }

    /// Number of times that other tasks were let on between two pieces of work in memory.
    pub fn rests(&self) -> u64 {
        self.0.borrow().rests
    }

    /// Operations of the calls so far.
    pub fn operations(&self) -> Vec<&'static str> {
        self.0.borrow().operations.clone()
    }

    /// Injects a fault at the call with this number, from 1.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        let planned = Planned { call, fault, is_sticky: false, operation: None };
        self.0.borrow_mut().planned = Some(planned);
    }

    /// Injects a fault at the call with this number, and at all later ones of the same operation.
    pub fn fault_from(&self, call: u64, fault: Fault) {
        let planned = Planned { call, fault, is_sticky: true, operation: None };
        self.0.borrow_mut().planned = Some(planned);
    }

    /// Removes all faults.
    pub fn mend(&self) {
        self.0.borrow_mut().planned = None;
    }

    /// True after a [`Fault::Crash`].
    pub fn is_off(&self) -> bool {
        self.0.borrow().crashed
    }

    /// From now on syncs succeed without making anything durable.
    pub fn lie_about_syncs(&self) {
        self.0.borrow_mut().sync_lies = true;
    }

    /// This disk under another process: all data written is there, synced or not, and no call fails any more.
    pub fn restarted(&self) -> Self {
        let state = self.0.borrow();
        Self(Rc::new(RefCell::new(State {
            contents: state.contents.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending_names: state.pending_names.clone(),
            changes: state.changes,
            claims: state.claims,
            ..State::default()
        })))
    }

    /// A copy of a file's content.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.0.borrow();
        state.contents[state.names[name]].live.clone()
    }

    /// Replaces a file's content, durably: damage from outside.
    pub fn set_content(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        let content = Content::durable(bytes);
        let index = state.names.get(name).copied().unwrap_or(state.contents.len());
        match state.contents.get_mut(index) {
            Some(former) => *former = content,
            None => state.contents.push(content),
        }
        state.names.insert(name.into(), index);
        state.durable_names.insert(name.into(), index);
    }

    /// Counts a call. For a fault that leaves a part, returns the error that the caller returns after that part.
    fn call(&self, operation: &'static str, file: &str) -> Result<Option<DiskError>> {
        let mut state = self.0.borrow_mut();
        state.operations.push(operation);
        let error = |kind, reason: &str| {
            let (file, reason) = (file.into(), reason.into());
            DiskError { kind, operation, file, reason }
        };
        if state.crashed {
            return Err(error(Kind::Failed, "the machine is off"));
        }
        let call = state.operations.len() as u64;
        let due = state.planned.as_mut().and_then(|planned| {
            if planned.call == call {
                planned.operation = Some(operation);
            }
            let again = planned.is_sticky && planned.operation == Some(operation);
            (planned.call == call || again).then_some(planned.fault)
        });
        match due {
            None => Ok(None),
            Some(Fault::Fails(kind)) => Err(error(kind, "injected")),
            Some(Fault::Partly(kind)) => Ok(Some(error(kind, "injected, in the middle"))),
            Some(Fault::Crash) => {
                state.crashed = true;
                Ok(Some(error(Kind::Failed, "crash")))
            }
        }
    }

    fn missing(operation: &'static str, name: &str) -> DiskError {
        let reason = "no such file".into();
        DiskError { kind: Kind::NotFound, operation, file: name.into(), reason }
    }
}

fn done(failed: Option<DiskError>) -> Result<()> {
    failed.map_or(Ok(()), Err)
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
        let failed = self.call("create", name)?;
        let mut state = self.0.borrow_mut();
        let content = state.begin(name);
        if let Some(failed) = failed {
            let at = state.change();
            let part = bytes as usize / BLOCK / 2 * BLOCK;
            state.contents[content].write(at, 0, &vec![0; part]);
            return Err(failed);
        }
        state.contents[content] = Content::durable(vec![0; bytes as usize]);
        Ok(SimFile { disk: self.clone(), name: name.into(), content })
    }

    async fn begin(&self, name: &str) -> Result<SimFile> {
        let failed = self.call("begin", name)?;
        let content = self.0.borrow_mut().begin(name);
        done(failed)?;
        Ok(SimFile { disk: self.clone(), name: name.into(), content })
    }

    async fn open(&self, name: &str) -> Result<SimFile> {
        done(self.call("open", name)?)?;
        let content = self.0.borrow().names.get(name).copied();
        let content = content.ok_or_else(|| Self::missing("open", name))?;
        Ok(SimFile { disk: self.clone(), name: name.into(), content })
    }

    async fn rename(&self, source: &str, target: &str) -> Result<()> {
        let failed = self.call("rename", source)?;
        let mut state = self.0.borrow_mut();
        let content = state.names.get(source).copied();
        let content = content.ok_or_else(|| Self::missing("rename", source))?;
        state.check_rename(content, target);
        let (source, target) = (source.into(), target.into());
        state.rename(NameChange::Renamed { source, target, content });
        done(failed)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let failed = self.call("remove", name)?;
        let mut state = self.0.borrow_mut();
        if !state.names.contains_key(name) {
            return Err(Self::missing("remove", name));
        }
        state.rename(NameChange::Removed(name.into()));
        done(failed)
    }

    async fn list(&self) -> Result<Vec<String>> {
        done(self.call("list", "")?)?;
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    async fn sync_dir(&self) -> Result<()> {
        done(self.call("sync directory", "")?)?;
        let mut state = self.0.borrow_mut();
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    async fn rest(&self) {
        self.0.borrow_mut().rests += 1;
    }
}

impl File for SimFile {
    type Buffer = Vec<u8>;

    async fn write_at(&self, source: Vec<u8>, offset: u64) -> Result<()> {
        assert_eq!((source.len() % BLOCK, offset % BLOCK as u64), (0, 0));
        let failed = self.disk.call("write", &self.name)?;
        let mut state = self.disk.0.borrow_mut();
        // A crash leaves any part; a write that fails in the middle leaves the front.
        let part = match failed {
            Some(_) if !state.crashed => (source.len() / 2).next_multiple_of(SECTOR),
            _ => source.len(),
        };
        let at = state.change();
        state.contents[self.content].write(at, offset as usize, &source[..part]);
        done(failed)
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        let failed = self.disk.call("read", &self.name)?;
        let state = self.disk.0.borrow();
        let live = &state.contents[self.content].live;
        let start = (offset as usize).min(live.len());
        let end = (start + bytes).min(live.len());
        let end = if failed.is_some() { (start + BLOCK).min(end) } else { end };
        target.extend_from_slice(&live[start..end]);
        done(failed)
    }

    async fn sync_data(&self) -> Result<()> {
        let called = self.disk.call("sync", &self.name);
        let mut state = self.disk.0.borrow_mut();
        if state.crashed {
            return done(called?);
        }
        let lies = state.sync_lies;
        let content = &mut state.contents[self.content];
        match called {
            Ok(None) if lies => Ok(()),
            Ok(None) => {
                content.sync();
                Ok(())
            }
            Ok(Some(error)) | Err(error) => {
                content.forget();
                Err(error)
            }
        }
    }

    async fn truncate(&self, bytes: u64) -> Result<()> {
        let failed = self.disk.call("truncate", &self.name)?;
        let mut state = self.disk.0.borrow_mut();
        let at = state.change();
        state.contents[self.content].set_length(at, bytes as usize);
        done(failed)
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

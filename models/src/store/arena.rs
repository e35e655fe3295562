//! Stand-in for the arenas, which map memory of zeroed items: here all of it is there from the beginning, as loom's
//! atomics have to be made one by one.

/// Most slots that one shard can hold, as in the main package.
pub const SLOTS_MAX: usize = 1 << 26;

/// Items by slot.
pub struct Arena<T>(Box<[T]>);

impl<T: Default> Arena<T> {
    /// One item for each slot below `slots`.
    #[must_use]
    pub fn per_slot(slots: usize) -> Self {
        Self((0..slots).map(|_| T::default()).collect())
    }

    /// Does nothing: there is room for all.
    pub fn reserve(&self, index: usize) {
        assert!(index < self.0.len());
    }

    /// Number of items: all of them.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.0.len()
    }

    /// The item of slot `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> &T {
        &self.0[index]
    }
}

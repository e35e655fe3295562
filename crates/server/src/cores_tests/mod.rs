//! Cores under a router: disks that fail, vectors that can't be read, training of the cache.

mod faults;
mod training;
mod vector_faults;

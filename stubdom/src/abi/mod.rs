//! The stub's access to the machine: entry and traps, hypercalls, and the memory that dom0
//! has mapped. All of the stub's `unsafe` is in the submodules.

pub mod entry;
pub mod events;
pub mod hypercall;
pub mod logger;
pub mod memory;
pub mod traps;

//! Where the stub touches the machine: entry and traps, hypercalls, the places
//! dom0 has mapped. All of the stub's `unsafe` is below here.

pub mod entry;
pub mod events;
pub mod hypercall;
pub mod logger;
pub mod memory;
pub mod traps;

//! Selects which scenarios a run tries: a sample that can be repeated by its seed, within a
//! budget of time.

pub mod budget;
pub mod sample;

pub use budget::Budget;
pub use sample::{Draw, Seed, sample};

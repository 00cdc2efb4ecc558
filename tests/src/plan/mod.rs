//! What a run of the scenarios tries of all there is: a sample that a seed
//! repeats, as far as a budget of time goes.

pub mod budget;
pub mod sample;

pub use budget::Budget;
pub use sample::{Draw, Seed, sample};

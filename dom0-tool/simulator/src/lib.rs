//! Whole migrations without a host: guests and links are modelled, and lull's own core
//! decides.
//!
//! In the order in which an attempt is made:
//!
//! 1. [`random`]: numbers that a seed determines;
//! 2. [`guest`] and [`link`]: how the guest writes, and what the link carries;
//! 3. [`scenario`]: one guest, one link, one order and one mishap;
//! 4. [`draw`]: millions of scenarios, each from a seed and a number;
//! 5. [`world`]: a scenario in motion, in model time;
//! 6. [`attempt`]: the machine of `lull_core` and dom0's deadlines in that world;
//! 7. [`oracle`]: whether a decision that knows the future would have moved the guest;
//! 8. [`tally`]: the sums of many attempts;
//! 9. [`campaign`]: a million such attempts;
//! 10. [`measures`]: how good the estimate is.
//!
//! There is no clock and no floating point in the model: a seed and a number always give
//! the same attempt, on any machine.
#![forbid(unsafe_code)]

pub mod attempt;
pub mod campaign;
pub mod draw;
pub mod guest;
pub mod link;
pub mod measures;
pub mod oracle;
pub mod random;
pub mod scenario;
pub mod tally;
pub mod world;

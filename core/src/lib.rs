//! Scan, estimate, decide: the part of lull that knows no hypervisor, no
//! clock and no heap.
//!
//! In the order data flows:
//!
//! 1. [`bitmap`]: which pages are dirty, scanned into a [`batch`] at a time;
//! 2. [`dirty`] and [`service`]: how the guest dirties pages and what the path to the
//!    destination carries, as curves;
//! 3. [`downtime`]: how long the guest would be paused if it stopped now;
//! 4. [`limits`]: what the operator allows;
//! 5. [`history`]: what the rounds so far have brought;
//! 6. [`policy`]: stop, go on, or give up;
//! 7. [`machine`]: one migration, events in and actions out;
//! 8. [`refusal`]: why not, and what would have fitted;
//! 9. [`link`]: how stub and dom0 lay all this out in shared pages.
//!
//! Everything here is a pure function of its arguments. The stub, dom0's
//! lockstep check, the simulator and replay run this same code, and the same
//! events give the same actions on every one of them.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod batch;
pub mod bitmap;
pub mod dirty;
pub mod downtime;
pub mod history;
pub mod holds;
pub mod limits;
pub mod link;
pub mod machine;
pub mod policy;
pub mod refusal;
pub mod service;
pub mod units;

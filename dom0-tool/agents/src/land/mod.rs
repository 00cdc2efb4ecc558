//! `lull land`: the destination's part of a fast landing.
//!
//! A stock receiver has built the guest from a complete, provisional stream. It waits, with
//! all devices attached, for permission to start the guest. `lull land` brings that copy up
//! to date over a channel of its own, until the guest at the source has stopped and its
//! last page and its CPU state are in place.
//!
//! ```text
//! source: the engine                               destination: lull land
//!                          ◀── Greeting ────────── which versions it speaks, and a token
//! the version to use ───── Chosen ──────────────▶
//! for each further connection, `lull land --join TOKEN` ▶ takes it over
//!                          ◀── Joined ──────────── on that connection
//! which copy to expect ─── Expect ──────────────▶ has its QEMU wait (HVM guests only)
//!                          ◀── Armed ─────────────
//!    … the provisional stream goes through xl, the receiver says READY …
//! whose copy ───────────── Attach ──────────────▶ looks for it; it must wait
//!                          ◀── Attached ──────────
//! each batch ───────────── Pages ───────────────▶ writes them into the guest
//!                          ◀── Applied ─────────── on the same connection
//! one that is lost ─────── Leave ───────────────▶ reads nothing more from it
//!                          ◀── Left ──────────────
//!    … READY is passed on, xl says GO, the receiver renames the copy and ends …
//!    … the guest is suspended, the last batches follow …
//! QEMU's state ─────────── Devices ─────────────▶ keeps it (HVM guests only)
//! clock and CPUs ───────── State ───────────────▶ sets them, lets go of all; QEMU runs
//!                          ◀── Landed ────────────
//! permission to run ────── Start ───────────────▶ starts it: one hypercall
//!                          ◀── Started ───────────
//! ```
//! With GO the receiver unpauses the copy. Xen counts pauses, and `lull land` holds the
//! copy with a pause of its own from Attached on, so only Start makes the copy run.
//! `-p` leaves the receiver's pause in place for the operator to undo. The receiver of an HVM
//! guest always leaves it paused, because it would have QEMU go on with GO; Start undoes
//! that pause as well.
//!
//! Version 1 has no Start: READY is passed on after Landed, and the receiver starts the
//! copy.
//!
//! The first connection decides: it carries all but Pages and Ping alone, and when it ends the
//! landing does. A further one that ends is closed ([`join_socket`]).
//!
//! Greeting, Chosen and Joined are one line of JSON each, so text that a login shell prints before
//! them does no harm. All other messages are the frames of [`channel`](lull_wire::channel).
//! The versions are a range: both ends know which versions they speak, and neither guesses.
//!
//! After Landed nothing is written, whatever arrives. `lull land` ends when the channel
//! ends, or when the guest no longer waits. A copy without Start is destroyed then.
//!
//! [`serve`] is the destination's end of the channel, and writes into the [`waiting`] guest;
//! [`incoming`] keeps its QEMU waiting; [`see_off`] cleans up after it, or [`announce`]s it.
//! The source's end is with `lull migrate`, which starts this one over ssh.

mod announce;
pub mod incoming;
mod inlet;
pub mod join_socket;
pub mod see_off;
mod serve;
mod waiting;

use std::process::ExitCode;

use clap::Args;
use lull_wire::channel::Token;

/// The options of `lull land`.
#[derive(Debug, Args)]
pub struct Options {
    /// Hand this connection to the `lull land` that has said this token
    #[arg(long, value_name = "TOKEN")]
    join: Option<Token>,
}

/// Runs `lull land`, or hands its connection to another one.
pub fn main(options: &Options) -> ExitCode {
    match options.join {
        Some(token) => join_socket::join(token),
        None => serve::main(),
    }
}

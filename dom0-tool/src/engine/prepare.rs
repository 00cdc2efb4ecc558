//! What an attempt stands on: a stub, the dirty log, the list of frames.

use std::time::Duration;

use lull_wire::events;
use lull_xen::Xen;
use lull_xen::domctl::Clean;
use lull_xen::maxmem::guest_frames;

use super::attempt::Order;
use super::failure::{Doing, Failure};
use super::frames;
use super::log_dirty::{Cleaned, LogDirty};
use super::telling::millis;
use crate::stub::Stub;
use crate::stub::room::{self, NoRoom, Taken};

/// What an attempt stands on, in the order in which it is taken down.
pub struct Prepared<'x> {
    /// The stub domain.
    pub stub: Stub<'x>,
    /// The dirty log.
    pub log_dirty: LogDirty<'x>,
    /// What dom0 gave up for the stub, and gets back after it.
    _taken: Option<Taken>,
    /// One more than the highest frame.
    pub guest_pfns: u64,
    /// Pages of round 0.
    pub pages: u64,
    /// How long a CLEAN takes.
    pub took_bitmap: Duration,
    /// Round 0's bitmap.
    populated: Vec<u64>,
    /// When the stub was built, the log switched on, the frames listed.
    done_at: [Duration; 3],
}

impl Prepared<'_> {
    /// The frames of round 0.
    pub fn populated_frames(&self) -> Vec<u64> {
        frames::listed(self.populated.iter().copied())
    }

    /// From the attempt's start until the stub was started.
    pub fn stub_built_after(&self) -> Duration {
        self.done_at[0]
    }

    /// How long each part took, for the log.
    pub fn in_words(&self) -> events::Event {
        let [stub, log_dirty, frames] = self.done_at.map(millis);
        events::Event::Log(events::Log {
            level: "debug".into(),
            from: "helper".into(),
            text: format!(
                "stub built after {stub} ms, dirty log on after {log_dirty} ms, {} of {} frames \
                 found populated after {frames} ms; reading the bitmap took {} µs",
                self.pages,
                self.guest_pfns,
                self.took_bitmap.as_micros()
            ),
        })
    }
}

/// Prepares an attempt, unless it `is_over` before.
///
/// # Errors
/// What failed; nothing is left behind then.
pub fn prepare<'x>(
    xen: &'x Xen,
    order: &Order,
    is_over: &mut dyn FnMut() -> bool,
) -> Result<Prepared<'x>, Failure> {
    let guest = order.guest;
    let guest_pfns = guest_frames(xen, guest).doing("the guest's size")?;
    let room = room::make(xen, guest_pfns, is_over);
    if let Err(cancelled @ NoRoom::Cancelled) = room {
        return Err(cancelled.into());
    }
    // What is free is an estimate; that a stub cannot be built is not.
    let built = Stub::build(xen, guest, guest_pfns, order.config);
    let (taken, stub) = match (room, built) {
        // xl's lock goes with the room; the stub has its memory.
        (room, Ok(stub)) => (room.ok().and_then(|room| room.taken), stub),
        (Err(short @ NoRoom::Short(_)), Err(_)) => return Err(short.into()),
        (_, Err(error)) => return Err(error.into()),
    };
    let built = order.start.elapsed();
    let log_dirty = LogDirty::enable(xen, guest)?;
    let logging = order.start.elapsed();
    let (populated, pages) =
        frames::populated(xen, guest, guest_pfns).doing("the guest's frames cannot be listed")?;
    // Xen goes on counting where an attempt that was given up had stopped: its
    // counter starts from zero only at a CLEAN. It shows how long the final one
    // will take, for this guest on this host. And Xen notes writes to a frame that
    // has just come only from the next CLEAN on, so it comes after the listing.
    let Cleaned {
        took: took_bitmap, ..
    } = log_dirty
        .clean(&stub, guest_pfns, Clean::Live)
        .map_err(|why| Failure::unread("the dirty bitmap cannot be read", why))?;
    stub.write_bitmap(&populated);
    Ok(Prepared {
        stub,
        log_dirty,
        _taken: taken,
        guest_pfns,
        pages,
        took_bitmap,
        populated,
        done_at: [built, logging, order.start.elapsed()],
    })
}

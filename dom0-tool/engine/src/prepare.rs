//! The preparations of an attempt: the stub, the dirty log and the list of frames.

use std::time::Duration;

use lull_wire::events;
use lull_xen::Xen;
use lull_xen::domctl::Clean;
use lull_xen::maxmem::guest_frames;

use super::attempt::MigrationRequest;
use super::domains::Domains;
use super::emit::millis;
use super::failure::{Doing, Failure};
use super::frames;
use super::log_dirty::{Cleaned, LogDirty};
use super::on_xen::OnXen;
use crate::stub::Stub;
use crate::stub::room::{self, NoRoom, Taken};

/// What an attempt needs. The fields are in the order in which they are torn down.
pub struct Prepared<D> {
    /// The guest, with its dirty log on, and its stub.
    pub domains: D,
    /// The memory that dom0 gave up for the stub. dom0 gets it back after the stub has
    /// gone.
    pub _taken: Option<Taken>,
    pub listed: Listed,
}

/// What the preparations have found, and when.
pub struct Listed {
    /// The number of the guest's highest frame, plus one.
    pub guest_pfns: u64,
    /// The number of pages in round 0.
    pub pages: u64,
    /// How long a CLEAN takes.
    pub took_bitmap: Duration,
    /// The bitmap of round 0.
    pub populated: Vec<u64>,
    /// When the stub was built, when the log was switched on, and when the frames were
    /// listed.
    pub done_at: [Duration; 3],
}

impl Listed {
    /// The frames of round 0, in ascending order.
    pub fn populated_frames(&self) -> Vec<u64> {
        frames::listed(self.populated.iter().copied())
    }

    /// Time from the attempt's start until the stub was started.
    pub fn stub_built_after(&self) -> Duration {
        self.done_at[0]
    }

    /// How long each part took, as an event for the log. `share` is the stub's share of a
    /// processor, in words.
    pub fn in_words(&self, share: &str) -> events::Event {
        let [stub, log_dirty, frames] = self.done_at.map(millis);
        events::Event::Log(events::Log {
            level: "debug".into(),
            from: "helper".into(),
            text: format!(
                "stub built after {stub} ms, {share}; dirty log on after {log_dirty} ms, {} of {} frames \
                 found populated after {frames} ms; reading the bitmap took {} µs",
                self.pages,
                self.guest_pfns,
                self.took_bitmap.as_micros()
            ),
        })
    }
}

/// Prepares an attempt. Stops early if `is_over` returns true.
///
/// # Errors
/// What failed. Nothing is left behind then.
pub fn prepare<'x>(
    xen: &'x Xen,
    request: &MigrationRequest,
    is_over: &mut dyn FnMut() -> bool,
) -> Result<Prepared<OnXen<'x>>, Failure> {
    let domid = request.domid;
    let guest_pfns = guest_frames(xen, domid).doing("the guest's size")?;
    let room = room::make(xen, guest_pfns, is_over);
    if let Err(cancelled @ NoRoom::Cancelled) = room {
        return Err(cancelled.into());
    }
    // Free memory is only an estimate, so the build decides whether there is enough.
    let built = Stub::build(xen, domid, guest_pfns, request.config);
    let (taken, stub) = match (room, built) {
        // xl's lock is released with the room, because the stub has its memory now.
        (room, Ok(stub)) => (room.ok().and_then(|room| room.taken), stub),
        (Err(short @ NoRoom::Short(_)), Err(_)) => return Err(short.into()),
        (_, Err(error)) => return Err(error.into()),
    };
    let built = request.start.elapsed();
    let log_dirty = LogDirty::enable(xen, domid)?;
    let logging = request.start.elapsed();
    let domains = OnXen::new(xen, domid, guest_pfns, stub, log_dirty);
    let domains = domains.doing("no memory for hypercalls")?;
    let (populated, pages) =
        frames::populated(&domains, guest_pfns).doing("the guest's frames cannot be listed")?;
    // If an earlier attempt was given up, Xen goes on counting from where that one stopped:
    // its counter starts from zero only at a CLEAN. This CLEAN also shows how long the
    // final one will take, for this guest on this host. And Xen logs the writes to a frame
    // that has just been added only from the next CLEAN on, so the CLEAN comes after the
    // listing.
    let Cleaned {
        took: took_bitmap, ..
    } = domains
        .clean(Clean::Live)
        .map_err(|why| Failure::unread("the dirty bitmap cannot be read", why))?;
    domains.write_bitmap(&populated);
    Ok(Prepared {
        domains,
        _taken: taken,
        listed: Listed {
            guest_pfns,
            pages,
            took_bitmap,
            populated,
            done_at: [built, logging, request.start.elapsed()],
        },
    })
}

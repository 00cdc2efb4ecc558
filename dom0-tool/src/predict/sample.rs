//! Samples how a guest writes from its dirty log.
//!
//! The log is switched on for the duration of the sampling and always off again afterwards,
//! by this process or by its guard. If a migration starts meanwhile, it takes over the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{io, mem};

use lull_agents::helper::guard::{Guard, Over, is_saved_by_another};
use lull_engine::log_dirty::{LogDirty, LogDirtyError};
use lull_store::running::claim::{Claim, LockResult};
use lull_store::running::folder::Folder;
use lull_xen::buffer::HypercallBuffer;
use lull_xen::device_model::{Model, Qemu};
use lull_xen::domctl::Clean;
use lull_xen::maxmem::guest_frames;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, Xen};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use thiserror::Error;

/// The interval between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The sampling periods, in sixths of the time. The log is cleared before each, so that
/// counting restarts at zero. The long last period shows whether the guest's working set
/// stops growing.
const SIXTHS: [u32; 3] = [1, 1, 4];

/// The samples, and what taking them cost.
#[derive(Debug, Default)]
pub struct Sampled {
    /// The number of the guest's pages.
    pub pages: u64,
    /// For each period: the time since the log was cleared in µs, and the number of dirty
    /// pages.
    pub counts: Vec<Vec<(u64, u64)>>,
    /// How long the log was on.
    pub log_on: Duration,
    /// The hypercalls that clear the log: their number, total and longest time.
    pub cleans: Calls,
    /// The hypercalls that only count.
    pub peeks: Calls,
}

/// Hypercalls of one kind; Xen stops the guest during each.
#[derive(Debug, Default, Clone, Copy)]
pub struct Calls {
    pub number: u32,
    pub took: Duration,
    pub longest: Duration,
}

impl Calls {
    fn add(&mut self, took: Duration) {
        self.number += 1;
        self.took += took;
        self.longest = self.longest.max(took);
    }
}

/// Why there are no samples.
#[derive(Debug, Error)]
pub enum NotSampled {
    /// The log was not switched on.
    #[error("{0}")]
    NotBegun(String),
    /// A signal ended the sampling.
    #[error("the prediction was cancelled")]
    Cancelled,
    /// A migration of the guest began.
    #[error("a migration of it has begun, and has the dirty log now")]
    MadeWay,
    /// Xen refused, or the guest is gone.
    #[error("{doing}: {error}")]
    Failed {
        doing: &'static str,
        error: io::Error,
    },
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> NotSampled {
    move |error| NotSampled::Failed { doing, error }
}

/// Watches guest `domid` for a total of `span`.
///
/// # Errors
/// See [`NotSampled`]. The dirty log is then off, or belongs to another process.
pub fn sample(domid: DomId, span: Duration) -> Result<Sampled, NotSampled> {
    let not_begun = |what: &str, error: io::Error| NotSampled::NotBegun(format!("{what}: {error}"));
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled))
            .map_err(|error| not_begun("signals cannot be caught", error))?;
    }
    let xen =
        Xen::open_here().map_err(|error| not_begun("the hypervisor cannot be reached", error))?;
    let info = xen.domain_info(domid);
    let info = info.map_err(|error| not_begun("the guest cannot be looked at", error))?;
    let info = info.ok_or_else(|| NotSampled::NotBegun("it has gone".into()))?;
    let pfns = guest_frames(&xen, domid);
    let pfns = pfns.map_err(|error| not_begun("the guest's size", error))?;
    let bitmap = HypercallBuffer::<u64>::new(pfns.div_ceil(64) as usize)
        .map_err(|error| not_begun("there is no memory for its dirty bitmap", error))?;

    let mut guard = guarded(domid)?;
    let devices = match DevicesLog::begin(domid, &mut guard) {
        Ok(devices) => devices,
        Err(error) => {
            guard.undone();
            return Err(not_begun("its QEMU does not log what it writes", error));
        }
    };
    let log = match LogDirty::enable_unless_on(&xen, domid) {
        Ok(log) => log,
        Err(error) => {
            devices.end(&mut guard);
            guard.undone();
            let hint = match error {
                LogDirtyError::Refused => ". A migration by stock xl shows in `ps`",
                _ => "",
            };
            return Err(NotSampled::NotBegun(format!("{error}{hint}")));
        }
    };
    let mut watch = Watch {
        xen: &xen,
        domid,
        pfns,
        bitmap,
        guard: &guard,
        cancelled: &cancelled,
        sampled: Sampled {
            pages: info.tot_pages,
            ..Sampled::default()
        },
    };
    let on = Instant::now();
    let result = watch.run(span);
    let mut sampled = mem::take(&mut watch.sampled);
    sampled.log_on = on.elapsed();
    // Another process may have taken over the log without asking; switching it off would
    // lose the guest's writes.
    if is_saved_by_another(domid) {
        log.leave();
    } else {
        drop(log);
        devices.end(&mut guard);
    }
    guard.undone();
    result.map(|()| sampled)
}

/// The part of the dirty log that a QEMU keeps: what emulated devices write into the guest's
/// memory. It begins before Xen's part, because Xen forgets what comes earlier.
struct DevicesLog(Option<Qemu>);

impl DevicesLog {
    fn begin(domid: DomId, guard: &mut Guard) -> io::Result<Self> {
        match Model::of(&mut Xenstore::open()?, domid)? {
            Model::None => Ok(Self(None)),
            _ => {
                let qemu = Qemu::of(domid);
                guard.devices_log();
                qemu.begin_dirty_log().map_err(io::Error::other)?;
                Ok(Self(Some(qemu)))
            }
        }
    }

    fn end(self, guard: &mut Guard) {
        if let Some(qemu) = self.0
            && qemu.end_dirty_log().is_ok()
        {
            guard.devices_do_not_log();
        }
    }
}

/// Takes the claim. From here on no other process of lull uses the log.
fn guarded(domid: DomId) -> Result<Guard, NotSampled> {
    let not_begun = NotSampled::NotBegun;
    match Claim::ask(&Folder::default(), domid) {
        Ok(LockResult::Acquired(claim)) if !is_saved_by_another(domid) => {
            Guard::start(domid, Over::Sampling, Some(claim))
                .map_err(|error| not_begun(format!("the guard cannot be started: {error}")))
        }
        Ok(_) => Err(not_begun(
            "it is being migrated, or another prediction of it runs: see `lull status`".into(),
        )),
        Err(error) => Err(not_begun(format!(
            "its dirty log cannot be claimed: {error}"
        ))),
    }
}

/// The guest being sampled.
struct Watch<'a> {
    xen: &'a Xen,
    domid: DomId,
    pfns: u64,
    bitmap: HypercallBuffer<u64>,
    guard: &'a Guard,
    cancelled: &'a AtomicBool,
    sampled: Sampled,
}

impl Watch<'_> {
    fn run(&mut self, span: Duration) -> Result<(), NotSampled> {
        for sixths in SIXTHS {
            self.clean()?;
            let counts = self.count_for(span / 6 * sixths)?;
            self.sampled.counts.push(counts);
        }
        Ok(())
    }

    fn clean(&mut self) -> Result<(), NotSampled> {
        let start = Instant::now();
        self.xen
            .clean_dirty_log(self.domid, &mut self.bitmap, self.pfns, Clean::Live)
            .map(|(dirty, _)| dirty)
            .map_err(failed("the dirty bitmap cannot be read"))?;
        self.sampled.cleans.add(start.elapsed());
        Ok(())
    }

    fn count_for(&mut self, span: Duration) -> Result<Vec<(u64, u64)>, NotSampled> {
        let start = Instant::now();
        let mut counts = vec![(0, 0)];
        while start.elapsed() < span {
            thread::sleep(POLL_INTERVAL.min(span.saturating_sub(start.elapsed())));
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(NotSampled::Cancelled);
            }
            if self.guard.is_wanted() || is_saved_by_another(self.domid) {
                return Err(NotSampled::MadeWay);
            }
            let before = Instant::now();
            let dirty = self.xen.dirty_count(self.domid);
            let dirty = dirty.map_err(failed("the dirty pages cannot be counted"))?;
            self.sampled.peeks.add(before.elapsed());
            let at = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            counts.push((at, dirty));
        }
        Ok(counts)
    }
}

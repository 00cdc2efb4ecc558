//! One attempt, from the request to the verdict and its figures.

use std::time::{Duration, Instant};

use lull_base::bandwidth::Bandwidth;
use lull_base::confine;
use lull_base::monotonic::now_ns;
use lull_core::machine::Config;
use lull_core::units::Micros;
use lull_wire::events::{self, How, PauseParts};
use lull_wire::trace::Recorder;
use lull_xen::{DomId, Xen};

use super::domains::Domains;
use super::emit::millis;
use super::explain::Verdict;
use super::failure::Failure;
use super::landing::{self, Channel, Landing};
use super::prepare::{Prepared, prepare};
use super::session::Session;
use super::{Host, process};
use crate::stream::sink::Sink;
use crate::stub::StubLog;

/// What an attempt has to do.
pub struct MigrationRequest {
    /// The domain number of the guest to move.
    pub domid: DomId,
    /// The limits and the costs assumed.
    pub config: Config,
    /// The bandwidth cap while the guest runs, in pages a second.
    pub bandwidth: Bandwidth,
    /// Whether every page is sent once more for the destination to compare.
    pub verify: Verify,
    /// Whether the guest has emulated devices, and so a QEMU.
    pub has_devices: bool,
    /// When the attempt started. The timeout counts from here.
    pub start: Instant,
}

/// See [`MigrationRequest::verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// No second copy is sent; this is the usual case.
    No,
    /// All memory is sent or compared once more, so the pause grows with the guest's size.
    Yes,
}

/// One migration that has not run yet.
pub struct Attempt<'a> {
    xen: &'a Xen,
    request: MigrationRequest,
    host: &'a mut dyn Host,
    sink: Sink,
    channel: Option<Channel>,
    log: &'a StubLog,
    recorder: &'a mut dyn Recorder,
}

impl<'a> Attempt<'a> {
    /// Stores the arguments and does nothing else yet. With a channel to `lull land`, the
    /// guest lands fast.
    pub fn new(
        xen: &'a Xen,
        request: MigrationRequest,
        host: &'a mut dyn Host,
        sink: Sink,
        channel: Option<Channel>,
        log: &'a StubLog,
        recorder: &'a mut dyn Recorder,
    ) -> Self {
        Self {
            xen,
            request,
            host,
            sink,
            channel,
            log,
            recorder,
        }
    }

    /// Moves the guest, or leaves it running where it is. Everything is undone, with one
    /// exception: after a complete move the log-dirty mode and the stub stay. The guest
    /// then waits for its landing, and the process that started this attempt removes them.
    ///
    /// # Errors
    /// When the attempt could not begin. Nothing has been written to the stream then.
    pub fn run(self) -> Result<Verdict, NotBegun> {
        let Self {
            xen,
            request,
            host,
            sink,
            channel,
            log,
            recorder,
        } = self;
        // While Xen logs nothing, it forgets what QEMU reports. So QEMU comes first.
        if request.has_devices
            && let Err(error) = host.log_devices(true)
        {
            return Err(NotBegun(Verdict::from(&Failure::DevicesNotLogged(error))));
        }
        // A host that can no longer be asked counts as a cancellation.
        let mut is_over = || host.poll().map_or(true, |news| news.cancelled);
        let prepared = match prepare(xen, &request, &mut is_over) {
            Ok(prepared) => prepared,
            Err(failure) => {
                if request.has_devices {
                    // The guard does it otherwise.
                    let _ = host.log_devices(false);
                }
                return Err(NotBegun(Verdict::from(&failure)));
            }
        };
        let listed = &prepared.listed;
        let landing = landing::choose(channel, listed.guest_pfns, request.config.guest_pages);
        // From here on the engine reads what the stub says, and the guest may have taken
        // over its stub. Before this point the attempt could still be handed to Xen's own
        // helper.
        confine::to_no_program();
        host.emit(listed.in_words(&prepared.domains.stub_share()));
        let verdict = carry_out(prepared, &request, host, sink, landing, log, recorder);
        Ok(verdict)
    }
}

/// Carries out an attempt that is prepared, undoes it if it fails, and reports its end.
pub(super) fn carry_out<D: Domains>(
    prepared: Prepared<D>,
    request: &MigrationRequest,
    host: &mut dyn Host,
    sink: Sink,
    landing: Box<dyn Landing>,
    log: &StubLog,
    recorder: &mut dyn Recorder,
) -> Verdict {
    let mut session = Session::new(request, host, sink, landing, log, &prepared, recorder);
    let (verdict, mut stats) = session.run_and_undo();
    if verdict.how == How::StreamComplete {
        // Dropping these takes time, which counts as pause. It would also end `lull land`
        // and its connection, which takes time too.
        std::mem::forget(session);
        std::mem::forget(prepared);
    } else {
        drop(session);
        drop(prepared);
        // The guard does it otherwise, and must not find another attempt's log.
        if request.has_devices && host.log_devices(false).is_err() {
            stats.land_lost = false;
        }
    }
    host.emit(stats.ended(request.start, &verdict));
    verdict
}

/// An attempt that could not begin, with the reason. If no other sender moves the guest,
/// report [`never_begun`].
pub struct NotBegun(pub Verdict);

/// The event that reports an attempt that ended with `verdict` before it began.
pub fn never_begun(start: Instant, verdict: &Verdict) -> events::Event {
    AttemptStats::default().ended(start, verdict)
}

/// The figures of an attempt that only its end shows.
#[derive(Default)]
pub struct AttemptStats {
    /// The parts of the pause, as observed.
    pub observed: PauseParts,
    /// The round trip with which the last pages began.
    pub round_trip: Micros,
    /// The time for the last pages without it, per mille of what the path's curve said of them.
    pub last_pages_per_mille: Option<u64>,
    /// The pause, if the guest was stopped and then resumed here.
    pub refused_pause: Option<Duration>,
    /// The time that resuming it took.
    pub resume: Option<Duration>,
    /// When the stream was complete.
    pub complete_at: Option<Instant>,
    /// The number of guest pages in the stream.
    pub pages_sent: u64,
    /// The number of bytes in the stream.
    pub bytes_sent: u64,
    /// CPU time of the stub, in milliseconds.
    pub stub_cpu_ms: Option<u64>,
    /// The connection to lull land was lost, and nothing is left of the attempt: another may
    /// follow.
    pub land_lost: bool,
}

impl AttemptStats {
    fn ended(self, start: Instant, verdict: &Verdict) -> events::Event {
        let ended_ago = self.complete_at.map_or(Duration::ZERO, |at| at.elapsed());
        events::Event::Ended(events::Ended {
            at_ms: start.elapsed().as_millis() as u64,
            how: verdict.how,
            reason: verdict.reason.clone(),
            advice: verdict.advice.clone(),
            smallest_limit_ms: verdict.smallest_limit_ms,
            needed_rate: verdict.needed_rate,
            refused_pause_ms: self.refused_pause.map(millis),
            resume_ms: self.resume.map(millis),
            observed: self.observed,
            round_trip_ms: self.round_trip.0 / 1_000,
            last_pages_per_mille: self.last_pages_per_mille,
            pages_sent: self.pages_sent,
            bytes_sent: self.bytes_sent,
            monotonic_ns: now_ns().saturating_sub(ended_ago.as_nanos() as u64),
            helper_cpu_ms: process::cpu_ms(),
            helper_peak_bytes: process::peak_bytes(),
            stub_cpu_ms: self.stub_cpu_ms,
            land_lost: self.land_lost,
        })
    }
}

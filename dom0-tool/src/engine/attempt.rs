//! One attempt from its beginning to its account.

use std::time::{Duration, Instant};

use lull_base::bandwidth::Bandwidth;
use lull_base::confine;
use lull_base::monotonic::now_ns;
use lull_core::machine::Config;
use lull_wire::events::{self, How, PauseParts};
use lull_xen::{DomId, Xen};

use super::channel::Channel;
use super::explain::Verdict;
use super::prepare::prepare;
use super::session::Session;
use super::telling::millis;
use super::{Host, Recorder, process};
use crate::stream::sink::Sink;
use crate::stub::StubLog;

/// What is to be done.
pub struct Order {
    /// Which guest.
    pub guest: DomId,
    /// The limits and the costs assumed.
    pub config: Config,
    /// What may be sent while the guest runs, pages a second.
    pub bandwidth: Bandwidth,
    /// Whether every page is sent once more for the destination to compare.
    pub verify: Verify,
    /// When the attempt started: the timeout counts from here.
    pub start: Instant,
}

/// See [`Order::verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// As usual.
    No,
    /// At the cost of a pause as long as the guest is large.
    Yes,
}

/// One migration.
pub struct Attempt<'a> {
    xen: &'a Xen,
    order: Order,
    host: &'a mut dyn Host,
    sink: Sink,
    channel: Option<Channel>,
    log: &'a StubLog,
    recorder: &'a mut dyn Recorder,
}

impl<'a> Attempt<'a> {
    /// Nothing is done yet; with a channel to `lull land`, the guest lands fast.
    pub fn new(
        xen: &'a Xen,
        order: Order,
        host: &'a mut dyn Host,
        sink: Sink,
        channel: Option<Channel>,
        log: &'a StubLog,
        recorder: &'a mut dyn Recorder,
    ) -> Self {
        Self {
            xen,
            order,
            host,
            sink,
            channel,
            log,
            recorder,
        }
    }

    /// Moves the guest, or leaves it running where it is. Everything is undone
    /// but the log-dirty mode and the stub of a move that is complete: the
    /// guest waits, and whoever started this takes them away.
    ///
    /// # Errors
    /// When it could not even be begun: the stream is as it was.
    pub fn run(self) -> Result<Verdict, NotBegun> {
        let Self {
            xen,
            order,
            host,
            sink,
            channel,
            log,
            recorder,
        } = self;
        // Who cannot be asked any more does not want it either.
        let mut is_over = || host.is_cancelled().unwrap_or(true);
        let prepared = match prepare(xen, &order, &mut is_over) {
            Ok(prepared) => prepared,
            Err(failure) => return Err(NotBegun(Verdict::from(&failure))),
        };
        // All that follows is what a stub says, which its guest may have taken. Before, the
        // attempt could still become Xen's own helper's.
        confine::to_no_program();
        host.tell(prepared.in_words());
        let mut session = Session::new(xen, &order, host, sink, log, &prepared, recorder);
        let (verdict, told) = session.run_and_undo(channel);
        if verdict.how == How::StreamComplete {
            // Every moment here is part of the pause, and so are those in
            // which `lull land` and its connection would end.
            std::mem::forget(session);
            std::mem::forget(prepared);
        } else {
            drop(session);
            drop(prepared);
        }
        host.tell(told.ended(order.start, &verdict));
        Ok(verdict)
    }
}

/// An attempt that could not be begun, and why. If nobody else moves the guest,
/// [`never_begun`] is to be told.
pub struct NotBegun(pub Verdict);

/// What is to be told of an attempt that ended with `verdict` before it began.
pub fn never_begun(start: Instant, verdict: &Verdict) -> events::Event {
    Told::default().ended(start, verdict)
}

/// What is left to tell when all is over.
#[derive(Default)]
pub struct Told {
    /// The pause's parts.
    pub observed: PauseParts,
    /// The pause, if the guest was stopped and resumed.
    pub refused_pause: Option<Duration>,
    /// And how long resuming it took.
    pub resume: Option<Duration>,
    /// When the stream was complete.
    pub complete_at: Option<Instant>,
    /// Guest pages in the stream.
    pub pages_sent: u64,
    /// Bytes of the stream.
    pub bytes_sent: u64,
    /// CPU time of the stub.
    pub stub_cpu_ms: Option<u64>,
}

impl Told {
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
            pages_sent: self.pages_sent,
            bytes_sent: self.bytes_sent,
            monotonic_ns: now_ns().saturating_sub(ended_ago.as_nanos() as u64),
            helper_cpu_ms: process::cpu_ms(),
            helper_peak_bytes: process::peak_bytes(),
            stub_cpu_ms: self.stub_cpu_ms,
        })
    }
}

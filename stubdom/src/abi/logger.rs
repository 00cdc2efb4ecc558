//! defmt's way out: frames go to the link's log, dom0 decodes them.

use core::sync::atomic::{AtomicU64, Ordering};

use lull_core::link::LogWriter;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::memory;

/// The clock of the log: when, on dom0's clock, the event being handled
/// happened.
static NOW: AtomicU64 = AtomicU64::new(0);

defmt::timestamp!("{=u64:us}", NOW.load(Ordering::Relaxed));

/// Sets the log's clock, in microseconds.
pub fn set_time(micros: u64) {
    NOW.store(micros, Ordering::Relaxed);
}

struct State {
    encoder: defmt::Encoder,
    log: LogWriter,
}

static STATE: SpinMutex<State> = SpinMutex::new(State {
    encoder: defmt::Encoder::new(),
    log: LogWriter::new(),
});

#[defmt::global_logger]
struct Logger;

/// Runs `frame` on a state that the caller has locked by `acquire`.
///
/// # Safety
/// Between `acquire` and `release` only.
unsafe fn with_locked(frame: impl FnOnce(&mut defmt::Encoder, &mut dyn FnMut(&[u8]))) {
    // SAFETY: the lock is held, by the `acquire` whose guard was forgotten.
    let state = unsafe { &mut *STATE.as_mut_ptr() };
    let State { encoder, log } = state;
    frame(encoder, &mut |bytes| log.write(&memory::link().log, bytes));
}

// SAFETY: `acquire` takes a lock that `release` gives back; there is one CPU
// and no interrupt, so nothing comes between.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        SpinMutexGuard::leak(STATE.lock());
        // SAFETY: locked just now.
        unsafe { with_locked(|encoder, write| encoder.start_frame(write)) };
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: defmt calls this after `acquire`.
        unsafe { with_locked(|encoder, write| encoder.end_frame(write)) };
        // SAFETY: locked by `acquire`, and the reference is gone.
        unsafe { STATE.force_unlock() };
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: defmt calls this between `acquire` and `release`.
        unsafe { with_locked(|encoder, write| encoder.write(bytes, write)) };
    }
}

//! The output of defmt: frames go to the link's log, and dom0 decodes them.

use core::sync::atomic::{AtomicU64, Ordering};

use lull_core::link::LogWriter;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use super::memory;

/// The clock of the log: the time, on dom0's clock, of the event that is being handled.
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

/// Runs `frame` on the state that the caller has locked by `acquire`.
///
/// # Safety
/// It may be called only between `acquire` and `release`.
unsafe fn with_locked(frame: impl FnOnce(&mut defmt::Encoder, &mut dyn FnMut(&[u8]))) {
    // SAFETY: the lock is held, by the `acquire` whose guard was forgotten.
    let state = unsafe { &mut *STATE.as_mut_ptr() };
    let State { encoder, log } = state;
    frame(encoder, &mut |bytes| log.write(&memory::link().log, bytes));
}

// SAFETY: `acquire` takes a lock that `release` gives back; there is one CPU and no
// interrupt, so nothing runs in between.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        SpinMutexGuard::leak(STATE.lock());
        // SAFETY: `acquire` has just taken the lock.
        unsafe { with_locked(|encoder, write| encoder.start_frame(write)) };
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: defmt calls this after `acquire`.
        unsafe { with_locked(|encoder, write| encoder.end_frame(write)) };
        // SAFETY: `acquire` took the lock, and the reference is gone.
        unsafe { STATE.force_unlock() };
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: defmt calls this between `acquire` and `release`.
        unsafe { with_locked(|encoder, write| encoder.write(bytes, write)) };
    }
}

//! Checks pages in a cycle for as long as the guest lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::working_set::WorkingSet;

/// The number of pages checked between two naps, which gives some 1,500 a second. More
/// would take processor time from the migration that is being measured.
const TURN: u64 = 64;
const NAP: Duration = Duration::from_millis(40);

/// The number of failed pages whose indexes are kept.
pub const NAMED: usize = 8;

/// The checker of pages.
pub struct Verifier {
    set: Arc<WorkingSet>,
    verified: AtomicU64,
    errors: AtomicU64,
    bad: Mutex<Vec<u64>>,
}

impl Verifier {
    /// Returns a checker with zero counters.
    pub fn new(set: Arc<WorkingSet>) -> Self {
        Self {
            set,
            verified: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bad: Mutex::new(Vec::new()),
        }
    }

    /// Returns the number of pages checked so far.
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// Returns the number of checks that failed so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Returns the indexes of the first pages that failed.
    pub fn bad_pages(&self) -> [Option<u64>; NAMED] {
        let mut named = [None; NAMED];
        if let Ok(bad) = self.bad.lock() {
            for (slot, page) in named.iter_mut().zip(bad.iter()) {
                *slot = Some(*page);
            }
        }
        named
    }

    /// Checks every page once.
    pub fn sweep(&self) {
        for index in 0..self.set.reserve() {
            self.check(index);
        }
    }

    /// Checks for as long as the guest lives.
    pub fn run(&self) -> ! {
        loop {
            for index in 0..self.set.reserve() {
                self.check(index);
                if index % TURN == TURN - 1 {
                    thread::sleep(NAP);
                }
            }
            thread::sleep(NAP);
        }
    }

    fn check(&self, index: u64) {
        self.verified.fetch_add(1, Ordering::Relaxed);
        let Err(damage) = self.set.check(index) else {
            return;
        };
        if self.errors.fetch_add(1, Ordering::Relaxed) >= NAMED as u64 {
            return;
        }
        eprintln!("lull-guest: page {index} is damaged: {damage:?}");
        if let Ok(mut bad) = self.bad.lock() {
            bad.push(index);
        }
    }
}

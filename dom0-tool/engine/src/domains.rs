//! What the engine asks of the hypervisor, about the guest and its stub.
//!
//! [`OnXen`](super::on_xen::OnXen) asks a real hypervisor. The engine's tests have a model
//! in its place, in which each phase of an attempt can meet each fault
//! (`tests`).

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use lull_core::link::Link;
use lull_xen::DomId;
use lull_xen::device_model::MakeRun;
use lull_xen::domain::{DomainState, Outlived, Resumed};
use lull_xen::domctl::Clean;

use super::log_dirty::{Cleaned, Unread};
use super::saved::Saved;

/// The two domains of an attempt: the guest, whose dirty log is on, and its stub.
///
/// An error is one of Xen, xenstore or the kernel, as it was returned.
pub trait Domains {
    /// The guest's state, or `None` if it is gone.
    fn guest(&self) -> io::Result<Option<DomainState>>;

    /// The guest's number of pages, or `None` if it is gone.
    fn guest_pages(&self) -> io::Result<Option<u64>>;

    /// The guest's highest frame.
    fn highest_frame(&self) -> io::Result<u64>;

    /// Whether each of these frames has a page. At most as many frames as a batch has.
    fn populated(&self, pfns: &[u64]) -> io::Result<Vec<bool>>;

    /// How many pages are dirty since the last CLEAN.
    fn count(&self) -> Result<u64, Unread>;

    /// Copies the dirty log to the stub's bitmap and clears it.
    fn clean(&self, clean: Clean) -> Result<Cleaned, Unread>;

    /// The stream's headers and the records that never change.
    fn headers(&self) -> io::Result<Vec<u8>>;

    /// The guest's clock, CPUs and parameters.
    fn saved(&self) -> io::Result<Saved>;

    /// The contents of these frames, read without the stub.
    fn read(&self, pfns: &[u64]) -> io::Result<Vec<u8>>;

    /// Resumes the guest if it is suspended, its emulated devices first.
    fn resume(&self, emulated: &mut dyn MakeRun) -> io::Result<Resumed>;

    /// Withdraws the request to suspend, or waits a short while for the guest to follow it
    /// and resumes it.
    fn outlive_request(&self, emulated: &mut dyn MakeRun) -> io::Result<Outlived>;

    /// The stub's domain number.
    fn stub_domid(&self) -> DomId;

    /// The stub's memory, in bytes.
    fn stub_memory(&self) -> u64;

    /// The stub's state, or `None` if it is gone.
    fn stub(&self) -> io::Result<Option<DomainState>>;

    /// How long the stub may owe an answer before it counts as hung.
    fn stub_silence(&self) -> Duration;

    /// Acknowledges a request to the stub to shut down. Returns whether there was one.
    fn acknowledge_shutdown(&self) -> io::Result<bool>;

    /// The control pages that dom0 and the stub share.
    fn link(&self) -> &Link;

    /// Sets the bits of `words` in the stub's bitmap too. Returns how many were not set.
    fn add_to_bitmap(&self, words: &[u64]) -> u64;

    /// Maps frames of the guest in the slot's window. Those without a page are removed from
    /// `pfns` and returned.
    fn map(&self, slot: usize, pfns: &mut Vec<u64>) -> io::Result<Vec<u64>>;

    /// Unmaps all pages of the slot's window.
    fn unmap(&self, slot: usize) -> io::Result<()>;

    /// The first `pages` pages of the slot's payload.
    fn payload(&self, slot: usize, pages: usize) -> IoSlice<'_>;

    fn notify(&self) -> io::Result<()>;

    /// The descriptor that becomes readable when the stub has signalled.
    fn signal(&self) -> BorrowedFd<'_>;

    /// Takes a signal of the stub off that descriptor.
    fn take_signal(&self) -> io::Result<()>;
}

//! The classic landing: everything goes into the stream that libxl began.
//!
//! The destination builds the guest after the stream's last record. It answers nothing, so
//! what is written counts as sent. As with the stock sender, memory that the guest gives
//! back is not taken from its copy.

use std::os::fd::BorrowedFd;

use lull_core::units::Micros;
use lull_wire::events;
use lull_wire::stream::records::{self, Record};

use super::{Landing, Means, Received, ToVerify};
use crate::failure::Failure;
use crate::saved::{self, Saved};
use crate::slots::Copied;
use crate::stream::queue::Queue;

/// A classic landing. The stream itself is all its state.
pub struct Classic;

impl Landing for Classic {
    fn name(&self) -> events::Landing {
        events::Landing::Classic
    }

    fn asks_itself(&self) -> bool {
        false
    }

    fn reserve(&self) -> Micros {
        Micros::ZERO
    }

    fn end_round(&mut self, _: &mut Means<'_>) -> Result<bool, Failure> {
        Ok(false)
    }

    fn has_first_pass(&self) -> bool {
        false
    }

    fn is_resting(&self) -> bool {
        false
    }

    fn advance(&mut self, _: &mut Means<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn recv(&mut self) -> Result<Option<Received>, Failure> {
        Ok(None)
    }

    fn wake_on(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn left_out(&mut self, _: u8, _: Vec<u64>) {}

    fn marks_zeros(&self) -> bool {
        false
    }

    fn send(&mut self, queue: &mut Queue, slot: usize, copied: Copied) -> bool {
        send_in_stream(queue, slot, &copied.pages)
    }

    fn is_sent_when_written(&self) -> bool {
        true
    }

    fn follows_memory(&self) -> bool {
        false
    }

    fn see_pages(&mut self, _: u64) {}

    fn is_ballooning(&self) -> bool {
        false
    }

    fn list(&mut self, _: &[u64]) -> Vec<u64> {
        Vec::new()
    }

    fn send_depopulated(&mut self, _: &mut Queue) -> bool {
        false
    }

    /// All pages are sent once more, and the destination compares them with its copy.
    fn begin_verify(
        &mut self,
        with: &mut Means<'_>,
        first_pass: Vec<u64>,
    ) -> Result<ToVerify, Failure> {
        with.queue.push(records::record(Record::Verify, &[]));
        Ok(ToVerify {
            present: first_pass,
            absent: Vec::new(),
        })
    }

    fn verify(&mut self, queue: &mut Queue, pfns: &[u64], pages: Option<Vec<u8>>) {
        if let Some(pages) = pages {
            queue.push(records::page_data_header(pfns));
            queue.push(pages);
        }
    }

    fn is_answered(&self) -> bool {
        true
    }

    fn verified(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    fn send_final_state(&mut self, queue: &mut Queue, state: &Saved) -> Result<(), Failure> {
        queue.push(saved::records(state));
        Ok(())
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn start(&mut self, _: &mut Queue) {}
}

/// Puts a batch into the stream. Returns whether it has any pages.
pub(super) fn send_in_stream(queue: &mut Queue, slot: usize, pfns: &[u64]) -> bool {
    if pfns.is_empty() {
        return false;
    }
    queue.push(records::page_data_header(pfns));
    queue.push_payload(slot, 0..pfns.len());
    true
}

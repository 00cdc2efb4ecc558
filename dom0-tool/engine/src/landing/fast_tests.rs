//! Batches over several connections: what is sent where, and when one of them is lost.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;

use super::super::Connection;
use super::*;

/// The other ends of a connection. Nothing is read from the first.
type Line = (PipeReader, PipeWriter);

fn line() -> (OwnedFd, OwnedFd, Line) {
    let (land, to) = pipe().unwrap();
    let (from, answers) = pipe().unwrap();
    (to.into(), from.into(), (land, answers))
}

/// A landing that takes batches, with two further connections.
fn open() -> (Fast, Vec<Line>) {
    let (to, from, first) = line();
    let guest = ([7; 16], "web1");
    let mut channel = Channel::new(to, from, guest, Edition::Joined).unwrap();
    let mut lines = vec![first];
    for number in 1..=2 {
        let (to, from, further) = line();
        channel.join(Connection { number, to, from }).unwrap();
        lines.push(further);
    }
    let mut fast = Fast::new(channel, 4_096, 4_096);
    fast.stage = Stage::Open;
    (fast, lines)
}

fn batch(frames: std::ops::Range<u64>) -> Copied {
    Copied {
        pages: frames.collect(),
        zeros: Vec::new(),
    }
}

/// Answers all messages on this connection that are not answered, and reads the answers.
fn answer(fast: &mut Fast, lines: &mut [Line], number: usize) {
    let count = match number.checked_sub(1) {
        None => fast.asked.len(),
        Some(further) => fast.further.unanswered()[further],
    };
    for _ in 0..count {
        lines[number]
            .1
            .write_all(&FromLand::Applied.encode())
            .unwrap();
    }
    while fast.recv().unwrap().is_some() {}
}

fn under_way(fast: &Fast) -> [usize; 3] {
    let further = fast.further.unanswered();
    [fast.asked.len(), further[0], further[1]]
}

/// Depopulated frames may be back in the next batch. If the two crossed on different
/// connections, the destination would take the page away again.
#[test]
fn depopulated_frames_are_sent_while_nothing_is_under_way_elsewhere() {
    let (mut fast, mut lines) = open();
    let mut queue = Queue::default();
    assert!(fast.send(&mut queue, 0, batch(0..300)));
    assert_eq!(under_way(&fast), [1, 1, 1]);
    // Two frames go.
    let mut now = vec![u64::MAX; 64];
    now[0] = !0b1100;
    fast.list(&now);
    assert!(fast.send_depopulated(&mut queue), "it has to wait");
    assert!(fast.send(&mut queue, 1, batch(300..600)));
    assert_eq!(
        under_way(&fast),
        [2, 1, 1],
        "batches take the first connection"
    );
    answer(&mut fast, &mut lines, 1);
    assert!(fast.send_depopulated(&mut queue), "it has to wait");
    answer(&mut fast, &mut lines, 2);
    assert!(!fast.send_depopulated(&mut queue));
    assert_eq!(fast.asked.back(), Some(&Asked::Depopulated));
    // One of them is back before that is answered.
    assert!(fast.send(&mut queue, 2, batch(3..200)));
    assert_eq!(under_way(&fast), [4, 0, 0]);
    answer(&mut fast, &mut lines, 0);
    assert!(fast.is_answered());
    assert!(fast.send(&mut queue, 3, batch(0..300)));
    assert_eq!(under_way(&fast), [1, 1, 1]);
}

/// The count that ends a round waits for that: what is left would be sent in the pause. The
/// guest's number of pages no longer changes.
#[test]
fn what_a_guest_gave_back_is_being_told_until_the_destination_knows_all_of_it() {
    const FRAMES: u64 = 60_000;
    let (mut fast, mut lines) = open();
    fast.at_destination = DestinationFrames::new(FRAMES, FRAMES);
    let mut queue = Queue::default();
    let all: Vec<u64> = (0..FRAMES).collect();
    fast.at_destination.send(&all);
    assert!(!fast.is_sending_depopulated());
    let none = vec![0; FRAMES.div_ceil(64) as usize];
    fast.list(&none);
    let mut looks = 0;
    while fast.send_depopulated(&mut queue) {
        looks += 1;
        assert!(fast.is_sending_depopulated() && !fast.is_ballooning());
        answer(&mut fast, &mut lines, 0);
    }
    assert!(looks > 1, "all was told at once");
    assert!(fast.is_sending_depopulated(), "the rest is not answered");
    answer(&mut fast, &mut lines, 0);
    assert!(!fast.is_sending_depopulated());
}

/// What a connection was to carry goes nowhere else before the destination has said that
/// it reads nothing more from it, and a batch is in place only with all its shares.
#[test]
fn what_is_lost_is_sent_again_once_it_cannot_come_late() {
    let (mut fast, mut lines) = open();
    let mut queue = Queue::default();
    assert!(fast.send(&mut queue, 0, batch(0..300)));
    drop(lines.remove(1));
    assert_eq!(fast.recv().unwrap(), Some(Received::Narrowed));
    assert_eq!(fast.connections(), Some(2));
    assert!(fast.further.is_spread() && fast.further.take_again().is_none());
    // The first connection has the answers of its share and, in this order, of the
    // Leave that `advance` has sent.
    assert_eq!(fast.further.take_lost(), [1]);
    fast.asked.push_back(Asked::Leave(1));
    let first = &mut lines[0].1;
    first.write_all(&FromLand::Applied.encode()).unwrap();
    assert_eq!(fast.recv().unwrap(), Some(Received::Noted));
    first.write_all(&FromLand::Left.encode()).unwrap();
    assert_eq!(fast.recv().unwrap(), Some(Received::Noted));
    let share = fast.further.take_again().unwrap();
    fast.push(&mut queue, share);
    let other = &mut lines[1].1;
    other.write_all(&FromLand::Applied.encode()).unwrap();
    assert_eq!(fast.recv().unwrap(), Some(Received::Noted));
    lines[0].1.write_all(&FromLand::Applied.encode()).unwrap();
    assert_eq!(fast.recv().unwrap(), Some(Received::Sent(0)));
    assert!(fast.is_answered());
}

/// A destination may say nothing out of turn on the first connection.
#[test]
fn a_leave_that_was_not_asked_for_is_no_answer() {
    let (mut fast, mut lines) = open();
    lines[0].1.write_all(&FromLand::Left.encode()).unwrap();
    assert!(fast.recv().is_err());
}

/// A ping goes ahead of a round's first batch, and of no other.
#[test]
fn each_round_begins_with_a_round_trip() {
    let (mut fast, mut lines) = open();
    let mut queue = Queue::default();
    for _ in 0..2 {
        fast.begin_round();
        assert!(fast.send(&mut queue, 0, batch(0..30)));
        assert!(fast.send(&mut queue, 1, batch(30..60)));
        assert_eq!(fast.asked.front(), Some(&Asked::RoundTrip));
        let asked = fast
            .asked
            .iter()
            .filter(|asked| **asked == Asked::RoundTrip);
        assert_eq!(asked.count(), 1);
        lines[0].1.write_all(&FromLand::Pong.encode()).unwrap();
        assert_eq!(fast.recv().unwrap(), Some(Received::RoundTrip));
        for number in 0..3 {
            answer(&mut fast, &mut lines, number);
        }
        assert!(fast.is_answered());
    }
    // The answer to a ping that was never sent.
    lines[0].1.write_all(&FromLand::Pong.encode()).unwrap();
    assert!(fast.recv().is_err());
}

/// A ping of the pulse that is still unanswered is answered first.
#[test]
fn a_round_trip_behind_a_pulse_is_told_from_it() {
    let (mut fast, mut lines) = open();
    let mut queue = Queue::default();
    fast.pinged = true;
    fast.begin_round();
    assert!(fast.send(&mut queue, 0, batch(0..30)));
    for _ in 0..2 {
        lines[0].1.write_all(&FromLand::Pong.encode()).unwrap();
    }
    assert_eq!(fast.recv().unwrap(), Some(Received::Noted));
    assert_eq!(fast.recv().unwrap(), Some(Received::RoundTrip));
}

//! The curves bound the samples that they were made from: no generated stream of samples
//! exceeds them.

use lull_core::{
    dirty::DirtyCurve,
    limits::Risk,
    service::ServiceCurve,
    units::{Bounds, Micros, PageRate},
};
use proptest::{collection::vec, prelude::*};

const BATCH: u64 = 1_024;

const NO_RISK: Risk = Risk::per_mille(0).unwrap();

/// Sends `batches` back to back, each of 1,024 pages in that many µs.
fn send(rate: &mut ServiceCurve, start: u64, batches: &[u64]) -> u64 {
    let mut at = start;
    rate.start(Micros(at), 0);
    for took in batches {
        at += took;
        rate.sent(Micros(at), BATCH, 0);
    }
    rate.stop(Micros(at));
    at
}

proptest! {
    /// On a link of constant speed both bounds are that speed, except for the margin and
    /// rounding.
    #[test]
    fn constant_link_is_bounded_closely(took in 100..1_000_000_u64) {
        let mut rate = ServiceCurve::new();
        send(&mut rate, 0, &[took; 500]);
        let Bounds { lower, upper } = rate.bounds();
        let truth = BATCH * 1_000_000 / took;
        prop_assert!(lower.0 <= truth && upper.0 >= truth);
        prop_assert!(lower.0 + 1 >= truth, "{lower:?} {truth}");
        prop_assert!(upper.0 <= truth + 1, "{upper:?} {truth}");
    }

    /// With jitter the mean of the remembered samples lies within the bounds, and so does
    /// the mean of the whole stream if all of it is remembered.
    #[test]
    fn jittery_link_is_bounded(batches in vec(20_000..60_000_u64, 1..=ServiceCurve::WINDOWS)) {
        let mut rate = ServiceCurve::new();
        let end = send(&mut rate, 7, &batches) - 7;
        let Bounds { lower, upper } = rate.bounds();
        let pages = BATCH * batches.len() as u64;
        prop_assert!(lower <= PageRate::floor(pages, Micros(end)));
        prop_assert!(upper >= PageRate::ceil(pages, Micros(end)));
        // No batch was slower than the upper bound of its time.
        for took in &batches {
            prop_assert!(rate.worst(BATCH, NO_RISK) >= Micros(*took));
        }
        // The same holds for all batches together.
        prop_assert!(rate.worst(pages, NO_RISK) >= Micros(end));
    }

    /// This holds for any number of pages in a row. No row took longer than the bound
    /// without a risk, including rows longer than what is remembered; with a risk, at most
    /// that share of them took longer.
    #[test]
    fn so_many_in_a_row_never_took_longer(
        batches in vec(prop_oneof![20_000..60_000_u64, 500_000..5_000_000_u64], 1..=ServiceCurve::WINDOWS),
        row in 1..100_usize,
        risk in 0..=500_u16,
    ) {
        let mut rate = ServiceCurve::new();
        send(&mut rate, 0, &batches);
        let risk = Risk::per_mille(risk).unwrap();
        let pages = BATCH * row as u64;
        let took: Vec<u64> = batches.windows(row).map(|row| row.iter().sum()).collect();
        let worst = rate.worst(pages, NO_RISK);
        prop_assert!(took.iter().all(|took| worst >= Micros(*took)));
        let at_risk = rate.worst(pages, risk);
        prop_assert!(at_risk <= worst);
        let longer = took.iter().filter(|took| at_risk < Micros(**took)).count() as u64;
        prop_assert!(longer <= risk.share_of(took.len() as u64), "{longer} of {}", took.len());
        // More pages never take less time.
        prop_assert!(rate.worst(pages + 1, NO_RISK) >= worst);
    }

    /// A buffer that takes the first pages of every round at once does not raise the lower
    /// bound above the sustained rate of the link.
    #[test]
    fn buffered_bursts_do_not_raise_the_lower_bound(took in 2_000..50_000_u64, rounds in 1..10_u64) {
        let mut rate = ServiceCurve::new();
        let mut at = send(&mut rate, 0, &[took; 100]);
        for _ in 0..rounds {
            at = send(&mut rate, at + 1_000_000, &[1]);
        }
        prop_assert!(rate.bounds().lower.0 <= BATCH * 1_000_000 / took);
    }

    /// The bound accounts for a stall while the stall lasts, however long it is.
    #[test]
    fn stall_lowers_the_bound_while_it_lasts(took in 2_000..20_000_u64, stall in 100_000..60_000_000_u64) {
        let mut rate = ServiceCurve::new();
        let at = send(&mut rate, 0, &[took; 100]);
        rate.start(Micros(at), 0);
        rate.advance(Micros(at + stall));
        // At best the batch in flight arrives now, after some that arrived before.
        prop_assert!(rate.bounds().lower.0 <= 20 * BATCH * 1_000_000 / stall);
        let before = rate.bounds().lower;
        rate.advance(Micros(at + 2 * stall));
        prop_assert!(rate.bounds().lower < before);
        // This holds at any risk.
        let most = Risk::per_mille(Risk::MAX).unwrap();
        prop_assert!(rate.worst(1, most) >= Micros(2 * stall));
    }

    /// The time between rounds does not affect the estimate of the link.
    #[test]
    fn idle_time_does_not_count(took in 2_000..50_000_u64, idle in 0..100_000_000_u64) {
        let mut busy = ServiceCurve::new();
        let at = send(&mut busy, 0, &[took; 40]);
        send(&mut busy, at, &[took; 40]);
        let mut paused = ServiceCurve::new();
        let at = send(&mut paused, 0, &[took; 40]);
        paused.advance(Micros(at + idle / 2));
        send(&mut paused, at + idle, &[took; 40]);
        prop_assert_eq!(busy.bounds(), paused.bounds());
    }

    /// Zero pages are no evidence of a path: however quickly they go, and however many they
    /// are, the curve stays as it was.
    #[test]
    fn batches_of_zero_pages_say_nothing_of_the_path(
        took in 2_000..50_000_u64,
        zeros in vec((0..2_000_u64, 0..BATCH / 2), 1..200),
    ) {
        let mut rate = ServiceCurve::new();
        let mut at = send(&mut rate, 0, &[took; 40]);
        let seen = |rate: &ServiceCurve| {
            let worst = rate.worst(3 * BATCH, NO_RISK);
            (rate.bounds(), rate.expected_rate(), worst)
        };
        let before = seen(&rate);
        rate.start(Micros(at), 1);
        for (took, pages) in zeros {
            at += took;
            rate.sent(Micros(at), pages, BATCH - pages);
        }
        rate.stop(Micros(at));
        prop_assert_eq!(seen(&rate), before);
    }

    /// A path that stalls meanwhile is seen all the same.
    #[test]
    fn a_stall_among_zero_pages_counts(took in 2_000..20_000_u64, stall in 100_000..60_000_000_u64) {
        let mut rate = ServiceCurve::new();
        let at = send(&mut rate, 0, &[took; 100]);
        rate.start(Micros(at), 1);
        rate.sent(Micros(at + stall), 0, BATCH);
        let least = stall - took * 21 / 20;
        prop_assert!(rate.worst(20 * BATCH, NO_RISK) >= Micros(least));
    }

    #[test]
    fn lower_never_exceeds_upper(events in vec((0..4_u8, 0..200_000_u64, 0..5_000_u64), 0..200)) {
        let mut transfer = ServiceCurve::new();
        let mut dirty = DirtyCurve::new();
        let mut at = 0;
        for (kind, wait, pages) in events {
            at += wait;
            match kind {
                0 => { transfer.start(Micros(at), 0); dirty.restart(Micros(at)); }
                1 => { transfer.sent(Micros(at), pages, at % 5_000); dirty.counted(Micros(at), pages); }
                2 => { transfer.stop(Micros(at)); dirty.round_ended(Micros(at), pages); }
                _ => transfer.advance(Micros(at)),
            }
            let Bounds { lower, upper } = transfer.bounds();
            prop_assert!(lower <= upper);
            let Bounds { lower, upper } = dirty.bounds();
            prop_assert!(lower <= upper);
        }
    }

    /// For a writer of constant rate over a working set, the upper bound is at least that
    /// rate although the rounds saturate, and the lower bound is at most that rate.
    #[test]
    fn steady_writer_is_bounded(
        per_ms in 1..500_u64,
        rounds in vec(60..20_000_u64, 2..6),
        working_set_ms in 100..5_000_u64,
    ) {
        let mut rate = DirtyCurve::new();
        let set = per_ms * working_set_ms;
        let mut at = 0;
        for length in rounds {
            rate.restart(Micros::from_millis(at));
            let mut ms = 0;
            while ms < length {
                ms = (ms + 100).min(length);
                rate.counted(Micros::from_millis(at + ms), (per_ms * ms).min(set));
            }
            at += length;
            rate.round_ended(Micros::from_millis(at), (per_ms * length).min(set));
        }
        let Bounds { lower, upper } = rate.bounds();
        prop_assert!(upper.0 >= per_ms * 1_000, "{upper:?}");
        prop_assert!(lower.0 <= per_ms * 1_000, "{lower:?}");
        prop_assert!(upper.0 <= per_ms * 1_000 + 1, "{upper:?}");
    }

    /// For a jittery writer, every remembered window's rate is at most the upper bound, and
    /// every remembered round's average is at least the lower bound.
    #[test]
    fn jittery_writer_is_bounded(rounds in vec(vec(0..5_000_u64, 1..20), 1..=DirtyCurve::ROUNDS)) {
        let mut rate = DirtyCurve::new();
        let mut at = 0;
        let mut busiest = 0;
        let mut averages = Vec::new();
        for round in &rounds {
            rate.restart(Micros::from_millis(at));
            let mut count = 0;
            for new in round {
                at += 100;
                count += new;
                busiest = busiest.max(new * 10);
                rate.counted(Micros::from_millis(at), count);
            }
            rate.round_ended(Micros::from_millis(at), count);
            averages.push(count * 10 / round.len() as u64);
        }
        let Bounds { lower, upper } = rate.bounds();
        prop_assert!(upper.0 >= busiest);
        prop_assert!(averages.iter().all(|average| lower.0 <= *average));
        for round in &rounds {
            for length in 1..=round.len() {
                let most = rate.at_most(Micros::from_millis(100 * length as u64));
                let came = round.windows(length).map(|row| row.iter().sum::<u64>()).max();
                prop_assert!(most >= came.unwrap_or(0), "{most} {came:?} in {length} ticks");
            }
        }
    }

    /// Conversions of units round towards the safe side.
    #[test]
    fn rates_round_outwards(pages in 0..1_u64 << 40, span in 1..1_u64 << 40) {
        let exact = u128::from(pages) * 1_000_000;
        let floor = PageRate::floor(pages, Micros(span));
        let ceil = PageRate::ceil(pages, Micros(span));
        prop_assert!(u128::from(floor.0) * u128::from(span) <= exact);
        prop_assert!(u128::from(ceil.0) * u128::from(span) >= exact);
        prop_assert!(ceil.0 - floor.0 <= 1);
        prop_assert!(ceil.pages_in(Micros(span)) >= pages);
        prop_assert!(floor.0 == 0 || floor.time_for(pages) >= Micros(span));
    }
}

#[test]
fn nothing_measured_is_nothing_known() {
    assert_eq!(ServiceCurve::new().bounds(), Bounds::UNKNOWN);
    assert_eq!(DirtyCurve::new().bounds(), Bounds::UNKNOWN);
}

#[test]
fn short_rounds_share_a_window() {
    let mut rate = DirtyCurve::new();
    rate.restart(Micros::ZERO);
    rate.round_ended(Micros::from_millis(1_000), 100_000);
    // These are rounds of 5 ms with one page each. After four windows' worth of them the
    // earlier busy round is forgotten.
    for round in 0..60 {
        let start = 1_000 + round * 5;
        rate.restart(Micros::from_millis(start));
        rate.round_ended(Micros::from_millis(start + 5), 1);
    }
    assert_eq!(rate.bounds().upper, PageRate(200));
}

/// Sends as [`send`] does, and reports every batch as held back.
fn send_held(rate: &mut ServiceCurve, start: u64, batches: &[u64]) -> u64 {
    let mut at = start;
    rate.start(Micros(at), 0);
    for took in batches {
        at += took;
        rate.held_back();
        rate.sent(Micros(at), BATCH, 0);
    }
    rate.stop(Micros(at));
    at
}

proptest! {
    /// Samples under a cap never lead to an estimate above the cap, however the buffers
    /// shape them; nor below it, if they were held back.
    #[test]
    fn a_cap_is_no_proof_of_more(cap in 1_000..100_000_u64, batches in vec((1..60_000_u64, any::<bool>()), 1..50)) {
        let mut rate = ServiceCurve::new();
        rate.cap_at(Some(PageRate(cap)));
        let mut at = 0;
        for (took, held) in batches {
            rate.start(Micros(at), 0);
            at += took;
            if held {
                rate.held_back();
            }
            rate.sent(Micros(at), BATCH, 0);
            prop_assert!(rate.bounds().lower.0 <= cap);
        }
        rate.cap_at(None);
        // Buffers that had run empty fill up at the speed of memory.
        let fills = [20_000; ServiceCurve::UNSETTLED as usize];
        send(&mut rate, at, &fills);
        prop_assert!(rate.bounds().lower.0 <= cap);
    }

    /// The estimate of the link is kept, however little is sent under a cap.
    #[test]
    fn a_cap_does_not_make_the_link_slow(took in 20_000..50_000_u64, slower in 2..50_u64) {
        let mut rate = ServiceCurve::new();
        let at = send(&mut rate, 0, &[took; 40]);
        let before = rate.bounds();
        rate.cap_at(Some(PageRate(BATCH * 1_000_000 / took / slower)));
        let at = send_held(&mut rate, at, &[took * slower; 40]);
        prop_assert_eq!(rate.bounds(), before);
        rate.cap_at(None);
        send(&mut rate, at, &[20_000]);
        prop_assert_eq!(rate.bounds(), before);
    }

    /// A link that is slower than the cap is estimated correctly.
    #[test]
    fn a_link_below_the_cap_is_seen(took in 20_000..50_000_u64) {
        let truth = BATCH * 1_000_000 / took;
        let mut rate = ServiceCurve::new();
        rate.cap_at(Some(PageRate(2 * truth)));
        send(&mut rate, 0, &[took; 40]);
        let Bounds { lower, upper } = rate.bounds();
        prop_assert!(lower.0 <= truth && upper.0 >= truth && upper.0 <= truth + 1);
    }
}

#[test]
fn a_round_saturated_at_its_end_does_not_hide_what_the_next_begins_with() {
    let mut rate = DirtyCurve::new();
    // These rounds fill more than the curve remembers.
    let mut at = 0;
    for _ in 0..=DirtyCurve::ROUNDS {
        rate.restart(Micros::from_millis(at));
        rate.counted(Micros::from_millis(at + 100), 100);
        // In the last part of a window no new pages become dirty.
        rate.counted(Micros::from_millis(at + 200), 100);
        rate.round_ended(Micros::from_millis(at + 249), 100);
        // This count comes while the bitmap is taken.
        rate.counted(Micros::from_millis(at + 270), 100);
        at += 270;
    }
    assert_eq!(rate.bounds().upper, PageRate(1_000));
}

/// One stall of ten seconds must not raise the price of every window. Earlier it did,
/// although ten pages do not represent ten thousand.
#[test]
fn a_stall_costs_what_it_cost_once() {
    let mut rate = ServiceCurve::new();
    let mut batches = [500_000; 40];
    batches[7] = 10_000_000;
    send(&mut rate, 0, &batches);
    let seconds = |windows: u64, risk| rate.worst(windows * BATCH, risk).0 / 1_000_000;
    assert_eq!(seconds(1, NO_RISK), 10);
    assert_eq!(seconds(8, NO_RISK), 13);
    // One window in forty is within the risk, eight in forty are not.
    assert_eq!(seconds(1, Risk::DEFAULT), 0);
    assert_eq!(seconds(8, Risk::DEFAULT), 13);
    let basis = rate.basis(8 * BATCH, Risk::DEFAULT).unwrap();
    assert_eq!((basis.pages, basis.span), (8 * BATCH, Micros(13_500_000)));
    assert_eq!(rate.expected(8 * BATCH).0.div_ceil(1_000_000), 4);
}

#[test]
fn what_an_early_stretch_says_fades() {
    let mut rate = ServiceCurve::new();
    let at = send(&mut rate, 0, &[5_000_000; 4]);
    send(&mut rate, at, &[50_000; ServiceCurve::WINDOWS]);
    assert!(rate.worst(BATCH, NO_RISK) < Micros(60_000));
}

#[test]
fn a_new_path_is_priced_by_itself() {
    let mut rate = ServiceCurve::new();
    let at = send(&mut rate, 0, &[50_000; 40]);
    rate.path_changed();
    // Until the new path has carried data, the expectation is that of the old one.
    assert_eq!(rate.expected(BATCH), Micros(50_000));
    send(&mut rate, at, &[400_000]);
    assert_eq!(rate.expected(BATCH), Micros(400_000));
}

#[test]
fn a_working_set_bends_the_curve() {
    let mut curve = DirtyCurve::new();
    let mut at = 0;
    for _ in 0..3 {
        curve.restart(Micros::from_millis(at));
        for tick in 1..=100 {
            curve.counted(
                Micros::from_millis(at + 100 * tick),
                (500 * tick).min(4_000),
            );
        }
        at += 10_000;
        curve.round_ended(Micros::from_millis(at), 4_000);
    }
    let second = Micros::from_millis(1_000);
    assert_eq!(curve.bounds().upper, PageRate(5_000));
    assert_eq!(curve.expected_after_bitmap(Micros::from_millis(400)), 2_000);
    assert_eq!(
        curve.expected_after_bitmap(Micros::from_millis(100_000)),
        4_000
    );
    assert_eq!(curve.expected_more(second), 0);
    // Two windows of 6.4 s saw 4,000 pages each; a rate would give 30,000.
    assert!(curve.at_most(second) <= 5_000);
    assert!(curve.at_most(Micros::from_millis(6_000)) <= 8_100);
}

/// A guest whose memory begins with zero pages: they go before anything is known of the path,
/// and what is learned after them is the path's.
#[test]
fn zero_pages_before_all_others_leave_the_first_window_clean() {
    let (mut late, mut plain) = (ServiceCurve::new(), ServiceCurve::new());
    late.start(Micros(0), 0);
    for batch in 1..=500 {
        late.sent(Micros(batch * 1_500), 0, BATCH);
    }
    let mut at = 500 * 1_500;
    for _ in 0..100 {
        at += 4_000;
        late.sent(Micros(at), BATCH, 0);
    }
    send(&mut plain, 0, &[4_000; 100]);
    assert_eq!(late.expected_rate(), plain.expected_rate());
    assert_eq!(late.worst(BATCH, NO_RISK), plain.worst(BATCH, NO_RISK));
}

/// Rounds of 100 pages over a path of 10,000 pages/s, whose other end answers after 50 ms: the
/// pages take 10 ms, and the round trip is counted once for any number of them.
#[test]
fn a_round_trip_is_counted_once_and_is_no_time_of_the_pages() {
    let mut rate = ServiceCurve::new();
    let mut at = send(&mut rate, 0, &[102_400; 20]);
    let round_trip = |rate: &mut ServiceCurve, at: &mut u64, round, takes: u64| {
        rate.start(Micros(*at), round);
        *at += takes;
        rate.round_trip(Micros(*at));
        *at += 10_000;
        rate.sent(Micros(*at), 100, 0);
        rate.stop(Micros(*at));
    };
    for round in 1..60 {
        round_trip(&mut rate, &mut at, round, 50_000);
        assert_eq!(rate.latest_round_trip(), Micros(50_000));
    }
    assert_eq!(rate.expected_rate(), PageRate(10_000));
    assert_eq!(rate.usual_round_trip(), Micros(50_000));
    assert_eq!(rate.expected(100), Micros(60_000));
    assert_eq!(rate.expected(1_000), Micros(150_000));
    assert_eq!(rate.worst(1_000, NO_RISK), Micros(150_000));
    assert_eq!(rate.expected(0), Micros::ZERO);
    // A single long one is the bound while it is the latest, and a stall afterwards. Without a
    // risk it stays the bound. It is never expected.
    round_trip(&mut rate, &mut at, 60, 130_000);
    assert_eq!(rate.expected(100), Micros(60_000));
    assert_eq!(rate.worst(100, Risk::DEFAULT), Micros(140_000));
    round_trip(&mut rate, &mut at, 61, 50_000);
    assert_eq!(rate.worst(100, Risk::DEFAULT), Micros(60_000));
    assert_eq!(rate.worst(100, NO_RISK), Micros(140_000));
    // Three of the last eight are no chance.
    round_trip(&mut rate, &mut at, 62, 120_000);
    round_trip(&mut rate, &mut at, 63, 125_000);
    round_trip(&mut rate, &mut at, 64, 50_000);
    assert_eq!(rate.worst(100, Risk::DEFAULT), Micros(130_000));
    // Another path has another one.
    rate.path_changed();
    assert_eq!(rate.usual_round_trip(), Micros::ZERO);
}

/// No round trip is learned from a path that was never used, from an answer that a cap may
/// have delayed, or from one that came after pages. The time is then that of the pages.
#[test]
fn an_answer_that_tells_nothing_of_the_round_trip_is_left_out() {
    let answered = |round, cap, pages_before: bool| {
        let mut rate = ServiceCurve::new();
        rate.cap_at(cap);
        rate.start(Micros(0), round);
        if pages_before {
            rate.sent(Micros(10_000), 100, 0);
        }
        rate.round_trip(Micros(50_000));
        rate.sent(Micros(102_400), BATCH, 0);
        (rate.usual_round_trip(), rate.expected_rate())
    };
    let whole = PageRate(10_000);
    assert_eq!(answered(0, None, false), (Micros::ZERO, whole));
    let cap = Some(PageRate(100_000));
    assert_eq!(answered(1, cap, false), (Micros::ZERO, whole));
    let with_more = PageRate((BATCH + 100) * 1_000_000 / 102_400);
    assert_eq!(answered(1, None, true), (Micros::ZERO, with_more));
    let (trip, rate) = answered(1, None, false);
    assert_eq!(trip, Micros(50_000));
    assert!(rate > whole);
}

/// A guest writes 100 pages at once after each bitmap, and then 500 pages/s. Rounds of 10 ms
/// show the burst alone; a longer one before them tells how the round goes on.
#[test]
fn a_short_round_goes_on_as_a_longer_one_did() {
    let mut curve = DirtyCurve::new();
    let mut at = 0;
    let mut round = |curve: &mut DirtyCurve, lasts: u64, burst: u64| {
        curve.restart(Micros::from_millis(at));
        let dirty = |ms: u64| burst + burst * ms / 200;
        for tick in (50..lasts).step_by(50) {
            curve.counted(Micros::from_millis(at + tick), dirty(tick));
        }
        at += lasts;
        curve.round_ended(Micros::from_millis(at), dirty(lasts));
    };
    let fifth = Micros::from_millis(200);
    round(&mut curve, 2_000, 100);
    for _ in 0..20 {
        round(&mut curve, 10, 100);
    }
    // How the first 50 ms grew is not known, so a part of the burst is expected once more.
    let expected = curve.expected_more(fifth);
    assert!((100..=300).contains(&expected), "{expected}");
    for _ in 0..20 {
        round(&mut curve, 100, 100);
    }
    assert_eq!(curve.expected_more(fifth), 100);
    // Windows of 200 ms hold two bursts each, and such a time can touch two of them.
    assert!(curve.at_most(fifth) >= 400);
    assert_eq!(curve.at_most_more(fifth), 200);
    // A guest that is busier by far than it was then does not go on as it did: what windows
    // have shown is the bound.
    for _ in 0..20 {
        round(&mut curve, 10, 1_000);
    }
    assert!(curve.expected_more(fifth) >= 1_000);
    assert_eq!(curve.at_most_more(fifth), curve.at_most(fifth));
    // In a long round a burst of another kind may come: its windows are the bound.
    round(&mut curve, 5_000, 100);
    assert_eq!(curve.at_most_more(fifth), curve.at_most(fifth));
}

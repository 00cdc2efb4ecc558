//! Calls every entry point of lull-core that runs in the stub or in lockstep with it, on
//! inputs that the compiler cannot know. `tests/no_panic.rs` links it without the standard
//! library and looks for symbols that a panic would need.
#![no_std]
#![no_main]

use core::hint::black_box as opaque;

use lull_core::{
    batch::Batch,
    bitmap::{Bitmap, Scan},
    dirty::DirtyCurve,
    downtime::{FixedCosts, DowntimeModel, LastPages, SuspendPages},
    history::{History, RoundRecord},
    holds::Held,
    limits::{DowntimeLimit, Limits, Risk, Timeout},
    machine::{Config, Event, Machine},
    policy::{RoundView, StopPolicy, WithinLimit, XenDefault},
    service::ServiceCurve,
    units::{Micros, PageRate, Pfn},
};

#[inline(never)]
fn scan(words: &[u64], nr_pfns: u64) {
    let mut scan: Scan = opaque(Scan::new());
    let mut batch: Batch = opaque(Batch::new());
    if let Ok(bitmap) = Bitmap::new(words, nr_pfns) {
        opaque(scan.fill(&bitmap, &mut batch));
        opaque(scan.fill(&bitmap, &mut batch));
        opaque(bitmap.dirty_count());
        opaque(bitmap.nr_pfns());
        opaque(bitmap.is_dirty(Pfn(nr_pfns)));
        opaque(bitmap.bits());
    }
    opaque(batch.push(Pfn(nr_pfns)).is_err());
    opaque((
        batch.as_slice(),
        batch.len(),
        batch.is_empty(),
        batch.is_full(),
    ));
    batch.clear();
    opaque(&batch);
}

#[inline(never)]
fn units(a: u64, b: u64) {
    opaque((
        PageRate::floor(a, Micros(b)),
        PageRate::ceil(a, Micros(b)),
        PageRate(a).time_for(b),
        PageRate(a).pages_in(Micros(b)),
        PageRate(a).bytes(),
        Micros::from_millis(a).as_millis_ceil(),
        Micros(a).saturating_add(Micros(b)).since(Micros(b)),
    ));
}

#[inline(never)]
fn rates(a: u64, b: u64) {
    let mut service: ServiceCurve = opaque(ServiceCurve::new());
    service.start(Micros(a), b as u32);
    service.advance(Micros(b));
    service.sent(Micros(a), b, a);
    service.stop(Micros(b));
    service.path_changed();
    let risk = opaque(Risk::DEFAULT);
    opaque((service.worst(a, risk), service.basis(b, risk)));
    opaque((service.expected(a), service.bounds()));
    let mut dirty: DirtyCurve = opaque(DirtyCurve::new());
    dirty.restart(Micros(a));
    dirty.counted(Micros(b), a);
    dirty.round_ended(Micros(a), b);
    opaque((dirty.at_most(Micros(a)), dirty.expected_more(Micros(b))));
    opaque(dirty.at_most_more(Micros(b)));
    opaque((dirty.expected_after_bitmap(Micros(a)), dirty.bounds()));
}

#[inline(never)]
fn decide(model: &DowntimeModel<'_>, limits: Limits, record: RoundRecord, n: u64) {
    let mut history: History = opaque(History::new());
    history.push(record);
    let mut history = opaque(history);
    history.push(record);
    opaque((history.last(), history.len(), history.is_empty()));
    for record in history.iter().rev() {
        opaque(record);
    }
    let view = opaque(RoundView {
        round: n as u32,
        dirty_count: n,
        forecast: model.forecast(n),
        another_round: model.another_round(n),
        model: model.clone(),
        history: &history,
        pages_sent: n,
        disappointments: n as u32,
        held: opaque(Held::default()),
        time_left: Some(Micros(n)),
    });
    opaque(XenDefault.decide(&view));
    opaque((model.costs.floor(), model.costs.slowest()));
    if let Some(limit) = limits.max_suspend {
        opaque(WithinLimit { limit }.decide(&view));
        opaque(model.bandwidth_for(n, limit));
        opaque(model.costs.fit(&view.forecast.at_most, limit));
    }
}

#[inline(never)]
fn step(machine: &mut Machine, at: Micros, event: Event) {
    opaque(machine.step(at, event).is_ok());
    opaque((
        machine.state(),
        machine.round(),
        machine.config(),
        machine.history(),
    ));
    opaque((
        machine.pages_sent(),
        machine.dirty_count(),
        machine.prediction(),
        machine.expected(),
        machine.rests_on(),
        machine.last_pages_by_curve(),
    ));
    opaque((
        machine.transfer_rate(),
        machine.dirty_rate(),
        machine.config().policy(),
    ));
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    static WORDS: [u64; 64] = [0; 64];
    loop {
        let n: u64 = opaque(0);
        let micros = opaque(Micros(n));
        let costs: FixedCosts = opaque(FixedCosts::default());
        let suspend_pages = opaque(SuspendPages::DEFAULT);
        let last_pages = opaque(LastPages::DEFAULT);
        let limits = opaque(Limits {
            max_suspend: DowntimeLimit::new(micros),
            timeout: Timeout::new(micros),
        });
        scan(opaque(&WORDS), n);
        units(n, opaque(0));
        rates(n, opaque(0));
        let (dirty, service) = opaque((DirtyCurve::new(), ServiceCurve::new()));
        let model = opaque(DowntimeModel {
            costs,
            expected_costs: costs,
            suspend_pages,
            last_pages,
            guest_pages: n,
            risk: Risk::DEFAULT,
            dirty: &dirty,
            service: &service,
            expected_rate: opaque(PageRate(n)),
            round_trip: micros,
            dirtied_at_most: opaque(n),
            cap: opaque(None),
            stopped: opaque(false),
        });
        let record = opaque(RoundRecord {
            round: 0,
            pages: n,
            pages_sent: n,
            dirtied: n,
            duration: micros,
            transfer_rate: None,
            predicted_downtime: micros,
            expected_downtime: micros,
        });
        decide(&model, limits, record, n);
        let mut machine: Machine = opaque(Machine::new(opaque(Config {
            limits,
            costs,
            expected_costs: costs,
            suspend_pages,
            last_pages,
            risk: Risk::DEFAULT,
            guest_pages: n,
            hands_over: opaque(true),
        })));
        step(&mut machine, micros, opaque(Event::Limits(limits)));
        step(&mut machine, micros, opaque(Event::Bandwidth(None)));
        step(&mut machine, micros, opaque(Event::HeldBack));
        step(&mut machine, micros, opaque(Event::PathChanged));
        step(&mut machine, micros, opaque(Event::RoundTrip));
        step(&mut machine, micros, opaque(Event::Unsettled));
        step(&mut machine, micros, opaque(Event::HandedOver));
        step(&mut machine, micros, opaque(Event::OutOfTime));
        step(&mut machine, micros, opaque(Event::RunsOn));
        step(&mut machine, micros, opaque(Event::Cancel));
        // This lets the test check that it finds symbols at all.
        #[cfg(canary)]
        opaque(WORDS[n as usize]);
    }
}

/// Functions that the code generator may call. They never run, like the rest of this file.
mod runtime {
    macro_rules! symbols {
        ($($name:ident)*) => {$(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> usize {
                core::hint::black_box(0)
            }
        )*};
    }
    symbols!(memcpy memmove memset memcmp bcmp rust_eh_personality);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

//! Measures the cost of a round besides moving pages: the scan against a plain read of the
//! same bytes (it must reach 80 % of its speed on a quiet guest's bitmap), and one decision
//! (it must stay below two microseconds).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lull_core::{
    batch::Batch,
    bitmap::{Bitmap, Progress, Scan},
    downtime::{FixedCosts, LastPages, SuspendPages},
    limits::{DowntimeLimit, Limits, Risk},
    machine::{Action, Config, Event, Machine},
    units::Micros,
};

fn scan_all(words: &[u64], batch: &mut Batch) -> u64 {
    let bitmap = Bitmap::new(words, words.len() as u64 * 64).unwrap();
    let mut scan = Scan::new();
    let mut pages = 0;
    loop {
        batch.clear();
        let progress = scan.fill(&bitmap, batch);
        pages += black_box(&*batch).len() as u64;
        if progress == Progress::Done {
            return pages;
        }
    }
}

fn scan(c: &mut Criterion) {
    // The guests have 16 GiB (the bitmap fits into the cache) and 1 TiB (it does not).
    for (name, guest_pages) in [("16GiB", 1_u64 << 22), ("1TiB", 1 << 28)] {
        let length = (guest_pages / 64) as usize;
        let mut group = c.benchmark_group(format!("scan/{name}"));
        group.throughput(Throughput::Bytes(length as u64 * 8));
        let mut batch = Batch::new();
        // The words are written, because otherwise all of them would be the kernel's one
        // zero page.
        let mut words = vec![1_u64; length];
        words.fill(0);
        group.bench_function("clean", |b| {
            b.iter(|| scan_all(black_box(&words), &mut batch));
        });
        // One page in 10,000 is dirty, as in the last rounds of a quiet guest.
        for pfn in (0..guest_pages).step_by(10_007) {
            words[(pfn / 64) as usize] |= 1 << (pfn % 64);
        }
        group.bench_function("plain_read", |b| {
            b.iter(|| {
                black_box(&words)
                    .iter()
                    .fold(0, |sum: u64, word| sum.wrapping_add(*word))
            });
        });
        group.bench_function("quiet", |b| {
            b.iter(|| scan_all(black_box(&words), &mut batch));
        });
        group.finish();

        let mut group = c.benchmark_group(format!("scan/{name}/full_pass"));
        group.throughput(Throughput::Elements(guest_pages));
        words.fill(u64::MAX);
        group.sample_size(10);
        group.bench_function("pages", |b| {
            b.iter(|| scan_all(black_box(&words), &mut batch));
        });
        group.finish();
    }
}

/// Returns a machine whose histories are full and which is about to decide.
fn late_machine() -> (Machine, u64) {
    let mut machine = Machine::new(Config {
        limits: Limits {
            max_suspend: DowntimeLimit::new(Micros::from_millis(50)),
            timeout: None,
        },
        costs: FixedCosts::default(),
        expected_costs: FixedCosts::default(),
        suspend_pages: SuspendPages::DEFAULT,
        last_pages: LastPages::DEFAULT,
        risk: Risk::DEFAULT,
        guest_pages: 1 << 22,
        hands_over: false,
    });
    // Only whole batches are sent, and each takes the same time.
    let mut batches = 390_u64;
    let mut dirty = batches * 10_240;
    let mut at = 0;
    let mut left = 0_u64;
    let mut event = Event::Begin {
        pages: dirty,
        took_bitmap: Micros::ZERO,
    };
    loop {
        let action = machine.step(Micros(at), event).unwrap();
        at += 25_000;
        event = match action {
            Action::Count if machine.round() == 20 => return (machine, at),
            Action::Count => {
                batches = batches * 9 / 10;
                dirty = batches * 10_240;
                Event::Counted { dirty }
            }
            Action::TakeBitmap => Event::Bitmap {
                dirty,
                took: Micros(9),
            },
            action => {
                match action {
                    Action::Copy { pages, .. } => left = pages,
                    Action::None => {}
                    other => panic!("the machine decided early: {other:?}"),
                }
                let requested = left.min(10_240) as u32;
                left -= u64::from(requested);
                Event::Sent {
                    requested,
                    pages: requested,
                    zeros: 0,
                }
            }
        };
    }
}

fn decision(c: &mut Criterion) {
    let (machine, at) = late_machine();
    c.bench_function("decision", |b| {
        b.iter_batched_ref(
            || machine.clone(),
            |machine| machine.step(Micros(at), black_box(Event::Counted { dirty: 400_000 })),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, scan, decision);
criterion_main!(benches);

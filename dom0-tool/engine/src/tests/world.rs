//! What the parts of the model share: the guest, and the fault that strikes it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use lull_wire::channel::Edition;
use lull_wire::events::Landing;
use lull_xen::PAGE;

/// How the guest lands, and whether it has emulated devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LandingCase(pub Option<Edition>, bool);

/// The state of the guest's QEMU.
pub const DEVICES: &[u8] = b"QEVM\0\0\0\x03 and so on";

impl LandingCase {
    pub const CLASSIC: Self = Self(None, false);
    pub const HVM_CLASSIC: Self = Self(None, true);
    pub const HANDSHAKE_LAST: Self = Self(Some(Edition::HandshakeLast), false);
    pub const HANDSHAKE_FIRST: Self = Self(Some(Edition::HandshakeFirst), false);
    pub const THIN: Self = Self(Some(Edition::Thin), false);
    pub const JOINED: Self = Self(Some(Edition::Joined), false);
    pub const HVM: Self = Self(Some(Edition::Emulated), true);

    pub const fn has_devices(self) -> bool {
        self.1
    }

    pub fn is_thin(self) -> bool {
        self.0.is_some_and(Edition::is_thin)
    }

    /// The number of further connections.
    pub const fn further(self) -> u8 {
        match self.0 {
            Some(edition) if edition.may_join() => 2,
            _ => 0,
        }
    }

    pub const fn is_fast(self) -> bool {
        self.0.is_some()
    }

    pub fn is_handshake_first(self) -> bool {
        let landing = self.0.map_or(Landing::Classic, Edition::landing);
        landing.is_handshake_first()
    }
}

/// The number of frames of the guest. Every eighth has no page.
pub const FRAMES: u64 = 400;

/// A frame that holds a page of Xen's, as those of the grant table do: the guest writes to
/// it and dom0 can map it, but it is no page of the guest's own.
pub const XENS: u64 = 23;

/// How many pages the guest writes between two looks at its dirty log. More than stock's
/// rule leaves to the last round, so there are further rounds.
const WRITTEN: u64 = 80;

/// How long the engine is held up.
pub const HELD_UP: Duration = Duration::from_millis(2_500);

/// The phases of an attempt, in order. Most begin with a decision of the stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The stub boots.
    Start,
    /// The destination of a fast landing sets the guest up. In the thin edition this comes
    /// before round 0, otherwise after it.
    Building,
    /// Round 0.
    FirstPass,
    /// Any later round while the guest runs.
    Rounds,
    /// xl's handshake begins, while the guest runs.
    HandingOver,
    /// The guest is asked to stop.
    Suspending,
    /// The guest has stopped, and its last pages are sent.
    LastPages,
    /// The state is sent.
    Finishing,
}

/// What goes wrong at the beginning of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The stub is gone.
    StubDies,
    /// The stub says nothing any more.
    StubSilent,
    /// The stub reports another decision than the right one.
    StubLies,
    /// The stub asks for a frame without a page in the place of one that has a page.
    StubSkips,
    /// The destination closes its connections.
    Closes,
    /// A further connection breaks.
    LosesOne,
    /// A further connection breaks. What it has carried by then arrives late.
    LosesOneLate,
    /// All further connections break.
    LosesAll,
    /// The destination takes nothing more, and answers nothing.
    Stalls,
    /// The attempt is cancelled.
    Cancel,
    /// The guest does not follow the request to suspend.
    NeverSuspends,
    /// Another program suspends the guest.
    SuspendedByAnother,
    /// Another program resumes the guest.
    ResumedByAnother,
    /// The guest is destroyed.
    Destroyed,
    /// The guest has more frames than before.
    Grows,
    /// The destination gives up at its next message.
    LandGivesUp,
    /// The guest's QEMU does not stop.
    QemuHangs,
    /// The destination does not begin to build the guest.
    NeverArms,
    /// The destination cannot start the copy.
    NotStarted,
    /// The attempt is cancelled, and xenstored does not answer when the guest is resumed.
    Forgotten,
    /// The attempt is cancelled, and libxl looks at the guest seconds later.
    LibxlIsSlow,
    /// The attempt is cancelled, and the guest cannot be resumed.
    StaysSuspended,
    /// The attempt is cancelled, and the first try to resume the guest fails.
    ResumedAtSecondTry,
    /// The engine is held up until the limit is over, when it gets permission to start the copy.
    HeldUp,
    /// The engine is held up until `lull land` has given the copy up, when it gets permission
    /// to start the copy.
    Leaves,
    /// The guest gives memory back. This is no fault, but the destination has to follow.
    Shrinks,
    /// The same, and the destination takes long to follow. The guest writes nothing any more.
    ShrinksAndRests,
}

/// Which further connections are to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losing {
    None,
    One,
    /// Once it has carried a frame that is not handled.
    OneLate,
    All,
}

/// The guest's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    Running,
    /// It has been asked to suspend, and follows when it is looked at next.
    Stopping,
    Suspended,
    Gone,
}

/// The stub's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stub {
    Alive,
    Silent,
    Dead,
}

pub struct World {
    pub landing: LandingCase,
    strike: Option<(Phase, Fault)>,
    pub struck: Cell<bool>,
    pub guest: Cell<Guest>,
    pub stub: Cell<Stub>,
    pub cancelled: Cell<bool>,
    pub closed: Cell<bool>,
    /// Which further connections are to break.
    pub losing: Cell<Losing>,
    pub stalled: Cell<bool>,
    pub grown: Cell<bool>,
    pub land_gives_up: Cell<bool>,
    pub qemu_hangs: Cell<bool>,
    pub never_arms: Cell<bool>,
    pub not_started: Cell<bool>,
    /// Whether xenstored does not answer when the guest is resumed.
    pub forgotten: Cell<bool>,
    /// How many tries to resume the guest are still to fail.
    pub failing_resumes: Cell<u32>,
    /// Whether the guest is left to the guard.
    pub left: Cell<bool>,
    /// Whether libxl takes seconds to look at a guest that has stopped.
    pub libxl_is_slow: Cell<bool>,
    /// Whether libxl waited for a guest that ran again before libxl looked.
    pub unseen: Cell<bool>,
    /// How long the engine is held up when it is permitted to start the copy.
    pub held_up: Cell<Duration>,
    /// Whether the destination leaves when the engine is permitted to start the copy.
    pub leaves: Cell<bool>,
    /// Whether the guest writes nothing any more, and the destination is slow with frames that
    /// have gone.
    pub rests: Cell<bool>,
    /// Whether the guest's QEMU runs.
    pub qemu_runs: Cell<bool>,
    /// How often QEMU's log was switched off.
    pub log_ends: Cell<u32>,
    /// How often each of these happened.
    pub resumes: Cell<u32>,
    pub commits: Cell<u32>,
    /// The number of batches, or shares of them, that are in place at the destination.
    pub placed: Cell<u32>,
    /// That number when the stopped guest's state was read.
    pub placed_when_saved: Cell<u32>,
    /// How many lines of the stub's log were reported while the guest ran, and how many from
    /// the request to suspend on.
    pub logged: [Cell<u32>; 2],
    /// Whether the dirty log is on and the stub's domain exists.
    pub prepared: Cell<bool>,
    /// Each frame that has a page, with the number of the last write to it; 0 if it is all
    /// zero.
    memory: RefCell<BTreeMap<u64, u64>>,
    dirty: RefCell<Vec<u64>>,
    writes: Cell<u64>,
}

impl World {
    pub fn new(landing: LandingCase, strike: Option<(Phase, Fault)>) -> Self {
        let frames = (0..FRAMES).filter(|pfn| pfn % 8 != 7);
        Self {
            landing,
            strike,
            struck: Cell::new(false),
            guest: Cell::new(Guest::Running),
            stub: Cell::new(Stub::Alive),
            cancelled: Cell::new(false),
            closed: Cell::new(false),
            losing: Cell::new(Losing::None),
            stalled: Cell::new(false),
            grown: Cell::new(false),
            land_gives_up: Cell::new(false),
            qemu_hangs: Cell::new(false),
            never_arms: Cell::new(false),
            not_started: Cell::new(false),
            forgotten: Cell::new(false),
            failing_resumes: Cell::new(0),
            left: Cell::new(false),
            libxl_is_slow: Cell::new(false),
            unseen: Cell::new(false),
            held_up: Cell::new(Duration::ZERO),
            leaves: Cell::new(false),
            rests: Cell::new(false),
            qemu_runs: Cell::new(true),
            log_ends: Cell::new(0),
            resumes: Cell::new(0),
            commits: Cell::new(0),
            placed: Cell::new(0),
            placed_when_saved: Cell::new(0),
            logged: [Cell::new(0), Cell::new(0)],
            prepared: Cell::new(true),
            memory: RefCell::new(frames.map(|pfn| (pfn, first_write(pfn))).collect()),
            dirty: RefCell::new(vec![0; words()]),
            writes: Cell::new(FRAMES),
        }
    }

    /// A phase begins. Returns the fault that strikes now.
    pub fn enter(&self, phase: Phase) -> Option<Fault> {
        let (_, fault) = self.strike.filter(|(at, _)| *at == phase)?;
        if self.struck.replace(true) {
            return None;
        }
        match fault {
            Fault::StubDies => self.stub.set(Stub::Dead),
            Fault::StubSilent => self.stub.set(Stub::Silent),
            Fault::Closes => self.closed.set(true),
            Fault::LosesOne => self.losing.set(Losing::One),
            Fault::LosesOneLate => self.losing.set(Losing::OneLate),
            Fault::LosesAll => self.losing.set(Losing::All),
            Fault::Stalls => self.stalled.set(true),
            Fault::Cancel => self.cancelled.set(true),
            Fault::SuspendedByAnother => self.guest.set(Guest::Suspended),
            Fault::ResumedByAnother => {
                self.qemu_runs.set(true);
                self.guest.set(Guest::Running);
            }
            Fault::LandGivesUp => self.land_gives_up.set(true),
            Fault::QemuHangs => self.qemu_hangs.set(true),
            Fault::NeverArms => self.never_arms.set(true),
            Fault::NotStarted => self.not_started.set(true),
            Fault::Forgotten => {
                self.cancelled.set(true);
                self.forgotten.set(true);
            }
            Fault::LibxlIsSlow => {
                self.cancelled.set(true);
                self.libxl_is_slow.set(true);
            }
            Fault::StaysSuspended => {
                self.cancelled.set(true);
                self.failing_resumes.set(u32::MAX);
            }
            Fault::ResumedAtSecondTry => {
                self.cancelled.set(true);
                self.failing_resumes.set(1);
            }
            Fault::HeldUp => self.held_up.set(HELD_UP),
            Fault::Leaves => self.leaves.set(true),
            Fault::Destroyed => self.guest.set(Guest::Gone),
            Fault::Grows => self.grown.set(true),
            Fault::Shrinks => self.give_back(),
            Fault::ShrinksAndRests => {
                self.give_back();
                self.rests.set(true);
            }
            Fault::StubLies | Fault::StubSkips | Fault::NeverSuspends => {}
        }
        Some(fault)
    }

    pub fn never_suspends(&self) -> bool {
        matches!(self.strike, Some((_, Fault::NeverSuspends)))
    }

    /// A running guest writes to some of its pages.
    pub fn run(&self) {
        let runs = matches!(self.guest.get(), Guest::Running | Guest::Stopping);
        if !runs || self.rests.get() {
            return;
        }
        let mut memory = self.memory.borrow_mut();
        let mut dirty = self.dirty.borrow_mut();
        for _ in 0..WRITTEN {
            let write = self.writes.get() + 1;
            self.writes.set(write);
            let pfn = write * 7 % FRAMES;
            if let Some(page) = memory.get_mut(&pfn) {
                // Now and then a guest clears a page.
                *page = if write.is_multiple_of(5) { 0 } else { write };
                dirty[(pfn / 64) as usize] |= 1 << (pfn % 64);
            }
        }
        dirty[(XENS / 64) as usize] |= 1 << (XENS % 64);
    }

    /// The guest is looked at: it follows a request to suspend.
    pub fn look(&self) -> Guest {
        if self.guest.get() == Guest::Stopping && !self.never_suspends() {
            self.run();
            self.guest.set(Guest::Suspended);
        }
        self.guest.get()
    }

    /// QEMU writes a page of the guest's, which may have stopped already.
    pub fn write_by_qemu(&self) {
        assert!(self.qemu_runs.get());
        let write = self.writes.get() + 1;
        self.writes.set(write);
        if let Some((pfn, page)) = self.memory.borrow_mut().iter_mut().next() {
            *page = write;
            self.dirty.borrow_mut()[(pfn / 64) as usize] |= 1 << (pfn % 64);
        }
    }

    fn give_back(&self) {
        self.memory.borrow_mut().retain(|pfn, _| pfn % 16 != 3);
    }

    pub fn dirty_count(&self) -> u64 {
        self.run();
        count(&self.dirty.borrow())
    }

    /// The dirty log, which is cleared.
    pub fn take_dirty(&self) -> Vec<u64> {
        self.run();
        self.dirty.replace(vec![0; words()])
    }

    pub fn has_page(&self, pfn: u64) -> bool {
        self.memory.borrow().contains_key(&pfn)
    }

    pub fn pages(&self) -> u64 {
        self.memory.borrow().len() as u64
    }

    /// The contents of these frames. Each page begins with the number of its last write.
    pub fn contents(&self, pfns: &[u64]) -> Vec<u8> {
        let memory = self.memory.borrow();
        let mut contents = vec![0; pfns.len() * PAGE];
        for (page, pfn) in contents.chunks_mut(PAGE).zip(pfns) {
            let write = memory.get(pfn).copied().unwrap_or(0);
            page[..8].copy_from_slice(&write.to_le_bytes());
        }
        contents
    }

    pub fn memory(&self) -> BTreeMap<u64, u64> {
        self.memory.borrow().clone()
    }
}

/// The write to each frame before the attempt. Every third page is all zero.
fn first_write(pfn: u64) -> u64 {
    match pfn % 3 {
        0 => 0,
        _ => pfn + 1,
    }
}

/// The words of a bitmap of all frames.
pub fn words() -> usize {
    FRAMES.div_ceil(64) as usize
}

/// The number of bits set.
pub fn count(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

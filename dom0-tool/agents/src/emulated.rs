//! A guest's emulated devices, for processes that may open no connection.
//!
//! A process that reads what a guest, a stub or another host says confines itself
//! ([`lull_base::confine`]), and can no longer reach QEMU's monitor. Before that it starts a
//! keeper, this binary again, which does nothing but pass a few orders on to QEMU. Each
//! order and each answer is two bytes, so a process that has been taken over gains no more
//! than these orders.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use lull_base::{hygiene, inherited_fd};
use lull_xen::device_model::{Devices, MakeRun, Model, Qemu, RUNNING};
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, Xen};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The hidden subcommand that makes this binary a keeper.
pub const SUBCOMMAND: &str = "devices";

/// An order to a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Make QEMU run.
    Run = b'r' as isize,
    /// Make QEMU run once it is stopped.
    RunOnceStopped = b'o' as isize,
    /// Make QEMU run if the guest does.
    Follow = b'f' as isize,
    /// Switch QEMU's part of the dirty log off.
    EndLog = b'e' as isize,
}

impl Order {
    const fn byte(self) -> u8 {
        self as u8
    }

    fn of(byte: u8) -> Option<Self> {
        let orders = [Self::Run, Self::RunOnceStopped, Self::Follow, Self::EndLog];
        orders.into_iter().find(|order| order.byte() == byte)
    }

    /// How long the answer may take: somewhat longer than QEMU may.
    fn longest(self) -> Duration {
        match self {
            Self::Run | Self::Follow => RUNNING + Duration::from_millis(100),
            Self::RunOnceStopped => Qemu::RUN_ONCE_STOPPED_MAX + Duration::from_millis(100),
            Self::EndLog => Duration::from_secs(11),
        }
    }
}

/// The answers, by their places.
const ANSWERS: [Devices; 4] = [
    Devices::Run,
    Devices::Silent,
    Devices::Gone,
    Devices::Refused,
];

/// A guest's emulated devices, of which it may have none.
#[derive(Debug)]
pub struct Emulated {
    keeper: Option<Keeper>,
    /// libxl may still stop QEMU.
    may_be_stopped: bool,
}

impl Emulated {
    /// Those of a guest that has none.
    pub const NONE: Self = Self {
        keeper: None,
        may_be_stopped: false,
    };

    /// Starts a keeper if the guest has emulated devices. It ends with this handle.
    ///
    /// # Errors
    /// When xenstore does not answer, or the keeper cannot be started.
    pub fn of(guest: DomId) -> io::Result<Self> {
        let model = Model::of(&mut Xenstore::open()?, guest)?;
        let keeper = (model != Model::None).then(|| Keeper::start(guest));
        Ok(Self {
            keeper: keeper.transpose()?,
            may_be_stopped: false,
        })
    }

    /// Whether the guest has any.
    pub const fn is_some(&self) -> bool {
        self.keeper.is_some()
    }

    /// From here on the devices are made to run only once libxl has stopped them, or after
    /// it had some seconds for that.
    pub const fn wait_for_libxl(&mut self) {
        self.may_be_stopped = true;
    }

    /// Makes them run if the guest runs.
    pub fn follow(&mut self) -> Devices {
        self.ask(Order::Follow)
    }

    /// Has QEMU no longer log what it writes.
    pub fn end_dirty_log(&mut self) -> Devices {
        self.ask(Order::EndLog)
    }

    fn ask(&mut self, order: Order) -> Devices {
        let asked = self.keeper.as_mut().map(|keeper| keeper.ask(order));
        asked.unwrap_or(Devices::None)
    }
}

impl MakeRun for Emulated {
    fn make_run(&mut self) -> Devices {
        self.ask(match self.may_be_stopped {
            true => Order::RunOnceStopped,
            false => Order::Run,
        })
    }
}

/// The process, and the orders that it was given.
#[derive(Debug)]
struct Keeper<W = ChildStdin, R = ChildStdout> {
    to: W,
    from: R,
    /// The number of the last order, to tell its answer from a late one.
    number: u8,
}

impl Keeper {
    fn start(guest: DomId) -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([SUBCOMMAND, &guest.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self::over(to, from))
    }
}

impl<W: Write, R: Read + std::os::fd::AsFd> Keeper<W, R> {
    const fn over(to: W, from: R) -> Self {
        Self {
            to,
            from,
            number: 0,
        }
    }

    /// A keeper that does not answer counts as a QEMU that does not.
    fn ask(&mut self, order: Order) -> Devices {
        self.number = self.number.wrapping_add(1);
        let until = Instant::now() + order.longest();
        let asked = self.to.write_all(&[order.byte(), self.number]);
        asked
            .and_then(|()| self.answer(until))
            .unwrap_or(Devices::Silent)
    }

    fn answer(&mut self, until: Instant) -> io::Result<Devices> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(
                &mut [PollFd::new(&self.from, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut answer = [0; 2];
            self.from.read_exact(&mut answer)?;
            let [number, place] = answer;
            if number == self.number {
                let devices = ANSWERS.get(usize::from(place)).copied();
                return devices.ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// Parses a keeper's command line; `None` if it is not one.
pub fn orders(args: &[OsString]) -> Option<DomId> {
    match args {
        [_, mode, guest] if mode == SUBCOMMAND => guest.to_str()?.parse().ok(),
        _ => None,
    }
}

/// The keeper's main function: carries out orders until the process that gives them ends.
pub fn main(guest: DomId) -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    let Ok(xen) = Xen::open_here() else {
        return ExitCode::FAILURE;
    };
    let mut qemu = Qemu::of(guest);
    let carry_out = |order| match order {
        Order::Run => qemu.make_run(),
        Order::RunOnceStopped => qemu.run_once_stopped(),
        Order::Follow => qemu.follow(&xen, guest),
        Order::EndLog => qemu
            .end_dirty_log()
            .map_or_else(Devices::from, |()| Devices::Run),
    };
    match serve(&mut io::stdin(), &mut io::stdout(), carry_out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(
    from: &mut dyn Read,
    to: &mut dyn Write,
    mut carry_out: impl FnMut(Order) -> Devices,
) -> io::Result<()> {
    loop {
        let mut order = [0; 2];
        match from.read_exact(&mut order) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [order, number] = order;
        let order = Order::of(order).ok_or(io::ErrorKind::InvalidData)?;
        let devices = carry_out(order);
        let place = ANSWERS.iter().position(|answer| *answer == devices);
        to.write_all(&[number, place.unwrap_or(0) as u8])?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    type Piped = Keeper<io::PipeWriter, io::PipeReader>;

    fn kept(carry_out: impl FnMut(Order) -> Devices + Send + 'static) -> Piped {
        let (mut orders, to) = io::pipe().unwrap();
        let (from, mut answers) = io::pipe().unwrap();
        thread::spawn(move || serve(&mut orders, &mut answers, carry_out));
        Keeper::over(to, from)
    }

    #[test]
    fn each_order_is_carried_out_and_answered() {
        for devices in ANSWERS {
            let mut keeper = kept(move |order| match order {
                Order::Follow => devices,
                _ => Devices::Run,
            });
            assert_eq!(keeper.ask(Order::Run), Devices::Run);
            assert_eq!(keeper.ask(Order::Follow), devices);
            assert_eq!(keeper.ask(Order::EndLog), Devices::Run);
        }
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_orders() {
        let (mut orders, to) = io::pipe().unwrap();
        let (from, mut answers) = io::pipe().unwrap();
        let mut keeper = Keeper::over(to, from);
        assert_eq!(keeper.ask(Order::Run), Devices::Silent);
        let mut order = [0; 2];
        orders.read_exact(&mut order).unwrap();
        answers.write_all(&[order[1], 2]).unwrap();
        thread::spawn(move || serve(&mut orders, &mut answers, |_| Devices::Run));
        assert_eq!(keeper.ask(Order::Run), Devices::Run);
    }

    #[test]
    fn a_keeper_that_is_gone_is_no_wait() {
        let (orders, to) = io::pipe().unwrap();
        let (from, answers) = io::pipe().unwrap();
        drop((orders, answers));
        let begun = Instant::now();
        assert_eq!(Keeper::over(to, from).ask(Order::EndLog), Devices::Silent);
        assert!(begun.elapsed() < Order::EndLog.longest());
    }

    #[test]
    fn a_keeper_knows_its_guest() {
        let orders_of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            orders(&words)
        };
        assert_eq!(orders_of("lull devices 7"), Some(7));
        for other in ["lull devices", "lull devices x", "lull device 7"] {
            assert_eq!(orders_of(other), None);
        }
    }
}

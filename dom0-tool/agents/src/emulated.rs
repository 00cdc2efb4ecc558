//! A guest's emulated devices, for processes that may open no connection.
//!
//! A process that reads what a guest, a stub or another host says confines itself
//! ([`lull_base::confine`]), and can no longer reach QEMU's monitor. Before that it starts a
//! proxy, this binary again, which only passes a few orders on to QEMU. Each
//! order is two bytes, so a process that has been taken over gains no more than these orders.
//! An answer is a few bytes and what QEMU says of an error, of limited length. QEMU's state
//! goes into a memory file that both processes have open.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use lull_base::text::printable;
use lull_base::{hygiene, inherited_fd, ready};
use lull_xen::device_model::{
    Devices, MakeRun, Model, Qemu, RUNNING, SAVING, STATE_HEADER, STATE_MAX,
};
use lull_xen::qmp::QmpError;
use lull_xen::xenstore::Xenstore;
use lull_xen::{DomId, Xen};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

/// The hidden subcommand that makes this binary a proxy.
pub const SUBCOMMAND: &str = "devices";

/// An order to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Make QEMU run.
    Run = b'r' as isize,
    /// Make QEMU run once it is stopped.
    RunOnceStopped = b'o' as isize,
    /// Make QEMU run if the guest does.
    Follow = b'f' as isize,
    /// Switch QEMU's part of the dirty log on.
    BeginLog = b'b' as isize,
    /// Switch QEMU's part of the dirty log off.
    EndLog = b'e' as isize,
    /// Stop QEMU and save its state.
    Save = b's' as isize,
}

impl Order {
    const fn byte(self) -> u8 {
        self as u8
    }

    fn of(byte: u8) -> Option<Self> {
        let orders = [
            Self::Run,
            Self::RunOnceStopped,
            Self::Follow,
            Self::BeginLog,
            Self::EndLog,
            Self::Save,
        ];
        orders.into_iter().find(|order| order.byte() == byte)
    }

    /// How long the answer may take: somewhat longer than QEMU may.
    fn longest(self) -> Duration {
        match self {
            Self::Run | Self::Follow => RUNNING + Duration::from_millis(100),
            Self::RunOnceStopped => Qemu::RUN_ONCE_STOPPED_MAX + Duration::from_millis(100),
            Self::BeginLog | Self::EndLog => Duration::from_secs(11),
            Self::Save => SAVING + Duration::from_millis(100),
        }
    }
}

/// The answers, by their places. To orders that do not make QEMU run, [`Devices::Run`] says
/// that they were carried out.
const ANSWERS: [Devices; 4] = [
    Devices::Run,
    Devices::Silent,
    Devices::Gone,
    Devices::Refused,
];

/// The answer of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    devices: Devices,
    /// Why QEMU did not do it; see [`MakeRun::words`].
    words: String,
}

impl From<Devices> for Answer {
    fn from(devices: Devices) -> Self {
        Self {
            devices,
            words: String::new(),
        }
    }
}

impl From<Result<(), QmpError>> for Answer {
    fn from(done: Result<(), QmpError>) -> Self {
        let Err(error) = done else {
            return Devices::Run.into();
        };
        let devices = Devices::from(&error);
        let words = match devices {
            Devices::Refused => error.to_string(),
            // That says all.
            _ => String::new(),
        };
        Self { devices, words }
    }
}

impl Answer {
    /// Its bytes, after the number of its order: a place in [`ANSWERS`], the length of the
    /// words, and the words.
    fn encode(&self, number: u8) -> Vec<u8> {
        let place = ANSWERS.iter().position(|answer| *answer == self.devices);
        let words = &self.words[..self.words.floor_char_boundary(usize::from(u8::MAX))];
        let mut bytes = vec![number, place.unwrap_or(0) as u8, words.len() as u8];
        bytes.extend(words.as_bytes());
        bytes
    }
}

/// A guest's emulated devices, of which it may have none.
#[derive(Debug)]
pub struct Emulated {
    proxy: Option<QemuProxy>,
    /// Another process may still stop QEMU.
    may_be_stopped: bool,
    /// What the last answer says of QEMU.
    words: String,
    /// Where the proxy has QEMU save its state.
    state: Option<File>,
}

impl Emulated {
    /// Those of a guest that has none.
    pub const NONE: Self = Self {
        proxy: None,
        may_be_stopped: false,
        words: String::new(),
        state: None,
    };

    /// Starts a proxy if the guest has emulated devices. It ends with this handle.
    ///
    /// # Errors
    /// When xenstore does not answer, or the proxy cannot be started.
    pub fn of(domid: DomId) -> io::Result<Self> {
        let model = Model::of(&mut Xenstore::open()?, domid)?;
        let proxy = (model != Model::None).then(|| QemuProxy::start(domid, None));
        Ok(Self {
            proxy: proxy.transpose()?,
            ..Self::NONE
        })
    }

    /// Does the same for a process that has QEMU save its state itself.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn to_be_saved(domid: DomId) -> io::Result<Self> {
        if Model::of(&mut Xenstore::open()?, domid)? == Model::None {
            return Ok(Self::NONE);
        }
        let state = memory_file()?;
        Ok(Self {
            proxy: Some(QemuProxy::start(domid, Some(&state))?),
            state: Some(state),
            ..Self::NONE
        })
    }

    /// Whether the guest has any.
    pub const fn is_some(&self) -> bool {
        self.proxy.is_some()
    }

    /// From here on the devices are made to run only once libxl, or a process that has died,
    /// has stopped them, or after there were some seconds for that.
    pub const fn wait_for_stop(&mut self) {
        self.may_be_stopped = true;
    }

    /// Makes them run if the guest runs.
    pub fn follow(&mut self) -> Devices {
        self.ask(Order::Follow)
    }

    /// Has QEMU log what it writes into the guest's memory, or no longer log it.
    ///
    /// # Errors
    /// When QEMU does not answer or does not do it.
    pub fn log(&mut self, on: bool) -> io::Result<()> {
        let order = if on { Order::BeginLog } else { Order::EndLog };
        match self.ask(order) {
            Devices::Run | Devices::None => Ok(()),
            Devices::Silent => Err(io::Error::other("QEMU does not answer")),
            Devices::Gone => Err(io::Error::other("QEMU does not run any more")),
            Devices::Refused if self.words.is_empty() => Err(io::Error::other("QEMU refuses")),
            Devices::Refused => Err(io::Error::other(format!("QEMU {}", self.words))),
        }
    }

    /// Has QEMU stop and save its state; does not wait.
    pub fn begin_save(&mut self) {
        if let Some(proxy) = &mut self.proxy {
            proxy.order(Order::Save);
        }
    }

    /// Whether QEMU has stopped and saved its state; `None` while it is not known. The order
    /// must have been given.
    pub fn is_saved(&mut self) -> Option<bool> {
        let Answer { devices, words } = self.proxy.as_mut()?.answer_so_far()?;
        self.words = match devices {
            Devices::Silent => "does not answer in time".to_owned(),
            Devices::Gone => "does not run any more".to_owned(),
            Devices::None | Devices::Run | Devices::Refused => words,
        };
        Some(devices == Devices::Run)
    }

    /// The state that QEMU has saved.
    ///
    /// # Errors
    /// When it is none, or is too large.
    pub fn saved_state(&self) -> io::Result<Vec<u8>> {
        let file = self.state.as_ref().ok_or(io::ErrorKind::NotFound)?;
        read_state(file)
    }

    /// Has QEMU no longer log what it writes.
    pub fn end_dirty_log(&mut self) -> Devices {
        self.ask(Order::EndLog)
    }

    fn ask(&mut self, order: Order) -> Devices {
        let Some(proxy) = &mut self.proxy else {
            return Devices::None;
        };
        let Answer { devices, words } = proxy.ask(order);
        self.words = words;
        devices
    }
}

impl MakeRun for Emulated {
    fn make_run(&mut self) -> Devices {
        self.ask(match self.may_be_stopped {
            true => Order::RunOnceStopped,
            false => Order::Run,
        })
    }

    fn words(&self) -> &str {
        &self.words
    }
}

/// A file without a name, which ends with the processes that have it open.
fn memory_file() -> io::Result<File> {
    Ok(memfd_create("lull-devices", MemfdFlags::CLOEXEC)?.into())
}

fn read_state(file: &File) -> io::Result<Vec<u8>> {
    let bytes = file.metadata()?.len();
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes > STATE_MAX {
        return Err(io::Error::other(format!("it has {bytes} bytes")));
    }
    let mut state = vec![0; bytes];
    file.read_exact_at(&mut state, 0)?;
    match state.starts_with(&STATE_HEADER) {
        true => Ok(state),
        false => Err(io::Error::other("it is not in a format that is known")),
    }
}

/// The process, and the orders that it was given.
#[derive(Debug)]
struct QemuProxy<W = ChildStdin, R = ChildStdout> {
    to: W,
    from: R,
    /// The number of the last order, to tell its answer from a late one.
    number: u8,
    /// When its answer is due.
    until: Option<Instant>,
}

impl QemuProxy {
    /// Starts the process, which has QEMU save into `state`.
    fn start(domid: DomId, state: Option<&File>) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([SUBCOMMAND, &domid.to_string()]);
        if let Some(state) = state {
            command.arg(state.as_raw_fd().to_string());
            fcntl_setfd(state, FdFlags::empty())?;
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = command.spawn();
        if let Some(state) = state {
            fcntl_setfd(state, FdFlags::CLOEXEC)?;
        }
        let mut child = started?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self::over(to, from))
    }
}

impl<W: Write, R: Read + AsFd> QemuProxy<W, R> {
    const fn over(to: W, from: R) -> Self {
        Self {
            to,
            from,
            number: 0,
            until: None,
        }
    }

    /// A proxy that does not answer counts as a QEMU that does not.
    fn ask(&mut self, order: Order) -> Answer {
        let until = Instant::now() + order.longest();
        let answer = match self.order(order) {
            true => self.answer(until).ok(),
            false => None,
        };
        answer.unwrap_or_else(|| Devices::Silent.into())
    }

    /// Gives an order; does not wait. Returns whether it was given.
    fn order(&mut self, order: Order) -> bool {
        self.number = self.number.wrapping_add(1);
        self.until = Some(Instant::now() + order.longest());
        let asked = self.to.write_all(&[order.byte(), self.number]);
        asked.is_ok()
    }

    /// The answer to the last order, if it has come, or if its time is up.
    fn answer_so_far(&mut self) -> Option<Answer> {
        match self.answer(Instant::now()) {
            Ok(answer) => Some(answer),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let is_over = self.until.is_none_or(|until| Instant::now() >= until);
                is_over.then(|| Devices::Silent.into())
            }
            Err(_) => Some(Devices::Silent.into()),
        }
    }

    fn answer(&mut self, until: Instant) -> io::Result<Answer> {
        loop {
            let mut fds = [PollFd::new(&self.from, PollFlags::IN)];
            if !ready::wait_until(&mut fds, until)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut head = [0; 3];
            self.from.read_exact(&mut head)?;
            let [number, place, length] = head;
            // The proxy writes them at once, or ends.
            let mut words = vec![0; usize::from(length)];
            self.from.read_exact(&mut words)?;
            if number == self.number {
                let devices = ANSWERS.get(usize::from(place)).copied();
                let devices = devices.ok_or(io::ErrorKind::InvalidData)?;
                let words = printable(&String::from_utf8_lossy(&words));
                return Ok(Answer { devices, words });
            }
        }
    }
}

/// Parses a proxy's command line: the guest, and the descriptor of the file for QEMU's
/// state. `None` if it is not one.
pub fn parse_args(args: &[OsString]) -> Option<(DomId, Option<RawFd>)> {
    match args {
        [_, mode, domid, state @ ..] if mode == SUBCOMMAND && state.len() < 2 => {
            let state = state.first().map(|state| state.to_str()?.parse().ok());
            let state = match state {
                Some(number) => Some(number?),
                None => None,
            };
            Some((domid.to_str()?.parse().ok()?, state))
        }
        _ => None,
    }
}

/// The proxy's main function: carries out orders until the process that gives them ends.
pub fn main(domid: DomId, state: Option<RawFd>) -> ExitCode {
    drop(inherited_fd::foreign(state.as_slice()));
    let state = state.and_then(|number| inherited_fd::adopt(number).ok());
    let state = state.map(File::from);
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    let Ok(xen) = Xen::open_here() else {
        return ExitCode::FAILURE;
    };
    let qemu = Qemu::of(domid);
    let carry_out = |order| {
        let done = match order {
            Order::Run => qemu.run(),
            Order::RunOnceStopped => qemu.run_once_stopped(),
            Order::Follow => qemu.follow(&xen, domid),
            Order::BeginLog => qemu.begin_dirty_log(),
            Order::EndLog => qemu.end_dirty_log(),
            Order::Save => save(&qemu, state.as_ref()),
        };
        Answer::from(done)
    };
    match serve(&mut io::stdin(), &mut io::stdout(), carry_out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Has QEMU stop and save its state into the file, from its beginning.
fn save(qemu: &Qemu, state: Option<&File>) -> Result<(), QmpError> {
    let opened = state.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    let opened = opened.and_then(|state| {
        state.set_len(0)?;
        // QEMU takes no descriptor that could be read as well.
        let path = format!("/proc/self/fd/{}", state.as_raw_fd());
        File::options().write(true).open(path)
    });
    // It is not QEMU that is gone.
    let file = opened.map_err(QmpError::Unreachable)?;
    qemu.stop_and_save(file.as_fd())
}

fn serve(
    from: &mut dyn Read,
    to: &mut dyn Write,
    mut carry_out: impl FnMut(Order) -> Answer,
) -> io::Result<()> {
    loop {
        let mut order = [0; 2];
        match from.read_exact(&mut order) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [order, number] = order;
        let order = Order::of(order).ok_or(io::ErrorKind::InvalidData)?;
        to.write_all(&carry_out(order).encode(number))?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    type Piped = QemuProxy<io::PipeWriter, io::PipeReader>;

    fn proxy_over(mut carry_out: impl FnMut(Order) -> Devices + Send + 'static) -> Piped {
        proxy_answering(move |order| carry_out(order).into())
    }

    fn refused(words: &str) -> Answer {
        let refused: Result<(), QmpError> = Err(QmpError::Refused(words.to_owned()));
        refused.into()
    }

    fn proxy_answering(carry_out: impl FnMut(Order) -> Answer + Send + 'static) -> Piped {
        let (mut orders, to) = io::pipe().unwrap();
        let (from, mut answers) = io::pipe().unwrap();
        thread::spawn(move || serve(&mut orders, &mut answers, carry_out));
        QemuProxy::over(to, from)
    }

    #[test]
    fn each_order_is_carried_out_and_answered() {
        for devices in ANSWERS {
            let mut proxy = proxy_over(move |order| match order {
                Order::Follow => devices,
                _ => Devices::Run,
            });
            assert_eq!(proxy.ask(Order::Run).devices, Devices::Run);
            assert_eq!(proxy.ask(Order::Follow).devices, devices);
            assert_eq!(proxy.ask(Order::EndLog).devices, Devices::Run);
        }
    }

    /// The guest may have taken QEMU over, and its words reach the operator's terminal.
    #[test]
    fn qemus_words_arrive_bounded_and_without_what_a_terminal_obeys() {
        // Whole characters only.
        let most = format!("refuses: {}", "\u{20ac}".repeat((255 - 9) / 3));
        for (said, received) in [
            ("no lock\u{1b}[2J\n".to_owned(), "refuses: no lock[2J"),
            ("\u{20ac}".repeat(200), most.as_str()),
        ] {
            let mut proxy = proxy_answering(move |_| refused(&said));
            for order in [Order::Run, Order::Save] {
                let answer = proxy.ask(order);
                assert_eq!(answer.devices, Devices::Refused);
                assert_eq!(answer.words, received);
            }
        }
        let gone: Result<(), QmpError> = Err(QmpError::Gone);
        assert_eq!(Answer::from(gone), Devices::Gone.into());
    }

    #[test]
    fn what_qemu_says_of_the_log_is_told_and_forgotten_with_the_next_answer() {
        let (mut orders, to) = io::pipe().unwrap();
        let (from, mut answers) = io::pipe().unwrap();
        let mut emulated = Emulated::NONE;
        assert!(emulated.log(true).is_ok() && emulated.words().is_empty());
        let proxy: QemuProxy<ChildStdin, ChildStdout> = QemuProxy::over(
            ChildStdin::from(std::os::fd::OwnedFd::from(to)),
            ChildStdout::from(std::os::fd::OwnedFd::from(from)),
        );
        emulated.proxy = Some(proxy);
        thread::spawn(move || {
            serve(&mut orders, &mut answers, |order| match order {
                Order::BeginLog => refused("no log"),
                _ => Devices::Run.into(),
            })
        });
        let said = emulated.log(true).unwrap_err().to_string();
        assert_eq!(said, "QEMU refuses: no log");
        assert_eq!(emulated.words(), "refuses: no log");
        assert_eq!(emulated.make_run(), Devices::Run);
        assert_eq!(emulated.words(), "");
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_orders() {
        let (mut orders, to) = io::pipe().unwrap();
        let (from, mut answers) = io::pipe().unwrap();
        let mut proxy = QemuProxy::over(to, from);
        assert_eq!(proxy.ask(Order::Run).devices, Devices::Silent);
        let mut order = [0; 2];
        orders.read_exact(&mut order).unwrap();
        answers
            .write_all(&refused("late").encode(order[1]))
            .unwrap();
        thread::spawn(move || serve(&mut orders, &mut answers, |_| Devices::Run.into()));
        assert_eq!(proxy.ask(Order::Run), Devices::Run.into());
    }

    /// The engine goes on keeping its limit while QEMU saves.
    #[test]
    fn an_order_is_given_without_a_wait_and_answered_later() {
        let (may_go_on, goes_on) = std::sync::mpsc::channel();
        let mut proxy = proxy_over(move |order| {
            if order == Order::Save {
                goes_on.recv().unwrap();
            }
            Devices::Run
        });
        assert!(proxy.order(Order::Save));
        assert_eq!(proxy.answer_so_far(), None);
        may_go_on.send(()).unwrap();
        let begun = Instant::now();
        let answer = loop {
            match proxy.answer_so_far() {
                None => assert!(begun.elapsed() < Order::Save.longest()),
                Some(answer) => break answer,
            }
        };
        assert_eq!(answer.devices, Devices::Run);
        // One that is given up for another is not answered in its place.
        assert!(proxy.order(Order::Save));
        may_go_on.send(()).unwrap();
        assert_eq!(proxy.ask(Order::Run).devices, Devices::Run);
        assert_eq!(proxy.answer(Instant::now()).ok(), None);
    }

    #[test]
    fn only_a_state_of_qemus_is_read_and_no_endless_one() {
        let mut file = memory_file().unwrap();
        assert!(read_state(&file).is_err());
        file.write_all(&STATE_HEADER).unwrap();
        file.write_all(b"more").unwrap();
        assert_eq!(
            read_state(&file).unwrap(),
            [&STATE_HEADER[..], b"more"].concat()
        );
        file.write_all_at(b"x", 0).unwrap();
        assert!(read_state(&file).is_err());
        file.set_len(1 + STATE_MAX as u64).unwrap();
        let said = read_state(&file).unwrap_err().to_string();
        assert!(said.contains("bytes"), "{said}");
    }

    #[test]
    fn a_proxy_that_is_gone_is_no_wait() {
        let (orders, to) = io::pipe().unwrap();
        let (from, answers) = io::pipe().unwrap();
        drop((orders, answers));
        let begun = Instant::now();
        let answer = QemuProxy::over(to, from).ask(Order::EndLog);
        assert_eq!(answer.devices, Devices::Silent);
        assert!(begun.elapsed() < Order::EndLog.longest());
    }

    #[test]
    fn a_proxy_knows_its_guest() {
        let parsed = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            parse_args(&words)
        };
        assert_eq!(parsed("lull devices 7"), Some((7, None)));
        assert_eq!(parsed("lull devices 7 9"), Some((7, Some(9))));
        for other in [
            "lull devices",
            "lull devices x",
            "lull devices 7 x",
            "lull devices 7 9 9",
            "lull device 7",
        ] {
            assert_eq!(parsed(other), None);
        }
    }
}

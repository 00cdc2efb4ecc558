//! The copy's QEMU, which waits for its state.
//!
//! libxl starts QEMU with `-incoming`, from a file that it opens by name. In a FIFO's place
//! QEMU finds the beginning of a state, which libxl has written, and waits for the rest:
//! it answers its monitor, takes no packet, and has not opened its disks for good. libxl
//! goes on once xenstore says that QEMU runs.
//!
//! `lull land` can open no file once it has read what another host says. So a holder, this
//! binary again, does it: it makes the FIFO, keeps it, writes the state into it at the end,
//! and watches QEMU run. It reads two kinds of orders from `lull land`, and nothing from
//! the source; the state passes through as bytes.
//!
//! An open of a FIFO waits until another process has it open. Without a holder libxl would
//! wait for ever, with xl's lock. The holder therefore removes the FIFO when `lull land` ends,
//! whatever the reason. When the holder dies, `lull land` ends too, and `lull see-off` removes
//! the FIFO ([`release`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use lull_base::ready::{self, is_readable};
use lull_base::{hygiene, inherited_fd};
use lull_xen::DomId;
use lull_xen::device_model::{Qemu, STATE_HEADER, STATE_MAX, Status, incoming_state, state_node};
use lull_xen::qmp::QmpError;
use lull_xen::xenstore::Xenstore;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::ioctl_fionbio;

/// The name of the hidden subcommand.
const SUBCOMMAND: &str = "hold-state";

/// Interval between two checks of QEMU or of the other end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The interval once QEMU waits for its state, which may take hours.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The interval while the guest is stopped.
const SHORT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Time that QEMU has to take its state and to run.
const LOADING: Duration = Duration::from_secs(10);

/// Time that the holder has to take an order, with which the state comes.
const ORDER: Duration = Duration::from_secs(10);

/// How long an answer of the holder's may take at most.
const ANSWER: Duration = LOADING.saturating_add(Duration::from_secs(2));

/// The orders to the holder, one byte each.
mod order {
    /// Make the FIFO. The domid follows, 16 bits.
    pub const ARM: u8 = b'a';
    /// Write the state into it, and watch QEMU run. The length follows, 32 bits, and the
    /// state.
    pub const LOAD: u8 = b'l';
}

/// The answers of the holder, one byte each.
mod answer {
    pub const DONE: u8 = b'd';
    pub const NO_FIFO: u8 = b'f';
    pub const NOT_TAKEN: u8 = b't';
    pub const GONE: u8 = b'g';
    pub const NOT_RUNNING: u8 = b'r';
}

/// Why the copy's QEMU cannot be used. The message is a sentence without a full stop.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoQemu {
    /// The FIFO cannot be made, or its name is taken.
    #[error("the file from which the guest's QEMU reads its state cannot be made")]
    NoFifo,
    /// QEMU does not read the FIFO to its end.
    #[error("the guest's QEMU does not take its state")]
    NotTaken,
    /// QEMU has ended.
    #[error("the guest's QEMU has ended")]
    Gone,
    /// QEMU has its state, and does not run in time.
    #[error("the guest's QEMU does not run with its state")]
    NotRunning,
    /// The holder has ended, with QEMU or by itself, or does not answer.
    #[error("the guest's QEMU, or the process that holds its state, has ended or does not answer")]
    NoHolder,
    /// What the source sent is no state, or is too large.
    #[error("the state of the guest's QEMU is missing, too large or in an unknown format")]
    NoState,
}

impl NoQemu {
    const fn byte(&self) -> u8 {
        match self {
            Self::NoFifo => answer::NO_FIFO,
            Self::NotTaken | Self::NoHolder | Self::NoState => answer::NOT_TAKEN,
            Self::Gone => answer::GONE,
            Self::NotRunning => answer::NOT_RUNNING,
        }
    }
}

/// The end that `lull land` holds of the pipes to the holder.
pub(super) struct Holder<W = ChildStdin, R = ChildStdout> {
    to: W,
    from: R,
    /// The state so far.
    state: Vec<u8>,
}

impl Holder {
    /// Starts the holder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start() -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (to, from) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Self::over(to, from)
    }
}

impl<W: Write + AsFd, R: Read + AsFd> Holder<W, R> {
    /// `lull land` must not wait for a holder that stands still, so a write never blocks.
    fn over(to: W, from: R) -> io::Result<Self> {
        ioctl_fionbio(&to, true)?;
        Ok(Self {
            to,
            from,
            state: Vec::new(),
        })
    }

    /// Has the QEMU of `copy`, which is not started yet, wait for its state.
    ///
    /// # Errors
    /// When the FIFO cannot be made, or the holder has ended.
    pub(super) fn arm(&mut self, copy: DomId) -> Result<(), NoQemu> {
        let [low, high] = copy.to_le_bytes();
        self.ask(&[order::ARM, low, high])
    }

    /// Checks that the holder is there.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn check(&self) -> Result<(), NoQemu> {
        match is_readable(&self.from, Duration::ZERO) {
            Ok(false) => Ok(()),
            // It says nothing unasked.
            Ok(true) | Err(_) => Err(NoQemu::NoHolder),
        }
    }

    /// Takes a part of the state.
    ///
    /// # Errors
    /// When it grows too large.
    pub(super) fn take(&mut self, part: &[u8]) -> Result<(), NoQemu> {
        if self.state.len() + part.len() > STATE_MAX {
            return Err(NoQemu::NoState);
        }
        self.state.extend(part);
        Ok(())
    }

    /// Has QEMU take the state, all of which is there, and run.
    ///
    /// # Errors
    /// When it does not, or there is no state.
    pub(super) fn load(&mut self) -> Result<(), NoQemu> {
        let state = std::mem::take(&mut self.state);
        let Some(rest) = state.strip_prefix(&STATE_HEADER) else {
            return Err(NoQemu::NoState);
        };
        let length = u32::try_from(rest.len()).map_err(|_| NoQemu::NoState)?;
        let length = length.to_le_bytes();
        self.ask(&[&[order::LOAD][..], &length, rest].concat())
    }

    fn ask(&mut self, order: &[u8]) -> Result<(), NoQemu> {
        self.ask_within(order, ORDER)
    }

    fn ask_within(&mut self, order: &[u8], longest: Duration) -> Result<(), NoQemu> {
        let mut said = [0];
        let asked = write_until(&mut self.to, order, Instant::now() + longest);
        let answered = asked.and_then(|()| match is_readable(&self.from, ANSWER)? {
            true => self.from.read_exact(&mut said),
            false => Err(io::ErrorKind::TimedOut.into()),
        });
        answered.map_err(|_| NoQemu::NoHolder)?;
        match said[0] {
            answer::DONE => Ok(()),
            answer::NO_FIFO => Err(NoQemu::NoFifo),
            answer::GONE => Err(NoQemu::Gone),
            answer::NOT_RUNNING => Err(NoQemu::NotRunning),
            _ => Err(NoQemu::NotTaken),
        }
    }
}

/// The FIFO in the place of the file with QEMU's state. It is removed when this is dropped.
#[derive(Debug)]
struct Fifo {
    path: PathBuf,
    /// Open for reading and writing at first, so that another open does not wait.
    file: File,
}

impl Fifo {
    fn make(path: PathBuf) -> io::Result<Self> {
        clear(&path);
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)?;
        match open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Opens it for writing only. A write then fails if no other process has it open for
    /// reading.
    ///
    /// # Errors
    /// When it cannot be opened again.
    fn only_write(&mut self) -> io::Result<()> {
        // libxl may have removed its name.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::NONBLOCK.bits() as i32;
        self.file = File::options().write(true).custom_flags(flags).open(path)?;
        Ok(())
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        // libxl has removed it if QEMU runs.
        let is_fifo =
            |path: &Path| fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_fifo());
        if is_fifo(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what an earlier copy of that domid has left: libxl leaves its file when it gives up
/// a guest, and a host that has crashed leaves a FIFO. A FIFO that has a reader is kept.
fn clear(path: &Path) {
    let is_read = at_once()
        .write(true)
        .open(path)
        .and_then(|file| file.metadata())
        .is_ok_and(|file| file.file_type().is_fifo());
    if !is_read {
        let _ = fs::remove_file(path);
    }
}

/// Options for an open that neither waits nor follows a link.
fn at_once() -> OpenOptions {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut options = File::options();
    options.custom_flags(flags.bits() as i32);
    options
}

/// Opens a FIFO for both directions, without a wait.
fn open(path: &Path) -> io::Result<File> {
    let file = at_once().read(true).write(true).open(path)?;
    match file.metadata()?.file_type().is_fifo() {
        true => Ok(file),
        false => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Removes the FIFO of a copy that will not be started, if its holder has not. A
/// process that waits to open it goes on, and finds no writer.
pub(super) fn release(copy: DomId) {
    release_at(incoming_state(copy));
}

fn release_at(path: PathBuf) {
    if let Ok(file) = open(&path) {
        // An open that waited has returned by the time when it is closed.
        drop(Fifo { path, file });
    }
}

/// Removes the file that libxl has written in the FIFO's place for a copy that is gone. When
/// it gives up a guest, libxl leaves the file (4.17, `libxl_stream_read.c`).
pub(super) fn forget(copy: DomId) {
    let _ = fs::remove_file(incoming_state(copy));
}

/// The holder's main function: carries out the orders of `lull land` until it ends.
pub fn main() -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    match serve(io::stdin(), io::stdout(), OnXen::of) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A copy's QEMU, as far as the holder has to do with it.
trait Incoming {
    /// The file that QEMU reads.
    fn path(&self) -> PathBuf;

    /// What QEMU does.
    fn status(&self) -> Result<Status, QmpError>;

    /// Tells libxl that QEMU runs.
    fn report_running(&self) -> io::Result<()>;
}

struct OnXen {
    copy: DomId,
    qemu: Qemu,
}

impl OnXen {
    fn of(copy: DomId) -> Self {
        Self {
            copy,
            qemu: Qemu::of(copy),
        }
    }
}

impl Incoming for OnXen {
    fn path(&self) -> PathBuf {
        incoming_state(self.copy)
    }

    fn status(&self) -> Result<Status, QmpError> {
        self.qemu.status()
    }

    fn report_running(&self) -> io::Result<()> {
        Xenstore::open()?.write(&state_node(self.copy), "running")
    }
}

/// A copy that is expected.
struct Held<Q> {
    qemu: Q,
    /// `None` once the state is written.
    fifo: Option<Fifo>,
    reported_running: bool,
}

impl<Q: Incoming> Held<Q> {
    /// libxl waits for the key in xenstore that QEMU sets only when it runs. It connects to
    /// the monitor right after that, so QEMU must answer there.
    ///
    /// # Errors
    /// When QEMU, which did run, has ended.
    fn look(&mut self) -> io::Result<()> {
        match self.qemu.status() {
            Ok(Status::Waits) if !self.reported_running => {
                self.reported_running = self.qemu.report_running().is_ok();
            }
            Err(QmpError::Gone) if self.reported_running => {
                return Err(io::ErrorKind::NotConnected.into());
            }
            _ => {}
        }
        Ok(())
    }

    fn load(&mut self, state: &[u8]) -> Result<(), NoQemu> {
        let until = Instant::now() + LOADING;
        let mut fifo = self.fifo.take().ok_or(NoQemu::NotTaken)?;
        fifo.only_write().map_err(|_| NoQemu::Gone)?;
        write_until(&mut &fifo.file, state, until).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => NoQemu::Gone,
            _ => NoQemu::NotTaken,
        })?;
        // QEMU may read up to the end.
        drop(fifo);
        loop {
            match self.qemu.status() {
                Ok(Status::Runs) => return Ok(()),
                Err(QmpError::Gone) => return Err(NoQemu::Gone),
                // One that loads may not answer meanwhile.
                Ok(Status::Waits) | Err(QmpError::Silent) if Instant::now() < until => {
                    std::thread::sleep(SHORT_POLL_INTERVAL);
                }
                _ => return Err(NoQemu::NotRunning),
            }
        }
    }
}

/// Writes all of it to a reader that may stand still. A write to it does not block.
fn write_until(to: &mut (impl Write + AsFd), mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(&*to, PollFlags::OUT)];
                if !ready::wait_until(&mut fds, until)? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn serve<Q: Incoming>(
    mut from: impl Read + AsFd,
    mut to: impl Write,
    qemu: impl Fn(DomId) -> Q,
) -> io::Result<()> {
    let mut held: Option<Held<Q>> = None;
    loop {
        let longest = match &held {
            None => Duration::MAX,
            Some(held) if held.reported_running => WATCH_INTERVAL,
            Some(_) => POLL_INTERVAL,
        };
        if !is_readable(&from, longest)? {
            held.as_mut().map_or(Ok(()), Held::look)?;
            continue;
        }
        let mut order = [0];
        if from.read(&mut order)? == 0 {
            return Ok(());
        }
        let done = match order[0] {
            order::ARM if held.is_none() => {
                let mut copy = [0; 2];
                from.read_exact(&mut copy)?;
                let qemu = qemu(DomId::from_le_bytes(copy));
                let fifo = Fifo::make(qemu.path());
                let made = fifo.map(|fifo| Held {
                    qemu,
                    fifo: Some(fifo),
                    reported_running: false,
                });
                made.map(|made| held = Some(made))
                    .map_err(|_| NoQemu::NoFifo)
            }
            order::LOAD => {
                let mut length = [0; 4];
                from.read_exact(&mut length)?;
                let length = u32::from_le_bytes(length) as usize;
                if length > STATE_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let mut state = vec![0; length];
                from.read_exact(&mut state)?;
                let held = held.as_mut().ok_or(NoQemu::NotTaken);
                held.and_then(|held| held.load(&state))
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let said = done.map_or_else(|why| why.byte(), |()| answer::DONE);
        to.write_all(&[said])?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::{Arc, Mutex};
    use std::thread::{self, JoinHandle};

    use super::*;

    /// A QEMU whose answers are given by the test.
    #[derive(Clone)]
    struct Fake {
        path: PathBuf,
        status: Arc<Mutex<Option<Status>>>,
        reported_running: Arc<Mutex<u32>>,
    }

    impl Fake {
        fn says(&self, status: Option<Status>) {
            *self.status.lock().unwrap() = status;
        }

        fn reported_running(&self) -> u32 {
            *self.reported_running.lock().unwrap()
        }
    }

    impl Incoming for Fake {
        fn path(&self) -> PathBuf {
            self.path.clone()
        }

        fn status(&self) -> Result<Status, QmpError> {
            self.status.lock().unwrap().ok_or(QmpError::Gone)
        }

        fn report_running(&self) -> io::Result<()> {
            *self.reported_running.lock().unwrap() += 1;
            Ok(())
        }
    }

    type Piped = Holder<io::PipeWriter, io::PipeReader>;

    fn held(qemu: &Fake) -> (Piped, JoinHandle<()>) {
        let (orders, to) = io::pipe().unwrap();
        let (from, answers) = io::pipe().unwrap();
        let qemu = qemu.clone();
        let holder = thread::spawn(move || {
            let _ = serve(orders, answers, |copy| {
                assert_eq!(copy, 7);
                qemu.clone()
            });
        });
        (Holder::over(to, from).unwrap(), holder)
    }

    fn fake(folder: &tempfile::TempDir) -> Fake {
        Fake {
            path: folder.path().join("qemu-resume.7"),
            status: Arc::default(),
            reported_running: Arc::default(),
        }
    }

    fn until(done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            thread::sleep(SHORT_POLL_INTERVAL);
        }
    }

    /// What libxl and QEMU do: the one writes the beginning, the other reads to the end.
    #[test]
    fn qemu_reads_its_state_in_two_parts() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = fake(&folder);
        let (mut holder, process) = held(&qemu);
        holder.arm(7).unwrap();
        holder.check().unwrap();
        let mut libxl = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&qemu.path)
            .unwrap();
        libxl.write_all(&STATE_HEADER).unwrap();
        let mut incoming = File::open(&qemu.path).unwrap();
        drop(libxl);
        // Nothing is told before QEMU answers, and then it is told once.
        assert_eq!(qemu.reported_running(), 0);
        qemu.says(Some(Status::Waits));
        until(|| qemu.reported_running() == 1);
        let reader = {
            let qemu = qemu.clone();
            thread::spawn(move || {
                let mut state = Vec::new();
                incoming.read_to_end(&mut state).unwrap();
                qemu.says(Some(Status::Runs));
                state
            })
        };
        // More than a pipe holds.
        let state: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let state = [&STATE_HEADER[..], &state].concat();
        for part in state.chunks(70_000) {
            holder.take(part).unwrap();
        }
        holder.load().unwrap();
        assert_eq!(reader.join().unwrap(), state);
        assert_eq!(qemu.reported_running(), 1);
        assert!(!qemu.path.exists());
        drop(holder);
        process.join().unwrap();
    }

    #[test]
    fn a_qemu_that_ends_or_does_not_run_is_told_apart() {
        for (status, why) in [
            (None, NoQemu::Gone),
            (Some(Status::Other), NoQemu::NotRunning),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let qemu = fake(&folder);
            let (mut holder, _process) = held(&qemu);
            holder.arm(7).unwrap();
            qemu.says(status);
            let _reader = status.map(|_| open(&qemu.path).unwrap());
            holder.take(&STATE_HEADER).unwrap();
            holder.take(b"state").unwrap();
            assert_eq!(holder.load(), Err(why));
        }
    }

    #[test]
    fn what_is_no_state_reaches_no_qemu() {
        let folder = tempfile::tempdir().unwrap();
        let (mut holder, _process) = held(&fake(&folder));
        assert_eq!(holder.load(), Err(NoQemu::NoState));
        holder.take(b"QEVM, but not that").unwrap();
        assert_eq!(holder.load(), Err(NoQemu::NoState));
        holder.take(&vec![0; STATE_MAX]).unwrap();
        assert_eq!(holder.take(&[0]), Err(NoQemu::NoState));
        // Before a copy is expected there is none.
        let mut early = held(&fake(&folder)).0;
        early.take(&STATE_HEADER).unwrap();
        assert_eq!(early.load(), Err(NoQemu::NotTaken));
    }

    /// A domid comes again after a reboot.
    #[test]
    fn what_an_earlier_copy_has_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = fake(&folder);
        fs::write(&qemu.path, "a restore's").unwrap();
        let fifo = Fifo::make(qemu.path.clone()).unwrap();
        let other = Fifo::make(qemu.path.clone()).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::AlreadyExists, "it is in use");
        // Nobody removes the FIFO of a process that is killed.
        let left = folder.path().join("left");
        fs::rename(&qemu.path, &left).unwrap();
        drop(fifo);
        drop(Fifo::make(left.clone()).unwrap());
        assert!(!left.exists());
        fs::write(&left, "a restore's").unwrap();
        release_at(left.clone());
        assert!(left.exists(), "it may be in use");
    }

    /// QEMU ends while it waits, which may take hours.
    #[test]
    fn the_end_of_a_qemu_that_waits_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = fake(&folder);
        let (mut holder, process) = held(&qemu);
        holder.arm(7).unwrap();
        qemu.says(Some(Status::Waits));
        until(|| qemu.reported_running() == 1);
        qemu.says(None);
        until(|| holder.check() == Err(NoQemu::NoHolder));
        process.join().unwrap();
    }

    /// A process that has ended, whatever of, holds nothing.
    #[test]
    fn a_fifo_does_not_outlive_lull_land() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = fake(&folder);
        let (mut holder, process) = held(&qemu);
        holder.arm(7).unwrap();
        assert!(qemu.path.exists());
        drop(holder);
        process.join().unwrap();
        assert!(!qemu.path.exists());
    }

    /// The environment variable that makes this test a holder.
    const HOLDER: &str = "LULL_TEST_HOLDER";

    /// The holder is killed before libxl has opened the FIFO.
    #[test]
    fn whoever_waits_for_a_killed_holder_goes_on() {
        if let Some(path) = std::env::var_os(HOLDER) {
            let qemu = Fake {
                path: path.into(),
                status: Arc::default(),
                reported_running: Arc::default(),
            };
            serve(io::stdin(), io::sink(), |_| qemu.clone()).unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qemu-resume.7");
        let test = "land::incoming::tests::whoever_waits_for_a_killed_holder_goes_on";
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(HOLDER, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let orders = holder.stdin.as_mut().unwrap();
        orders.write_all(&[order::ARM, 7, 0]).unwrap();
        until(|| path.exists());
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(path.exists(), "nobody removes it");
        let mut libxl = Command::new("sh")
            .args(["-c", "exec 3>\"$0\"; echo opened", path.to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It waits in its open by now. Otherwise it finds no FIFO, and makes a file.
        thread::sleep(Duration::from_millis(300));
        release_at(path.clone());
        let mut said = String::new();
        let from = libxl.stdout.as_mut().unwrap();
        from.read_to_string(&mut said).unwrap();
        assert_eq!(said, "opened\n");
        libxl.wait().unwrap();
        let is_fifo = fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_fifo());
        assert!(!is_fifo);
    }

    /// The end of a pipe, and how often it was written to.
    struct Counted(io::PipeWriter, u32);

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Counted {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    /// The guest is stopped meanwhile, and dom0 may have other work.
    #[test]
    fn a_reader_that_stands_still_is_waited_for_without_a_look_each_millisecond() {
        let (mut from, mut to) = io::pipe().unwrap();
        ioctl_fionbio(&to, true).unwrap();
        while matches!(to.write(&[0; 4096]), Ok(4096)) {}
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            let mut state = Vec::new();
            from.read_to_end(&mut state).unwrap();
            state
        });
        let mut to = Counted(to, 0);
        let until = Instant::now() + Duration::from_secs(60);
        write_until(&mut to, &[7; 8192], until).unwrap();
        let Counted(to, writes) = to;
        drop(to);
        assert!(reader.join().unwrap().ends_with(&[7; 8192]));
        assert!(writes < 20, "{writes}");
    }

    /// The guest is stopped while its state is handed over.
    #[test]
    fn a_holder_that_takes_no_order_is_given_up() {
        let (orders, to) = io::pipe().unwrap();
        let (from, answers) = io::pipe().unwrap();
        let mut holder = Holder::over(to, from).unwrap();
        // More than a pipe holds.
        let state = vec![0; 1 << 20];
        let given_up = holder.ask_within(&state, Duration::from_millis(10));
        assert_eq!(given_up, Err(NoQemu::NoHolder));
        drop((orders, answers));
    }

    #[test]
    fn a_holder_that_has_ended_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (orders, to) = io::pipe().unwrap();
        let (from, answers) = io::pipe().unwrap();
        let mut holder = Holder::over(to, from).unwrap();
        holder.check().unwrap();
        drop((orders, answers));
        assert_eq!(holder.check(), Err(NoQemu::NoHolder));
        assert_eq!(holder.arm(7), Err(NoQemu::NoHolder));
        drop(folder);
    }
}

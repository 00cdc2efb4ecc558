//! The main loop of `lull land`: it reads a frame, executes it, and answers.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lull_base::lines::{Lines, TooLong};
use lull_base::{confine, hygiene, inherited_fd, ready};
use lull_xen::REQUESTS;
use rustix::event::{PollFd, PollFlags};
use rustix::stdio::stdin;

use super::incoming::{Holder, NoQemu};
use super::inlet::{Arrived, FindPlace, Inlet, Place};
use super::join_socket::{JoinSocket, Joined};
use super::see_off::SeeOff;
use super::waiting::{Compared, Complete, Finder, Identity, Tools, Unfit, Waiting};
use lull_store::running::folder::{self, Folder};
use lull_wire::channel::{
    Attach, BadFrame, Chosen, Edition, Expect, FromLand, Greeting, LINE_MAX, Pages, Purpose,
    SILENCE, TO_LAND_MAX, ToLand, Token,
};
use lull_wire::json;

/// Interval at which the guest is checked while nothing arrives.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a copy that is expected is looked for.
const SHORT_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Time that the source has to choose a version.
const CHOOSING: Duration = Duration::from_secs(60);

/// Longest silence of a source that has begun to speak. Whatever the edition, it asks every
/// few seconds whether this end is there, if nothing else is due, and waits for no answer longer
/// than [`SILENCE`]. A source that is cut off never closes its end, and its copy must not stay
/// in the way of another attempt.
const SILENCE_MAX: Duration = SILENCE.saturating_mul(3);

/// Time that the guest has to start before this process ends. Its end also ends an sshd
/// session, and that takes time from dom0 while the guest waits.
const LANDING: Duration = Duration::from_secs(20);

/// Why the process ends without a landing.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The source has closed its end or is cut off, so there is no one to report to.
    #[error("the source has gone")]
    Gone,
    #[error("the source does not choose a version")]
    NoVersion,
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    NoQemu(#[from] NoQemu),
    #[error(transparent)]
    Bad(#[from] BadFrame),
    #[error("a message that is too long ({0} bytes)")]
    TooLong(usize),
    #[error("a message out of turn")]
    OutOfTurn,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs until the guest has landed or cannot land.
pub fn main() -> ExitCode {
    drop(inherited_fd::foreign(&[]));
    hygiene::settle();
    // Without it, the source has to do with one connection.
    let join_socket = JoinSocket::open(&Folder::default());
    let join_socket = join_socket.inspect_err(|error| {
        eprintln!("lull land: no further connection can join: {error}");
    });
    let join_socket = join_socket.ok();
    let token = join_socket.as_ref().map(JoinSocket::token);
    // This precedes the greeting: if it fails, the source uses a classic landing.
    let here = match ThisHost::open(token) {
        Ok(here) => here,
        Err(error) => {
            if let Some(token) = token {
                folder::remove(&Folder::default().join_socket(token));
            }
            eprintln!("lull land: not ready to take a guest: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Everything from here on is input from another host.
    confine::to_open_files(&REQUESTS);
    let mut source = Source::new(stdin(), io::stdout(), join_socket);
    let ended = serve(&mut source, here);
    let Err(end) = ended else {
        return ExitCode::SUCCESS;
    };
    // A source that reads nothing holds up the message below. Nothing of the copy is to be
    // mapped meanwhile.
    source.drop_frames();
    if !matches!(end, End::Gone) {
        let _ = source.say(&FromLand::Failed(end.to_string()).encode());
    }
    eprintln!("lull land: {end}");
    ExitCode::FAILURE
}

/// Finds the copy that the source names, and prepares for it before it is built.
trait Destination {
    /// Looks for a copy, and has its QEMU wait. Returns whether it was found.
    fn expect(&mut self, copy: &Expect) -> Result<bool, End>;

    /// Checks that a copy which is expected can still come.
    fn check(&self) -> Result<(), End>;

    /// Finds the copy, once it is built.
    fn attach(self, copy: &Attach) -> Result<Attached, End>;
}

/// A copy that was found, and what looks after it.
struct Attached {
    copy: WaitingCopy,
    see_off: SeeOff,
}

/// A copy that is brought up to date.
struct WaitingCopy {
    waiting: Waiting,
    /// Its QEMU waits for its state.
    holder: Option<Holder>,
}

impl WaitingCopy {
    fn check_holder(&self) -> Result<(), End> {
        self.holder.as_ref().map_or(Ok(()), |it| Ok(it.check()?))
    }
}

/// What is done while frames arrive.
trait Meanwhile {
    /// Decides whether to go on. Called every second as long as no frame is complete.
    fn check(&mut self) -> Result<(), End>;

    /// See [`FindPlace`].
    fn place(&mut self, _: &Pages) -> Result<Option<Box<dyn Place>>, End> {
        Ok(None)
    }
}

impl<F: FnMut() -> Result<(), End>> Meanwhile for F {
    fn check(&mut self) -> Result<(), End> {
        self()
    }
}

impl Meanwhile for WaitingCopy {
    fn check(&mut self) -> Result<(), End> {
        self.check_holder()?;
        Ok(self.waiting.check()?)
    }

    fn place(&mut self, pages: &Pages) -> Result<Option<Box<dyn Place>>, End> {
        // A busy source leaves no second for the check between two frames.
        self.check_holder()?;
        let mapped = self.waiting.place(pages)?;
        Ok(mapped.map(|mapped| Box::new(mapped) as Box<dyn Place>))
    }
}

struct ThisHost {
    tools: Tools,
    finder: Finder,
    see_off: SeeOff,
    holder: Holder,
    /// The copy whose QEMU waits, and whether its receiver's pause is to be undone.
    expected: Option<(Identity, bool)>,
}

impl ThisHost {
    /// `join_socket` is the token of the socket at which connections join.
    fn open(join_socket: Option<Token>) -> io::Result<Self> {
        Ok(Self {
            tools: Tools::open()?,
            finder: Finder::open()?,
            see_off: SeeOff::start(join_socket)?,
            holder: Holder::start()?,
            expected: None,
        })
    }
}

impl Destination for ThisHost {
    fn expect(&mut self, copy: &Expect) -> Result<bool, End> {
        let Some(found) = self.finder.find(copy.uuid, &copy.name)? else {
            return Ok(false);
        };
        // It must not stay if this process ends before it is built.
        self.see_off.watch(found)?;
        self.holder.arm(found.domain)?;
        self.expected = Some((found, copy.unpause));
        Ok(true)
    }

    fn check(&self) -> Result<(), End> {
        match self.expected {
            Some(_) => Ok(self.holder.check()?),
            None => Ok(()),
        }
    }

    fn attach(mut self, copy: &Attach) -> Result<Attached, End> {
        let mut waiting = Waiting::find(copy, self.tools)?;
        match self.expected {
            Some((expected, _)) if expected != waiting.copy() => {
                return Err(Unfit::NoLongerWaits.into());
            }
            Some((_, true)) => waiting.unpause(),
            Some((_, false)) | None => {}
        }
        self.see_off.watch(waiting.copy())?;
        self.see_off.is_built()?;
        Ok(Attached {
            copy: WaitingCopy {
                waiting,
                holder: self.expected.map(|_| self.holder),
            },
            see_off: self.see_off,
        })
    }
}

fn serve<W: Write>(
    source: &mut Source<'_, W>,
    mut destination: impl Destination,
) -> Result<(), End> {
    let greeting = Greeting::ours(source.join_socket.as_ref().map(JoinSocket::token));
    source.say(&json::line(&greeting)?)?;
    let chosen: Chosen = serde_json::from_str(&source.line(Instant::now() + CHOOSING)?)
        .map_err(|_| End::NoVersion)?;
    let edition = Edition::of(chosen.land).ok_or(End::NoVersion)?;
    if !edition.may_join() {
        source.join_socket = None;
    }
    // Nothing on this host is touched before the source names the copy. In an older edition
    // that may be hours later, because the source's first pass comes before it.
    let mut is_expected = false;
    // A copy that is expected and does not exist yet. It does as soon as the stream has begun,
    // and its QEMU is started later.
    let mut awaited: Option<Expect> = None;
    let attached = loop {
        let arrived = match &awaited {
            None => Some(source.frame(&mut || destination.check())?),
            Some(_) => source.frame_within(SHORT_POLL_INTERVAL, &mut || Ok(()))?,
        };
        let Some((via, frame)) = arrived else {
            if let Some(copy) = &awaited
                && destination.expect(copy)?
            {
                awaited = None;
                source.say(&FromLand::Armed.encode())?;
            }
            continue;
        };
        let Arrived::Here(frame) = frame else {
            return Err(End::OutOfTurn);
        };
        match frame {
            ToLand::Ping => source.answer(via, &FromLand::Pong)?,
            _ if via != Via::First => return Err(End::OutOfTurn),
            ToLand::Attach(whose) => break destination.attach(&whose)?,
            ToLand::Expect(copy) if edition.takes_devices() && !is_expected => {
                is_expected = true;
                awaited = Some(copy);
                // Whatever joins has done so.
                source.join_socket = None;
            }
            _ => return Err(End::OutOfTurn),
        }
    };
    let Attached {
        mut copy,
        mut see_off,
    } = attached;
    source.join_socket = None;
    if edition.landing().is_handshake_first() {
        copy.waiting.hold()?;
    }
    if edition.is_thin() {
        copy.waiting.expect_all();
    }
    source.say(&FromLand::Attached.encode())?;
    loop {
        let (via, frame) = source.frame(&mut copy)?;
        let frame = match frame {
            Arrived::Here(frame) => frame,
            Arrived::InPlace(pages) => {
                copy.waiting.placed(&pages)?;
                source.answer(via, &FromLand::Applied)?;
                continue;
            }
        };
        let answer = match frame {
            ToLand::Ping => FromLand::Pong,
            ToLand::Pages(pages, bytes) if pages.purpose == Purpose::Write => {
                // A busy source leaves no second for the check between two frames.
                copy.check_holder()?;
                copy.waiting.write(&pages, &bytes)?;
                FromLand::Applied
            }
            _ if via != Via::First => return Err(End::OutOfTurn),
            ToLand::Attach(_) | ToLand::Expect(_) | ToLand::Start => return Err(End::OutOfTurn),
            ToLand::Devices(part) => {
                let holder = copy.holder.as_mut().ok_or(End::OutOfTurn)?;
                holder.take(&part)?;
                continue;
            }
            ToLand::Pages(pages, bytes) => {
                let Compared { differing, first } = copy.waiting.compare(&pages, &bytes)?;
                FromLand::Compared { differing, first }
            }
            ToLand::Leave(number) if edition.may_join() => {
                source.close(number);
                FromLand::Left
            }
            ToLand::Leave(_) => return Err(End::OutOfTurn),
            ToLand::State(state) => {
                // All pages were answered, or this would not be the final state.
                if source.is_within_a_frame() {
                    return Err(End::OutOfTurn);
                }
                // Permission to start the guest follows. No mapping of the guest is left
                // when the source reads Landed.
                let complete = copy.waiting.set_state(&state)?;
                // QEMU looks at the guest's memory as it loads, so it comes last.
                if let Some(holder) = &mut copy.holder {
                    holder.load()?;
                }
                match edition.landing().is_handshake_first() {
                    false => landed(source, &mut see_off)?,
                    true => start(source, complete, &mut see_off)?,
                }
                source.outlast(LANDING);
                return Ok(());
            }
        };
        source.answer(via, &answer)?;
    }
}

/// Leaves the start to xl: its handshake follows once the source reads Landed.
fn landed<W: Write>(source: &mut Source<'_, W>, see_off: &mut SeeOff) -> Result<(), End> {
    see_off.lands();
    let sent = source.say(&FromLand::Landed.encode());
    match sent {
        Ok(()) => see_off.started(),
        Err(_) => see_off.landed_unsent(),
    }
    Ok(sent?)
}

/// Waits for Start and starts the copy. Until Start, `lull see-off` may destroy the copy;
/// afterwards it never does. A source that sends Start does so at once, and waits no longer
/// than [`SILENCE`] for Started. A Start that comes after [`SILENCE_MAX`] is ignored: the
/// guest may have been resumed at the source.
fn start<W: Write>(
    source: &mut Source<'_, W>,
    complete: Complete,
    see_off: &mut SeeOff,
) -> Result<(), End> {
    source.say(&FromLand::Landed.encode())?;
    match source.frame_of_first(|| Ok(complete.check()?))? {
        Arrived::Here(ToLand::Start) => {}
        _ => return Err(End::OutOfTurn),
    }
    complete.check()?;
    see_off.lands();
    complete.start()?;
    // A source that does not receive it reports that it does not know whether the copy runs.
    let said = source.say(&FromLand::Started.encode());
    see_off.started();
    Ok(said?)
}

/// The connection on which a frame came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    First,
    /// A further one, by its number.
    Joined(u8),
}

/// What a look at the connections has shown.
struct Ready {
    /// Which connections are readable: the first one, and the others in their order.
    connections: Vec<bool>,
    /// Which of the others the process that handed them over has left: it was killed.
    has_left: Vec<bool>,
    /// Whether a further connection waits to join.
    join_socket: bool,
}

/// The connections to the source. Every read polls first, so the guest is checked while the
/// source is silent.
struct Source<'f, W> {
    from: BorrowedFd<'f>,
    to: W,
    inlet: Inlet,
    /// Where further connections join, while they may.
    join_socket: Option<JoinSocket>,
    joined: Vec<Joined>,
    /// Which of the connections is read first, so that each gets its turn.
    turn: usize,
    /// When the last bytes came from the source. Its first frame may be late, because its xl
    /// logs in meanwhile.
    last_bytes_at: Option<Instant>,
    /// How long it may be silent from then on.
    silence_max: Duration,
    /// When [`Meanwhile::check`] was last called.
    checked_at: Instant,
}

impl<'f, W: Write> Source<'f, W> {
    fn new(from: BorrowedFd<'f>, to: W, join_socket: Option<JoinSocket>) -> Self {
        Self {
            from,
            to,
            inlet: Inlet::of(TO_LAND_MAX),
            join_socket,
            joined: Vec::new(),
            turn: 0,
            last_bytes_at: None,
            silence_max: SILENCE_MAX,
            checked_at: Instant::now(),
        }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    /// Answers on the connection on which the question came. One that takes no answer is
    /// closed; the source then sends what it carried once more.
    fn answer(&mut self, via: Via, answer: &FromLand) -> io::Result<()> {
        let bytes = answer.encode();
        let Via::Joined(number) = via else {
            return self.say(&bytes);
        };
        self.joined
            .retain_mut(|joined| joined.number != number || joined.say(&bytes).is_ok());
        Ok(())
    }

    /// Drops the frames that have arrived in part. Nothing more can be read.
    fn drop_frames(&mut self) {
        self.joined.clear();
        self.inlet = Inlet::of(0);
    }

    /// Reads nothing more from a further connection.
    fn close(&mut self, number: u8) {
        self.joined.retain(|joined| joined.number != number);
    }

    /// Whether a part of a frame has arrived on a further connection.
    fn is_within_a_frame(&self) -> bool {
        self.joined.iter().any(Joined::is_within_a_frame)
    }

    /// Reads the next line, without its end, and nothing of the frames behind it.
    fn line(&self, until: Instant) -> Result<String, End> {
        let mut lines = Lines::of(LINE_MAX - 1);
        loop {
            // Frames follow the line, and are not read here.
            let mut byte = [0];
            self.fill(&mut byte, || match Instant::now() < until {
                true => Ok(()),
                false => Err(End::NoVersion),
            })?;
            lines.push(&byte);
            match lines.next_line() {
                Some(Ok(line)) => return Ok(String::from_utf8_lossy(&line).into_owned()),
                Some(Err(TooLong)) => return Err(End::TooLong(LINE_MAX)),
                None => {}
            }
        }
    }

    /// Reads a frame of any connection.
    fn frame(&mut self, meanwhile: &mut impl Meanwhile) -> Result<(Via, Arrived), End> {
        loop {
            match self.frame_within(POLL_INTERVAL, meanwhile)? {
                Some(read) => return Ok(read),
                None => self.check(meanwhile)?,
            }
        }
    }

    fn check(&mut self, meanwhile: &mut impl Meanwhile) -> Result<(), End> {
        self.checked_at = Instant::now();
        meanwhile.check()
    }

    /// Reads a frame of any connection. `None` once nothing has arrived for `longest`.
    fn frame_within(
        &mut self,
        longest: Duration,
        meanwhile: &mut impl Meanwhile,
    ) -> Result<Option<(Via, Arrived)>, End> {
        loop {
            let Some(ready) = self.readable(longest)? else {
                self.check_silence()?;
                return Ok(None);
            };
            if ready.has_left.contains(&true) {
                let mut has_left = ready.has_left.into_iter();
                self.joined.retain(|_| !has_left.next().unwrap_or(false));
                continue;
            }
            if let Some(join_socket) = self.join_socket.as_mut().filter(|_| ready.join_socket) {
                self.joined.extend(join_socket.admit());
            }
            // One that has just joined has its turn the next time.
            let count = ready.connections.len();
            for at in (0..count).map(|nth| (self.turn + nth) % count) {
                if !ready.connections[at] {
                    continue;
                }
                self.turn = at + 1;
                if let Some(read) = self.read(at, &mut |pages| meanwhile.place(pages))? {
                    return Ok(Some(read));
                }
                // The others may have moved up.
                break;
            }
            // A source that sends a frame in small pieces is never silent.
            if self.checked_at.elapsed() >= POLL_INTERVAL {
                self.check(meanwhile)?;
            }
        }
    }

    /// Reads from the connection at this place: the first one is at 0. A further one that
    /// has ended is closed.
    fn read(
        &mut self,
        at: usize,
        find_place: FindPlace<'_>,
    ) -> Result<Option<(Via, Arrived)>, End> {
        let Some(at) = at.checked_sub(1) else {
            let frame = self.read_first(find_place)?;
            return Ok(frame.map(|frame| (Via::First, frame)));
        };
        let joined = &mut self.joined[at];
        let via = Via::Joined(joined.number);
        match joined.read(find_place) {
            Ok(frame) => {
                self.last_bytes_at = Some(Instant::now());
                Ok(frame.map(|frame| (via, frame)))
            }
            Err(End::Gone | End::Io(_)) => {
                self.joined.remove(at);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn read_first(&mut self, find_place: FindPlace<'_>) -> Result<Option<Arrived>, End> {
        let frame = self.inlet.read(self.from, find_place)?;
        self.last_bytes_at = Some(Instant::now());
        Ok(frame)
    }

    /// Checks, while nothing arrives, that the source has not been silent for too long.
    fn check_silence(&self) -> Result<(), End> {
        match self.last_bytes_at {
            Some(at) if at.elapsed() >= self.silence_max => Err(End::Gone),
            Some(_) | None => Ok(()),
        }
    }

    /// Reads a frame of the first connection. The others are not looked at.
    fn frame_of_first(
        &mut self,
        mut meanwhile: impl FnMut() -> Result<(), End>,
    ) -> Result<Arrived, End> {
        loop {
            if !self.is_readable()? {
                self.check_silence()?;
                meanwhile()?;
                continue;
            }
            if let Some(frame) = self.read_first(&mut |_| Ok(None))? {
                return Ok(frame);
            }
        }
    }

    /// Waits until something arrives. `None` if nothing does for `longest`.
    fn readable(&self, longest: Duration) -> io::Result<Option<Ready>> {
        let arrives = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        // Nothing is ever written to these; only their end is reported.
        let ends = |joined| PollFd::from_borrowed_fd(Joined::stays(joined), PollFlags::empty());
        let mut fds = vec![arrives(self.from)];
        fds.extend(self.joined.iter().map(|joined| arrives(joined.as_fd())));
        fds.extend(self.joined.iter().map(ends));
        fds.extend(
            self.join_socket
                .as_ref()
                .map(|join_socket| arrives(join_socket.as_fd())),
        );
        if !ready::wait(&mut fds, Some(longest))? {
            return Ok(None);
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let joined = self.joined.len();
        Ok(Some(Ready {
            connections: ready.by_ref().take(1 + joined).collect(),
            has_left: ready.by_ref().take(joined).collect(),
            join_socket: ready.next().unwrap_or(false),
        }))
    }

    fn fill(
        &self,
        mut bytes: &mut [u8],
        mut meanwhile: impl FnMut() -> Result<(), End>,
    ) -> Result<(), End> {
        while !bytes.is_empty() {
            if !self.is_readable()? {
                meanwhile()?;
                continue;
            }
            // This bypasses std's buffer, because poll does not see the bytes buffered
            // there.
            match rustix::io::read(self.from, &mut *bytes) {
                Ok(0) => return Err(End::Gone),
                Ok(count) => bytes = &mut bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// Waits until the source hangs up, for `longest` at most. Anything it still sends is
    /// ignored.
    fn outlast(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let late = || match Instant::now() < until {
            true => Ok(()),
            false => Err(End::Gone),
        };
        let mut byte = [0];
        while self.fill(&mut byte, late).is_ok() && late().is_ok() {}
    }

    fn is_readable(&self) -> io::Result<bool> {
        Ok(ready::is_readable(self.from, POLL_INTERVAL)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Read, pipe};

    use lull_wire::channel::{self, SHARE_BYTES_MAX};

    use super::super::join_socket::send_connection;
    use super::*;

    const CHOSEN: &[u8] = b"{\"land\":2}\n";

    const NEWEST: &[u8] = b"{\"land\":6}\n";

    const PING: Arrived = Arrived::Here(ToLand::Ping);

    /// Serves a source that sends `words` and closes; returns the end, and what was sent to
    /// the source.
    fn served(words: &[&[u8]]) -> (End, Vec<u8>) {
        let (from, mut source) = pipe().unwrap();
        for bytes in words {
            source.write_all(bytes).unwrap();
        }
        drop(source);
        let mut source = Source::new(from.as_fd(), Vec::new(), None);
        let end = serve(&mut source, NeverBuilt(0)).unwrap_err();
        (end, source.to)
    }

    /// A destination where a copy exists at the third look, and is never built.
    struct NeverBuilt(u32);

    impl Destination for NeverBuilt {
        fn expect(&mut self, copy: &Expect) -> Result<bool, End> {
            assert_eq!(copy.name, "web1");
            self.0 += 1;
            Ok(self.0 == 3)
        }

        fn check(&self) -> Result<(), End> {
            Ok(())
        }

        fn attach(self, _: &Attach) -> Result<Attached, End> {
            unreachable!("whose copy it is was not said")
        }
    }

    fn expected() -> Vec<u8> {
        channel::expect(&Expect {
            uuid: [7; 16],
            name: "web1".into(),
            unpause: true,
        })
    }

    fn frame(kind: u32, length: u32) -> Vec<u8> {
        [kind.to_le_bytes(), length.to_le_bytes()].concat()
    }

    #[test]
    fn it_says_first_what_it_speaks_and_ends_with_its_source() {
        let (end, said) = served(&[]);
        assert!(matches!(end, End::Gone), "{end}");
        let greeting: Greeting = serde_json::from_slice(&said).unwrap();
        assert_eq!(greeting, Greeting::ours(None));
        // Whether it ends after a whole message or within one, there is no one to report
        // to.
        for words in [&[CHOSEN][..], &[CHOSEN, b"\x01\0\0"]] {
            assert!(matches!(served(words).0, End::Gone));
        }
    }

    #[test]
    fn another_version_or_none_is_no_beginning() {
        for chosen in [&b"{\"land\":7}\n"[..], b"{\"land\":1}\n", b"hello\n", b"\n"] {
            let (end, _) = served(&[chosen]);
            assert!(matches!(end, End::NoVersion), "{end}");
        }
        let (end, _) = served(&[&[b'x'; LINE_MAX]]);
        assert!(matches!(end, End::TooLong(LINE_MAX)), "{end}");
    }

    #[test]
    fn nothing_is_done_before_it_is_said_whose_copy_it_is_about() {
        let pages = channel::pages_header(&channel::Pages {
            purpose: Purpose::Write,
            present: Vec::new(),
            zero: vec![6],
            depopulated: vec![7],
        });
        let devices = channel::devices(b"QEVM");
        for first in [pages, channel::start(), channel::leave(1), devices] {
            for chosen in [CHOSEN, NEWEST] {
                let (end, _) = served(&[chosen, &first]);
                assert!(matches!(end, End::OutOfTurn), "{end}");
            }
        }
        // In an older edition no copy is expected.
        for older in [CHOSEN, b"{\"land\":5}\n"] {
            let (end, _) = served(&[older, &expected()]);
            assert!(matches!(end, End::OutOfTurn), "{end}");
        }
        let (end, _) = served(&[CHOSEN, &frame(10, 0)]);
        assert!(matches!(end, End::Bad(_)), "{end}");
        let (end, _) = served(&[CHOSEN, &frame(2, u32::MAX)]);
        assert!(matches!(end, End::TooLong(_)), "{end}");
    }

    #[test]
    fn a_source_that_asks_is_answered_before_it_names_a_copy() {
        let (end, said) = served(&[CHOSEN, &channel::ping(), &channel::ping()]);
        assert!(matches!(end, End::Gone), "{end}");
        let pong = FromLand::Pong.encode();
        assert!(said.ends_with(&[&pong[..], &pong].concat()), "{said:?}");
    }

    /// Serves a source with a further connection, which sends `words`. The first one sends a
    /// ping, and may close. Returns the end, and what was sent on the further connection.
    fn served_beside(chosen: &[u8], words: &[u8], closes: bool) -> (End, String) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        let join_socket = JoinSocket::open(&folder).unwrap();
        let (from, mut joins) = pipe().unwrap();
        let (mut received, to) = pipe().unwrap();
        let stays =
            send_connection(&folder, join_socket.token(), from.as_fd(), to.as_fd()).unwrap();
        drop((from, to));
        joins.write_all(words).unwrap();
        let (from, mut first) = pipe().unwrap();
        first.write_all(chosen).unwrap();
        first.write_all(&channel::ping()).unwrap();
        let first = (!closes).then_some(first);
        let mut source = Source::new(from.as_fd(), Vec::new(), Some(join_socket));
        let end = serve(&mut source, NeverBuilt(0)).unwrap_err();
        drop((source, stays, joins, first));
        let mut said = Vec::new();
        received.read_to_end(&mut said).unwrap();
        (end, String::from_utf8_lossy(&said).into_owned())
    }

    #[test]
    fn a_further_connection_is_answered_by_itself_and_decides_nothing() {
        const JOINS: &[u8] = b"{\"land\":5}\n";
        let (end, said) = served_beside(JOINS, &channel::ping(), true);
        assert!(matches!(end, End::Gone), "{end}");
        let pong = String::from_utf8_lossy(&FromLand::Pong.encode()).into_owned();
        assert_eq!(said, format!("{{\"joined\":1}}\n{pong}"));
        let attach = channel::attach(&Attach {
            uuid: [7; 16],
            frames: 9,
            name: "web1".into(),
        });
        let devices = channel::devices(b"QEVM");
        for words in [
            attach,
            channel::leave(1),
            channel::start(),
            expected(),
            devices,
        ] {
            for chosen in [JOINS, NEWEST] {
                let (end, _) = served_beside(chosen, &words, false);
                assert!(matches!(end, End::OutOfTurn), "{end}");
            }
        }
        let long = frame(2, SHARE_BYTES_MAX as u32 + 1);
        let (end, _) = served_beside(JOINS, &long, false);
        assert!(matches!(end, End::TooLong(_)), "{end}");
        // In an older edition none joins.
        let (end, said) = served_beside(b"{\"land\":4}\n", &channel::ping(), true);
        assert!(matches!(end, End::Gone) && said.is_empty(), "{end} {said}");
    }

    #[test]
    fn a_further_connection_that_ends_is_no_end() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        let join_socket = JoinSocket::open(&folder).unwrap();
        let token = join_socket.token();
        let (from, mut first) = pipe().unwrap();
        let mut source = Source::new(from.as_fd(), Vec::new(), Some(join_socket));
        let join = || {
            let (from, joins) = pipe().unwrap();
            let (received, to) = pipe().unwrap();
            let stays = send_connection(&folder, token, from.as_fd(), to.as_fd()).unwrap();
            (joins, received, stays)
        };
        let one = join();
        let (mut other, _received, stays) = join();
        other.write_all(&channel::ping()).unwrap();
        let ping = |number| Some((Via::Joined(number), PING));
        let frame = |source: &mut Source<'_, _>| {
            let read = source.frame(&mut || Err(Unfit::NoLongerWaits.into()));
            read.ok()
        };
        assert_eq!(frame(&mut source), ping(2));
        assert_eq!(source.joined.len(), 2);
        // Its ssh has ended, or the process that handed it over was killed.
        drop(one);
        drop(stays);
        first.write_all(&channel::ping()).unwrap();
        assert_eq!(frame(&mut source), Some((Via::First, PING)));
        first.write_all(&channel::ping()).unwrap();
        assert_eq!(frame(&mut source), Some((Via::First, PING)));
        assert!(source.joined.is_empty());
    }

    /// The copy is looked for while the source is silent, and announced once.
    #[test]
    fn a_copy_that_is_expected_is_waited_for() {
        let (from, mut to) = pipe().unwrap();
        let (mut received, to_source) = pipe().unwrap();
        let end = std::thread::spawn(move || {
            let mut source = Source::new(from.as_fd(), to_source, None);
            serve(&mut source, NeverBuilt(0)).unwrap_err()
        });
        to.write_all(NEWEST).unwrap();
        to.write_all(&expected()).unwrap();
        // What is asked meanwhile is answered.
        to.write_all(&channel::ping()).unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            received.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        let (pong, armed) = (FromLand::Pong.encode(), FromLand::Armed.encode());
        let mut said = vec![0; pong.len() + armed.len()];
        received.read_exact(&mut said).unwrap();
        assert_eq!(said, [pong, armed].concat());
        to.write_all(&expected()).unwrap();
        let end = end.join().unwrap();
        assert!(matches!(end, End::OutOfTurn), "twice: {end}");
    }

    /// A silent source is waited for, and the guest is checked meanwhile.
    #[test]
    fn a_silent_source_is_looked_up_from() {
        let (from, _silent): (_, PipeWriter) = pipe().unwrap();
        let mut source = Source::new(from.as_fd(), Vec::new(), None);
        let mut looks = 0;
        let gone = source.frame(&mut || {
            looks += 1;
            Err(Unfit::NoLongerWaits.into())
        });
        assert!(matches!(gone, Err(End::Unfit(Unfit::NoLongerWaits))));
        assert_eq!(looks, 1);
    }

    /// A connection that is cut does not end.
    #[test]
    fn a_source_that_falls_silent_has_gone() {
        type Read = fn(&mut Source<'_, Vec<u8>>) -> Result<Arrived, End>;
        let all: Read = |source| {
            let read = source.frame(&mut || Err(Unfit::NoLongerWaits.into()))?;
            Ok(read.1)
        };
        let first: Read = |source| source.frame_of_first(|| Err(Unfit::NoLongerWaits.into()));
        for read in [all, first] {
            let (from, mut to) = pipe().unwrap();
            let mut source = Source::new(from.as_fd(), Vec::new(), None);
            source.silence_max = Duration::ZERO;
            // It has not spoken yet.
            assert!(matches!(read(&mut source), Err(End::Unfit(_))));
            to.write_all(&channel::ping()).unwrap();
            assert_eq!(read(&mut source).ok(), Some(PING));
            assert!(matches!(read(&mut source), Err(End::Gone)));
        }
    }

    /// A copy that is expected is looked for at shorter intervals.
    #[test]
    fn nor_is_a_copy_of_a_silent_source_waited_for() {
        let (from, mut to) = pipe().unwrap();
        to.write_all(NEWEST).unwrap();
        to.write_all(&expected()).unwrap();
        let mut source = Source::new(from.as_fd(), Vec::new(), None);
        source.silence_max = Duration::ZERO;
        let end = serve(&mut source, NeverBuilt(3)).unwrap_err();
        assert!(matches!(end, End::Gone), "{end}");
    }
}

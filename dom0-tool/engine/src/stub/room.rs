//! Finds memory for the stub. Free memory in Xen comes first. If that is too little, dom0
//! gives up the rest, but only where xl too would take memory from dom0 for a new guest
//! (`autoballoon` in xl.conf).
//!
//! xl may create a domain at the same time, and the free memory may be meant for that
//! domain. So lull holds xl's lock until the stub has its memory. If xl holds the lock,
//! lull waits until xl has freed what its domain needs. Memory that other domains may still
//! take, up to their maximum, is not touched.
//!
//! dom0 gets its memory back when the stub has gone. Until then a note in `/run/lull`
//! records the amount and the process that took it. If that process dies, its guard gives
//! the memory back, or else the next lull process does. Taking and giving back both change
//! dom0's target by a number of KiB, as xl does, so changes that other programs make
//! meanwhile are preserved.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lull_base::processes;
use lull_store::running::folder::Folder;
use lull_wire::xl_conf;
use lull_xen::domctl::DomainInfo;
use lull_xen::xenstore::Xenstore;
use lull_xen::{PAGE, Xen};
use thiserror::Error;

use super::builder::memory_bytes;
use super::xl_lock::{self, XlLock};

/// The memory that Xen itself needs for a domain of one vCPU, in KiB.
const XENS_OWN: u64 = 256;

/// The memory that dom0 always keeps, in KiB (`LIBXL_MIN_DOM0_MEM`,
/// `tools/libs/light/libxl_internal.h`, 4.17).
const DOM0_LEAST: u64 = 128 << 10;

/// How long dom0 may take to release the memory. libxl waits equally long.
const LETTING_GO: Duration = Duration::from_secs(10);

/// If nothing has changed for this long, xl has freed what it wanted.
const UNCHANGED: Duration = Duration::from_secs(1);

/// The interval between two checks of dom0's memory.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The most tries to change dom0's target, which other programs change too.
const TRIES: u32 = 20;

const TARGET: &str = "/local/domain/0/memory/target";
const STATIC_MAX: &str = "/local/domain/0/memory/static-max";

/// The memory of a host, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The memory that belongs to no domain.
    pub free: u64,
    /// dom0's current memory or its target, whichever is less.
    pub dom0: u64,
    /// Whether xl would take some of dom0's memory for a new guest.
    pub autoballoon: bool,
}

/// The result of a request for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Xen has enough free memory.
    Fits,
    /// dom0 has to give up this much, in KiB.
    Take(u64),
    /// Neither Xen nor dom0 has enough.
    Short(Short),
}

/// There is too little memory for the stub. Displays as a clause without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("lull's stub domain needs {} MiB of memory, {} MiB are free in Xen, and {why}", needed.div_ceil(1024), free / 1024)]
pub struct Short {
    /// The memory that the stub needs, in KiB.
    needed: u64,
    free: u64,
    why: NotFromDom0,
}

/// Why dom0 gives up no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum NotFromDom0 {
    #[error("xl is set to take none from dom0 (autoballoon)")]
    Off {
        /// The memory that dom0 would have after giving it up, in KiB.
        then: u64,
    },
    #[error("dom0 has {} MiB, of which it keeps at least {}", has / 1024, DOM0_LEAST / 1024)]
    Small { has: u64 },
    #[error("dom0 did not give up {} MiB within {} s", wanted.div_ceil(1024), LETTING_GO.as_secs())]
    Keeps { wanted: u64 },
}

impl Short {
    /// Why dom0 gives up no memory, as a clause.
    pub fn why(&self) -> String {
        self.why.to_string()
    }

    /// What the operator can do about it, as a sentence.
    pub fn cure(&self) -> String {
        match self.why {
            NotFromDom0::Off { then } if then >= DOM0_LEAST => {
                format!("Take it from dom0: `xl mem-set 0 {}m`.", then / 1024)
            }
            NotFromDom0::Keeps { .. } => {
                "Free memory in dom0, or take some from a guest (`xl mem-set`).".to_owned()
            }
            _ => "Take some from a guest (`xl mem-set`), or shut one down.".to_owned(),
        }
    }
}

/// Why the stub gets no memory.
#[derive(Debug, Error)]
pub enum NoRoom {
    /// There is too little memory: see [`Short`].
    #[error(transparent)]
    Short(#[from] Short),
    /// The operator has cancelled the wait.
    #[error("cancelled before anything was begun")]
    Cancelled,
    /// Free memory cannot be read, or dom0's target cannot be changed.
    #[error("memory for the stub domain: {0}")]
    Unknown(#[from] io::Error),
}

/// The memory that the stub for a guest of `frames` frames needs, in KiB.
fn needed(frames: u64) -> io::Result<u64> {
    let own = memory_bytes(frames).map_err(io::Error::other)?;
    Ok(own.div_ceil(1024) + XENS_OWN)
}

/// The needed memory in KiB, and its source, for a guest of `frames` frames. See [`plan`].
///
/// # Errors
/// When the needed amount cannot be computed.
pub fn plan_for(frames: u64, memory: Memory) -> io::Result<(u64, Plan)> {
    let needed = needed(frames)?;
    Ok((needed, plan(needed, memory)))
}

/// Decides where `needed` KiB come from.
fn plan(needed: u64, memory: Memory) -> Plan {
    let Memory {
        free,
        dom0,
        autoballoon,
    } = memory;
    let wanted = needed.saturating_sub(free);
    let then = dom0.saturating_sub(wanted);
    let short = |why| Plan::Short(Short { needed, free, why });
    match wanted {
        0 => Plan::Fits,
        _ if !autoballoon => short(NotFromDom0::Off { then }),
        _ if then < DOM0_LEAST => short(NotFromDom0::Small { has: dom0 }),
        _ => Plan::Take(wanted),
    }
}

impl Memory {
    /// Reads the memory of this host.
    ///
    /// # Errors
    /// When Xen or xenstore cannot be read.
    pub fn here(xen: &Xen) -> io::Result<Self> {
        Self::by(xen, &conf())
    }

    /// Like [`Self::here`], with the text of xl.conf given.
    fn by(xen: &Xen, conf: &str) -> io::Result<Self> {
        let target = number(&mut Xenstore::open()?, TARGET)?;
        let has = dom0(xen)?.has;
        Ok(Self {
            free: xen.free_memory()? / 1024,
            dom0: target.map_or(has, |target| target.min(has)),
            autoballoon: takes_from_dom0(conf, xen.command_line().ok().as_deref()),
        })
    }
}

/// Free memory that no other domain may still take, in KiB.
fn spare(xen: &Xen) -> io::Result<u64> {
    let free = xen.free_memory()? / 1024;
    Ok(free.saturating_sub(still_to_take(&xen.domains()?)))
}

/// The memory that domains other than dom0 may still take, in KiB. A domain that is being
/// built takes its pages one by one.
fn still_to_take(domains: &[DomainInfo]) -> u64 {
    let guests = domains.iter().filter(|info| info.domain != 0);
    let missing = guests.map(|info| info.max_pages.saturating_sub(info.tot_pages));
    missing
        .fold(0, u64::saturating_add)
        .saturating_mul(PAGE as u64 / 1024)
}

/// The text of xl.conf. Empty if the file is missing, or if xl would not read it.
fn conf() -> String {
    let mut text = String::new();
    let file = File::open(xl_conf::FILE);
    let read = file.and_then(|file| file.take(xl_conf::MAX_FILE_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

/// Whether xl takes memory from dom0 for a new guest
/// (`parse_global_config` and `auto_autoballoon`, `tools/xl/xl.c`, 4.17).
fn takes_from_dom0(conf: &str, xens_command_line: Option<&str>) -> bool {
    let value = xl_conf::assigned(conf, "autoballoon").map(|(_, value)| value);
    let value = value.as_deref();
    match value.map(|value| xl_conf::quoted(value).unwrap_or(value)) {
        Some("on" | "1") => true,
        Some("off" | "0") => false,
        _ => !xens_command_line.is_some_and(sizes_dom0),
    }
}

/// Whether Xen's command line sets dom0's memory.
fn sizes_dom0(xens_command_line: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_size = |text: &str| {
        let text = text.strip_prefix('-').unwrap_or(text);
        digits(
            text.strip_suffix(|c| "bBkKmMgGtT".contains(c))
                .unwrap_or(text),
        )
    };
    let is_share = |text: &str| {
        let Some(text) = text.strip_suffix('%') else {
            return false;
        };
        let (size, percent) = text.rsplit_once('+').unwrap_or(("0", text));
        is_size(size) && digits(percent) && percent.len() <= 2
    };
    let is_part = |part: &str| {
        let bound = part.strip_prefix("min:").or(part.strip_prefix("max:"));
        let part = bound.unwrap_or(part);
        is_size(part) || is_share(part)
    };
    let words = xens_command_line.split(' ');
    words
        .filter_map(|word| word.strip_prefix("dom0_mem="))
        .any(|value| value.trim_end_matches(',').split(',').all(is_part))
}

/// dom0's current and maximum memory as Xen reports them, in KiB.
struct Dom0 {
    has: u64,
    most: u64,
}

fn dom0(xen: &Xen) -> io::Result<Dom0> {
    const KIB: u64 = PAGE as u64 / 1024;
    let info = xen.domain_info(0)?.ok_or(io::ErrorKind::NotFound)?;
    Ok(Dom0 {
        has: info.tot_pages.saturating_mul(KIB),
        most: info.max_pages.saturating_mul(KIB),
    })
}

/// dom0's target, in KiB. If none is set yet, this sets the one that libxl would
/// (`libxl__fill_dom0_memory_info`, `tools/libs/light/libxl_mem.c`, 4.17).
fn target(store: &mut Xenstore, dom0: &Dom0) -> io::Result<u64> {
    if store.read(STATIC_MAX)?.is_none() {
        store.write(STATIC_MAX, &dom0.most.to_string())?;
    }
    if let Some(target) = number(store, TARGET)? {
        return Ok(target);
    }
    store.write(TARGET, &dom0.has.to_string())?;
    Ok(dom0.has)
}

fn number(store: &mut Xenstore, path: &str) -> io::Result<Option<u64>> {
    let Some(text) = store.read(path)? else {
        return Ok(None);
    };
    let number = text.trim_end_matches('\0').parse();
    number.map(Some).map_err(io::Error::other)
}

/// Replaces dom0's target with the result of `change`.
fn retarget(store: &mut Xenstore, change: impl Fn(u64) -> u64) -> io::Result<()> {
    for _ in 0..TRIES {
        let Some(target) = store.read(TARGET)? else {
            return Err(io::Error::other("dom0 has no target"));
        };
        let old: u64 = target.parse().map_err(io::Error::other)?;
        if store.replace(TARGET, &target, &change(old).to_string())? {
            return Ok(());
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// The memory for a stub that is about to be built.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// The memory that dom0 has given up for the stub.
    pub taken: Option<Taken>,
    /// Held until the stub is built.
    _lock: Option<XlLock>,
}

/// Memory taken from dom0. Dropping this gives it back.
#[derive(Debug)]
pub(crate) struct Taken {
    note: PathBuf,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // An error needs no handling here: dom0 stays smaller by that amount, and the next
        // process that needs memory finds it free.
        let _ = give_back(&self.note);
    }
}

/// Refuses early if there is too little memory. [`make`] comes to the same result, unless
/// memory is used up or freed meanwhile.
///
/// # Errors
/// See [`Short`]. Also when the memory cannot be read.
pub fn check(xen: &Xen, frames: u64) -> Result<(), NoRoom> {
    match plan_for(frames, Memory::here(xen)?)? {
        (_, Plan::Short(short)) => Err(short.into()),
        _ => Ok(()),
    }
}

/// Makes sure that Xen has the memory that the stub for a guest of `frames` frames needs.
/// The waits for xl and for dom0 are bounded, and end early when `is_over` returns true.
///
/// # Errors
/// Why the memory is not available. dom0 then has what it had before.
pub(crate) fn make(
    xen: &Xen,
    frames: u64,
    is_over: &mut dyn FnMut() -> bool,
) -> Result<Room, NoRoom> {
    let needed = needed(frames)?;
    let conf = conf();
    let memory = Memory::by(xen, &conf)?;
    if !memory.autoballoon {
        return match plan(needed, memory) {
            Plan::Short(short) => Err(short.into()),
            _ => Ok(Room::default()),
        };
    }
    let lock = wait_for_xl(xen, &xl_lock::path(&conf), is_over)?;
    let memory = Memory {
        free: spare(xen)?,
        ..Memory::by(xen, &conf)?
    };
    let taken = take(xen, needed, memory, is_over)?;
    Ok(Room { taken, _lock: lock })
}

/// Takes xl's lock, or waits until the xl that holds it takes no more memory from dom0. xl
/// keeps the lock while its domain is migrating here, and this attempt may be that
/// migration, so the lock itself may never come free.
fn wait_for_xl(
    xen: &Xen,
    path: &Path,
    is_over: &mut dyn FnMut() -> bool,
) -> Result<Option<XlLock>, NoRoom> {
    let mut store = Xenstore::open()?;
    let begun = Instant::now();
    let mut seen = None;
    let mut since = begun;
    loop {
        // If the lock cannot be taken at all, xl cannot take it either.
        if let Some(lock) = XlLock::try_take(path).ok().flatten() {
            return Ok(Some(lock));
        }
        let now = Some((number(&mut store, TARGET)?, dom0(xen)?.has));
        if now != seen {
            seen = now;
            since = Instant::now();
        }
        if since.elapsed() >= UNCHANGED || begun.elapsed() >= LETTING_GO {
            return Ok(None);
        }
        if is_over() {
            return Err(NoRoom::Cancelled);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Makes dom0 give up the missing memory, and waits until it has.
fn take(
    xen: &Xen,
    needed: u64,
    memory: Memory,
    is_over: &mut dyn FnMut() -> bool,
) -> Result<Option<Taken>, NoRoom> {
    let wanted = match plan(needed, memory) {
        Plan::Fits => return Ok(None),
        Plan::Short(short) => return Err(short.into()),
        Plan::Take(wanted) => wanted,
    };
    let mut store = Xenstore::open()?;
    let dom0 = dom0(xen)?;
    let target = target(&mut store, &dom0)?;
    // A target above dom0's current memory would have no effect, so the reduction counts
    // from that memory.
    let down = wanted.saturating_add(target.saturating_sub(dom0.has));
    let folder = Folder::default();
    folder.make()?;
    let note = folder.taken(std::process::id());
    fs::write(&note, down.to_string())?;
    let taken = Taken { note };
    retarget(&mut store, |target| target.saturating_sub(down))?;
    let until = Instant::now() + LETTING_GO;
    while spare(xen)? < needed {
        if is_over() {
            return Err(NoRoom::Cancelled);
        }
        if Instant::now() >= until {
            let why = NotFromDom0::Keeps { wanted };
            let free = memory.free;
            return Err(Short { needed, free, why }.into());
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(Some(taken))
}

/// Gives dom0 back what `process` and dead processes have taken.
pub fn give_back_of(folder: &Folder, process: u32) {
    for (owner, note) in folder.all_taken().unwrap_or_default() {
        if process == owner || !processes::is_lulls(owner) {
            let _ = give_back(&note);
        }
    }
}

/// Gives back the amount in the note. The process that removes the note does so.
fn give_back(note: &Path) -> io::Result<()> {
    let text = fs::read_to_string(note)?;
    fs::remove_file(note)?;
    let kib: u64 = text.parse().map_err(io::Error::other)?;
    let mut store = Xenstore::open()?;
    let most = number(&mut store, STATIC_MAX)?.unwrap_or(u64::MAX);
    // Another program may have raised dom0's target meanwhile.
    retarget(&mut store, |target| {
        target.max(most.min(target.saturating_add(kib)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024;

    fn host(free: u64, dom0: u64, autoballoon: bool) -> Memory {
        Memory {
            free,
            dom0,
            autoballoon,
        }
    }

    #[test]
    fn xen_gives_what_it_has_and_dom0_the_rest() {
        let needed = 17 * MIB;
        for autoballoon in [true, false] {
            assert_eq!(plan(needed, host(needed, 0, autoballoon)), Plan::Fits);
        }
        assert_eq!(
            plan(needed, host(3 * MIB, 512 * MIB, true)),
            Plan::Take(14 * MIB)
        );
        assert_eq!(plan(needed, host(0, 145 * MIB, true)), Plan::Take(needed));
    }

    #[test]
    fn where_there_is_too_little_it_is_said_why_and_what_helps() {
        let said = |memory| match plan(17 * MIB, memory) {
            Plan::Short(short) => (short.to_string(), short.cure()),
            other => panic!("{other:?}"),
        };
        let (found, cure) = said(host(3 * MIB, 1024 * MIB, false));
        assert_eq!(
            found,
            "lull's stub domain needs 17 MiB of memory, 3 MiB are free in Xen, and xl is set to take none from dom0 (autoballoon)"
        );
        assert_eq!(cure, "Take it from dom0: `xl mem-set 0 1010m`.");
        let (found, cure) = said(host(0, 144 * MIB, true));
        assert!(
            found.ends_with("dom0 has 144 MiB, of which it keeps at least 128"),
            "{found}"
        );
        assert!(cure.contains("a guest"), "{cure}");
        // The advice itself must not make dom0 too small either.
        let (_, cure) = said(host(0, 144 * MIB, false));
        assert!(cure.contains("a guest"), "{cure}");
    }

    #[test]
    fn what_a_domain_may_still_take_is_its_own() {
        let domain = |domain, tot_pages, max_pages| DomainInfo {
            domain,
            tot_pages,
            max_pages,
            ..DomainInfo::default()
        };
        let domains = [
            // dom0 is left out: its memory follows its target.
            domain(0, 100, u64::MAX),
            domain(1, 256, 512),
            // This guest has more than its maximum: libxl lowers the bound at once.
            domain(2, 300, 200),
        ];
        assert_eq!(still_to_take(&domains), MIB);
        let unbounded = [domain(1, 0, u64::MAX), domain(2, 0, u64::MAX)];
        assert_eq!(still_to_take(&unbounded), u64::MAX);
    }

    #[test]
    fn a_larger_guest_needs_more() {
        let small = needed(1 << 16).unwrap();
        assert!((16 * MIB..=17 * MIB).contains(&small), "{small}");
        // A guest needs 32 MiB more for each TiB.
        let large = needed(1 << 28).unwrap();
        assert!((large - small).abs_diff(32 * MIB) < MIB, "{large}");
    }

    #[test]
    fn xl_takes_from_dom0_unless_it_is_told_otherwise() {
        for (conf, command_line, expected) in [
            ("", Some("placeholder loglvl=all"), true),
            ("", None, true),
            ("", Some("dom0_mem=1G,max:1G"), false),
            ("#autoballoon=\"off\"\n", Some(""), true),
            ("autoballoon=\"off\"\n", Some(""), false),
            ("autoballoon='0'", Some(""), false),
            ("autoballoon=0", Some(""), false),
            ("autoballoon=\"on\"", Some("dom0_mem=1G"), true),
            ("autoballoon=1", Some("dom0_mem=1G"), true),
            ("autoballoon=\"auto\"", Some("dom0_mem=1G"), false),
            ("autoballoon=\"off\"\nautoballoon=\"auto\"", Some(""), true),
            ("autoballoon=\"perhaps\"", Some(""), true),
        ] {
            let takes = takes_from_dom0(conf, command_line);
            assert_eq!(takes, expected, "{conf} {command_line:?}");
        }
    }

    #[test]
    fn how_large_dom0_is_stands_in_xens_command_line_or_not() {
        for sized in [
            "dom0_mem=512M",
            "loglvl=all dom0_mem=1024 x",
            "dom0_mem=min:1G,max:2G",
            "dom0_mem=max:512M",
            "dom0_mem=-256M,",
            "dom0_mem=10%",
            "dom0_mem=1G+10%,max:50%",
        ] {
            assert!(sizes_dom0(sized), "{sized}");
        }
        for not in [
            "",
            "dom0_mem=",
            "dom0_mem=all",
            "dom0_mem=100%",
            "xdom0_mem=1G",
            "dom0_max_vcpus=1",
            "dom0_mem=1G,half",
        ] {
            assert!(!sizes_dom0(not), "{not}");
        }
    }

    #[test]
    fn what_was_taken_is_found_by_whose_it_was() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        assert_eq!(folder.all_taken().unwrap(), []);
        folder.make().unwrap();
        let ours = folder.taken(7);
        fs::write(&ours, "14336").unwrap();
        fs::write(folder.socket(7, u32::MAX), "").unwrap();
        assert_eq!(folder.all_taken().unwrap(), [(7, ours)]);
        assert_eq!(folder.sockets().unwrap(), []);
    }
}

//! Turns a stub into one that a guest has taken over: it spins, and signals dom0 without
//! end.

use anyhow::{Context, Result, ensure};

use super::memory::{FRAME, Privcmd, Register};

/// `push 1; mov rsi, rsp; mov edi, EVTCHNOP_send; mov eax, __HYPERVISOR_event_channel_op;
/// syscall; pop rax`, and again. A new domain's first event channel is number 1.
const LOOP: [u8; 20] = [
    0x6a, 1, 0x48, 0x89, 0xe6, 0xbf, 4, 0, 0, 0, 0xb8, 32, 0, 0, 0, 0x0f, 5, 0x58, 0xeb, 0xec,
];

/// Puts [`LOOP`] where the domain executes, and lets it run.
pub fn run(domain: u16) -> Result<()> {
    let xen = Privcmd::open()?;
    xen.pause(domain)?;
    let replaced = replace(&xen, domain);
    xen.unpause(domain)?;
    replaced
}

fn replace(xen: &Privcmd, domain: u16) -> Result<()> {
    let rip = xen.exchange(domain, Register::Rip, None)?;
    let cr3 = xen.exchange(domain, Register::Cr3, None)?;
    let page = rip & !(FRAME as u64 - 1);
    xen.overwrite(domain, frame_at(xen, domain, cr3, page)?, &LOOP)?;
    xen.set_instruction_pointer(domain, page)
}

/// Returns the machine frame behind an address of a PV domain, whose page tables hold
/// machine frames.
fn frame_at(xen: &Privcmd, domain: u16, cr3: u64, address: u64) -> Result<u64> {
    const PRESENT: u64 = 1;
    const FRAMES: u64 = (1 << 52) - 1;
    let mut entry = cr3 | PRESENT;
    for level in (0..4).rev() {
        let frames = xen.map(domain, &[(entry & FRAMES) >> 12])?;
        let table = frames.get(0).context("a page table is missing")?;
        let place = (address >> (12 + 9 * level) & 511) as usize;
        let (entries, _) = table.as_chunks::<8>();
        entry = u64::from_le_bytes(entries[place]);
        ensure!(entry & PRESENT != 0, "{address:#x} is not mapped");
    }
    Ok((entry & FRAMES) >> 12)
}

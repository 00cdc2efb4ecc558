//! The five hypercalls the stub makes.
//!
//! Arguments are passed in rdi, rsi, rdx, r10 and r8, the number in rax; `syscall` clobbers
//! rcx and r11 (`xen/include/public/arch-x86/xen-x86_64.h`, 4.17). Xen's own hypercall page
//! does the same, so none is needed.

use core::arch::asm;

use xen_sys::{
    __HYPERVISOR_event_channel_op, __HYPERVISOR_mmuext_op, __HYPERVISOR_sched_op,
    __HYPERVISOR_set_trap_table, EVTCHNOP_send, MMUEXT_TLB_FLUSH_LOCAL, SCHEDOP_poll,
    SCHEDOP_shutdown, SHUTDOWN_crash, evtchn_send, sched_shutdown, trap_info,
};

/// The value of `DOMID_SELF` (`xen/include/public/xen.h`, 4.17).
const DOMID_SELF: u64 = 0x7ff0;

/// The number of an event channel (`evtchn_port_t`).
pub type Port = u32;

/// The argument of SCHEDOP_poll: `struct sched_poll` (`xen/include/public/sched.h`, 4.17).
#[repr(C)]
struct SchedPoll {
    ports: *const Port,
    count: u32,
    /// Absolute system time in nanoseconds; 0 stands for no timeout.
    timeout: u64,
}

const _: () = assert!(size_of::<SchedPoll>() == 24);

/// An operation for mmuext_op: `struct mmuext_op`. The flush uses neither of its arguments.
#[repr(C)]
struct MmuextOp {
    cmd: u32,
    args: [u64; 2],
}

const _: () = assert!(size_of::<MmuextOp>() == 24);

/// # Safety
/// The arguments must be those of hypercall `number`, and their pointers must be valid.
unsafe fn hypercall(number: u32, args: [u64; 4]) -> i64 {
    let result;
    // `nostack` is left out. Xen pushes nothing here, but an option that promises more than
    // is needed is a known source of errors.
    // SAFETY: the caller guarantees valid arguments; the registers that the call clobbers
    // are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") u64::from(number) => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            lateout("r8") _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Installs exception handlers; the table must end with an entry of zeroes.
pub fn set_trap_table(table: &[trap_info]) {
    assert!(table.last().is_some_and(|last| last.address == 0));
    let args = [table.as_ptr() as u64, 0, 0, 0];
    // SAFETY: the table is terminated, as just checked.
    let result = unsafe { hypercall(__HYPERVISOR_set_trap_table, args) };
    assert!(result == 0, "set_trap_table: {}", result);
}

/// Flushes the TLB, so that new window entries are seen.
pub fn flush_tlb() {
    let op = MmuextOp {
        cmd: MMUEXT_TLB_FLUSH_LOCAL,
        args: [0; 2],
    };
    let args = [&raw const op as u64, 1, 0, DOMID_SELF];
    // SAFETY: one operation, on this stack.
    let result = unsafe { hypercall(__HYPERVISOR_mmuext_op, args) };
    assert!(result == 0, "TLB flush: {}", result);
}

/// Signals the other end of `port`.
pub fn notify(port: Port) {
    let send = evtchn_send { port };
    let args = [u64::from(EVTCHNOP_send), &raw const send as u64, 0, 0];
    // A port whose other end is closed gives an error, and nothing could handle it.
    // SAFETY: the op takes this structure.
    let _ = unsafe { hypercall(__HYPERVISOR_event_channel_op, args) };
}

/// Sleeps until `port` is pending.
pub fn poll(port: Port) {
    let poll = SchedPoll {
        ports: &raw const port,
        count: 1,
        timeout: 0,
    };
    let args = [u64::from(SCHEDOP_poll), &raw const poll as u64, 0, 0];
    // SAFETY: the op takes this structure, its one port on this stack.
    let result = unsafe { hypercall(__HYPERVISOR_sched_op, args) };
    assert!(result == 0, "poll: {}", result);
}

/// Ends the domain as crashed; dom0 then reads the crash record.
pub fn crash() -> ! {
    let shutdown = sched_shutdown {
        reason: SHUTDOWN_crash,
    };
    loop {
        let args = [
            u64::from(SCHEDOP_shutdown),
            &raw const shutdown as u64,
            0,
            0,
        ];
        // SAFETY: the op takes a pointer to this structure.
        let _ = unsafe { hypercall(__HYPERVISOR_sched_op, args) };
    }
}

//! `XEN_DOMCTL_scheduler_op`: how much of a processor a domain gets where several want it
//! (`xen/include/public/domctl.h`, 4.17 to 4.22).

use std::io;

use rustix::io::Errno;

use super::DomId;
use super::domctl::Payload;
use super::privcmd::Xen;

/// `XEN_DOMCTL_scheduler_op`.
const SCHEDULER_OP: u32 = 16;

/// `XEN_DOMCTL_SCHEDOP_putinfo` and `XEN_DOMCTL_SCHEDOP_getinfo`.
const PUT: u32 = 0;
const GET: u32 = 1;

/// `XEN_SCHEDULER_CREDIT2` and `XEN_SCHEDULER_CREDIT`, the schedulers with weights. Both
/// have the same parameters.
const WITH_WEIGHTS: [u32; 2] = [6, 5];

/// Builds the request: the scheduler and the operation, then weight and cap. A cap of zero
/// is none.
fn payload(scheduler: u32, operation: u32, weight: u16) -> Payload {
    let mut p = [0; 16];
    p[0] = u64::from(scheduler) | u64::from(operation) << 32;
    p[1] = u64::from(weight);
    p
}

impl Xen {
    /// Gives `domain` half the weight of `other`: where both want a processor, `domain`
    /// gets a third of it at most. If no other domain wants it, `domain` gets all of it.
    /// Returns the weight; `None` with a scheduler that has no weights.
    ///
    /// # Errors
    /// Returns Xen's errno.
    pub fn set_half_the_weight_of(&self, domain: DomId, other: DomId) -> io::Result<Option<u16>> {
        for scheduler in WITH_WEIGHTS {
            let mut p = payload(scheduler, GET, 0);
            match self.domctl(SCHEDULER_OP, other, &mut p) {
                // Another scheduler runs (`sched_adjust` in `xen/common/sched/core.c`).
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => continue,
                answer => answer?,
            };
            // A weight of zero would mean that it stays as it is.
            let weight = (p[1] as u16 / 2).max(1);
            let mut p = payload(scheduler, PUT, weight);
            self.domctl(SCHEDULER_OP, domain, &mut p)?;
            return Ok(Some(weight));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_where_xen_reads_it() {
        // sched_id, cmd; then weight and cap, 16 bits each.
        let mut expected = vec![6, 0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0];
        expected.resize(128, 0);
        let bytes: Vec<u8> = payload(6, PUT, 0x180)
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(bytes, expected);
        assert_eq!(payload(5, GET, 0)[0], 5 | 1 << 32);
    }
}

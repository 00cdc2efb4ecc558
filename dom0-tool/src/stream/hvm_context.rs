//! Xen's blob of vCPU and platform state, an entry after the other
//! (`xen/include/public/hvm/save.h` and `arch-x86/hvm/save.h`, 4.17), as far as
//! one that replaces another must be looked into.

/// `struct hvm_save_descriptor`: type and instance, 16 bits each, and the length
/// of what follows, 32 bits.
const DESCRIPTOR: usize = 8;

/// `HVM_SAVE_CODE(END)`, `HVM_SAVE_CODE(CPU)`, `CPU_MSR_CODE`.
mod code {
    pub const END: u16 = 0;
    pub const CPU: u16 = 2;
    pub const CPU_MSR: u16 = 20;
}

/// `struct hvm_msr`: how many; and of each its index, a zero and its value.
const MSR_COUNT: usize = 4;
const MSR: usize = 16;

/// Why one state cannot replace another.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Irreplaceable {
    /// It would go on running where the other is set.
    #[error("its vCPU {0} was taken offline")]
    VcpuGone(u16),
    /// Something else that would stay as it was.
    #[error("a part of its state is gone (type {kind}, instance {instance})")]
    Gone {
        /// `HVM_SAVE_CODE`.
        kind: u16,
        /// Of which vCPU or device.
        instance: u16,
    },
    /// It is none.
    #[error("its state cannot be read")]
    Unreadable,
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    kind: u16,
    instance: u16,
    body: &'a [u8],
}

/// `last`, to be set where `first` is: Xen leaves out MSRs that are zero, and those
/// are put in, so that none keeps its older value.
///
/// # Errors
/// When `first` set something that `last` would leave as it is.
pub fn replacing(first: &[u8], last: &[u8]) -> Result<Vec<u8>, Irreplaceable> {
    let (first, last) = (entries(first)?, entries(last)?);
    let find = |wanted: &Entry<'_>, among: &[Entry<'_>]| {
        let same = |it: &&Entry<'_>| (it.kind, it.instance) == (wanted.kind, wanted.instance);
        among.iter().find(same).map(|it| it.body.to_vec())
    };
    let mut bytes = Vec::new();
    for entry in &last {
        if entry.kind == code::END {
            for older in first.iter().filter(|older| find(older, &last).is_none()) {
                match *older {
                    Entry {
                        kind: code::CPU_MSR,
                        instance,
                        body,
                    } => push(&mut bytes, code::CPU_MSR, instance, &with_zeros(body, &[])),
                    Entry {
                        kind: code::CPU,
                        instance,
                        ..
                    } => return Err(Irreplaceable::VcpuGone(instance)),
                    Entry { kind, instance, .. } => {
                        return Err(Irreplaceable::Gone { kind, instance });
                    }
                }
            }
        }
        let older = (entry.kind == code::CPU_MSR).then(|| find(entry, &first));
        match older.flatten() {
            Some(older) => {
                let body = with_zeros(&older, entry.body);
                push(&mut bytes, entry.kind, entry.instance, &body);
            }
            None => push(&mut bytes, entry.kind, entry.instance, entry.body),
        }
    }
    Ok(bytes)
}

/// Up to and with the end, which must be there.
fn entries(mut bytes: &[u8]) -> Result<Vec<Entry<'_>>, Irreplaceable> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<DESCRIPTOR>() {
        let [a, b, c, d, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let entry = Entry {
            kind: u16::from_le_bytes([a, b]),
            instance: u16::from_le_bytes([c, d]),
            body,
        };
        entries.push(entry);
        if entry.kind == code::END {
            return Ok(entries);
        }
        bytes = rest;
    }
    Err(Irreplaceable::Unreadable)
}

fn push(bytes: &mut Vec<u8>, kind: u16, instance: u16, body: &[u8]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend(instance.to_le_bytes());
    // A few KiB at most: it was read from as small a blob.
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
}

/// The MSRs of `last`, and with zero those that only `first` has.
fn with_zeros(first: &[u8], last: &[u8]) -> Vec<u8> {
    let list = |body: &'_ [u8]| -> Vec<[u8; MSR]> {
        let list = body.get(MSR_COUNT..).unwrap_or_default();
        list.as_chunks::<MSR>().0.to_vec()
    };
    let index = |msr: &[u8; MSR]| [msr[0], msr[1], msr[2], msr[3]];
    let mut msrs = list(last);
    for older in list(first) {
        if !msrs.iter().any(|msr| index(msr) == index(&older)) {
            let mut zero = [0; MSR];
            zero[..4].copy_from_slice(&index(&older));
            msrs.push(zero);
        }
    }
    let count = (msrs.len() as u32).to_le_bytes();
    [&count[..], msrs.as_flattened()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of these entries, and an end.
    fn context(entries: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, instance, body) in entries {
            push(&mut bytes, *kind, *instance, body);
        }
        push(&mut bytes, code::END, 0, &[]);
        bytes
    }

    fn msrs(list: &[(u32, u64)]) -> Vec<u8> {
        let mut bytes = (list.len() as u32).to_le_bytes().to_vec();
        for (index, value) in list {
            bytes.extend(index.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    fn cpu(number: u16) -> (u16, u16, Vec<u8>) {
        (code::CPU, number, vec![7; 3])
    }

    fn msr(vcpu: u16, list: &[(u32, u64)]) -> (u16, u16, Vec<u8>) {
        (code::CPU_MSR, vcpu, msrs(list))
    }

    #[test]
    fn an_msr_that_is_zero_by_now_is_set_to_zero() {
        let first = context(&[cpu(0), cpu(1), msr(0, &[(0x48, 1), (0xda0, 5)])]);
        let last = context(&[cpu(0), cpu(1), msr(0, &[(0xda0, 6), (0xd90, 2)])]);
        let whole = context(&[cpu(0), cpu(1), msr(0, &[(0xda0, 6), (0xd90, 2), (0x48, 0)])]);
        assert_eq!(replacing(&first, &last), Ok(whole));
    }

    #[test]
    fn so_it_is_where_all_are_zero() {
        let first = context(&[cpu(0), cpu(1), msr(1, &[(0x48, 1)])]);
        let last = context(&[cpu(0), cpu(1)]);
        let whole = context(&[cpu(0), cpu(1), msr(1, &[(0x48, 0)])]);
        assert_eq!(replacing(&first, &last), Ok(whole));
    }

    #[test]
    fn what_would_stay_as_it_was_is_refused() {
        let both = context(&[cpu(0), cpu(1)]);
        let one = context(&[cpu(0)]);
        assert_eq!(replacing(&both, &one), Err(Irreplaceable::VcpuGone(1)));
        assert_eq!(replacing(&one, &both), Ok(both));
        let more = context(&[cpu(0), (16, 0, vec![1])]);
        let gone = Irreplaceable::Gone {
            kind: 16,
            instance: 0,
        };
        assert_eq!(replacing(&more, &one), Err(gone));
    }

    #[test]
    fn what_is_cut_off_is_no_state() {
        let whole = context(&[cpu(0)]);
        assert_eq!(replacing(&whole, &whole), Ok(whole.clone()));
        for length in 0..whole.len() {
            let cut = replacing(&whole[..length], &whole);
            assert_eq!(cut, Err(Irreplaceable::Unreadable));
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_nothing_else(
            first in proptest::collection::vec(any::<u8>(), 0..100),
            last in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = replacing(&first, &last);
        }
    }
}

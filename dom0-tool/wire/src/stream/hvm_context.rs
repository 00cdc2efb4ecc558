//! Xen's blob of vCPU and platform state, a sequence of entries
//! (`xen/include/public/hvm/save.h` and `arch-x86/hvm/save.h`, 4.17). This module
//! parses only what is needed to replace one blob by another.

/// Size of `struct hvm_save_descriptor` in bytes: type and instance, 16 bits each, and
/// the length of the body that follows, 32 bits.
const DESCRIPTOR: usize = 8;

/// Entry types: `HVM_SAVE_CODE(END)`, `HVM_SAVE_CODE(HEADER)`, `HVM_SAVE_CODE(CPU)`,
/// `CPU_MSR_CODE`.
mod code {
    pub const END: u16 = 0;
    pub const HEADER: u16 = 1;
    pub const CPU: u16 = 2;
    pub const CPU_MSR: u16 = 20;
}

/// `struct hvm_msr`: the count, 32 bits, and 32 bits of padding; then for each MSR its
/// index and a zero, 32 bits each, and its value, 64 bits.
const MSR_COUNT: usize = 8;
const MSR: usize = 16;

/// Why one state cannot replace another.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Irreplaceable {
    /// The newer state lacks an entry of the older one, which would keep its old value.
    #[error("a part of its state is gone (type {kind}, instance {instance})")]
    Gone {
        /// Type of the missing entry (`HVM_SAVE_CODE`).
        kind: u16,
        /// The vCPU or device that the entry belongs to.
        instance: u16,
    },
    /// The blob is not a valid state.
    #[error("its state cannot be read")]
    Unreadable,
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    kind: u16,
    instance: u16,
    body: &'a [u8],
}

/// Returns `last`, completed for loading over `first`. Xen leaves out MSRs that are
/// zero; they are added here, because otherwise they would keep their older values. Xen
/// also leaves out vCPUs that are offline, and takes every vCPU that is left out
/// offline.
///
/// # Errors
/// Returns an error if `first` sets something that `last` would not overwrite.
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
                    } => push(
                        &mut bytes,
                        code::CPU_MSR,
                        instance,
                        &with_zeros(body, None)?,
                    ),
                    Entry {
                        kind: code::CPU, ..
                    } => {}
                    Entry { kind, instance, .. } => {
                        return Err(Irreplaceable::Gone { kind, instance });
                    }
                }
            }
        }
        let older = (entry.kind == code::CPU_MSR).then(|| find(entry, &first));
        match older.flatten() {
            Some(older) => {
                let body = with_zeros(&older, Some(entry.body))?;
                push(&mut bytes, entry.kind, entry.instance, &body);
            }
            None => push(&mut bytes, entry.kind, entry.instance, entry.body),
        }
    }
    Ok(bytes)
}

/// A state that sets nothing: the header of `context` and an end entry. Xen loads it, takes
/// all vCPUs offline, and leaves nothing behind that a later state would have to replace
/// (`hvm_load` in `xen/arch/x86/hvm/save.c`, 4.17 to 4.23). `None` if `context` does not
/// begin with a header.
pub fn header_only(context: &[u8]) -> Option<Vec<u8>> {
    let entries = entries(context).ok()?;
    let header = entries.first().filter(|it| it.kind == code::HEADER)?;
    let mut bytes = Vec::new();
    push(&mut bytes, header.kind, header.instance, header.body);
    push(&mut bytes, code::END, 0, &[]);
    Some(bytes)
}

/// Parses all entries up to and including the end entry, which must be present.
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
    // A few KiB at most, because the body was read from a blob of that size.
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
}

/// The MSRs of `last`, and those that only `first` has, set to zero.
fn with_zeros(first: &[u8], last: Option<&[u8]>) -> Result<Vec<u8>, Irreplaceable> {
    let index = |msr: &[u8; MSR]| [msr[0], msr[1], msr[2], msr[3]];
    let mut list = last.map_or(Ok(Vec::new()), msrs)?;
    for older in msrs(first)? {
        if !list.iter().any(|msr| index(msr) == index(&older)) {
            let mut zero = [0; MSR];
            zero[..4].copy_from_slice(&index(&older));
            list.push(zero);
        }
    }
    let count = (list.len() as u64).to_le_bytes();
    Ok([&count[..], list.as_flattened()].concat())
}

fn msrs(body: &[u8]) -> Result<Vec<[u8; MSR]>, Irreplaceable> {
    let (count, list) = body
        .split_first_chunk::<MSR_COUNT>()
        .ok_or(Irreplaceable::Unreadable)?;
    let (list, rest) = list.as_chunks::<MSR>();
    let [a, b, c, d, ..] = *count;
    if u32::from_le_bytes([a, b, c, d]) as usize != list.len() || !rest.is_empty() {
        return Err(Irreplaceable::Unreadable);
    }
    Ok(list.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A blob of these entries and an end entry.
    fn context(entries: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, instance, body) in entries {
            push(&mut bytes, *kind, *instance, body);
        }
        push(&mut bytes, code::END, 0, &[]);
        bytes
    }

    /// The body of an MSR entry, laid out as a C compiler would.
    fn of_msrs(list: &[(u32, u64)]) -> Vec<u8> {
        #[repr(C)]
        struct One {
            index: u32,
            zero: u32,
            value: u64,
        }
        #[repr(C)]
        struct All {
            count: u32,
            all: [One; 0],
        }
        assert_eq!((size_of::<One>(), size_of::<All>()), (MSR, MSR_COUNT));
        let mut bytes = (list.len() as u32).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
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
        (code::CPU_MSR, vcpu, of_msrs(list))
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
        let one = context(&[cpu(0)]);
        let more = context(&[cpu(0), (16, 0, vec![1])]);
        let gone = Irreplaceable::Gone {
            kind: 16,
            instance: 0,
        };
        assert_eq!(replacing(&more, &one), Err(gone));
        assert_eq!(replacing(&one, &more), Ok(more));
    }

    #[test]
    fn a_vcpu_that_went_offline_or_came_is_as_xen_has_it() {
        let (both, one) = (context(&[cpu(0), cpu(1)]), context(&[cpu(0)]));
        assert_eq!(replacing(&both, &one), Ok(one.clone()));
        assert_eq!(replacing(&one, &both), Ok(both));
    }

    #[test]
    fn msrs_that_are_not_as_many_as_they_say_are_no_state() {
        let good = context(&[msr(0, &[(0x48, 1)])]);
        let mut bad = of_msrs(&[(0x48, 1)]);
        for spoilt in [bad[..23].to_vec(), {
            bad[0] = 2;
            bad
        }] {
            let bad = context(&[(code::CPU_MSR, 0, spoilt)]);
            assert_eq!(replacing(&bad, &good), Err(Irreplaceable::Unreadable));
            assert_eq!(replacing(&good, &bad), Err(Irreplaceable::Unreadable));
        }
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

    #[test]
    fn a_state_without_vcpus_is_replaced_by_any() {
        let header = (code::HEADER, 0, vec![3; 32]);
        let whole = context(&[header.clone(), cpu(0), cpu(1), msr(0, &[(0x48, 1)])]);
        let bare = header_only(&whole).unwrap();
        assert_eq!(bare, context(&[header]));
        assert_eq!(replacing(&bare, &whole), Ok(whole));
        for other in [context(&[cpu(0)]), context(&[]), vec![1, 0, 0], vec![]] {
            assert_eq!(header_only(&other), None);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_nothing_else(
            first in proptest::collection::vec(any::<u8>(), 0..100),
            last in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = replacing(&first, &last);
            let _ = header_only(&first);
        }
    }
}

//! ICMP echo over IPv4 (RFC 792), limited to the two messages that a ping needs.

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const HEADER: usize = 8;

/// Returns a request with that identifier and sequence number.
pub fn request(identifier: u16, sequence: u16) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = REQUEST;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Returns the sequence number if the packet (with its IP header, as a raw socket delivers
/// it) is a reply to `identifier`.
pub fn reply_to(identifier: u16, packet: &[u8]) -> Option<u16> {
    let ip_header = usize::from(packet.first()? & 0x0f) * 4;
    let message = packet.get(ip_header..)?;
    if message.len() < HEADER || message[0] != REPLY {
        return None;
    }
    let field = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    (field(4) == identifier).then(|| field(6))
}

fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in message.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0xffff)
}

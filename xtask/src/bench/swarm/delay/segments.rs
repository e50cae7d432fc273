//! Large packets of a TUN device: several TCP segments behind one header, as the kernel's segmentation offload makes them.
//!
//! A program that takes each segment alone cannot keep up with nine links of 40 Mbit/s. What is lost is one segment all the
//! same, as on any network, so a packet is cut where one is lost. The header before each is `struct virtio_net_hdr` of the
//! kernel (tuntap.rst): flags, kind, length of headers, size of a segment, where the checksum begins and lies.

use std::ops::Range;

/// Bytes of `struct virtio_net_hdr`.
pub(super) const HEADER: usize = 10;
const KIND: usize = 1;
const SEGMENT_SIZE: usize = 4;
/// The checksum is still to be made: its place holds the sum of the pseudo header (RFC 9293, 3.1).
const NEEDS_CHECKSUM: u8 = 1;
const KIND_NONE: u8 = 0;
const KIND_TCP4: u8 = 1;
const FIN_AND_PUSH: u8 = 0x09;

/// What is left of a packet when each of its segments is lost for which `is_lost` says so: nothing, all of it, or parts.
pub(super) fn survivors(packet: &[u8], mut is_lost: impl FnMut() -> bool) -> Vec<Vec<u8>> {
    let Some(large) = Large::new(packet) else {
        return if is_lost() {
            Vec::new()
        } else {
            vec![packet.to_vec()]
        };
    };
    let count = large.segments();
    let mut parts = Vec::new();
    let mut begin = 0;
    for at in 0..count {
        if is_lost() {
            parts.push(begin..at);
            begin = at + 1;
        }
    }
    parts.push(begin..count);
    parts.retain(|part| !part.is_empty());
    parts.into_iter().map(|part| large.cut(part)).collect()
}

/// A packet of more than one segment.
struct Large<'a> {
    packet: &'a [u8],
    /// Where TCP's header begins, and where what it carries does.
    tcp: usize,
    data: usize,
    segment: usize,
}

impl<'a> Large<'a> {
    /// `None` when the packet is a single one, or nothing that we know how to cut.
    fn new(packet: &'a [u8]) -> Option<Self> {
        if packet.len() < HEADER + 40
            || packet[KIND] != KIND_TCP4
            || packet[0] & NEEDS_CHECKSUM == 0
        {
            return None;
        }
        let segment = usize::from(u16::from_ne_bytes([
            packet[SEGMENT_SIZE],
            packet[SEGMENT_SIZE + 1],
        ]));
        let tcp = HEADER + usize::from(packet[HEADER] & 0x0f) * 4;
        let data = tcp + usize::from(packet.get(tcp + 12)? >> 4) * 4;
        (segment > 0 && packet.len() > data + segment).then_some(Self {
            packet,
            tcp,
            data,
            segment,
        })
    }

    fn segments(&self) -> usize {
        (self.packet.len() - self.data).div_ceil(self.segment)
    }

    /// Some of its segments as a packet of their own.
    fn cut(&self, segments: Range<usize>) -> Vec<u8> {
        let count = self.segments();
        if segments == (0..count) {
            return self.packet.to_vec();
        }
        let skipped = segments.start * self.segment;
        let end = (self.data + segments.end * self.segment).min(self.packet.len());
        let mut part = self.packet[..self.data].to_vec();
        part.extend(&self.packet[self.data + skipped..end]);
        if segments.len() == 1 {
            part[KIND] = KIND_NONE;
            part[SEGMENT_SIZE..SEGMENT_SIZE + 2].fill(0);
        }
        let (ip, tcp) = (HEADER, self.tcp);
        let length = part.len() - HEADER;
        put(&mut part, ip + 2, length);
        let first = usize::from(get(&part, ip + 4)) + segments.start;
        put(&mut part, ip + 4, first);
        put(&mut part, ip + 10, 0);
        let sum = !folded(&part[ip..tcp]);
        put(&mut part, ip + 10, usize::from(sum));

        let sequence =
            u32::from_be_bytes([part[tcp + 4], part[tcp + 5], part[tcp + 6], part[tcp + 7]]);
        let sequence = sequence.wrapping_add(u32::try_from(skipped).unwrap_or(u32::MAX));
        part[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if segments.end < count {
            part[tcp + 13] &= !FIN_AND_PUSH;
        }
        let mut pseudo = part[ip + 12..ip + 20].to_vec();
        pseudo.extend([0, part[ip + 9]]);
        let carried = u16::try_from(part.len() - tcp).unwrap_or(u16::MAX);
        pseudo.extend(carried.to_be_bytes());
        put(&mut part, tcp + 16, usize::from(folded(&pseudo)));
        part
    }
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The lower two bytes of `value`, as the network has them.
fn put(bytes: &mut [u8], at: usize, value: usize) {
    let [.., high, low] = value.to_be_bytes();
    bytes[at..at + 2].copy_from_slice(&[high, low]);
}

/// The one's complement sum of 16-bit words (RFC 1071).
fn folded(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4 and TCP of 20 bytes each, then `data` in segments of 4 bytes.
    fn packet(data: &[u8]) -> Vec<u8> {
        let mut packet = vec![NEEDS_CHECKSUM, KIND_TCP4, 40, 0];
        packet.extend(4_u16.to_ne_bytes());
        packet.extend([20, 0, 16, 0]);
        let length = u8::try_from(40 + data.len()).unwrap();
        packet.extend([0x45, 0, 0, length, 0, 7, 0x40, 0, 64, 6, 0, 0]);
        packet.extend([10, 77, 0, 1, 10, 77, 0, 2]);
        // Ports, sequence 1000, acknowledgement, offset and flags (ACK, PSH, FIN), window, checksum, urgent.
        packet.extend([
            0, 80, 0x1a, 0xe1, 0, 0, 3, 232, 0, 0, 0, 9, 0x50, 0x19, 1, 0, 0, 0, 0, 0,
        ]);
        packet.extend(data);
        packet
    }

    fn said(part: &[u8]) -> (u32, Vec<u8>) {
        let tcp = HEADER + 20;
        let sequence = u32::from_be_bytes(part[tcp + 4..tcp + 8].try_into().unwrap());
        assert_eq!(
            usize::from(get(part, HEADER + 2)),
            part.len() - HEADER,
            "length"
        );
        assert_eq!(folded(&part[HEADER..tcp]), 0xffff, "the checksum of IP");
        (sequence, part[tcp + 20..].to_vec())
    }

    #[test]
    fn a_packet_is_cut_where_a_segment_is_lost() {
        let whole = packet(b"aaaabbbbccccdd");
        assert_eq!(
            survivors(&whole, || false),
            std::slice::from_ref(&whole),
            "nothing is lost"
        );
        assert!(survivors(&whole, || true).is_empty(), "everything is");
        let mut at = 0;
        let parts = survivors(&whole, || {
            at += 1;
            at == 2
        });
        let [first, rest] = &parts[..] else {
            panic!("{parts:?}");
        };
        assert_eq!(said(first), (1000, b"aaaa".to_vec()));
        assert_eq!(
            (first[KIND], first[SEGMENT_SIZE], first[HEADER + 33]),
            (KIND_NONE, 0, 0x10)
        );
        assert_eq!(said(rest), (1008, b"ccccdd".to_vec()));
        assert_eq!(
            (rest[KIND], rest[SEGMENT_SIZE], rest[HEADER + 33]),
            (KIND_TCP4, 4, 0x19)
        );
        assert_eq!(
            get(rest, HEADER + 4),
            9,
            "the IP packets that came before are counted"
        );
        // 10.77.0.1, 10.77.0.2, TCP, 26 bytes.
        let pseudo = 0x0a4d + 1 + 0x0a4d + 2 + 6 + 26;
        assert_eq!(get(rest, HEADER + 20 + 16), pseudo);
    }

    #[test]
    fn small_packets_are_lost_as_a_whole() {
        let mut small = packet(b"aaa");
        small[KIND] = KIND_NONE;
        assert_eq!(survivors(&small, || false), std::slice::from_ref(&small));
        assert!(survivors(&small, || true).is_empty());
    }
}

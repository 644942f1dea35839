//! SCTP's checksum (RFC 9260, appendix A) after a change of the ports, without the packet.
//!
//! A CRC is affine: those of two packets of one length differ by the remainder of their
//! difference, whatever else is in them. Ports are the first word of the packet, so the
//! difference is that word, followed by zeros: the word times x^(8·length) modulo the
//! polynomial. Powers of x for each bit of the length make that sixteen multiplications.
//!
//! Bits are reflected: the highest bit of a word is x⁰.

/// Castagnoli's polynomial, reflected, without its highest term.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// One bit of [`multiply`]: whether `a` has it, and `b` times x for the next one. Without a
/// branch, since the eBPF verifier would follow both.
#[inline(always)]
const fn step(a: u32, b: u32) -> (u32, u32) {
    let taken = b & 0u32.wrapping_sub(a >> 31);
    (taken, (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1)))
}

/// The product of two remainders.
#[inline(always)]
pub const fn multiply(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut product, mut bit) = (a, b, 0, 0);
    while bit < u32::BITS {
        let (taken, next) = step(a, b);
        (product, b, a) = (product ^ taken, next, a << 1);
        bit += 1;
    }
    product
}

/// How many bits a length has (IP's total length is a `u16`).
pub const LENGTH_BITS: usize = 16;

/// x^(8·2^k) for each bit k of a length in bytes.
pub const POWERS: [u32; LENGTH_BITS] = {
    // x^1, squared three times: x^8.
    let mut power = 1 << 30;
    let mut k = 0;
    while k < 3 {
        power = multiply(power, power);
        k += 1;
    }
    let mut powers = [0; LENGTH_BITS];
    k = 0;
    while k < LENGTH_BITS {
        powers[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    powers
};

/// What to combine (exclusive or) a packet's checksum with, both as little-endian words, when
/// its first word changes by `difference` (exclusive or of old and new, little-endian); `len`
/// is the packet's length in bytes.
pub const fn change(difference: u32, len: u16) -> u32 {
    let (mut remainder, mut k) = (difference, 0);
    while k < LENGTH_BITS {
        if len >> k & 1 != 0 {
            remainder = multiply(remainder, POWERS[k]);
        }
        k += 1;
    }
    remainder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The checksum as the RFC gives it, bit by bit.
    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                if c & 1 != 0 { c >> 1 ^ POLYNOMIAL } else { c >> 1 }
            })
        })
    }

    #[test]
    fn the_reference_is_right() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_change_of_the_first_word_is_found_without_the_rest() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        for len in (4..80).chain([575, 1400, 1499, 1500, 9000, 65_535]) {
            let mut packet: Vec<u8> = (0..len).map(|_| random() as u8).collect();
            let old = u32::from_le_bytes([packet[0], packet[1], packet[2], packet[3]]);
            let (new, before) = (random() << 8 ^ random(), crc32c(&packet));
            packet[..4].copy_from_slice(&new.to_le_bytes());
            assert_eq!(before ^ change(old ^ new, len as u16), crc32c(&packet), "{len} bytes");
        }
    }
}

//! Values as ssh writes them (RFC 4251, section 5), and the little of DER that older keys are in.

/// What has not been read yet. `None` from its functions: there is not so much, or it is something else.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A number that is not negative, without zeros in front.
    pub(super) fn number(&mut self) -> Option<&'a [u8]> {
        Some(without_zeros(self.string()?))
    }

    /// The content of a DER value with this tag.
    pub(super) fn der(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.take(1)? != [tag] {
            return None;
        }
        let length = match self.take(1)? {
            &[short @ ..=0x7f] => usize::from(short),
            [0x81] => usize::from(*self.take(1)?.first()?),
            [0x82] => usize::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)),
            _ => return None,
        };
        self.take(length)
    }
}

pub(super) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0);
    bytes
        .get(start.unwrap_or(bytes.len())..)
        .unwrap_or_default()
}

pub(super) fn put_u32(to: &mut Vec<u8>, value: u32) {
    to.extend_from_slice(&value.to_be_bytes());
}

/// All that is put is far from 4 GiB.
pub(super) fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(to, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    to.extend_from_slice(bytes);
}

/// A number that is not negative: a zero in front says so where the first bit is set.
pub(super) fn put_number(to: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = without_zeros(bytes);
    match bytes.first() {
        Some(0x80..) => put_string(to, &[&[0], bytes].concat()),
        _ => put_string(to, bytes),
    }
}

/// `number` modulo `by`, both with the highest byte first, without zeros in front. `by` is not zero.
pub(super) fn remainder(number: &[u8], by: &[u8]) -> Vec<u8> {
    // Bit by bit: the one that comes in, then `by` goes off where it fits. One byte more than `by` for the carry.
    let by = [&[0], by].concat();
    let mut rest = vec![0_u8; by.len()];
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in rest.iter_mut().rev() {
                let out = *digit >> 7;
                *digit = *digit << 1 | carry;
                carry = out;
            }
            if rest >= by {
                let mut borrow = false;
                for (digit, off) in rest.iter_mut().zip(&by).rev() {
                    let (less, first) = digit.overflowing_sub(*off);
                    let (less, second) = less.overflowing_sub(u8::from(borrow));
                    *digit = less;
                    borrow = first || second;
                }
            }
        }
    }
    without_zeros(&rest).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_those_of_small_numbers() {
        for (number, by) in [
            (0_u64, 7_u64),
            (6, 7),
            (7, 7),
            (1 << 40, 255),
            (u64::MAX, 1 << 33 | 1),
        ] {
            let (one, other) = (number.to_be_bytes(), by.to_be_bytes());
            let found = remainder(without_zeros(&one), without_zeros(&other));
            assert_eq!(found, without_zeros(&(number % by).to_be_bytes()));
        }
    }

    #[test]
    fn numbers_are_never_negative() {
        let put = |bytes: &[u8]| {
            let mut to = Vec::new();
            put_number(&mut to, bytes);
            to
        };
        assert_eq!(put(&[0, 0]), [0, 0, 0, 0]);
        assert_eq!(put(&[0, 0x7f]), [0, 0, 0, 1, 0x7f]);
        assert_eq!(put(&[0x80]), [0, 0, 0, 2, 0, 0x80]);
    }
}

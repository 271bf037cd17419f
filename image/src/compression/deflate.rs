//! Joins deflate streams that were made apart into one, so that many cores can make one gzip member.
//!
//! libdeflate makes whole streams only: the last block of each says that it is the last. [`unfinish`] takes that mark
//! away and adds an empty block that ends at a byte, as zlib's `Z_SYNC_FLUSH` does; what follows may then be another
//! stream. To find the last block, the code words are walked through, without the bytes they stand for. Format:
//! RFC 1951. Nothing here reads what others wrote.

/// Ends a joined stream: an empty last block with fixed codes.
pub(super) const END: [u8; 2] = [3, 0];

const CODE_BITS_MAX: u32 = 15;
const LITERAL_CODES: usize = 288;
const DISTANCE_CODES: usize = 32;
/// In which order the lengths of the code of lengths are written.
const LENGTH_ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Makes of a whole stream one that others can follow. `None`, and no change, if it is no whole stream.
pub(super) fn unfinish(stream: &mut Vec<u8>) -> Option<()> {
    let (last, end) = walk(stream)?;
    let mark = stream.get_mut(last / 8)?;
    *mark &= !(1 << (last % 8));
    // Three bits 0: not the last, stored. Then up to a byte's end, a length of 0 and its complement.
    stream.truncate(end.div_ceil(8));
    if end % 8 == 0 || end % 8 > 5 {
        stream.push(0);
    }
    stream.extend_from_slice(&[0, 0, 0xff, 0xff]);
    Some(())
}

/// Where the last block begins, and where it ends, in bits.
fn walk(stream: &[u8]) -> Option<(usize, usize)> {
    let mut bits = Bits {
        bytes: stream,
        at: 0,
    };
    let mut codes = Codes::default();
    loop {
        let start = bits.at;
        let is_last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => {
                bits.at = bits.at.next_multiple_of(8);
                let length = bits.take(16)?;
                bits.take(16)?;
                bits.at += length as usize * 8;
            }
            1 => {
                codes.fixed();
                codes.skip(&mut bits)?;
            }
            2 => {
                codes.read(&mut bits)?;
                codes.skip(&mut bits)?;
            }
            _ => return None,
        }
        if bits.at > stream.len() * 8 {
            return None;
        }
        if is_last {
            return Some((start, bits.at));
        }
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Bits<'_> {
    /// The next 57 bits or more, zeros beyond the end.
    fn peek(&self) -> u64 {
        let at = self.at / 8;
        let word = match self.bytes.get(at..at + 8).and_then(|it| it.try_into().ok()) {
            Some(word) => u64::from_le_bytes(word),
            None => {
                let mut word = [0; 8];
                for (to, from) in word.iter_mut().zip(self.bytes.iter().skip(at)) {
                    *to = *from;
                }
                u64::from_le_bytes(word)
            }
        };
        word >> (self.at % 8)
    }

    fn take(&mut self, count: usize) -> Option<u64> {
        let value = self.peek() & ((1 << count) - 1);
        self.at += count;
        (self.at <= self.bytes.len() * 8).then_some(value)
    }
}

/// Code words by their first [`CODE_BITS_MAX`] bits.
struct Table(Vec<Word>);

/// What a code word costs, and what it is.
#[derive(Clone, Copy, Default)]
struct Word {
    symbol: u16,
    /// Zero: no code word begins so.
    length: u8,
    /// Bits that follow it.
    extra: u8,
}

impl Table {
    /// Canonical: shorter words first, then by symbol. `None` for lengths that are more than a code can have.
    fn fill(&mut self, lengths: &[u8], extra: impl Fn(usize) -> u8) -> Option<()> {
        self.0.clear();
        self.0.resize(1 << CODE_BITS_MAX, Word::default());
        let mut next = 0_u32;
        for length in 1..=CODE_BITS_MAX {
            for (symbol, _) in lengths
                .iter()
                .enumerate()
                .filter(|(_, of)| u32::from(**of) == length)
            {
                if next >= 1 << length {
                    return None;
                }
                let word = Word {
                    symbol: u16::try_from(symbol).ok()?,
                    length: u8::try_from(length).ok()?,
                    extra: extra(symbol),
                };
                // Words lie in the stream with their first bit lowest.
                let first = (next.reverse_bits() >> (32 - length)) as usize;
                for place in (first..1 << CODE_BITS_MAX).step_by(1 << length) {
                    *self.0.get_mut(place)? = word;
                }
                next += 1;
            }
            next <<= 1;
        }
        Some(())
    }

    fn get(&self, bits: u64) -> Option<Word> {
        let word = *self.0.get((bits & ((1 << CODE_BITS_MAX) - 1)) as usize)?;
        (word.length > 0).then_some(word)
    }
}

struct Codes {
    literals: Table,
    distances: Table,
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            literals: Table(Vec::new()),
            distances: Table(Vec::new()),
        }
    }
}

fn literal_extra(symbol: usize) -> u8 {
    match symbol {
        265..285 => ((symbol - 261) / 4) as u8,
        _ => 0,
    }
}

fn distance_extra(symbol: usize) -> u8 {
    (symbol / 2).saturating_sub(1) as u8
}

impl Codes {
    fn fixed(&mut self) {
        let mut lengths = [8; LITERAL_CODES];
        for (symbol, length) in lengths.iter_mut().enumerate() {
            match symbol {
                144..256 => *length = 9,
                256..280 => *length = 7,
                _ => {}
            }
        }
        // These are codes.
        let _ = self.literals.fill(&lengths, literal_extra);
        let _ = self.distances.fill(&[5; DISTANCE_CODES], distance_extra);
    }

    /// The head of a block with codes of its own.
    fn read(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let literals = bits.take(5)? as usize + 257;
        let distances = bits.take(5)? as usize + 1;
        let count = bits.take(4)? as usize + 4;
        let mut lengths = [0; 19];
        for place in LENGTH_ORDER.iter().take(count) {
            *lengths.get_mut(*place)? = bits.take(3)? as u8;
        }
        let mut table = Table(Vec::new());
        table.fill(&lengths, |_| 0)?;
        let mut all: Vec<u8> = Vec::with_capacity(LITERAL_CODES + DISTANCE_CODES);
        while all.len() < literals + distances {
            let word = table.get(bits.peek())?;
            bits.take(word.length.into())?;
            let (length, times) = match word.symbol {
                16 => (*all.last()?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length as u8, 1),
            };
            all.extend(std::iter::repeat_n(length, times as usize));
        }
        self.literals.fill(all.get(..literals)?, literal_extra)?;
        self.distances
            .fill(all.get(literals..literals + distances)?, distance_extra)
    }

    /// Up to the block's end.
    fn skip(&self, bits: &mut Bits<'_>) -> Option<()> {
        const END_OF_BLOCK: u16 = 256;
        let end = bits.bytes.len() * 8;
        loop {
            // A literal's word and a whole pair of length and distance are 48 bits at most: one look for both.
            let word = bits.peek();
            let one = self.literals.get(word)?;
            let taken = u32::from(one.length + one.extra);
            bits.at += taken as usize;
            if one.symbol > END_OF_BLOCK {
                let other = self.distances.get(word >> taken)?;
                bits.at += usize::from(other.length + other.extra);
            }
            if bits.at > end {
                return None;
            }
            if one.symbol == END_OF_BLOCK {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn deflate(input: &[u8], level: i32) -> Vec<u8> {
        let level = libdeflater::CompressionLvl::new(level).unwrap();
        let mut compressor = libdeflater::Compressor::new(level);
        let mut output = vec![0; compressor.deflate_compress_bound(input.len())];
        let length = compressor.deflate_compress(input, &mut output).unwrap();
        output.truncate(length);
        output
    }

    /// Of several kinds: one symbol, noise (stored), words, and all of them in turns.
    fn inputs() -> Vec<Vec<u8>> {
        let mut state = 7_u32;
        let mut noise = |length: usize, modulus: u32| -> Vec<u8> {
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 16) % modulus) as u8
            };
            (0..length).map(next).collect()
        };
        let words: Vec<u8> = (0..20_000)
            .flat_map(|i: u32| format!("{} ", i * i % 977).into_bytes())
            .collect();
        let mut all = vec![
            Vec::new(),
            vec![0],
            vec![b'x'; 100_000],
            noise(100_000, 256),
            noise(100_000, 5),
            noise(333, 256),
            words.clone(),
        ];
        all.push(all.concat());
        all
    }

    #[test]
    fn streams_made_apart_are_one_stream() {
        for level in [1, 2, 5, 6, 9, 12] {
            let inputs = inputs();
            let mut joined = Vec::new();
            for input in &inputs {
                let mut stream = deflate(input, level);
                unfinish(&mut stream).unwrap();
                joined.extend_from_slice(&stream);
            }
            joined.extend_from_slice(&END);
            let mut decoder = flate2::read::DeflateDecoder::new(joined.as_slice());
            let mut output = Vec::new();
            decoder.read_to_end(&mut output).unwrap();
            assert_eq!(output, inputs.concat(), "level {level}");
            assert_eq!(decoder.total_in(), joined.len() as u64);
        }
    }

    #[test]
    fn what_is_no_whole_stream_stays_as_it_is() {
        for input in inputs() {
            let whole = deflate(&input, 6);
            for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
                let mut part = whole[..cut].to_vec();
                if unfinish(&mut part).is_none() {
                    assert_eq!(part, &whole[..cut]);
                } else {
                    panic!("{cut} of {} bytes count as whole", whole.len());
                }
            }
            // Whatever bytes they are, it ends.
            let mut damaged = whole.clone();
            for at in (0..damaged.len()).step_by(97) {
                damaged[at] ^= 0x55;
                let _ = unfinish(&mut damaged.clone());
            }
        }
    }
}

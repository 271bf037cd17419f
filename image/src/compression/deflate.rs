//! Joins deflate streams that were made apart into one, so that many cores can make one gzip member.
//!
//! libdeflate makes whole streams only: the last block of each says that it is the last. [`unfinish`] takes that mark
//! away and adds an empty block that ends at a byte, as zlib's `Z_SYNC_FLUSH` does; what follows may then be another
//! stream. To find the last block, the code words are walked through, without the bytes they stand for. Format:
//! RFC 1951. Nothing here reads what others wrote.

/// Ends a joined stream: an empty last block with fixed codes.
pub(super) const END: [u8; 2] = [3, 0];

const CODE_BITS_MAX: u32 = 15;
const TABLE_BITS: u32 = 11;
/// As many are in eight bytes, wherever in the first one they begin.
const PEEK_BITS: u32 = 57;
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

/// Appends bytes as they are, in blocks that are not the last. The stream must be at a byte's end, where
/// [`unfinish`] leaves it.
pub(super) fn store(bytes: &[u8], stream: &mut Vec<u8>) {
    stream.reserve(bytes.len() + bytes.len() / 8192 + 5);
    for block in bytes.chunks(usize::from(u16::MAX)) {
        let length = block.len() as u16;
        stream.push(0);
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(&(!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
}

/// Where the last block begins, and where it ends, in bits.
fn walk(stream: &[u8]) -> Option<(usize, usize)> {
    let mut bits = Bits {
        bytes: stream,
        at: 0,
    };
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
            1 => Codes::fixed()?.skip(&mut bits)?,
            2 => Codes::read(&mut bits)?.skip(&mut bits)?,
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
    /// The next [`PEEK_BITS`] bits or more, zeros beyond the end.
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

/// A canonical code: shorter words first, then by symbol.
struct Code {
    /// How many words there are of each length.
    counts: [u16; CODE_BITS_MAX as usize + 1],
    /// In the order of their words.
    symbols: [u16; LITERAL_CODES],
}

impl Code {
    /// `None` for lengths that are more than a code can have.
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut code = Self {
            counts: [0; CODE_BITS_MAX as usize + 1],
            symbols: [0; LITERAL_CODES],
        };
        for length in lengths {
            *code.counts.get_mut(usize::from(*length))? += 1;
        }
        code.counts[0] = 0;
        let mut next = [0_u16; CODE_BITS_MAX as usize + 2];
        let mut free = 1_i32;
        for (length, count) in code.counts.iter().enumerate().skip(1) {
            free = 2 * free - i32::from(*count);
            if free < 0 {
                return None;
            }
            next[length + 1] = next[length] + count;
        }
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, it)| **it > 0) {
            let place = next.get_mut(usize::from(*length))?;
            *code.symbols.get_mut(usize::from(*place))? = u16::try_from(symbol).ok()?;
            *place += 1;
        }
        Some(code)
    }

    /// Calls with each word, its first bit highest, its length and its symbol.
    fn words(&self, mut each: impl FnMut(u32, u32, u16)) {
        let mut word = 0;
        let mut symbols = self.symbols.iter();
        for (length, count) in (0_u32..).zip(self.counts).skip(1) {
            word <<= 1;
            for symbol in symbols.by_ref().take(count.into()) {
                each(word, length, *symbol);
                word += 1;
            }
        }
    }

    /// The symbol of the word that comes first, and the word's length. Bit by bit: for few, or long, words.
    fn symbol(&self, mut bits: u64) -> Option<(u16, u8)> {
        let (mut word, mut first, mut before) = (0_u16, 0_u16, 0_u16);
        for (length, count) in (0_u8..).zip(self.counts).skip(1) {
            word |= (bits & 1) as u16;
            bits >>= 1;
            // Words shorter than this one are all below its beginning.
            if let Some(place) = word.checked_sub(first).filter(|place| *place < count) {
                let symbol = self.symbols.get(usize::from(before + place))?;
                return Some((*symbol, length));
            }
            before += count;
            first = (first + count) << 1;
            word <<= 1;
        }
        None
    }
}

/// What the next bits are, as far as one look at a table tells.
#[derive(Clone, Copy)]
struct Step {
    /// Those of the words and the extra bits behind the last one.
    bits: u8,
    extra: u8,
    then: Then,
}

impl Step {
    fn new(extra: u8, then: Then) -> Self {
        Self {
            bits: extra,
            extra,
            then,
        }
    }

    fn after(self, word: u8) -> Self {
        Self {
            bits: self.extra + word,
            ..self
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// No code word begins so.
    Nothing,
    /// The word is longer than the table knows.
    Long,
    /// Another word of the same code.
    Word,
    Distance,
    End,
}

/// Steps by the next [`TABLE_BITS`] bits: small enough for the nearest cache.
struct Table {
    steps: Box<[Step; 1 << TABLE_BITS]>,
    code: Code,
    meaning: fn(u16) -> Step,
}

impl Table {
    /// `meaning` says what follows a symbol's word.
    fn new(lengths: &[u8], meaning: fn(u16) -> Step) -> Option<Self> {
        let nothing = Step::new(0, Then::Nothing);
        let code = Code::new(lengths)?;
        let mut steps = Box::new([nothing; 1 << TABLE_BITS]);
        code.words(|word, length, symbol| {
            // Words lie in the stream with their first bit lowest.
            let first = (word.reverse_bits() >> (32 - length)) as usize;
            let step = match length {
                ..=TABLE_BITS => meaning(symbol).after(length as u8),
                _ => Step::new(0, Then::Long),
            };
            let first = first & ((1 << TABLE_BITS) - 1);
            for place in (first..1 << TABLE_BITS).step_by(1 << length.min(TABLE_BITS)) {
                steps[place] = step;
            }
        });
        Some(Self {
            steps,
            code,
            meaning,
        })
    }

    /// Makes one step of all words that fit into the bits by which it is found: most literals come in twos or more.
    fn join(&mut self) {
        let single = self.steps.clone();
        for (place, step) in self.steps.iter_mut().enumerate() {
            while step.then == Then::Word {
                let next = single[place >> step.bits];
                let is_known = !matches!(next.then, Then::Nothing | Then::Long);
                // The extra bits need not be.
                if !is_known || u32::from(step.bits + next.bits - next.extra) > TABLE_BITS {
                    break;
                }
                step.bits += next.bits;
                step.extra = next.extra;
                step.then = next.then;
            }
        }
    }

    #[inline]
    fn step(&self, bits: u64) -> Option<Step> {
        let step = self.steps[(bits & ((1 << TABLE_BITS) - 1)) as usize];
        match step.then {
            Then::Word | Then::Distance | Then::End => Some(step),
            Then::Nothing => None,
            Then::Long => self.long(bits),
        }
    }

    #[cold]
    fn long(&self, bits: u64) -> Option<Step> {
        let (symbol, length) = self.code.symbol(bits)?;
        Some((self.meaning)(symbol).after(length))
    }
}

struct Codes {
    literals: Table,
    distances: Table,
}

fn literal(symbol: u16) -> Step {
    match symbol {
        ..256 => Step::new(0, Then::Word),
        256 => Step::new(0, Then::End),
        265..285 => Step::new(((symbol - 261) / 4) as u8, Then::Distance),
        _ => Step::new(0, Then::Distance),
    }
}

fn distance(symbol: u16) -> Step {
    Step::new((symbol / 2).saturating_sub(1) as u8, Then::Word)
}

impl Codes {
    fn new(literals: &[u8], distances: &[u8]) -> Option<Self> {
        let mut codes = Self {
            literals: Table::new(literals, literal)?,
            distances: Table::new(distances, distance)?,
        };
        codes.literals.join();
        Some(codes)
    }

    fn fixed() -> Option<Self> {
        let mut lengths = [8; LITERAL_CODES];
        for (symbol, length) in lengths.iter_mut().enumerate() {
            match symbol {
                144..256 => *length = 9,
                256..280 => *length = 7,
                _ => {}
            }
        }
        Self::new(&lengths, &[5; DISTANCE_CODES])
    }

    /// The head of a block with codes of its own.
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let literals = bits.take(5)? as usize + 257;
        let distances = bits.take(5)? as usize + 1;
        let count = bits.take(4)? as usize + 4;
        let mut lengths = [0; 19];
        for place in LENGTH_ORDER.iter().take(count) {
            *lengths.get_mut(*place)? = bits.take(3)? as u8;
        }
        let code = Code::new(&lengths)?;
        let mut all: Vec<u8> = Vec::with_capacity(LITERAL_CODES + DISTANCE_CODES);
        while all.len() < literals + distances {
            let (symbol, length) = code.symbol(bits.peek())?;
            bits.take(length.into())?;
            let (length, times) = match symbol {
                16 => (*all.last()?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length as u8, 1),
            };
            all.extend(std::iter::repeat_n(length, times as usize));
        }
        Self::new(
            all.get(..literals)?,
            all.get(literals..literals + distances)?,
        )
    }

    /// Up to the block's end.
    fn skip(&self, bits: &mut Bits<'_>) -> Option<()> {
        /// What a distance takes at most, with its extra bits.
        const DISTANCE_BITS: u32 = CODE_BITS_MAX + 13;
        let end = bits.bytes.len() * 8;
        loop {
            // One look at the stream is enough for two steps of 20 bits each.
            let word = bits.peek();
            let mut step = self.literals.step(word)?;
            let mut taken = u32::from(step.bits);
            if step.then == Then::Word {
                step = self.literals.step(word >> taken)?;
                taken += u32::from(step.bits);
            }
            if step.then == Then::Distance {
                if taken + DISTANCE_BITS > PEEK_BITS {
                    bits.at += taken as usize;
                    taken = self.distances.step(bits.peek())?.bits.into();
                } else {
                    taken += u32::from(self.distances.step(word >> taken)?.bits);
                }
            }
            bits.at += taken as usize;
            if bits.at > end {
                return None;
            }
            if step.then == Then::End {
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
        // Words of all lengths.
        let uneven: Vec<u8> = (0..300_000_u32)
            .map(|i| i.wrapping_mul(2_654_435_761).leading_zeros() as u8 ^ noise(1, 3)[0])
            .collect();
        let mut all = vec![
            uneven,
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
                store(input, &mut joined);
            }
            joined.extend_from_slice(&END);
            let mut decoder = flate2::read::DeflateDecoder::new(joined.as_slice());
            let mut output = Vec::new();
            decoder.read_to_end(&mut output).unwrap();
            let twice: Vec<u8> = inputs.iter().flat_map(|it| it.repeat(2)).collect();
            assert!(output == twice, "level {level}");
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

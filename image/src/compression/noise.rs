//! Finds what no compressor makes smaller: files that are compressed already, keys, pictures. libdeflate takes as long
//! over such bytes as over any others, only to store them; a look at them takes a quarter of that time.
//!
//! Part of what the bytes of a layer are a function of: a change here needs another name of the variant.

use std::ops::Range;

/// What is looked at and decided upon as one.
const UNIT_BYTES: usize = 16 << 10;
/// Shorter stretches are not worth a block. Deflate looks this far back, so that behind a stretch nothing is lost of
/// what was before it.
const STRETCH_BYTES: usize = 32 << 10;
const WINDOW_BYTES: usize = 32 << 10;

/// So many bytes are looked at first, and have so many values at least. Of random ones 221 ± 5 are different.
const SAMPLE_BYTES: usize = 512;
const SAMPLE_VALUES: usize = 190;
/// Chi-square of half a unit against all values being as frequent: 255 ± 23 where they are. At this figure Huffman codes
/// could save a six-hundredth.
const UNEVENNESS_MAX: u64 = 400;
/// Every fourth sequence of four bytes is remembered, and every fourth stretch of so many looked up; so many of a unit
/// may be known. One that is saves ten bits at most. By chance there is one in a hundred units.
const LOOKED_UP: usize = 64;
const REPEATS_MAX: usize = 1;
const SLOT_BITS: u32 = 14;

/// Where the stretches of noise are, in order.
pub(super) fn stretches(input: &[u8]) -> Vec<Range<usize>> {
    let mut repeats = None;
    let mut units: Vec<bool> = Vec::with_capacity(input.len() / UNIT_BYTES);
    for (number, unit) in input.chunks_exact(UNIT_BYTES).enumerate() {
        let is_even = is_even(unit);
        // What follows a unit that was taken for noise may repeat it.
        let follows = units.iter().rev().take(WINDOW_BYTES / UNIT_BYTES);
        let is_noise = if is_even || follows.clone().any(|is_noise| *is_noise) {
            let repeats = repeats.get_or_insert_with(Repeats::default);
            let start = number * UNIT_BYTES;
            let (own, earlier) = repeats.count(input, start..start + UNIT_BYTES, &units);
            if earlier > REPEATS_MAX {
                let window = units.iter_mut().rev().take(WINDOW_BYTES / UNIT_BYTES);
                window.for_each(|is_noise| *is_noise = false);
            }
            is_even && own <= REPEATS_MAX
        } else {
            false
        };
        units.push(is_noise);
    }
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for (number, _) in units.iter().enumerate().filter(|(_, is_noise)| **is_noise) {
        let start = number * UNIT_BYTES;
        match stretches.last_mut().filter(|last| last.end == start) {
            Some(last) => last.end += UNIT_BYTES,
            None => stretches.push(start..start + UNIT_BYTES),
        }
    }
    stretches.retain(|stretch| stretch.len() >= STRETCH_BYTES);
    stretches
}

/// Whether all values are about as frequent.
fn is_even(unit: &[u8]) -> bool {
    let mut is_there = [false; 256];
    for byte in unit.iter().take(SAMPLE_BYTES) {
        is_there[usize::from(*byte)] = true;
    }
    if is_there.iter().filter(|it| **it).count() < SAMPLE_VALUES {
        return false;
    }
    // Two tables, since counting one value twice in a row has to wait.
    let mut counts = [[0_u32; 256]; 2];
    let half = unit.get(..unit.len() / 2).unwrap_or(unit);
    let (pairs, _) = half.as_chunks::<2>();
    for [one, other] in pairs {
        counts[0][usize::from(*one)] += 1;
        counts[1][usize::from(*other)] += 1;
    }
    let [one, other] = counts;
    let sums = one.iter().zip(other).map(|(one, other)| one + other);
    let squares: u64 = sums.map(|count| u64::from(count).pow(2)).sum();
    let length = half.len() as u64;
    squares * 256 / length <= length + UNEVENNESS_MAX
}

/// Where four bytes were seen last, by a hash of them.
struct Repeats {
    /// Positions modulo 2¹⁶.
    slots: Vec<u16>,
    /// Up to where the input was looked at.
    seen: usize,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            slots: vec![0; 1 << SLOT_BITS],
            seen: 0,
        }
    }
}

impl Repeats {
    /// How many sequences of `unit` were there before, within deflate's reach; and how many of those in units that
    /// count as noise.
    fn count(&mut self, input: &[u8], unit: Range<usize>, noise: &[bool]) -> (usize, usize) {
        let sequence = |at: usize| -> Option<u32> {
            let bytes = input.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let slot = |it: u32| (it.wrapping_mul(0x9e37_79b1) >> (32 - SLOT_BITS)) as usize;
        // What was no noise at a first look may be repeated too.
        let missed = self.seen.max(unit.start.saturating_sub(WINDOW_BYTES))..unit.start;
        for at in missed.step_by(4) {
            let Some(here) = sequence(at) else { break };
            self.slots[slot(here)] = at as u16;
        }
        self.seen = unit.end;
        let (mut all, mut earlier) = (0, 0);
        for start in unit.step_by(4 * LOOKED_UP) {
            for at in start..start + LOOKED_UP {
                let Some(here) = sequence(at) else { break };
                let back = usize::from((at as u16).wrapping_sub(self.slots[slot(here)]));
                let Some(before) = at.checked_sub(back) else {
                    continue;
                };
                if (1..=WINDOW_BYTES).contains(&back) && sequence(before) == Some(here) {
                    all += 1;
                    earlier += usize::from(noise.get(before / UNIT_BYTES) == Some(&true));
                }
            }
            for at in (start..start + 4 * LOOKED_UP).step_by(4) {
                let Some(here) = sequence(at) else { break };
                self.slots[slot(here)] = at as u16;
            }
        }
        (all, earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(next).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        let words = (0_u32..).flat_map(|i| format!("{} ", i.wrapping_mul(i) % 9973).into_bytes());
        words.take(length).collect()
    }

    #[test]
    fn noise_between_text_is_found() {
        let input = [text(64 << 10), noise(64 << 10, 1), text(100_000)].concat();
        assert_eq!(stretches(&input).first(), Some(&(64 << 10..128 << 10)));
        let moved = [text(64_000), noise(100_000, 2), text(100_000)].concat();
        let found = stretches(&moved);
        assert_eq!(found.len(), 1);
        assert!(found[0].start >= 64_000 && found[0].end <= 164_000 && found[0].len() >= 65_536);
    }

    #[test]
    fn what_deflate_makes_smaller_is_no_noise() {
        let even: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let once = noise(16 << 10, 3);
        let twice = [noise(32 << 10, 4), once.clone(), once.clone()].concat();
        let uneven: Vec<u8> = noise(200_000, 5).iter().map(|it| it & 0xfe).collect();
        for input in [
            text(300_000),
            even,
            uneven,
            once.repeat(3),
            vec![0; 100_000],
        ] {
            assert!(stretches(&input).is_empty());
        }
        // What a repetition repeats is left to deflate with it.
        assert!(stretches(&twice).is_empty());
        // Also where only part of that looked like noise.
        let part = [text(10 << 10), noise(6 << 10, 8)].concat();
        let again = [part.clone(), noise(10 << 10, 9), part[10 << 10..].to_vec()].concat();
        assert!(stretches(&[again, noise(16 << 10, 10)].concat()).is_empty());
        assert!(stretches(&noise(40_000, 6)).len() == 1);
        assert!(stretches(&noise(20_000, 7)).is_empty());
    }
}

//! Approximate request counts of keys, over a long and a short span: two count-min sketches of 4-bit counters that age
//! as they count. All counters of a key are adjacent.
//!
//! Counters are halved line by line, so that each is halved once per period and no access waits for all of them; memory
//! is touched only as lines are counted in.

/// Places of the cache per line of counters.
const LINE_PLACES: usize = 4;

/// Words of 16 counters in a line: one cache line for each span.
const LINE_WORDS: usize = 16;
const LINE_BYTES: usize = LINE_WORDS * size_of::<u64>();

/// Largest value of a counter.
pub(super) const COUNT_MAX: u32 = 15;

/// Most lines from which the number of keys is estimated.
const LOOKED_AT_MAX: usize = 64;

/// Spans of time of the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// Long: keys that are requested steadily are told apart better.
    Long,
    /// Short: keys that are no longer requested are forgotten sooner.
    Short,
}

impl Span {
    const ALL: [Self; 2] = [Self::Long, Self::Short];

    /// Uses per place after which counters are halved.
    const fn period_uses(self) -> usize {
        match self {
            Self::Long => 32,
            Self::Short => 4,
        }
    }

    /// First word of the span in a line.
    const fn word(self) -> usize {
        match self {
            Self::Long => 0,
            Self::Short => LINE_WORDS / 2,
        }
    }
}

/// Progress of halving the counters of a span.
#[derive(Clone, Copy, Default)]
struct Age {
    /// Uses since the last line was halved, times the number of lines.
    due: usize,
    /// The next line to halve.
    next: usize,
}

/// The counters.
pub(super) struct Sketch {
    words: Vec<u64>,
    /// Index of the first word that is aligned to a cache line.
    start: usize,
    lines: usize,
    places_max: usize,
    ages: [Age; 2],
}

impl Sketch {
    /// Bytes per place.
    pub(super) const PLACE_BYTES: usize = LINE_BYTES / LINE_PLACES;

    /// For a cache of `places_max` places.
    pub(super) fn new(places_max: usize) -> Self {
        let lines = places_max.div_ceil(LINE_PLACES).max(1);
        let words = vec![0_u64; (lines + 1) * LINE_WORDS];
        // If the compiler can't tell the alignment, lines are not those of the hardware: slower, but correct.
        let start = words.as_ptr().align_offset(LINE_BYTES).min(LINE_WORDS);
        Self { words, start, lines, places_max: places_max.max(1), ages: [Age::default(); 2] }
    }

    /// Counts a use. Returns the approximate count before, of the long span.
    pub(super) fn count(&mut self, hash: u64) -> u32 {
        let cells = counters(hash);
        let start = self.line(hash);
        let line = &mut self.words[start..start + LINE_WORDS];
        let counts = Span::ALL.map(|span| count_up(&mut line[span.word()..][..8], cells));
        Span::ALL.into_iter().for_each(|span| self.age(span));
        counts[Span::Long as usize]
    }

    /// Approximate count of a key; never less than the uses that the period keeps.
    pub(super) fn estimate(&self, hash: u64, span: Span) -> u32 {
        least(&self.words[self.line(hash) + span.word()..][..8], counters(hash))
    }

    /// Approximate number of keys requested within the long span, from a sample of lines.
    pub(super) fn keys(&self) -> u64 {
        let lines = self.lines.min(LOOKED_AT_MAX);
        let words = (0..lines).flat_map(|index| {
            let start = self.start + index * self.lines / lines * LINE_WORDS;
            &self.words[start..start + LINE_WORDS / 2]
        });
        let empty = |&word: &u64| (0..16).filter(|cell| word >> (4 * cell) & 15 == 0).count();
        let empty: usize = words.map(empty).sum();
        // Each key has one counter in 32, four times: the share of empty counters is the share that no key has chosen.
        let part = empty.max(1) as f64 / (lines * LINE_WORDS / 2 * 16) as f64;
        (-part.ln() * 32.0 * self.lines as f64) as u64
    }

    fn line(&self, hash: u64) -> usize {
        self.start + ((u128::from(hash) * self.lines as u128) >> 64) as usize * LINE_WORDS
    }

    fn age(&mut self, span: Span) {
        let age = &mut self.ages[span as usize];
        age.due += self.lines;
        let period = span.period_uses() * self.places_max;
        while age.due >= period {
            age.due -= period;
            let start = self.start + age.next * LINE_WORDS + span.word();
            age.next = (age.next + 1) % self.lines;
            for word in &mut self.words[start..start + LINE_WORDS / 2] {
                *word = *word >> 1 & 0x7777_7777_7777_7777;
            }
        }
    }
}

/// Words of a span and shifts in them of the four counters of a key, from bits of its hash that do not choose the line.
fn counters(hash: u64) -> [(usize, u32); 4] {
    [0, 1, 2, 3].map(|index| {
        let bits = (hash >> (index * 5)) as usize & 31;
        (2 * index + (bits >> 4), 4 * (bits as u32 & 15))
    })
}

fn least(words: &[u64], cells: [(usize, u32); 4]) -> u32 {
    let counts = cells.map(|(word, shift)| (words[word] >> shift) as u32 & COUNT_MAX);
    counts.into_iter().fold(COUNT_MAX, u32::min)
}

/// Counts a use; returns the count before.
fn count_up(words: &mut [u64], cells: [(usize, u32); 4]) -> u32 {
    let before = least(words, cells);
    if before < COUNT_MAX {
        for (word, shift) in cells {
            let word = &mut words[word];
            // Only the least counters are raised: the others have counted other keys too.
            if (*word >> shift) as u32 & COUNT_MAX == before {
                *word += 1 << shift;
            }
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    #[test]
    fn frequent_keys_are_counted_and_forgotten() {
        let mut sketch = Sketch::new(1_000);
        let hot = mix(7);
        (0..10).for_each(|before| assert_eq!(sketch.count(hot), before));
        for other in 100..200 {
            sketch.count(mix(other));
        }
        assert!(sketch.estimate(hot, Span::Short) >= 5, "halved once at most");
        let is_known = |other: &u64| sketch.estimate(mix(*other), Span::Long) > 0;
        assert!((100..200).filter(is_known).count() >= 90);
        assert!((1_000..2_000).filter(is_known).count() <= 10);
        (0..100).for_each(|_| _ = sketch.count(hot));
        assert_eq!(sketch.estimate(hot, Span::Long), COUNT_MAX);
        // Whatever other keys come, the counter is halved five times in five periods.
        (0..5 * 4_000).for_each(|_| _ = sketch.count(mix(8)));
        assert_eq!(sketch.estimate(hot, Span::Short), 0);
        assert!(sketch.estimate(hot, Span::Long) > 0);
        (0..5 * 32_000).for_each(|_| _ = sketch.count(mix(8)));
        assert_eq!(sketch.estimate(hot, Span::Long), 0);
    }

    #[test]
    fn sketch_estimates_the_number_of_keys() {
        let mut sketch = Sketch::new(10_000);
        assert_eq!(sketch.keys(), 0);
        for round in 0..60_000 {
            sketch.count(mix(round % 20_000));
        }
        let keys = sketch.keys();
        assert!((15_000..25_000).contains(&keys), "{keys}");
    }
}

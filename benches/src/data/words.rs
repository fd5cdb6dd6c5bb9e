//! Words of an invented language of 50,000, as often as in a real one: the n-th most frequent word comes
//! once for n times the first (Zipf). Words are of two to four syllables, short where frequent.

use std::io::{Result, Write};

use crate::stats::Random;

const VOCABULARY: usize = 50_000;
const WORDS_PER_LINE: u64 = 10;
const CONSONANTS: &[u8] = b"bdfghklmnprstvz";
const VOWELS: &[u8] = b"aeiou";

pub struct Words {
    random: Random,
    vocabulary: Vec<String>,
}

impl Words {
    pub fn new() -> Self {
        Self { random: Random::new(0x7769_6c6c_6961_6d73), vocabulary: (0..VOCABULARY).map(spell).collect() }
    }

    /// Appends `{"word":".."}`.
    pub fn word_line(&mut self, out: &mut Vec<u8>) -> Result<()> {
        write!(out, "{{\"word\":\"{}\"}}", self.next())
    }

    /// Appends `{"line":".. .."}`, of half to one and a half times the usual number of words.
    pub fn text_line(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let words = WORDS_PER_LINE / 2 + self.random.below(WORDS_PER_LINE + 1);
        out.write_all(b"{\"line\":\"")?;
        for i in 0..words {
            if i > 0 {
                out.write_all(b" ")?;
            }
            let word = self.next();
            out.write_all(word.as_bytes())?;
        }
        out.write_all(b"\"}")
    }

    fn next(&mut self) -> &str {
        // The logarithm of a rank under Zipf's law is spread evenly.
        let rank = ((VOCABULARY as f64 + 1.0).ln() * self.random.unit()).exp() as usize;
        self.vocabulary.get(rank.clamp(1, VOCABULARY) - 1).map_or("", String::as_str)
    }
}

/// The word of a rank: its digits in the base of all syllables, so no two are alike.
fn spell(rank: usize) -> String {
    let syllables = CONSONANTS.len() * VOWELS.len();
    let mut rest = rank;
    let mut word = String::new();
    loop {
        let syllable = rest % syllables;
        let letter = |letters: &[u8], i: usize| letters.get(i % letters.len()).copied().map_or('x', char::from);
        word.push(letter(CONSONANTS, syllable / VOWELS.len()));
        word.push(letter(VOWELS, syllable));
        rest /= syllables;
        if rest == 0 && word.len() >= 4 {
            return word;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn words_of_different_ranks_are_different() {
        let words: HashSet<String> = (0..VOCABULARY).map(spell).collect();
        // A rank below 75 ends in a syllable that stands for zero, as no longer word does.
        assert_eq!(words.len(), VOCABULARY);
    }

    #[test]
    fn few_words_are_frequent_and_many_are_rare() {
        let mut words = Words::new();
        let mut counts: HashMap<String, u64> = HashMap::new();
        for _ in 0..50_000 {
            *counts.entry(words.next().to_string()).or_default() += 1;
        }
        let most = counts.values().max().unwrap();
        assert!((2000..5000).contains(most), "the most frequent word came {most} times");
        assert!(counts.len() > 10_000, "{} words", counts.len());
    }

    #[test]
    fn lines_are_words_between_single_blanks() {
        let mut words = Words::new();
        for _ in 0..100 {
            let mut line = Vec::new();
            words.text_line(&mut line).unwrap();
            let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let line = line["line"].as_str().unwrap();
            assert!(line.split(' ').all(|word| word.len() >= 4), "{line:?}");
        }
    }
}

//! The texts of the events.

use std::sync::LazyLock;

use super::super::random::Random;

pub(super) const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];

pub(super) const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];

pub(super) const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];

pub(super) const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// Half of the bids come through a hot channel.
const HOT_CHANNEL_RATIO: u64 = 2;
const CHANNELS: u32 = 10_000;

/// No random text is shorter.
const LENGTH_MIN: u64 = 3;

/// Fillers are cut out of this many letters.
const FILLER_LETTERS: u64 = 1 << 20;

/// The seed of what is the same in every stream: channels and filler.
const FIXED_SEED: u64 = 0x006e_6578_6d61_726b;

static CHANNEL_URLS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let channel = |i: u32| {
        let mut random = Random::new(FIXED_SEED, i.into(), 1);
        let mut url = base_url(&mut random);
        if random.below(10) > 0 {
            url.push_str(&format!("&channel_id={}", i.reverse_bits().cast_signed().wrapping_abs()));
        }
        (format!("channel-{i}"), url)
    };
    (0..CHANNELS).map(channel).collect()
});

static HOT_URLS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..4).map(|i| base_url(&mut Random::new(FIXED_SEED, i, 2))).collect());

static FILLER: LazyLock<String> = LazyLock::new(|| {
    let mut random = Random::new(FIXED_SEED, 0, 3);
    let mut letters = String::with_capacity(FILLER_LETTERS as usize);
    while (letters.len() as u64) < FILLER_LETTERS {
        let drawn = random.next();
        letters.extend((0..4).map(|i| letter(drawn >> (16 * i) & 0xffff)));
    }
    letters
});

/// One of 65,536 equally likely numbers to a letter.
fn letter(drawn: u64) -> char {
    char::from(b'a' + ((drawn * 26) >> 16) as u8)
}

fn base_url(random: &mut Random) -> String {
    let mut url = "https://www.nexmark.com/".to_string();
    for _ in 0..3 {
        push_text(random, 5, '_', &mut url);
        url.push('/');
    }
    url + "item.htm?query=1"
}

/// Appends 3 to `length` - 1 characters: letters, and `special` one time in 13. Spaces at the ends are left
/// out.
pub(super) fn push_text(random: &mut Random, length: u64, special: char, into: &mut String) {
    let begin = into.len();
    let count = LENGTH_MIN + random.below(length - LENGTH_MIN);
    let mut drawn = 0;
    for i in 0..count {
        if i % 4 == 0 {
            drawn = random.next();
        }
        let scaled = (drawn & 0xffff) * 13;
        drawn >>= 16;
        let next = if scaled >> 16 == 0 { special } else { letter(scaled & 0xffff) };
        if next != ' ' || into.len() > begin {
            into.push(next);
        }
    }
    into.truncate(into.trim_end_matches(' ').len().max(begin));
}

/// A channel and its URL.
pub(super) fn channel(random: &mut Random) -> (&'static str, &'static str) {
    if random.below(HOT_CHANNEL_RATIO) > 0 {
        let i = random.below(HOT_CHANNELS.len() as u64) as usize;
        return (HOT_CHANNELS.get(i).copied().unwrap_or_default(), HOT_URLS.get(i).map_or("", String::as_str));
    }
    let i = random.below(CHANNELS.into()) as usize;
    CHANNEL_URLS.get(i).map_or(("", ""), |(channel, url)| (channel, url))
}

/// So many letters that an event of `bytes` becomes `average` bytes long on average.
pub(super) fn filler(random: &mut Random, bytes: u64, average: u64) -> &'static str {
    let wanted = average.saturating_sub(bytes).min(FILLER_LETTERS / 2);
    let spread = (wanted as f64 * 0.2).round() as u64;
    let length = wanted - spread + random.below(2 * spread);
    let begin = random.below(FILLER_LETTERS - length) as usize;
    FILLER.get(begin..begin + length as usize).unwrap_or_default()
}

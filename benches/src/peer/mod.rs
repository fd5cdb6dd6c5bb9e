//! The hand-written programs that the engine is measured beside: `peer NAME IN OUT`, `peer kafka-NAME SERVERS IN OUT`.
//!
//! Each is what a good programmer would write for this one question in an afternoon: typed and borrowed
//! serde_json rows, large buffers, one thread, hashbrown's maps, the same rows out, one fsync at the end. It
//! knows the question and needs no batches, no state on disk, no recovery. It must never cheat: whatever it
//! writes is compared with the engine's answer, row by row.

mod joins;
#[cfg(feature = "kafka")]
mod kafka;
mod map;
mod nexmark;
mod read;
mod stateless;
mod windows;
mod words;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::Result;

const BUFFER_BYTES: usize = 1 << 20;

/// Runs one of the programs.
///
/// # Errors
/// An unknown name, or an input that is not what the program was written for.
pub fn main(words: &[String]) -> Result<()> {
    #[cfg(feature = "kafka")]
    if words.first().is_some_and(|name| name.starts_with("kafka-")) {
        return kafka::main(words);
    }
    if let [name, keys, updates] = words
        && name == "map-updates"
    {
        return map::updates(keys.parse()?, updates.parse()?);
    }
    let [name, input, output] = words else { return Err("peer NAME IN OUT".into()) };
    let input = File::open(Path::new(input)).map_err(|e| format!("{input}: {e}"))?;
    let output = File::create(Path::new(output)).map_err(|e| format!("{output}: {e}"))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, output);
    if let Some(join) = name.strip_prefix("join-") {
        match join {
            "inner" => joins::inner(input, &mut out)?,
            "interval" => joins::interval(input, &mut out)?,
            "window" => joins::window(input, &mut out)?,
            other => return Err(format!("there is no peer 'join-{other}'").into()),
        }
        out.into_inner()?.sync_all()?;
        return Ok(());
    }
    let rows = read::Lines::new(input);
    match name.as_str() {
        "q0" => stateless::q0(rows, &mut out)?,
        "q2" => stateless::q2(rows, &mut out)?,
        "q5" => windows::q5(rows, &mut out)?,
        "q7" => windows::q7(rows, &mut out)?,
        "n3" => nexmark::q3(rows, &mut out)?,
        "n4" => nexmark::q4(rows, &mut out)?,
        "n8" => nexmark::q8(rows, &mut out)?,
        "n9" => nexmark::q9(rows, &mut out)?,
        "n18" => nexmark::q18(rows, &mut out)?,
        "n20" => nexmark::q20(rows, &mut out)?,
        "words" => words::count_words(rows, &mut out)?,
        "lines" => words::count_words_of_lines(rows, &mut out)?,
        "keys" => words::count_and_sum(rows, &mut out)?,
        other => return Err(format!("there is no peer '{other}'").into()),
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}

fn write_row(out: &mut impl Write, row: &impl serde::Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")?;
    Ok(())
}

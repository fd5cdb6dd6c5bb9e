//! Over generated records: what was written is read, arrow-json reads the same, and serde_json accepts the same.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Fields, Schema};
use arrow::json::ReaderBuilder;
use serde::de::IgnoredAny;

use super::*;
use crate::format::generate::{Rng, Scope, rows, schema};
use crate::format::json::encode::string;

/// How records of one run are written.
struct Spelling {
    shuffled: bool,
    spaced: bool,
    escaped: bool,
    extra: bool,
    sparse: bool,
}

/// The parts of a compact array or object.
fn parts(text: &str) -> Vec<&str> {
    let inner = &text[1..text.len() - 1];
    let (mut depth, mut quoted, mut escaped, mut start, mut parts) = (0, false, false, 0, vec![]);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner.is_empty() {
        parts.push(&inner[start..]);
    }
    parts
}

/// The end of the name of `"name":value`.
fn colon(entry: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in entry.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    unreachable!("{entry}")
}

impl Spelling {
    fn new(rng: &mut Rng) -> Self {
        let mut sometimes = || rng.one_in(2);
        let (shuffled, spaced, escaped) = (sometimes(), sometimes(), sometimes());
        Self { shuffled, spaced, escaped, extra: sometimes(), sparse: sometimes() }
    }

    fn space(&self, rng: &mut Rng, out: &mut String) {
        if self.spaced && rng.one_in(3) {
            let spaces = [" ", "  ", "\t", "\n", " \r\n "];
            out.push_str(spaces[rng.below(spaces.len())]);
        }
    }

    fn string(&self, rng: &mut Rng, text: &str, out: &mut String) {
        if !self.escaped {
            return out.push_str(text);
        }
        out.push('"');
        for letter in serde_json::from_str::<String>(text).unwrap().chars() {
            if rng.one_in(3) {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            } else if letter == '/' {
                out.push_str("\\/");
            } else {
                let mut quoted = Vec::new();
                string(letter.encode_utf8(&mut [0; 4]), &mut quoted);
                let quoted = String::from_utf8(quoted).unwrap();
                out.push_str(&quoted[1..quoted.len() - 1]);
            }
        }
        out.push('"');
    }

    /// Writes a value of the type anew.
    fn value(&self, rng: &mut Rng, data_type: &DataType, text: &str, out: &mut String) {
        self.space(rng, out);
        match (data_type, text.as_bytes()[0]) {
            (DataType::Struct(fields), b'{') => self.object(rng, fields, text, out),
            (DataType::List(item), b'[') => {
                out.push('[');
                for (n, part) in parts(text).into_iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    self.value(rng, item.data_type(), part, out);
                }
                self.space(rng, out);
                out.push(']');
            }
            (DataType::Map(entries, _), b'{') => {
                let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
                out.push('{');
                for (n, part) in parts(text).into_iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    let (name, value) = part.split_at(colon(part));
                    self.space(rng, out);
                    self.string(rng, name, out);
                    self.space(rng, out);
                    out.push(':');
                    self.value(rng, fields[1].data_type(), &value[1..], out);
                }
                self.space(rng, out);
                out.push('}');
            }
            (_, b'"') => self.string(rng, text, out),
            _ => out.push_str(text),
        }
        self.space(rng, out);
    }

    fn object(&self, rng: &mut Rng, fields: &Fields, text: &str, out: &mut String) {
        let mut entries: Vec<(String, String)> = vec![];
        for part in parts(text) {
            let (name, value) = part.split_at(colon(part));
            let value = &value[1..];
            if self.sparse && value == "null" {
                continue;
            }
            let field = fields.iter().find(|field| format!("{:?}", field.name()) == name).unwrap();
            let mut spelled = String::new();
            self.value(rng, field.data_type(), value, &mut spelled);
            let mut spelled_name = String::new();
            self.string(rng, name, &mut spelled_name);
            entries.push((spelled_name, spelled));
        }
        if self.extra && rng.one_in(2) {
            let value = rng.pick(&["1", "null", "{\"a\":[{},[]]}", "\"\\\"}\"", "-1.5e10", "[true , false]"]);
            entries.push(("\"more\"".into(), value.to_string()));
        }
        if self.shuffled {
            rng.shuffle(&mut entries);
        }
        out.push('{');
        for (n, (name, value)) in entries.iter().enumerate() {
            out.push_str(if n > 0 { "," } else { "" });
            self.space(rng, out);
            out.push_str(name);
            self.space(rng, out);
            out.push(':');
            out.push_str(value);
        }
        self.space(rng, out);
        out.push('}');
    }
}

/// Generated rows, and each as a record.
fn records(rng: &mut Rng, count: usize) -> (RecordBatch, Vec<String>) {
    let schema = schema(rng, Scope::ArrowJson);
    let rows = rows(rng, &schema, count, Scope::ArrowJson);
    let mut out = Vec::new();
    let mut encoder = JsonEncoder::new(&Options::default(), &schema).unwrap();
    millstream_core::format::Encoder::encode(&mut encoder, &rows, &mut out).unwrap();
    let spelling = Spelling::new(rng);
    let spelled = std::str::from_utf8(&out).unwrap().lines().map(|line| {
        let mut text = String::new();
        spelling.object(rng, schema.fields(), line, &mut text);
        text
    });
    let spelled = spelled.collect();
    (rows, spelled)
}

#[test]
fn arrow_json_reads_the_same() {
    for seed in 0..500 {
        let mut rng = Rng(seed);
        let (rows, records) = records(&mut rng, 20);
        let schema = rows.schema();
        let mut ours = JsonFormat.decoder(Arc::clone(&schema)).unwrap();
        let mut theirs = ReaderBuilder::new(Arc::clone(&schema)).build_decoder().unwrap();
        for (row, record) in records.iter().enumerate() {
            ours.push(record.as_bytes(), Place { offset: 0, row: row as u64 });
            theirs.decode(record.as_bytes()).unwrap();
        }
        let ours = ours.finish().unwrap();
        assert!(ours.rejected.is_empty(), "seed {seed}: {:?} {}", ours.rejected, schema);
        assert_eq!(ours.rows, rows, "seed {seed}: {records:#?}");
        let theirs = theirs.flush().unwrap().unwrap();
        assert_eq!(ours.rows, theirs, "seed {seed}: {records:#?}");
    }
}

/// The record with some bytes changed, moved, left out or doubled.
fn damaged(rng: &mut Rng, record: &str) -> Vec<u8> {
    let mut bytes = record.as_bytes().to_vec();
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let end = (at + rng.below(8)).min(bytes.len());
        match rng.below(5) {
            0 if at < bytes.len() => bytes[at] = rng.next() as u8,
            1 => bytes.insert(at, *rng.pick(b"{}[]\",:\\ntfu0123456789eE+-. \t/")),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn serde_json_accepts_the_same_of_damaged_records() {
    let mut counts = [0u32; 2];
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let (rows, records) = records(&mut rng, 5);
        let mut untyped = JsonFormat.decoder(Arc::new(Schema::empty())).unwrap();
        let mut typed = JsonFormat.decoder(rows.schema()).unwrap();
        let mut accepted = 0;
        for record in records.iter().cycle().take(100) {
            let bytes = damaged(&mut rng, record);
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let shown = String::from_utf8_lossy(&bytes);
            let place = Place { offset: 0, row: 1 };
            let before = (untyped.len(), typed.len());
            untyped.push(&bytes, place);
            typed.push(&bytes, place);
            let theirs = serde_json::from_slice::<HashMap<String, IgnoredAny>>(&bytes);
            // What serde_json passes over it doesn't hold to UTF-8; we do.
            let theirs_accepts = theirs.is_ok() && std::str::from_utf8(&bytes).is_ok();
            assert_eq!(untyped.len() > before.0, theirs_accepts, "seed {seed}: {theirs:?} {shown}");
            assert!(typed.len() == before.1 || theirs.is_ok(), "seed {seed}: {theirs:?} {shown}");
            counts[usize::from(theirs.is_ok())] += 1;
            accepted += typed.len() - before.1;
        }
        let chunk = typed.finish().unwrap();
        assert_eq!((chunk.rows.num_rows(), chunk.places.len()), (accepted, accepted), "seed {seed}");
        // After all that, good records are read as ever.
        for record in &records {
            typed.push(record.as_bytes(), Place::default());
        }
        assert_eq!(typed.finish().unwrap().rows, rows, "seed {seed}");
    }
    assert!(counts.iter().all(|count| *count > 1000), "{counts:?}");
}

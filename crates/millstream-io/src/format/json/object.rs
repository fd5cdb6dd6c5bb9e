//! Objects to rows: finds out which column the next value belongs to, mostly without reading the name.
//!
//! Records of one source mostly have the same fields in the same order, written the same way. So an object
//! remembers, after each field, the bytes that led to the next value the last time (`,"name":` with
//! whatever white space), and compares them in place. Bytes that were once read as a separator and a name
//! mean the same when they are met again, so a guess that fits is certain and one that doesn't costs one
//! comparison: then the name is read, looked up, and remembered.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use arrow::datatypes::Fields;
use millstream_core::Result;

use super::cursor::{Cursor, Fail, Read};
use super::value::Column;

/// The way from the end of one value to the start of the next.
#[derive(Debug)]
struct Step {
    /// From the end of the value before to the start of the value.
    prefix: Box<[u8]>,
    /// The column of the value, where anybody wants it.
    column: Option<usize>,
    /// The step that followed the last time.
    next: usize,
}

/// The step before the first field.
const START: usize = 0;
/// Not known, or not worth remembering.
const UNKNOWN: usize = usize::MAX;
/// No field followed.
const END: usize = usize::MAX - 1;

/// Bounds of what is remembered: objects whose names are data must not fill the memory.
const STEPS_MAX: usize = 512;
const PREFIX_BYTES_MAX: usize = 256;

#[derive(Debug)]
struct Slot {
    name: String,
    nullable: bool,
    column: Column,
    /// The row it was last filled in, counted from 1.
    filled: usize,
}

/// The columns of an object's fields, while they are filled.
#[derive(Debug)]
pub(crate) struct Object {
    slots: Vec<Slot>,
    by_name: HashMap<String, usize>,
    rows: usize,
    steps: Vec<Step>,
    by_prefix: HashMap<Box<[u8]>, usize>,
}

impl Object {
    pub(crate) fn new(fields: &Fields) -> Result<Self> {
        let mut slots = Vec::with_capacity(fields.len());
        let mut by_name = HashMap::new();
        for field in fields {
            by_name.insert(field.name().clone(), slots.len());
            let (name, nullable) = (field.name().clone(), field.is_nullable());
            slots.push(Slot { name, nullable, column: Column::new(field)?, filled: 0 });
        }
        let start = Step { prefix: Box::default(), column: None, next: UNKNOWN };
        Ok(Self { slots, by_name, rows: 0, steps: vec![start], by_prefix: HashMap::new() })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Which columns must not be NULL in the rows from here on.
    pub(crate) fn demand(&mut self, needed: &[bool]) {
        for (slot, needed) in self.slots.iter_mut().zip(needed) {
            slot.nullable = !needed;
        }
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.steps.len()
    }

    /// Reads an object to one row more. Where that fails, columns may hold parts of the row: the caller
    /// takes them back with [`Object::truncate`].
    pub(crate) fn read(&mut self, cursor: &mut Cursor) -> Read {
        let row = self.rows + 1;
        let (mut step, mut filled) = (START, 0);
        // The fields whose last value was no value of their columns. A later value of the same name may yet
        // take its place, and bytes that are not JSON make the record what it is before any of them.
        let mut misfits: Vec<(usize, Fail)> = Vec::new();
        loop {
            let guess = self.steps.get(step).map_or(UNKNOWN, |step| step.next);
            let guessed = self.steps.get(guess).filter(|step| cursor.take(&step.prefix)).map(|step| step.column);
            let column = match guessed {
                Some(column) => {
                    step = guess;
                    column
                }
                None if guess == END && cursor.take(b"}") => break,
                None => match self.name(cursor, step)? {
                    Some((column, found)) => {
                        step = found;
                        column
                    }
                    None => break,
                },
            };
            let Some(index) = column else {
                cursor.skip()?;
                continue;
            };
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if slot.filled == row {
                slot.column.truncate(row - 1);
                misfits.retain(|(other, _)| *other != index);
            } else {
                slot.filled = row;
                filled += 1;
            }
            let start = cursor.at;
            match slot.column.read(cursor, slot.nullable) {
                Ok(()) => {}
                Err(Fail::Value(mismatch)) => {
                    slot.column.truncate(row - 1);
                    cursor.at = start;
                    cursor.skip()?;
                    misfits.push((index, Fail::Value(mismatch)));
                }
                Err(broken) => return Err(broken),
            }
        }
        if !misfits.is_empty() {
            let (index, fail) = misfits.swap_remove(0);
            return Err(fail.in_field(self.slots.get(index).map_or("", |slot| &slot.name)));
        }
        if filled < self.slots.len() {
            self.fill(row)?;
        }
        self.rows = row;
        Ok(())
    }

    /// What the fields that the object lacks are: NULL.
    fn fill(&mut self, row: usize) -> Read {
        for slot in self.slots.iter_mut().filter(|slot| slot.filled != row) {
            if !slot.nullable {
                return Err(Fail::value("is missing, but declared NOT NULL".into()).in_field(&slot.name));
            }
            slot.column.push_null();
            slot.filled = row;
        }
        Ok(())
    }

    /// Reads up to the next value by the grammar, and remembers the way. Nothing where the object ends.
    #[cold]
    fn name(&mut self, cursor: &mut Cursor, step: usize) -> Read<Option<(Option<usize>, usize)>> {
        let start = cursor.at;
        cursor.space();
        if step == START {
            if !cursor.take(b"{") {
                return cursor.fail("an object is expected");
            }
            cursor.space();
        }
        if cursor.take(b"}") {
            // An object without fields is no way that could be guessed: its brace is still to be opened.
            if let Some(step) = self.steps.get_mut(step).filter(|_| step != START) {
                step.next = END;
            }
            return Ok(None);
        }
        if step != START {
            if cursor.peek().is_none() {
                return cursor.fail("the record ends within an object");
            }
            if !cursor.take(b",") {
                return cursor.fail("',' or '}' is expected");
            }
            cursor.space();
        }
        if !cursor.take(b"\"") {
            return cursor.fail("a field name in quotes is expected");
        }
        let column = self.by_name.get(cursor.string()?).copied();
        cursor.space();
        if !cursor.take(b":") {
            return cursor.fail("':' is expected after the field name");
        }
        cursor.space();
        let prefix = cursor.bytes.get(start..cursor.at).unwrap_or_default();
        let found = self.remember(prefix, column);
        if let Some(step) = self.steps.get_mut(step) {
            step.next = found;
        }
        Ok(Some((column, found)))
    }

    fn remember(&mut self, prefix: &[u8], column: Option<usize>) -> usize {
        if let Some(known) = self.by_prefix.get(prefix) {
            return *known;
        }
        if prefix.len() > PREFIX_BYTES_MAX || self.steps.len() >= STEPS_MAX {
            return UNKNOWN;
        }
        let index = self.steps.len();
        self.steps.push(Step { prefix: prefix.into(), column, next: UNKNOWN });
        self.by_prefix.insert(prefix.into(), index);
        index
    }

    /// A row whose fields are all NULL, declared so or not: it stands under a NULL of its own.
    pub(crate) fn push_null(&mut self) {
        for slot in &mut self.slots {
            slot.column.push_null();
        }
        self.rows += 1;
    }

    /// Takes back every row past the first `rows`, whole or not.
    pub(crate) fn truncate(&mut self, rows: usize) {
        for slot in &mut self.slots {
            slot.column.truncate(rows);
            slot.filled = slot.filled.min(rows);
        }
        self.rows = rows;
    }

    /// The arrays of everything since the last call.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        self.rows = 0;
        self.slots
            .iter_mut()
            .map(|slot| {
                slot.filled = 0;
                slot.column.finish()
            })
            .collect()
    }
}

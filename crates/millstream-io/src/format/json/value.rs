//! Values to columns: each declared type reads what it understands and says of anything else what it found.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, MapArray, NullBufferBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use millstream_core::{Error, Result};

use super::cursor::{Cursor, Fail, Read};
use super::object::Object;
use super::scalar::unexpected;
use crate::format::leaf::{Kind, Leaf};

/// A column while it is filled.
#[derive(Debug)]
pub(crate) enum Column {
    Leaf(Leaf),
    Struct { fields: Fields, object: Object, nulls: NullBufferBuilder },
    List(List),
    Map(Map),
}

/// An ARRAY column: rows are runs of one column of elements.
#[derive(Debug)]
pub(crate) struct List {
    field: FieldRef,
    element: Box<Column>,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

/// A MAP column: rows are runs of a column of keys and one of values.
#[derive(Debug)]
pub(crate) struct Map {
    entries: FieldRef,
    sorted: bool,
    fields: Fields,
    keys: Leaf,
    values: Box<Column>,
    values_nullable: bool,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Column {
    /// An empty column for the field.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where JSON has no form for its type.
    pub(crate) fn new(field: &Field) -> Result<Self> {
        if let Some(leaf) = Leaf::new(field)? {
            return Ok(Self::Leaf(leaf));
        }
        let nulls = NullBufferBuilder::new(1024);
        match field.data_type() {
            DataType::Struct(fields) => {
                Ok(Self::Struct { fields: fields.clone(), object: Object::new(fields)?, nulls })
            }
            DataType::List(element) => {
                let column = Box::new(Self::new(element)?);
                Ok(Self::List(List { field: element.clone(), element: column, offsets: vec![0], nulls }))
            }
            DataType::Map(entries, sorted) => Map::new(field, entries, *sorted).map(Self::Map),
            other => Err(Error::config(format!(
                "the field '{}' has the type {other}, which JSON can't be read as: declare it STRING and CAST it",
                field.name()
            ))),
        }
    }

    /// Reads the value that begins here to one row more. Where that fails, the column may hold a part of it.
    #[inline]
    pub(crate) fn read(&mut self, cursor: &mut Cursor, nullable: bool) -> Read {
        // The commonest values first, without a look at what else they might be.
        if let Self::Leaf(leaf) = self
            && leaf.read_plain(cursor)
        {
            leaf.nulls.append_non_null();
            return Ok(());
        }
        self.read_any(cursor, nullable)
    }

    fn read_any(&mut self, cursor: &mut Cursor, nullable: bool) -> Read {
        cursor.space();
        if cursor.take(b"null") {
            if !nullable {
                return Err(Fail::value("is NULL, but declared NOT NULL".into()));
            }
            self.push_null();
            return Ok(());
        }
        match self {
            Self::Leaf(leaf) => {
                leaf.read(cursor)?;
                leaf.nulls.append_non_null();
            }
            Self::Struct { object, nulls, .. } => {
                if cursor.peek() != Some(b'{') {
                    return unexpected(cursor, "ROW");
                }
                object.read(cursor)?;
                nulls.append_non_null();
            }
            Self::List(list) => list.read(cursor)?,
            Self::Map(map) => map.read(cursor)?,
        }
        Ok(())
    }

    pub(crate) fn push_null(&mut self) {
        match self {
            Self::Leaf(leaf) => leaf.push_null(),
            Self::Struct { object, nulls, .. } => {
                object.push_null();
                nulls.append_null();
            }
            Self::List(List { offsets, nulls, .. }) | Self::Map(Map { offsets, nulls, .. }) => {
                offsets.push(offsets.last().copied().unwrap_or(0));
                nulls.append_null();
            }
        }
    }

    /// Takes back every value past the first `len`, and any part of one.
    pub(crate) fn truncate(&mut self, len: usize) {
        match self {
            Self::Leaf(leaf) => leaf.truncate(len),
            Self::Struct { object, nulls, .. } => {
                object.truncate(len);
                nulls.truncate(len);
            }
            Self::List(list) => {
                list.element.truncate(cut(&mut list.offsets, len));
                list.nulls.truncate(len);
            }
            Self::Map(map) => {
                let entries = cut(&mut map.offsets, len);
                map.keys.truncate(entries);
                map.values.truncate(entries);
                map.nulls.truncate(len);
            }
        }
    }

    /// The array of everything since the last call.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        match self {
            Self::Leaf(leaf) => leaf.finish(),
            Self::Struct { fields, object, nulls } => {
                let rows = object.rows();
                let columns = object.finish()?;
                let array = StructArray::try_new_with_length(fields.clone(), columns, nulls.finish(), rows)?;
                Ok(Arc::new(array))
            }
            Self::List(list) => {
                let values = list.element.finish()?;
                let offsets = offsets(&mut list.offsets);
                Ok(Arc::new(ListArray::try_new(list.field.clone(), offsets, values, list.nulls.finish())?))
            }
            Self::Map(map) => {
                let columns = vec![map.keys.finish()?, map.values.finish()?];
                let entries = StructArray::try_new(map.fields.clone(), columns, None)?;
                let offsets = offsets(&mut map.offsets);
                let (field, nulls) = (map.entries.clone(), map.nulls.finish());
                Ok(Arc::new(MapArray::try_new(field, offsets, entries, nulls, map.sorted)?))
            }
        }
    }
}

/// Cuts the offsets to so many rows and says where the last of them ends.
fn cut(offsets: &mut Vec<i32>, rows: usize) -> usize {
    offsets.truncate(rows + 1);
    usize::try_from(offsets.last().copied().unwrap_or(0)).unwrap_or(0)
}

fn offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into())
}

/// The end of a run of elements, where Arrow can count so far.
fn run_end(start: i32, elements: usize) -> Read<i32> {
    let end = i32::try_from(elements).ok().and_then(|elements| start.checked_add(elements));
    end.ok_or_else(|| Fail::value("too many elements for one batch".into()))
}

impl List {
    fn read(&mut self, cursor: &mut Cursor) -> Read {
        if !cursor.take(b"[") {
            return unexpected(cursor, "ARRAY");
        }
        let start = self.offsets.last().copied().unwrap_or(0);
        let (nullable, mut elements) = (self.field.is_nullable(), 0);
        cursor.space();
        if !cursor.take(b"]") {
            loop {
                self.element.read(cursor, nullable).map_err(|fail| fail.in_element(elements))?;
                elements += 1;
                cursor.space();
                if cursor.take(b"]") {
                    break;
                }
                if !cursor.take(b",") {
                    return cursor.fail("',' or ']' is expected");
                }
            }
        }
        self.offsets.push(run_end(start, elements)?);
        self.nulls.append_non_null();
        Ok(())
    }
}

impl Map {
    fn new(field: &Field, entries: &FieldRef, sorted: bool) -> Result<Self> {
        let refused = || {
            Error::config(format!(
                "the field '{}' is a map whose keys are no strings, and JSON has no others: declare MAP<STRING, ..>",
                field.name()
            ))
        };
        let DataType::Struct(fields) = entries.data_type() else { return Err(refused()) };
        let [key, value] = fields.as_ref() else { return Err(refused()) };
        let keys = Leaf::new(key)?.filter(|leaf| matches!(leaf.kind, Kind::Text { .. })).ok_or_else(refused)?;
        Ok(Self {
            entries: entries.clone(),
            sorted,
            fields: fields.clone(),
            keys,
            values: Box::new(Column::new(value)?),
            values_nullable: value.is_nullable(),
            offsets: vec![0],
            nulls: NullBufferBuilder::new(1024),
        })
    }

    /// Of several values of one key the last one counts, as everywhere in JSON; so the values are read after
    /// all the keys.
    fn read(&mut self, cursor: &mut Cursor) -> Read {
        if !cursor.take(b"{") {
            return unexpected(cursor, "MAP");
        }
        let start = self.offsets.last().copied().unwrap_or(0);
        let mut entries: Vec<(String, usize)> = Vec::new();
        let mut by_key: HashMap<String, usize> = HashMap::new();
        cursor.space();
        if !cursor.take(b"}") {
            loop {
                cursor.space();
                if !cursor.take(b"\"") {
                    return cursor.fail("a key in quotes is expected");
                }
                let key = cursor.string()?.to_string();
                cursor.space();
                if !cursor.take(b":") {
                    return cursor.fail("':' is expected after the key");
                }
                let place = cursor.at;
                cursor.skip()?;
                match by_key.get(&key).and_then(|index| entries.get_mut(*index)) {
                    Some(entry) => entry.1 = place,
                    None => {
                        by_key.insert(key.clone(), entries.len());
                        entries.push((key, place));
                    }
                }
                cursor.space();
                if cursor.take(b"}") {
                    break;
                }
                if !cursor.take(b",") {
                    return cursor.fail("',' or '}' is expected");
                }
            }
        }
        let end = cursor.at;
        for (key, place) in &entries {
            cursor.at = *place;
            if let Kind::Text { values, .. } = &mut self.keys.kind {
                values.push(key.as_bytes());
                self.keys.nulls.append_non_null();
            }
            self.values.read(cursor, self.values_nullable).map_err(|fail| fail.in_element(format!("'{key}'")))?;
        }
        cursor.at = end;
        self.offsets.push(run_end(start, entries.len())?);
        self.nulls.append_non_null();
        Ok(())
    }
}

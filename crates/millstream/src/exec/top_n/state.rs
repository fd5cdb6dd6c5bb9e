//! The best rows of each key, as they are kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err};
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::super::changes::state_error;
use super::super::idle::{self, Idle, TOUCHED};
use super::nullable;

const BEST: &str = "best";

/// A row for each key, or a list of rows.
#[derive(Debug)]
pub struct BestState {
    table: KeyedTable,
    /// The columns of a row, all nullable.
    schema: SchemaRef,
    single: bool,
    idle: Option<Idle>,
}

impl BestState {
    /// No keys. `single`: one row a key.
    pub fn try_new(keys: &SchemaRef, input: &Schema, single: bool, idle_us: Option<i64>) -> DfResult<Self> {
        let schema = nullable(input);
        let values = match single {
            true => Arc::clone(&schema),
            false => Arc::new(Schema::new(vec![Field::new("$rows", DataType::List(item(&schema)), true)])),
        };
        let table = KeyedTable::new(Arc::clone(keys), values).map_err(state_error)?;
        Ok(Self { table, schema, single, idle: Idle::try_new(keys, idle_us)? })
    }

    /// Stages that keys are forgotten which no row has touched for long.
    pub fn forget(&mut self, time_us: i64) -> DfResult<()> {
        let gone = self.idle.as_mut().map(|idle| idle.due(time_us)).transpose()?.flatten();
        gone.map_or(Ok(()), |gone| self.table.remove(&gone.keys, gone.count).map_err(state_error))
    }

    /// Stages that rows have touched these keys.
    pub fn touch(&mut self, time_us: i64, keys: &[ArrayRef], count: usize) -> DfResult<()> {
        self.idle.as_mut().map_or(Ok(()), |idle| idle.touch(time_us, keys, count))
    }

    /// Whether a key has one row.
    pub fn is_single(&self) -> bool {
        self.single
    }

    /// The columns of a row.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Which keys have a row, and those rows.
    pub fn rows(&self, keys: &[ArrayRef], count: usize) -> DfResult<(Vec<usize>, RecordBatch)> {
        let found = self.table.get(keys, count).map_err(state_error)?;
        Ok((found.rows, RecordBatch::try_new(Arc::clone(&self.schema), found.values)?))
    }

    /// The rows of all keys, each with the number of its key.
    pub fn lists(&self, keys: &[ArrayRef], count: usize) -> DfResult<(Vec<usize>, RecordBatch)> {
        let found = self.table.get(keys, count).map_err(state_error)?;
        let lists: Option<&ListArray> = found.values.first().and_then(|c| c.as_list_opt());
        let lists = lists.ok_or_else(|| internal_datafusion_err!("the best rows are a list"))?;
        let mut groups = vec![];
        for (at, group) in found.rows.iter().enumerate() {
            groups.resize(groups.len() + lists.value_length(at) as usize, *group);
        }
        let offsets = lists.value_offsets();
        let from = offsets.first().map_or(0, |o| *o as usize);
        let rows = lists.values().slice(from, groups.len());
        let rows = rows.as_struct_opt().ok_or_else(|| internal_datafusion_err!("the best rows are rows"))?;
        Ok((groups, RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())?))
    }

    /// Stages the row of each key.
    pub fn put(&mut self, keys: &[ArrayRef], rows: &[ArrayRef], count: usize) -> DfResult<()> {
        self.table.put(keys, rows, count).map_err(state_error)
    }

    /// Stages the rows of each key: so many of them, one key after the other.
    pub fn put_lists(
        &mut self,
        keys: &[ArrayRef],
        rows: &RecordBatch,
        lengths: Vec<usize>,
        count: usize,
    ) -> DfResult<()> {
        let rows = StructArray::try_new(self.schema.fields().clone(), rows.columns().to_vec(), None)?;
        let lists = ListArray::try_new(item(&self.schema), OffsetBuffer::from_lengths(lengths), Arc::new(rows), None)?;
        self.table.put(keys, &[Arc::new(lists)], count).map_err(state_error)
    }
}

fn item(schema: &Schema) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(schema.fields().clone()), true))
}

impl OperatorState for BestState {
    fn install(&mut self) {
        self.table.install();
        self.idle.iter_mut().for_each(Idle::install);
    }

    fn discard(&mut self) {
        self.table.discard();
        self.idle.iter_mut().for_each(Idle::discard);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        Ok(idle::changes(Changes::new().keyed(BEST, &self.table), TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed(BEST, &mut self.table)?;
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())
    }

    fn describe(&self) -> StateInfo {
        let tables = [TableInfo::keyed(BEST, &self.table)].into_iter();
        let tables = tables.chain(idle::describe(TOUCHED, self.idle.as_ref())).collect();
        StateInfo { kind: "top-n".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.table.scan().collect()
    }
}

//! What an aggregate over a changelog keeps: a row for each group, and the values of its groups.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use millstream_state::{Changes, OperatorState, PanedTable, Restored, StateInfo, TableInfo};

use super::super::changes::state_error;
use super::super::idle::{self, Forgotten, Idle, TOUCHED};
use super::bag::Bag;
use super::measure::Measures;
use super::slots::{Slots, SlottedTable};

/// The state of an aggregate over a changelog.
#[derive(Debug)]
pub struct RetractState {
    /// How many rows a group has, and what its aggregates keep.
    pub groups: SlottedTable,
    /// The values that aggregates have to tell apart.
    pub bags: Vec<Bag>,
    /// The groups that can be forgotten.
    pub idle: Option<Idle>,
}

impl RetractState {
    /// No groups.
    pub fn try_new(keys: &SchemaRef, measures: &Measures, input: &Schema, idle: Option<Idle>) -> DfResult<Self> {
        let mut fields = vec![Arc::new(Field::new("$rows", DataType::Int64, true))];
        fields.extend(measures.all().iter().flat_map(|m| m.columns().iter().cloned()));
        let groups = PanedTable::new(Arc::clone(keys), Arc::new(Schema::new(fields))).map_err(state_error)?;
        let bags = measures.bags().iter().map(|spec| Bag::try_new(spec, keys, input)).collect::<DfResult<_>>()?;
        Ok(Self { groups: SlottedTable { table: groups }, bags, idle })
    }

    /// Stages that groups are forgotten which no row has touched for long. Those that stand without a row stay.
    pub fn forget(&mut self, time_us: i64, standing: &[ArrayRef]) -> DfResult<()> {
        let Some(idle) = &mut self.idle else { return Ok(()) };
        idle.touch(time_us, standing, standing.first().map_or(0, |keys| keys.len()))?;
        let Some(gone) = idle.due(time_us)? else { return Ok(()) };
        let at = self.groups.find(&Slots::One, &gone.keys, gone.count)?;
        self.groups.remove_at(&at, &(0..gone.count as u32).collect::<Vec<_>>())?;
        self.forget_values(&gone)
    }

    /// Stages that the values of groups are forgotten.
    pub fn forget_values(&mut self, gone: &Forgotten) -> DfResult<()> {
        if gone.count == 0 {
            return Ok(());
        }
        let keys = self.groups.table.keys();
        self.bags.iter_mut().try_for_each(|bag| bag.forget(gone, keys))
    }

    /// Stages the removal of the slots below this one.
    pub fn drop_below(&mut self, slot: i64) {
        self.groups.table.drop_below(slot);
        self.bags.iter_mut().for_each(|b| b.drop_below(slot));
    }
}

fn bag_name(bag: usize) -> String {
    format!("values.{bag}")
}

impl OperatorState for RetractState {
    fn install(&mut self) {
        self.groups.table.install();
        self.idle.iter_mut().for_each(Idle::install);
        self.bags.iter_mut().for_each(Bag::install);
    }

    fn discard(&mut self) {
        self.groups.table.discard();
        self.idle.iter_mut().for_each(Idle::discard);
        self.bags.iter_mut().for_each(Bag::discard);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let mut changes = Changes::new().paned("groups", &self.groups.table);
        for (i, bag) in self.bags.iter().enumerate() {
            changes = changes.paned(&bag_name(i), bag.table());
        }
        Ok(idle::changes(changes, TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.paned("groups", &mut self.groups.table)?;
        for (i, bag) in self.bags.iter_mut().enumerate() {
            bag.restore(&bag_name(i), &mut saved)?;
        }
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![TableInfo::paned("groups", &self.groups.table)];
        tables.extend(self.bags.iter().enumerate().map(|(i, bag)| bag.describe(&bag_name(i))));
        tables.extend(idle::describe(TOUCHED, self.idle.as_ref()));
        StateInfo { kind: "aggregate over a changelog".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.groups.table.scan().map(|batch| batch.map(|(_, batch)| batch)).collect()
    }
}

//! What an aggregate over a changelog keeps: a row for each group, and the values of its groups.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use millstream_state::{Changes, Found, OperatorState, PanedTable, Restored, StateInfo, TableInfo};

use super::super::changes::state_error;
use super::super::idle::{self, Idle, TOUCHED};
use super::bag::Bag;
use super::measure::Measures;
use super::slots::{Slots, SlottedTable};
use super::tree::Roots;

/// The state of an aggregate over a changelog.
#[derive(Debug)]
pub struct RetractState {
    /// How many rows a group has, what its aggregates keep, and the root of each of its [`RetractState::bags`].
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
        let root = |bag| Arc::new(Field::new(bag_name(bag), DataType::Binary, true));
        fields.extend((0..measures.bags().len()).map(root));
        let groups = PanedTable::new(Arc::clone(keys), Arc::new(Schema::new(fields))).map_err(state_error)?;
        let bags = measures.bags().iter().map(|spec| Bag::try_new(spec, input)).collect::<DfResult<_>>()?;
        Ok(Self { groups: SlottedTable { table: groups }, bags, idle })
    }

    /// The roots of a bag of `total` groups, of whom some were found.
    pub fn roots<'a>(&self, bag: usize, found: &'a Found, total: usize, slots: &'a Slots) -> Roots<'a> {
        let column = found.values.len().checked_sub(self.bags.len()).and_then(|first| found.values.get(first + bag));
        Roots::of(column, &found.rows, total, slots)
    }

    /// Stages that groups are forgotten which no row has touched for long. Those that stand without a row stay.
    pub fn forget(&mut self, time_us: i64, standing: &[ArrayRef]) -> DfResult<()> {
        let Some(idle) = &mut self.idle else { return Ok(()) };
        idle.touch(time_us, standing, standing.first().map_or(0, |keys| keys.len()))?;
        let Some(gone) = idle.due(time_us)? else { return Ok(()) };
        let at = self.groups.find(&Slots::One, &gone.keys, gone.count)?;
        if !self.bags.is_empty() {
            let found = self.groups.read(&at)?;
            for bag in 0..self.bags.len() {
                let roots = self.roots(bag, &found, gone.count, &Slots::One);
                self.bags.get_mut(bag).map_or(Ok(()), |bag| bag.tree.remove(&roots))?;
            }
        }
        self.groups.remove_at(&at, &(0..gone.count as u32).collect::<Vec<_>>())
    }

    /// Stages the removal of the slots below this one.
    pub fn drop_below(&mut self, slot: i64) {
        self.groups.table.drop_below(slot);
        self.bags.iter_mut().for_each(|bag| bag.tree.drop_below(slot));
    }
}

fn bag_name(bag: usize) -> String {
    format!("$values.{bag}")
}

fn pages_name(bag: usize) -> String {
    format!("values.{bag}")
}

impl OperatorState for RetractState {
    fn install(&mut self) {
        self.groups.table.install();
        self.idle.iter_mut().for_each(Idle::install);
        self.bags.iter_mut().for_each(|bag| bag.tree.install());
    }

    fn discard(&mut self) {
        self.groups.table.discard();
        self.idle.iter_mut().for_each(Idle::discard);
        self.bags.iter_mut().for_each(|bag| bag.tree.discard());
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let changes = Changes::new().paned("groups", &self.groups.table);
        let changes =
            self.bags.iter().enumerate().fold(changes, |changes, (i, bag)| bag.tree.changes(&pages_name(i), changes));
        Ok(idle::changes(changes, TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.paned("groups", &mut self.groups.table)?;
        for (i, bag) in self.bags.iter_mut().enumerate() {
            bag.tree.restore(&pages_name(i), &mut saved)?;
        }
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![TableInfo::paned("groups", &self.groups.table)];
        tables.extend(self.bags.iter().enumerate().map(|(i, bag)| bag.tree.describe(&pages_name(i))));
        tables.extend(idle::describe(TOUCHED, self.idle.as_ref()));
        StateInfo { kind: "aggregate over a changelog".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.groups.table.scan().map(|batch| batch.map(|(_, batch)| batch)).collect()
    }
}

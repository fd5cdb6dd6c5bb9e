//! What a join keeps of its two sides.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema};
use datafusion::common::Result as DfResult;
use millstream_core::{Error, Result};
use millstream_state::{
    Changes, KeyedTable, Keys, MultiTable, OperatorState, PanedTable, Restored, StateInfo, TableInfo,
};

use super::super::changes::state_error;
use super::super::idle::{self, Idle, TOUCHED};
use super::Plan;

/// How many partners a row has: the last column of a side whose rows are counted.
const PARTNERS: &str = "$partners";

/// The names of the sides in a checkpoint.
pub const SIDES: [&str; 2] = ["left", "right"];

/// Both sides.
#[derive(Debug)]
pub struct JoinState {
    pub sides: [Side; 2],
    /// What a NOT IN knows of all rows of the right side.
    pub totals: Staged<Totals>,
}

/// One side.
#[derive(Debug)]
pub struct Side {
    pub rows: Rows,
    /// Whether the last column of the rows is the number of their partners.
    pub counted: bool,
    /// The keys that have rows to forget, by the time at which they are to be looked at.
    pub expiries: Option<PanedTable>,
    /// The keys that can be forgotten.
    pub idle: Option<Idle>,
}

/// The rows of a side, by key.
#[derive(Debug)]
pub enum Rows {
    /// The rows themselves.
    All(Box<MultiTable>),
    /// Only how many there are.
    Counts(Box<KeyedTable>),
}

/// How many rows the right side of a NOT IN has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub rows: i64,
    /// Those whose key is NULL.
    pub nulls: i64,
}

/// A value that is staged like the tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staged<T> {
    pub staged: T,
    pub installed: T,
}

impl JoinState {
    pub fn try_new(plan: &Plan) -> DfResult<Self> {
        Ok(Self { sides: [Side::try_new(plan, 0)?, Side::try_new(plan, 1)?], totals: Staged::default() })
    }
}

impl Side {
    fn try_new(plan: &Plan, side: usize) -> DfResult<Self> {
        let counted = plan.counts_partners(side);
        let keys = Arc::clone(&plan.keys);
        let rows = if plan.keeps_rows(side) {
            let columns = plan.columns.get(side).map(|c| c.fields().to_vec()).unwrap_or_default();
            let mut fields: Vec<FieldRef> = columns;
            if counted {
                fields.push(Arc::new(Field::new(PARTNERS, DataType::Int64, false)));
            }
            Rows::All(Box::new(MultiTable::new(keys, Arc::new(Schema::new(fields))).map_err(state_error)?))
        } else {
            let count = Schema::new(vec![Field::new("$count", DataType::Int64, false)]);
            Rows::Counts(Box::new(KeyedTable::new(keys, Arc::new(count)).map_err(state_error)?))
        };
        let expiries = match plan.join.interval {
            Some(_) => Some(PanedTable::new(Arc::clone(&plan.keys), Arc::new(Schema::empty())).map_err(state_error)?),
            None => None,
        };
        let idle = Idle::try_new(&plan.keys, plan.memory.idle_us(side).filter(|_| expiries.is_none()))?;
        Ok(Self { rows, counted, expiries, idle })
    }

    /// The table of the rows.
    pub fn table(&self) -> Result<&MultiTable> {
        match &self.rows {
            Rows::All(table) => Ok(table),
            Rows::Counts(_) => Err(Error::bug("a join looks for rows on a side that it only counts")),
        }
    }

    /// As [`Side::table`], to change it.
    pub fn table_mut(&mut self) -> Result<&mut MultiTable> {
        match &mut self.rows {
            Rows::All(table) => Ok(table),
            Rows::Counts(_) => Err(Error::bug("a join looks for rows on a side that it only counts")),
        }
    }

    /// Looks distinct keys up (`count` of them).
    pub fn find(&self, keys: &[ArrayRef], count: usize) -> Result<Keys> {
        match &self.rows {
            Rows::All(table) => table.find(keys, count),
            Rows::Counts(table) => table.find(keys, count),
        }
    }

    /// How many rows each of the keys has.
    pub fn counts(&self, keys: &Keys) -> Result<Vec<i64>> {
        match &self.rows {
            Rows::All(table) => Ok(table.counts(keys)?.into_iter().map(i64::from).collect()),
            Rows::Counts(table) => {
                let found = table.read(keys)?;
                let mut counts = vec![0; keys.len()];
                let held = found.values.first().map(|c| c.as_primitive::<Int64Type>().values().to_vec());
                for (row, held) in found.rows.iter().zip(held.unwrap_or_default()) {
                    if let Some(to) = counts.get_mut(*row) {
                        *to = held;
                    }
                }
                Ok(counts)
            }
        }
    }

    /// Writes how many rows the keys that changed have now.
    pub fn put_counts(&mut self, keys: &mut Keys, before: &[i64], sums: &[i64]) -> Result<()> {
        let Rows::Counts(table) = &mut self.rows else { return Ok(()) };
        let (mut kept, mut gone, mut counts) = (vec![], vec![], vec![]);
        for (at, (before, sum)) in (0u32..).zip(before.iter().zip(sums)).filter(|(_, (_, sum))| **sum != 0) {
            match before + sum {
                ..0 => return Err(Error::bug("a join is to take back a row that it was never given")),
                0 => gone.push(at),
                count => {
                    kept.push(at);
                    counts.push(count);
                }
            }
        }
        if !gone.is_empty() {
            table.remove_at(keys, Some(&gone))?;
        }
        if kept.is_empty() { Ok(()) } else { table.put_at(keys, Some(&kept), &[Arc::new(Int64Array::from(counts))]) }
    }

    /// Stages that keys are forgotten with all their rows.
    pub fn forget(&mut self, keys: &[ArrayRef], count: usize) -> Result<()> {
        let mut found = self.find(keys, count)?;
        match &mut self.rows {
            Rows::All(table) => table.remove_keys(&mut found),
            Rows::Counts(table) => table.remove_at(&found, None),
        }
    }
}

fn rows_of(side: usize) -> String {
    SIDES.get(side).copied().unwrap_or_default().to_string()
}

fn touched_of(side: usize) -> String {
    format!("{}.{TOUCHED}", rows_of(side))
}

fn expiries_of(side: usize) -> String {
    format!("{}.expiries", rows_of(side))
}

impl OperatorState for JoinState {
    fn install(&mut self) {
        self.totals.installed = self.totals.staged;
        for side in &mut self.sides {
            match &mut side.rows {
                Rows::All(table) => table.install(),
                Rows::Counts(table) => table.install(),
            }
            side.expiries.iter_mut().for_each(PanedTable::install);
            side.idle.iter_mut().for_each(Idle::install);
        }
    }

    fn discard(&mut self) {
        self.totals.staged = self.totals.installed;
        for side in &mut self.sides {
            match &mut side.rows {
                Rows::All(table) => table.discard(),
                Rows::Counts(table) => table.discard(),
            }
            side.expiries.iter_mut().for_each(PanedTable::discard);
            side.idle.iter_mut().for_each(Idle::discard);
        }
    }

    fn changes(&mut self) -> Result<Changes> {
        let Totals { rows, nulls } = self.totals.installed;
        let mut changes = Changes::new().note("totals", format!("{rows} {nulls}"));
        for (number, side) in self.sides.iter().enumerate() {
            let name = rows_of(number);
            changes = match &side.rows {
                Rows::All(table) => changes.multi(&name, table),
                Rows::Counts(table) => changes.keyed(&name, table),
            };
            if let Some(expiries) = &side.expiries {
                changes = changes.paned(&expiries_of(number), expiries);
            }
            changes = idle::changes(changes, &touched_of(number), side.idle.as_ref());
        }
        Ok(changes)
    }

    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        for (number, side) in self.sides.iter_mut().enumerate() {
            let name = rows_of(number);
            match &mut side.rows {
                Rows::All(table) => saved.multi(&name, table)?,
                Rows::Counts(table) => saved.keyed(&name, table)?,
            }
            if let Some(expiries) = &mut side.expiries {
                saved.paned(&expiries_of(number), expiries)?;
            }
            idle::restore(&mut saved, &touched_of(number), side.idle.as_mut())?;
        }
        let totals = saved.note("totals").and_then(|text| text.split_once(' '));
        let totals = totals.and_then(|(r, n)| Some(Totals { rows: r.parse().ok()?, nulls: n.parse().ok()? }));
        let totals = totals.ok_or_else(|| Error::corrupt("a checkpoint does not count the rows of a join"))?;
        self.totals = Staged { staged: totals, installed: totals };
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![];
        for (number, side) in self.sides.iter().enumerate() {
            let name = rows_of(number);
            match &side.rows {
                Rows::All(table) => tables.extend(TableInfo::multi(&name, table)),
                Rows::Counts(table) => tables.push(TableInfo::keyed(&name, table)),
            }
            tables.extend(side.expiries.iter().map(|e| TableInfo::paned(&expiries_of(number), e)));
            tables.extend(idle::describe(&touched_of(number), side.idle.as_ref()));
        }
        StateInfo { kind: "join".to_string(), tables }
    }

    /// The rows of the left side.
    fn table(&self) -> Result<Vec<RecordBatch>> {
        let [left, _] = &self.sides;
        match &left.rows {
            Rows::All(table) => table.scan().collect(),
            Rows::Counts(table) => table.scan().collect(),
        }
    }
}

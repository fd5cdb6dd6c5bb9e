//! What a join keeps of its two sides.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::physical_expr::expressions::Column;
use millstream_core::{Error, Result};
use millstream_state::{
    Changes, KeyedTable, Keys, MultiTable, OperatorState, PanedTable, Restored, SideSchema, StateInfo, TableInfo,
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
    /// The rows of the sides that keep rows.
    pub rows: MultiTable,
    pub sides: [Side; 2],
    /// What a NOT IN knows of all rows of the right side.
    pub totals: Staged<Totals>,
}

/// One side.
#[derive(Debug)]
pub struct Side {
    pub kept: Kept,
    /// Whether the last column of the rows is the number of their partners.
    pub counted: bool,
    /// The keys that have rows to forget, by the time at which they are to be looked at.
    pub expiries: Option<PanedTable>,
    /// The keys that can be forgotten.
    pub idle: Option<Idle>,
}

/// What is kept of the rows of a side, by key.
#[derive(Debug)]
pub enum Kept {
    /// The rows themselves: the number of the side in [`JoinState::rows`].
    Rows(usize),
    /// Only how many there are.
    Counts(Box<KeyedTable>),
}

/// The keys of a batch, where each kind of table has them. Both sides keep rows under one index.
#[derive(Debug)]
pub struct Found {
    pub rows: Keys,
    /// Of the side that is only counted; there is at most one.
    pub counts: Option<Keys>,
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
        let schemas: Vec<SideSchema> =
            [0, 1].into_iter().filter(|side| plan.keeps_rows(*side)).map(|side| plan.kept_schema(side)).collect();
        let right = schemas.len().saturating_sub(1);
        let rows = MultiTable::new(Arc::clone(&plan.keys), schemas).map_err(state_error)?;
        let sides = [Side::try_new(plan, 0, 0)?, Side::try_new(plan, 1, right)?];
        Ok(Self { rows, sides, totals: Staged::default() })
    }

    /// Looks distinct keys up (`count` of them).
    pub fn find(&self, keys: &[ArrayRef], count: usize) -> Result<Found> {
        let counts = self.sides.iter().find_map(|side| match &side.kept {
            Kept::Rows(_) => None,
            Kept::Counts(table) => Some(table.find(keys, count)),
        });
        Ok(Found { rows: self.rows.find(keys, count)?, counts: counts.transpose()? })
    }

    /// How many rows each of the keys has on a side.
    pub fn counts(&self, side: usize, found: &Found) -> Result<Vec<i64>> {
        match self.sides.get(side).map(|side| &side.kept) {
            Some(Kept::Rows(side)) => Ok(self.rows.counts(*side, &found.rows)?.into_iter().map(i64::from).collect()),
            Some(Kept::Counts(table)) => counts(table, found.counts()?),
            None => Err(Error::bug("a join has two sides")),
        }
    }

    /// Stages that keys of a side are forgotten with all their rows.
    pub fn forget(&mut self, side: usize, keys: &[ArrayRef], count: usize) -> Result<()> {
        let found = self.find(keys, count)?;
        match self.sides.get_mut(side).map(|side| &mut side.kept) {
            Some(Kept::Rows(side)) => self.rows.remove_keys(*side, &found.rows),
            Some(Kept::Counts(table)) => table.remove_at(found.counts()?, None),
            None => Err(Error::bug("a join has two sides")),
        }
    }

    /// The names of the sides that keep rows, by their number.
    fn names(&self) -> Vec<&'static str> {
        let kept = self.sides.iter().zip(SIDES).filter(|(side, _)| matches!(side.kept, Kept::Rows(_)));
        kept.map(|(_, name)| name).collect()
    }
}

impl Found {
    fn counts(&self) -> Result<&Keys> {
        self.counts.as_ref().ok_or_else(|| Error::bug("a join looks for counts that it does not keep"))
    }
}

impl Plan {
    /// What is kept of a row of a side.
    fn kept_schema(&self, side: usize) -> SideSchema {
        let mut fields: Vec<FieldRef> = self.columns.get(side).map(|c| c.fields().to_vec()).unwrap_or_default();
        if self.counts_partners(side) {
            fields.push(Arc::new(Field::new(PARTNERS, DataType::Int64, false)));
        }
        let values: SchemaRef = Arc::new(Schema::new(fields));
        let keys = self.join.on.iter().map(|(left, right)| if side == 0 { left } else { right });
        let keys = keys.map(|key| key.downcast_ref::<Column>().map(Column::index)).collect();
        SideSchema { values, keys }
    }
}

impl Side {
    /// `number` is that of its rows, if it keeps them.
    fn try_new(plan: &Plan, side: usize, number: usize) -> DfResult<Self> {
        let kept = if plan.keeps_rows(side) {
            Kept::Rows(number)
        } else {
            let count = Schema::new(vec![Field::new("$count", DataType::Int64, false)]);
            let counts = KeyedTable::new(Arc::clone(&plan.keys), Arc::new(count)).map_err(state_error)?;
            Kept::Counts(Box::new(counts))
        };
        let expiries = match plan.join.interval {
            Some(_) => Some(PanedTable::new(Arc::clone(&plan.keys), Arc::new(Schema::empty())).map_err(state_error)?),
            None => None,
        };
        let idle = Idle::try_new(&plan.keys, plan.memory.idle_us(side).filter(|_| expiries.is_none()))?;
        Ok(Self { kept, counted: plan.counts_partners(side), expiries, idle })
    }

    /// The number of its rows in [`JoinState::rows`].
    pub fn rows(&self) -> Result<usize> {
        match &self.kept {
            Kept::Rows(side) => Ok(*side),
            Kept::Counts(_) => Err(Error::bug("a join looks for rows on a side that it only counts")),
        }
    }

    /// Writes how many rows the keys that changed have now.
    pub fn put_counts(&mut self, found: &mut Found, before: &[i64], sums: &[i64]) -> Result<()> {
        let (Kept::Counts(table), Some(keys)) = (&mut self.kept, &mut found.counts) else { return Ok(()) };
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
}

/// The count of each of the keys.
fn counts(table: &KeyedTable, keys: &Keys) -> Result<Vec<i64>> {
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

fn touched_of(side: &str) -> String {
    format!("{side}.{TOUCHED}")
}

fn expiries_of(side: &str) -> String {
    format!("{side}.expiries")
}

impl OperatorState for JoinState {
    fn install(&mut self) {
        self.totals.installed = self.totals.staged;
        self.rows.install();
        for side in &mut self.sides {
            if let Kept::Counts(table) = &mut side.kept {
                table.install();
            }
            side.expiries.iter_mut().for_each(PanedTable::install);
            side.idle.iter_mut().for_each(Idle::install);
        }
    }

    fn discard(&mut self) {
        self.totals.staged = self.totals.installed;
        self.rows.discard();
        for side in &mut self.sides {
            if let Kept::Counts(table) = &mut side.kept {
                table.discard();
            }
            side.expiries.iter_mut().for_each(PanedTable::discard);
            side.idle.iter_mut().for_each(Idle::discard);
        }
    }

    fn changes(&mut self) -> Result<Changes> {
        let Totals { rows, nulls } = self.totals.installed;
        let mut changes = Changes::new().note("totals", format!("{rows} {nulls}")).multi(&self.names(), &self.rows);
        for (side, name) in self.sides.iter().zip(SIDES) {
            if let Kept::Counts(table) = &side.kept {
                changes = changes.keyed(name, table);
            }
            if let Some(expiries) = &side.expiries {
                changes = changes.paned(&expiries_of(name), expiries);
            }
            changes = idle::changes(changes, &touched_of(name), side.idle.as_ref());
        }
        Ok(changes)
    }

    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        saved.multi(&self.names(), &mut self.rows)?;
        for (side, name) in self.sides.iter_mut().zip(SIDES) {
            if let Kept::Counts(table) = &mut side.kept {
                saved.keyed(name, table)?;
            }
            if let Some(expiries) = &mut side.expiries {
                saved.paned(&expiries_of(name), expiries)?;
            }
            idle::restore(&mut saved, &touched_of(name), side.idle.as_mut())?;
        }
        let totals = saved.note("totals").and_then(|text| text.split_once(' '));
        let totals = totals.and_then(|(r, n)| Some(Totals { rows: r.parse().ok()?, nulls: n.parse().ok()? }));
        let totals = totals.ok_or_else(|| Error::corrupt("a checkpoint does not count the rows of a join"))?;
        self.totals = Staged { staged: totals, installed: totals };
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = TableInfo::multi(&self.names(), &self.rows);
        for (side, name) in self.sides.iter().zip(SIDES) {
            if let Kept::Counts(table) = &side.kept {
                tables.push(TableInfo::keyed(name, table));
            }
            tables.extend(side.expiries.iter().map(|e| TableInfo::paned(&expiries_of(name), e)));
            tables.extend(idle::describe(&touched_of(name), side.idle.as_ref()));
        }
        StateInfo { kind: "join".to_string(), tables }
    }

    /// The rows of the left side.
    fn table(&self) -> Result<Vec<RecordBatch>> {
        let [left, _] = &self.sides;
        match &left.kept {
            Kept::Rows(side) => self.rows.scan(*side).collect(),
            Kept::Counts(table) => table.scan().collect(),
        }
    }
}

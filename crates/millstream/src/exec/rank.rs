//! ROW_NUMBER, RANK and DENSE_RANK: counting along sorted rows.

use std::cmp::Ordering;

use arrow::array::RecordBatch;
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::Result as DfResult;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use std::sync::Arc;

use super::accumulate::evaluate_all;

/// Which of the ranking functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RankKind {
    /// `ROW_NUMBER`: 1, 2, 3, 4 whatever ties.
    RowNumber,
    /// `RANK`: rows that tie share a number, and the numbers that they take up are left out: 1, 2, 2, 4.
    Rank,
    /// `DENSE_RANK`: rows that tie share a number: 1, 2, 2, 3.
    DenseRank,
}

/// How many rows of a partition, and how many different ones, came before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    /// Rows so far.
    pub rows: u64,
    /// Sets of rows that tie so far.
    pub peers: u64,
    /// Rows before the current set.
    before: u64,
}

impl Counter {
    /// So many came before; the next row ties with none of them.
    pub fn after(rows: u64, peers: u64) -> Self {
        Self { rows, peers, before: rows }
    }

    /// Counts a row, which ties with the one before it or not.
    pub fn count(&mut self, ties: bool) {
        if !ties {
            self.before = self.rows;
            self.peers += 1;
        }
        self.rows += 1;
    }

    /// The rank of the row that was counted last.
    pub fn rank(&self, kind: RankKind) -> u64 {
        match kind {
            RankKind::RowNumber => self.rows,
            RankKind::Rank => self.before + 1,
            RankKind::DenseRank => self.peers,
        }
    }
}

/// An ORDER BY: rows as bytes that compare as it says.
#[derive(Debug)]
pub struct Order {
    by: Vec<Arc<dyn PhysicalExpr>>,
    converter: Option<RowConverter>,
}

/// The keys that rows are ordered by; without an ORDER BY all rows tie.
#[derive(Debug)]
pub struct OrderKeys(Option<Rows>);

impl Order {
    /// The order of rows with this schema.
    ///
    /// # Errors
    /// Where a type has no order.
    pub fn try_new(order: &[PhysicalSortExpr], schema: &arrow::datatypes::Schema) -> DfResult<Self> {
        let fields = order.iter().map(|by| Ok(SortField::new_with_options(by.expr.data_type(schema)?, by.options)));
        let fields = fields.collect::<DfResult<Vec<_>>>()?;
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { by: order.iter().map(|by| Arc::clone(&by.expr)).collect(), converter })
    }

    /// What is ordered by.
    pub fn expressions(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.by
    }

    /// The keys of these rows.
    pub fn keys(&self, batch: &RecordBatch) -> DfResult<OrderKeys> {
        let Some(converter) = &self.converter else { return Ok(OrderKeys(None)) };
        Ok(OrderKeys(Some(converter.convert_columns(&evaluate_all(&self.by, batch)?)?)))
    }
}

impl OrderKeys {
    /// Which of two rows comes first; equal where they tie.
    pub fn compare(&self, a: usize, b: usize) -> Ordering {
        self.0.as_ref().map_or(Ordering::Equal, |rows| rows.row(a).cmp(&rows.row(b)))
    }

    /// Compares a row with one of other keys of the same order.
    pub fn compare_with(&self, a: usize, other: &Self, b: usize) -> Ordering {
        match (&self.0, &other.0) {
            (Some(rows), Some(others)) => rows.row(a).cmp(&others.row(b)),
            _ => Ordering::Equal,
        }
    }
}

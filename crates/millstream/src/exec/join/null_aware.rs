//! NOT IN: an anti join in which a NULL is neither equal to anything nor different from it.
//!
//! `k NOT IN (..)` is true where the list is empty; else where `k` is not NULL, no element is NULL, and none
//! equals `k`. So two facts about all of the right side decide for every row of the left: whether it is empty,
//! and whether it holds a NULL. They are counted; when one of them changes, every row is looked at again.

use arrow::array::{Array, ArrayRef};
use datafusion::common::Result as DfResult;

use super::super::changes::state_error;
use super::super::grouping::Grouping;
use super::side::{Delta, NO_GROUP};
use super::state::{JoinState, Totals};

impl Totals {
    /// After these changes of the right side.
    pub fn after(self, right: &Delta) -> Self {
        let mut after = self;
        for (row, group) in (0u32..).zip(&right.groups) {
            let weight = right.weight(row);
            after.rows += weight;
            after.nulls += if *group == NO_GROUP { weight } else { 0 };
        }
        after
    }

    fn facts(self) -> (bool, bool) {
        (self.rows == 0, self.nulls > 0)
    }

    /// Whether the facts that concern every row differ.
    pub fn differs(self, other: Self) -> bool {
        self.facts() != other.facts()
    }

    /// For each key with so many equal elements: 0 where it is not in the list, else 1.
    pub fn partners(self, keys: &[ArrayRef], counts: &[i64]) -> Vec<i64> {
        let null = |group: usize| keys.first().is_some_and(|k| k.is_null(group));
        let partners = |(group, count): (usize, &i64)| match self.facts() {
            (true, _) => 0,
            (_, true) => 1,
            _ if null(group) => 1,
            _ => i64::from(*count > 0),
        };
        counts.iter().enumerate().map(partners).collect()
    }
}

/// Numbers every key of the left side.
pub fn intern_all(state: &JoinState, grouping: &mut Grouping) -> DfResult<()> {
    let [left, _] = &state.sides;
    for keys in state.rows.scan_staged(left.rows().map_err(state_error)?) {
        let keys = keys.map_err(state_error)?;
        let columns: Vec<ArrayRef> = keys.columns().iter().take(1).cloned().collect();
        grouping.intern(&columns, keys.num_rows())?;
    }
    Ok(())
}

//! How long what a query remembers is kept: what `SET 'state.ttl'` and the hint `/*+ STATE_TTL(..) */` ask for.
//!
//! SET holds for every operator whose state nothing else bounds. A hint names tables (or their aliases) and holds for the
//! joins that have such a table for a side, and for the aggregates over one, anywhere in the statement.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use datafusion::logical_expr::LogicalPlan;

use super::refuse::Refusal;
use crate::exec::Lifetime;
use crate::sql::StateHint;
use crate::window::Length;

/// What a query says of how long it remembers.
#[derive(Debug, Default)]
pub struct Lifetimes {
    /// What SET says, in microseconds.
    all_us: Option<i64>,
    hints: Vec<StateHint>,
    /// The hints that something was found for.
    used: Mutex<BTreeSet<usize>>,
}

impl Lifetimes {
    /// Keys that nothing touches are remembered for so many microseconds, for ever where it is `None`; the hints know
    /// better.
    pub fn new(all_us: Option<i64>, hints: Vec<StateHint>) -> Self {
        Self { all_us: all_us.filter(|us| *us > 0), hints, used: Mutex::default() }
    }

    /// Whether anything in the query forgets.
    pub(super) fn forgets(&self) -> bool {
        self.all_us.is_some() || self.hints.iter().any(|hint| hint.idle_us.is_some())
    }

    /// The lifetime of the keys of an operator that no hint reaches.
    pub(super) fn of_any(&self) -> Lifetime {
        Lifetime { idle_us: [self.all_us, None], forgetful: self.forgets() }
    }

    /// The lifetime of the keys of an aggregate over this input.
    pub(super) fn of_aggregate(&self, input: &LogicalPlan) -> Lifetime {
        Lifetime { idle_us: [self.of_side(input), None], forgetful: self.forgets() }
    }

    /// The lifetimes of the keys of a join.
    pub(super) fn of_join(&self, left: &LogicalPlan, right: &LogicalPlan) -> Lifetime {
        Lifetime { idle_us: [self.of_side(left), self.of_side(right)], forgetful: self.forgets() }
    }

    /// An operator that has to remember, and can't do so for a time only.
    ///
    /// # Errors
    /// A refusal, where it is asked to.
    pub(super) fn refuse(&self, word: &str, why: &str, instead: &str) -> Result<(), Refusal> {
        if self.forgets() {
            return Err(Refusal::new(word, format!("'state.ttl' has no meaning here: {why}"), instead));
        }
        Ok(())
    }

    /// # Errors
    /// A refusal of a hint that nothing was found for.
    pub(super) fn check_hints(&self) -> Result<(), Refusal> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match self.hints.iter().enumerate().find(|(number, _)| !used.contains(number)) {
            None => Ok(()),
            Some((_, hint)) => Err(Refusal::Hint {
                span: hint.span,
                message: format!(
                    "STATE_TTL names '{}', but no join has it for a side and no aggregate is over it: name a table of FROM, \
                     by its alias where it has one; windows and joins in an interval forget by themselves",
                    hint.table
                ),
            }),
        }
    }

    /// What a hint says of the one table that these rows are of; else what SET says.
    fn of_side(&self, side: &LogicalPlan) -> Option<i64> {
        let tables: BTreeSet<&str> = side.schema().iter().filter_map(|(q, _)| q.map(|q| q.table())).collect();
        let mut tables = tables.into_iter();
        let (Some(table), None) = (tables.next(), tables.next()) else { return self.all_us };
        match self.hints.iter().enumerate().find(|(_, hint)| hint.table == table) {
            None => self.all_us,
            Some((number, hint)) => {
                self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
                hint.idle_us
            }
        }
    }
}

/// The name of a state, where its keys are kept for a time: kept for another, it is another state.
pub(super) fn named(name: String, lifetime: Lifetime) -> String {
    let ms = |us: Option<i64>| us.map_or("x".to_string(), |us| (us / 1000).to_string());
    match lifetime.idle_us {
        [None, None] => name,
        [idle, None] => format!("{name}-ttl{}", ms(idle)),
        [left, right] => format!("{name}-ttl{}-{}", ms(left), ms(right)),
    }
}

/// Until when a key is kept, and what would bound that: `growth` where it is kept for ever.
pub(super) fn until(lifetime: Lifetime, input: usize, growth: &str) -> String {
    match lifetime.idle_us.get(input).copied().flatten() {
        Some(us) => format!("until nothing has touched it for {}", Length(us)),
        None => format!("for ever: {growth}, or SET 'state.ttl', would bound it"),
    }
}

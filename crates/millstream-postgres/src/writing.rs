//! What is written where: a table, its columns and key, and the text of the statements that store rows in it. Their
//! parameters are made in [`crate::statement`].

use std::fmt::Write as _;

use crate::name::quoted;
use crate::table::{Target, can_be_element};

/// A table and how rows come into it.
#[derive(Debug)]
pub(crate) struct Writing {
    /// The table, in quotes.
    pub(crate) table: String,
    pub(crate) targets: Vec<Target>,
    /// The places of the key's columns; empty where rows are only added.
    pub(crate) key: Vec<usize>,
    /// The index over exactly the key; none where rows are only added.
    pub(crate) index: Option<u32>,
    /// By MERGE rather than by ON CONFLICT.
    pub(crate) merge: bool,
}

impl Writing {
    /// Whether a column can be one parameter.
    pub(crate) fn by_column(&self) -> bool {
        self.targets.iter().all(|target| can_be_element(&target.wire))
    }

    /// The columns in quotes.
    pub(crate) fn columns(&self) -> String {
        self.targets.iter().map(|target| quoted(&target.name)).collect::<Vec<_>>().join(", ")
    }

    fn key_columns(&self) -> impl Iterator<Item = String> {
        self.key.iter().filter_map(|index| self.targets.get(*index)).map(|target| quoted(&target.name))
    }

    /// The rows of the parameters from `first` on, as columns c0, c1, ..
    fn rows(&self, first: usize, rows: usize, from: &str) -> String {
        let width = self.targets.len();
        if self.by_column() {
            let columns: Vec<_> = (0..width).map(|n| format!("unnest(${}) AS c{n}", first + n)).collect();
            return format!("SELECT {}{from}", columns.join(", "));
        }
        let row = |row: usize| {
            let values: Vec<_> = (0..width).map(|n| format!("${}", first + row * width + n)).collect();
            format!("({})", values.join(", "))
        };
        let values: Vec<_> = (0..rows).map(row).collect();
        let names: Vec<_> = (0..width).map(|n| format!("c{n}")).collect();
        let moved = if from.is_empty() { "" } else { ", moved" };
        format!("SELECT v.* FROM (VALUES {}) AS v ({}){moved}", values.join(", "), names.join(", "))
    }

    /// The columns outside the key, each with its place.
    pub(crate) fn others(&self) -> impl Iterator<Item = (usize, String)> {
        let others = self.targets.iter().enumerate().filter(|(index, _)| !self.key.contains(index));
        others.map(|(index, target)| (index, quoted(&target.name)))
    }

    /// That the row `s` has the key of the row `t`.
    fn same_key(&self) -> String {
        let on = self.key.iter().zip(self.key_columns()).map(|(n, name)| format!("t.{name} = s.c{n}"));
        on.collect::<Vec<_>>().join(" AND ")
    }

    fn sets(&self) -> Vec<String> {
        self.others().map(|(n, name)| format!("{name} = s.c{n}")).collect()
    }

    /// Rows of known keys get other values.
    pub(crate) fn update(&self) -> String {
        let (sets, rows) = (self.sets().join(", "), self.rows(1, 0, ""));
        format!("UPDATE {} AS t SET {sets} FROM ({rows}) AS s WHERE {}", self.table, self.same_key())
    }

    /// Rows are added, or replace those of their keys.
    pub(crate) fn merge(&self, first: usize, rows: usize, from: &str) -> String {
        let sets = self.sets();
        let matched = if sets.is_empty() { "DO NOTHING".into() } else { format!("UPDATE SET {}", sets.join(", ")) };
        let values: Vec<_> = (0..self.targets.len()).map(|n| format!("s.c{n}")).collect();
        format!(
            "MERGE INTO {} AS t USING ({}) AS s ON {} WHEN MATCHED THEN {matched} WHEN NOT MATCHED THEN INSERT ({}) VALUES \
             ({})",
            self.table,
            self.rows(first, rows, from),
            self.same_key(),
            self.columns(),
            values.join(", ")
        )
    }

    /// Rows are added; those of known keys replace them.
    pub(crate) fn insert(&self, first: usize, rows: usize, from: &str) -> String {
        let mut sql = format!("INSERT INTO {} ({}) {}", self.table, self.columns(), self.rows(first, rows, from));
        if !self.key.is_empty() {
            let key: Vec<_> = self.key_columns().collect();
            let sets: Vec<_> = self.others().map(|(_, name)| format!("{name} = EXCLUDED.{name}")).collect();
            let _ = match sets.is_empty() {
                true => write!(sql, " ON CONFLICT ({}) DO NOTHING", key.join(", ")),
                false => write!(sql, " ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), sets.join(", ")),
            };
        }
        sql
    }

    /// The rows of keys go.
    pub(crate) fn delete(&self, first: usize, from: &str) -> String {
        let (columns, condition) = self.keys(first);
        format!("DELETE FROM {} AS t USING (SELECT {columns}{from}) AS d WHERE {condition}", self.table)
    }

    /// The lock that the look takes on the table keeps the index where it is until the transaction ends. COPY passes rules
    /// by, and is refused where policies guard the rows.
    pub(crate) fn probe(&self) -> String {
        let (columns, condition) = self.keys(2);
        format!(
            "SELECT EXISTS (SELECT FROM {} AS t, (SELECT {columns}) AS d WHERE {condition}) OR NOT EXISTS (SELECT FROM \
             pg_catalog.pg_index AS i, pg_catalog.pg_class AS c WHERE i.indexrelid = $1 AND i.indisvalid \
             AND c.oid = i.indrelid AND NOT c.relhasrules AND NOT c.relrowsecurity)",
            self.table
        )
    }

    /// The keys of the parameters from `first` on as columns k0, k1, .., and that they are the table's.
    fn keys(&self, first: usize) -> (String, String) {
        let (mut columns, mut conditions) = (Vec::new(), Vec::new());
        for (n, name) in self.key_columns().enumerate() {
            columns.push(format!("unnest(${}) AS k{n}", first + n));
            conditions.push(format!("t.{name} = d.k{n}"));
        }
        (columns.join(", "), conditions.join(" AND "))
    }
}

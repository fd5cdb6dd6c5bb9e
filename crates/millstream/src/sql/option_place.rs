//! Where in the SQL the option stands that a connector refuses: connectors know options by name, not by place.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::Span;
use millstream_core::ErrorKind;

use super::diagnostic::SqlError;
use super::parser::CreateTable;

/// The options of the tables that one text declares, with their places.
#[derive(Clone, Debug, Default)]
pub struct OptionPlaces(BTreeMap<String, Places>);

#[derive(Clone, Debug)]
struct Places {
    name: Span,
    /// Keys and values, in their order, with the place of the key or the value.
    words: Vec<(String, Span)>,
}

impl OptionPlaces {
    /// Takes in a declaration.
    pub fn add(&mut self, create: &CreateTable) {
        let options = create.options.iter().flat_map(|(key, value)| [key, value]);
        let words = options.map(|word| (word.node.clone(), word.span)).collect();
        self.0.insert(create.name.value.clone(), Places { name: create.name.span, words });
    }

    /// The place of the option of this table that the message quotes; that of the table's name where it quotes none.
    pub fn find(&self, table: &str, message: &str) -> Option<Span> {
        let places = self.0.get(table)?;
        // A message begins with the name of the table, quoted too.
        let mut quoted = message.split('\'').skip(1).step_by(2).filter(|word| *word != table);
        let word = quoted.find_map(|quoted| places.words.iter().find(|(word, _)| word == quoted));
        Some(word.map_or(places.name, |(_, span)| *span))
    }

    /// The same error at the place of the option that it is about, where it names a table that is declared here.
    pub fn locate(&self, error: SqlError) -> SqlError {
        let named = self.0.keys().find(|name| error.message.contains(&format!("table '{name}'")));
        let place = named.filter(|_| error.kind == ErrorKind::Config).and_then(|name| self.find(name, &error.message));
        SqlError { span: place.or(error.span), ..error }
    }
}

//! The events of one kind as a column: NULL where the row is an event of another kind.

use std::fmt::{Arguments, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringBuilder, StructArray, TimestampMillisecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::Fields;
use millstream_core::Result;

use super::super::generated::Numbered;
use super::model::{EventKind, Model};
use super::text;

/// The events in some rows that are of one kind.
struct Events {
    ids: Vec<u64>,
    /// Of each row, which of the events it is.
    of_row: UInt32Array,
}

impl Events {
    fn new(model: &Model, rows: &[Numbered], kind: EventKind) -> Self {
        let mut ids = Vec::new();
        let mut next = |row: &Numbered| {
            let id = model.event_id(row.number);
            (model.kind(id) == kind).then(|| {
                ids.push(id);
                ids.len() as u32 - 1
            })
        };
        let of_row = rows.iter().map(&mut next).collect();
        Self { ids, of_row }
    }

    fn longs(&self, value: impl Fn(u64) -> u64) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(self.ids.iter().map(|id| value(*id).cast_signed())))
    }

    fn times(&self, value: impl Fn(u64) -> i64) -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from_iter_values(self.ids.iter().map(|id| value(*id))))
    }

    /// Texts of about so many bytes each.
    fn texts(&self, bytes: usize, mut append: impl FnMut(u64, &mut StringBuilder)) -> ArrayRef {
        let mut texts = StringBuilder::with_capacity(self.ids.len(), bytes * self.ids.len());
        self.ids.iter().for_each(|id| append(*id, &mut texts));
        Arc::new(texts.finish())
    }

    /// The events where their rows are.
    fn column(&self, fields: Fields, columns: Vec<ArrayRef>) -> Result<ArrayRef> {
        let events = StructArray::try_new_with_length(fields, columns, None, self.ids.len())?;
        Ok(take(&events, &self.of_row, None)?)
    }
}

/// Appends one text that is written in pieces.
fn append(texts: &mut StringBuilder, text: Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = texts.write_fmt(text);
    texts.append_value("");
}

/// The column `person`.
pub(super) fn people(model: &Model, rows: &[Numbered], fields: Fields) -> Result<ArrayRef> {
    let events = Events::new(model, rows, EventKind::Person);
    let [mut names, mut emails, mut cards, mut cities, mut states, mut extras]: [StringBuilder; 6] = Default::default();
    let mut email = String::new();
    for id in &events.ids {
        let mut random = model.random(*id, 0);
        let (first, last) = (random.pick(&text::FIRST_NAMES), random.pick(&text::LAST_NAMES));
        append(&mut names, format_args!("{first} {last}"));
        email.clear();
        text::push_text(&mut random, 7, ' ', &mut email);
        email.push('@');
        text::push_text(&mut random, 5, ' ', &mut email);
        email.push_str(".com");
        emails.append_value(&email);
        let [a, b, c, d] = std::array::from_fn(|_| random.below(10_000));
        append(&mut cards, format_args!("{a:04} {b:04} {c:04} {d:04}"));
        let (city, state) = (random.pick(&text::CITIES), random.pick(&text::STATES));
        cities.append_value(city);
        states.append_value(state);
        // The id, the texts and the card.
        let bytes = 8 + first.len() + 1 + last.len() + email.len() + 19 + city.len() + state.len();
        extras.append_value(text::filler(&mut random, bytes as u64, model.person_bytes));
    }
    let columns = vec![
        events.longs(|id| model.last_person(id)),
        Arc::new(names.finish()),
        Arc::new(emails.finish()),
        Arc::new(cards.finish()),
        Arc::new(cities.finish()),
        Arc::new(states.finish()),
        events.times(|id| model.time_ms(id)),
        Arc::new(extras.finish()),
    ];
    events.column(fields, columns)
}

/// The column `auction`.
pub(super) fn auctions(model: &Model, rows: &[Numbered], fields: Fields) -> Result<ArrayRef> {
    let events = Events::new(model, rows, EventKind::Auction);
    let [mut names, mut descriptions, mut extras]: [StringBuilder; 3] = Default::default();
    let (mut name, mut description) = (String::new(), String::new());
    for id in &events.ids {
        let mut random = model.random(*id, 0);
        name.clear();
        text::push_text(&mut random, 20, ' ', &mut name);
        names.append_value(&name);
        description.clear();
        text::push_text(&mut random, 100, ' ', &mut description);
        descriptions.append_value(&description);
        // Six numbers beside the texts.
        let bytes = 48 + name.len() + description.len();
        extras.append_value(text::filler(&mut random, bytes as u64, model.auction_bytes));
    }
    let price = |id, lane| Model::price(&mut model.random(id, lane));
    let columns = vec![
        events.longs(|id| model.last_auction(id)),
        Arc::new(names.finish()),
        Arc::new(descriptions.finish()),
        events.longs(|id| price(id, 1)),
        events.longs(|id| price(id, 1) + price(id, 2)),
        events.times(|id| model.time_ms(id)),
        events.times(|id| model.expires_ms(id, &mut model.random(id, 3))),
        events.longs(|id| model.seller(id, &mut model.random(id, 4))),
        events.longs(|id| Model::category(&mut model.random(id, 5))),
        Arc::new(extras.finish()),
    ];
    events.column(fields, columns)
}

/// The column `bid`.
pub(super) fn bids(model: &Model, rows: &[Numbered], fields: Fields) -> Result<ArrayRef> {
    let events = Events::new(model, rows, EventKind::Bid);
    let channel = |id| text::channel(&mut model.random(id, 3));
    // A bid has four numbers.
    let filler = |id| text::filler(&mut model.random(id, 4), 32, model.bid_bytes);
    let columns = vec![
        events.longs(|id| model.auction_bid_on(id, &mut model.random(id, 0))),
        events.longs(|id| model.bidder(id, &mut model.random(id, 1))),
        events.longs(|id| Model::price(&mut model.random(id, 2))),
        events.texts(10, |id, texts| texts.append_value(channel(id).0)),
        events.texts(72, |id, texts| texts.append_value(channel(id).1)),
        events.times(|id| model.time_ms(id)),
        events.texts(68, |id, texts| texts.append_value(filler(id))),
    ];
    events.column(fields, columns)
}

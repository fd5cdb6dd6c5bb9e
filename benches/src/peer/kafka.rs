//! The hand-written programs over Kafka, with the client that the engine uses: `peer kafka-NAME SERVERS IN OUT`.
//!
//! `bare` takes records and looks at none; `filter` is q2 without an output; `windows` is q5 into transactions; `echo`
//! answers each record with one, in a transaction that also holds where it has come to, until it is told to stop. What is
//! known of the client's pitfalls is used: a commit does not wait in steps of 100 ms.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde::{Deserialize, Serialize};

use super::windows::Hops;
use crate::Result;
use crate::kafka::{T30, assign, consumer, delivered, producer, send};

/// Records of a transaction: as many as the engine's batches have.
const TRANSACTION_RECORDS: u64 = 65_536;

/// Runs one of the programs.
///
/// # Errors
/// An unknown name, or a broker that fails.
pub fn main(words: &[String]) -> Result<()> {
    let [name, servers, input, output] = words else { return Err("peer kafka-NAME SERVERS IN OUT".into()) };
    match name.as_str() {
        "kafka-bare" => bare(servers, input),
        "kafka-filter" => filter(servers, input),
        "kafka-windows" => windows(servers, input, output),
        "kafka-echo" => echo(servers, input, output),
        other => Err(format!("there is no peer '{other}'").into()),
    }
}

/// Takes the value of every record that is there.
fn each(servers: &str, topic: &str, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let consumer = consumer(servers)?;
    let mut open = assign(&consumer, topic)?;
    let mut taken = 0;
    while open > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                taken += 1;
                take(message.payload().unwrap_or_default())?;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    Ok(taken)
}

fn bare(servers: &str, input: &str) -> Result<()> {
    let mut bytes = 0;
    let taken = each(servers, input, |value| {
        bytes += value.len();
        Ok(())
    })?;
    println!("{taken} records of {bytes} bytes");
    Ok(())
}

#[derive(Deserialize)]
struct Bid {
    auction: i64,
    price: i64,
}

fn filter(servers: &str, input: &str) -> Result<()> {
    each(servers, input, |value| {
        let bid: Bid = serde_json::from_slice(value)?;
        if bid.auction % 123 == 0 {
            black_box((bid.auction, bid.price));
        }
        Ok(())
    })?;
    Ok(())
}

type Transactions = ThreadedProducer<DefaultProducerContext>;

fn windows(servers: &str, input: &str, output: &str) -> Result<()> {
    let producer = transactional(servers, output)?;
    let (mut hops, mut lines, mut taken) = (Hops::default(), Vec::new(), 0_u64);
    producer.begin_transaction()?;
    each(servers, input, |value| {
        hops.take_json(value, &mut lines)?;
        write(&producer, output, &mut lines)?;
        taken += 1;
        if taken.is_multiple_of(TRANSACTION_RECORDS) {
            commit(&producer)?;
            producer.begin_transaction()?;
        }
        Ok(())
    })?;
    hops.end(&mut lines)?;
    write(&producer, output, &mut lines)?;
    commit(&producer)
}

/// Each line is a record.
fn write(producer: &Transactions, topic: &str, lines: &mut Vec<u8>) -> Result<()> {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        send(producer, BaseRecord::<[u8], [u8]>::to(topic).payload(line))?;
    }
    lines.clear();
    Ok(())
}

fn transactional(servers: &str, id: &str) -> Result<Transactions> {
    let producer = producer(servers, &[("transactional.id", id)])?;
    producer.init_transactions(T30)?;
    Ok(producer)
}

fn commit(producer: &Transactions) -> Result<()> {
    delivered(producer);
    Ok(producer.commit_transaction(T30)?)
}

#[derive(Deserialize, Serialize)]
struct Event {
    id: i64,
    v: i64,
}

fn echo(servers: &str, input: &str, output: &str) -> Result<()> {
    let producer = transactional(servers, output)?;
    let consumer: BaseConsumer = consumer(servers)?;
    assign(&consumer, input)?;
    let stop = Arc::new(AtomicBool::new(false));
    crate::sys::on_terminate(&stop)?;
    while !stop.load(Ordering::Relaxed) {
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            None | Some(Err(KafkaError::PartitionEOF(_))) => continue,
            Some(Err(error)) => return Err(error.into()),
        };
        let event: Event = serde_json::from_slice(message.payload().unwrap_or_default())?;
        let answer = serde_json::to_vec(&Event { id: event.id, v: event.v + 1 })?;
        let position = message.offset().to_string();
        producer.begin_transaction()?;
        send(&producer, BaseRecord::<[u8], [u8]>::to(output).partition(0).payload(&answer))?;
        // Where it would go on after a crash: a record of the same transaction.
        send(&producer, BaseRecord::<[u8], [u8]>::to(output).partition(1).payload(position.as_bytes()))?;
        commit(&producer)?;
    }
    Ok(())
}

//! The producer: another system's, with transactions of its own. It gives some of them up, dies in some, repeats itself,
//! and sends what is late, torn and out of order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::broker::{Broker, unique};
use crate::data::{Rng, shown};

/// Partitions of the topics.
pub const PAYMENT_PARTITIONS: u64 = 3;
pub const LOGIN_PARTITIONS: u64 = 2;

/// 2025-01-01 00:00:00: far enough back that hours of a test do not reach the present.
const BEGIN_MS: i64 = 1_735_689_600_000;
const CARDS: u64 = 40;
/// Rows a second, of both topics.
const RATE: u64 = 1_200;
const PATIENCE: Duration = Duration::from_secs(30);

/// What the producer did.
#[derive(Debug, Default)]
pub struct Fed {
    pub committed: u64,
    pub aborted: u64,
    /// It died in the midst of these, or did not hear how they ended.
    pub torn: u64,
}

#[derive(Clone, Debug)]
struct Line {
    payment: bool,
    partition: u64,
    key: String,
    text: String,
}

type Transactional = ThreadedProducer<DefaultProducerContext>;

/// Sends transactions to both topics until it is told to stop, and then closes every window of every partition.
pub struct Feed<'a> {
    broker: &'a Broker,
    payments: &'a str,
    logins: &'a str,
    id: String,
    rng: Rng,
    now_ms: i64,
    count: u64,
    recent: VecDeque<Line>,
    producer: Option<Transactional>,
    fed: Fed,
}

impl<'a> Feed<'a> {
    pub fn new(broker: &'a Broker, payments: &'a str, logins: &'a str, rng: Rng) -> Self {
        let id = unique("feed");
        let (recent, producer, fed) = (VecDeque::new(), None, Fed::default());
        Self { broker, payments, logins, id, rng, now_ms: BEGIN_MS, count: 0, recent, producer, fed }
    }

    pub fn until(mut self, stop: &AtomicBool) -> Fed {
        let (begun, mut sent, mut again) = (Instant::now(), 0, vec![]);
        while !stop.load(Ordering::Relaxed) {
            let mut lines = std::mem::take(&mut again);
            lines.extend((0..1 + self.rng.below(120)).map(|_| self.line()));
            sent += lines.len() as u64;
            match self.rng.below(20) {
                // It changed its mind; what it had sent comes once more, or never.
                0..3 => {
                    let done = self.transact(&lines, |producer| producer.abort_transaction(PATIENCE));
                    self.fed.aborted += u64::from(done.is_ok());
                    again = if self.rng.once_in(2) { lines } else { vec![] };
                }
                // It dies, and is started again.
                3 => {
                    let _ = self.transact(&lines, |_| Ok(()));
                    self.producer = None;
                    self.fed.torn += 1;
                    again = if self.rng.once_in(2) { lines } else { vec![] };
                }
                _ => again = self.commit(lines),
            }
            let due = Duration::from_millis(sent * 1000 / RATE);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        // An hour later in every partition: what came before is final.
        let close_ms = self.now_ms + 3_600_000;
        let mut closing = vec![];
        for (payment, partitions) in [(true, PAYMENT_PARTITIONS), (false, LOGIN_PARTITIONS)] {
            for partition in 0..partitions {
                closing.push(self.row(payment, "closing".to_string(), close_ms));
                closing.last_mut().unwrap().partition = partition;
            }
        }
        let begun = Instant::now();
        while !closing.is_empty() {
            assert!(begun.elapsed() < 2 * PATIENCE, "the broker takes nothing any more");
            closing = self.commit(closing);
        }
        self.fed
    }

    /// Commits; what it can't be sure of it sends again, as a producer without a memory does.
    fn commit(&mut self, lines: Vec<Line>) -> Vec<Line> {
        let committed = self.transact(&lines, |producer| producer.commit_transaction(PATIENCE));
        match committed {
            Ok(()) => self.fed.committed += 1,
            Err(_) => {
                self.producer = None;
                self.fed.torn += 1;
                return lines;
            }
        }
        vec![]
    }

    fn transact(
        &mut self,
        lines: &[Line],
        end: impl FnOnce(&Transactional) -> Result<(), KafkaError>,
    ) -> Result<(), KafkaError> {
        if self.producer.is_none() {
            let mut config = self.broker.config();
            config.set("transactional.id", &self.id).set("linger.ms", "1");
            config.set("transaction.timeout.ms", "20000").set("message.timeout.ms", "15000");
            let producer: Transactional = config.create()?;
            producer.init_transactions(PATIENCE)?;
            self.producer = Some(producer);
        }
        let producer = self.producer.as_ref().unwrap();
        producer.begin_transaction()?;
        for line in lines {
            let topic = if line.payment { self.payments } else { self.logins };
            let record = BaseRecord::to(topic).key(&line.key).payload(&line.text);
            producer.send(record.partition(line.partition as i32)).map_err(|(e, _)| e)?;
        }
        let begun = Instant::now();
        while producer.in_flight_count() > 0 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
        let ended = end(producer);
        if ended.is_err() {
            self.producer = None;
        }
        ended
    }

    /// The next line; sometimes one that was sent before, by whomever.
    fn line(&mut self) -> Line {
        self.now_ms += self.rng.below(60) as i64;
        if !self.recent.is_empty() && self.rng.once_in(12) {
            let mut line = self.recent[self.rng.below(self.recent.len() as u64) as usize].clone();
            if self.rng.once_in(4) {
                line.partition = self.rng.below(if line.payment { PAYMENT_PARTITIONS } else { LOGIN_PARTITIONS });
            }
            return line;
        }
        let card = format!("c{}", self.rng.below(CARDS));
        // Within the delay that the tables declare, or far behind it.
        let behind = if self.rng.once_in(60) { 20_000 + self.rng.below(60_000) } else { self.rng.below(1_500) };
        let payment = !self.rng.once_in(4);
        let line = self.row(payment, card, self.now_ms - behind as i64);
        self.recent.push_back(line.clone());
        if self.recent.len() > 100 {
            self.recent.pop_front();
        }
        line
    }

    fn row(&mut self, payment: bool, card: String, ms: i64) -> Line {
        self.count += 1;
        let (n, ts) = (self.count, shown(ms));
        let id = format!("{:016x}-{n}", self.rng.next());
        let number = card.trim_start_matches('c').parse::<u64>().unwrap_or(0);
        let closing = card == "closing";
        let text = match (payment, self.rng.below(if closing { 1 } else { 120 })) {
            (_, 119) => format!("not even JSON {n}"),
            (true, 118) => format!("{{\"id\":\"{id}\",\"card\":\"{card}\",\"amount\":1,\"ts\":null}}"),
            (true, _) => {
                let (units, cents) = (self.rng.below(500), self.rng.below(100));
                format!("{{\"id\":\"{id}\",\"card\":\"{card}\",\"amount\":{units}.{cents:02},\"ts\":\"{ts}\"}}")
            }
            (false, _) => {
                let device = if closing { card.clone() } else { format!("d{}", self.rng.below(12)) };
                format!("{{\"id\":\"{id}\",\"card\":\"{card}\",\"device\":\"{device}\",\"ts\":\"{ts}\"}}")
            }
        };
        let partition = number % if payment { PAYMENT_PARTITIONS } else { LOGIN_PARTITIONS };
        Line { payment, partition, key: card, text }
    }
}

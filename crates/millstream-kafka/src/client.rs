//! How a cluster is reached: the `properties.*` of a table as a client's configuration, and what a client has to
//! complain of.
//!
//! The client tells of a wrong password or an unknown CA only through its error callback, and lets the call itself
//! time out: [`Reports`] keeps what it says. No text that leaves this file holds a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result};
use millstream_io::{Options, secret};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

/// What a table's options must leave alone, and what does it instead.
const OWN: [(&str, &str); 7] = [
    ("transactional.id", "set 'sink.transactional-id-prefix' instead"),
    ("enable.idempotence", "it is always on"),
    ("auto.offset.reset", "set 'scan.startup.mode' instead"),
    ("enable.auto.commit", "positions are kept by the query itself"),
    ("enable.auto.offset.store", "positions are kept by the query itself"),
    ("enable.partition.eof", "it is always on"),
    ("partitioner", "keys are placed as the Java client does it"),
];

/// Names that the Java client has for what this one calls otherwise.
const JAVA: [(&str, &str); 5] = [
    ("ssl.truststore.location", "'properties.ssl.ca.location', a PEM file"),
    ("ssl.truststore.password", "'properties.ssl.ca.location', a PEM file that needs none"),
    ("ssl.truststore.certificates", "'properties.ssl.ca.pem'"),
    ("ssl.keystore.certificate.chain", "'properties.ssl.certificate.pem'"),
    ("sasl.jaas.config", "'properties.sasl.username' and 'properties.sasl.password'"),
];

/// Properties whose values are never shown.
const SECRET: [&str; 6] = ["password", "secret", "key.pem", "jaas", "token", "ssl.key"];

/// How a cluster is reached.
#[derive(Clone)]
pub(crate) struct Connection {
    properties: BTreeMap<String, String>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("bootstrap.servers", &self.servers()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes the `properties.*`, with their secrets looked up.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where 'properties.bootstrap.servers' is missing, a property is not known to the client, is
    /// set by Millstream itself, or names a secret that is not there.
    pub(crate) fn new(options: &Options, base_dir: &Path) -> Result<Self> {
        options.required("properties.bootstrap.servers")?;
        let mut properties = BTreeMap::new();
        for (name, value) in options.with_prefix("properties.") {
            let key = name.strip_prefix("properties.").unwrap_or(name);
            let refused = |why: &str| Err(Error::config(format!("the option '{name}' can't be set: {why}")));
            if let Some((_, why)) = OWN.iter().find(|(own, _)| *own == key) {
                return refused(why);
            }
            if let Some((_, instead)) = JAVA.iter().find(|(java, _)| *java == key) {
                return refused(&format!("it is of the Java client; write {instead}"));
            }
            let value = secret::reveal(value, base_dir).map_err(|e| e.at(format!("the option '{name}'")))?;
            properties.insert(key.to_string(), value);
        }
        let connection = Self { properties };
        connection.check()?;
        Ok(connection)
    }

    /// Every property is known to the client and has a value that it takes.
    fn check(&self) -> Result<()> {
        for (key, value) in &self.properties {
            let checked = ClientConfig::new().set(key, value).create_native_config();
            if let Err(error) = checked {
                return Err(self.failed(ErrorKind::Config, &format!("the option 'properties.{key}'"), &error, None));
            }
        }
        Ok(())
    }

    /// Where the cluster is.
    pub(crate) fn servers(&self) -> &str {
        self.property("bootstrap.servers").unwrap_or_default()
    }

    /// A property as the table sets it.
    pub(crate) fn property(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(String::as_str)
    }

    /// A client. The properties of the table win over `defaults`, and `own` over both.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where the client refuses the configuration.
    pub(crate) fn client<C: FromClientConfigAndContext<Reports>>(
        &self,
        defaults: &[(&str, &str)],
        own: &[(&str, &str)],
        reports: &Reports,
    ) -> Result<C> {
        let mut config = ClientConfig::new();
        config.set("client.id", "millstream");
        let set = |config: &mut ClientConfig, pairs: &[(&str, &str)]| {
            for (key, value) in pairs {
                config.set(*key, *value);
            }
        };
        set(&mut config, defaults);
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        set(&mut config, own);
        config.set_log_level(RDKafkaLogLevel::Error);
        let made = config.create_with_context::<_, C>(reports.clone());
        made.map_err(|e| self.failed(ErrorKind::Config, "the client can't be configured", &e, Some(reports)))
    }

    /// What happened, where, and what the client complained of meanwhile; without secrets.
    pub(crate) fn failed(&self, kind: ErrorKind, what: &str, error: &KafkaError, reports: Option<&Reports>) -> Error {
        let cause = match error {
            // The value may be a password.
            KafkaError::ClientConfig(_, text, ..) => text.clone(),
            KafkaError::Transaction(error) => error.string(),
            other => other.rdkafka_error_code().map_or_else(|| other.to_string(), |code| code.to_string()),
        };
        let heard = reports.and_then(Reports::heard);
        let (kind, heard) = match heard {
            Some(heard) if heard.hopeless => (ErrorKind::Config, format!("; {} said: {}", self.servers(), heard.text)),
            Some(heard) => (kind, format!("; last heard: {}", heard.text)),
            None => (kind, String::new()),
        };
        Error::new(kind, self.scrub(format!("{what}: {cause}{heard}")))
    }

    /// The text without the secrets of this connection.
    pub(crate) fn scrub(&self, mut text: String) -> String {
        for (key, value) in &self.properties {
            if SECRET.iter().any(|s| key.contains(s)) && value.len() > 2 && !key.ends_with("location") {
                text = text.replace(value.as_str(), "***");
            }
        }
        text
    }
}

/// What one try of a question may take: then it is looked whether the client has said why.
const TRY: Duration = Duration::from_millis(500);

/// Asks with a client that has no assignment until there is an answer, waiting is known to be of no use, or the time is
/// over.
pub(crate) fn ask<T>(
    client: &BaseConsumer<Reports>,
    reports: &Reports,
    wait: Duration,
    question: impl Fn(Duration) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let begun = Instant::now();
    loop {
        let error = match question(TRY) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // The client says why only to who polls it. Nothing is assigned, so that nothing else can come.
        while client.poll(Duration::ZERO).is_some() {}
        let passes = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::Resolve
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::NotController
                    | RDKafkaErrorCode::RequestTimedOut
            )
        );
        if !passes || reports.hopeless() || begun.elapsed() >= wait {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a client complained of last.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// In the client's words.
    pub(crate) text: String,
    /// Waiting doesn't help: the password or the certificate is wrong.
    pub(crate) hopeless: bool,
}

#[derive(Debug, Default)]
struct State {
    heard: Option<Heard>,
    undelivered: Option<RDKafkaErrorCode>,
}

/// Listens to a client: what it complains of, and the first record that it could not deliver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports {
    state: Arc<Mutex<State>>,
}

impl Reports {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the client complained of last.
    pub(crate) fn heard(&self) -> Option<Heard> {
        self.state().heard.clone()
    }

    /// Whether waiting is of no use.
    pub(crate) fn hopeless(&self) -> bool {
        self.state().heard.as_ref().is_some_and(|heard| heard.hopeless)
    }

    /// Everything is well again.
    pub(crate) fn forget(&self) {
        *self.state() = State::default();
    }

    /// Why the first record that was not delivered was not.
    pub(crate) fn undelivered(&self) -> Option<RDKafkaErrorCode> {
        self.state().undelivered
    }
}

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let certificate = code == Some(RDKafkaErrorCode::SSL)
            && ["certificate", "alert", "handshake failed: error"].iter().any(|word| reason.contains(word));
        let hopeless = certificate
            || matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed));
        let mut state = self.state();
        // That all brokers are down is what follows from the reason, and must not hide it.
        let follows = code == Some(RDKafkaErrorCode::AllBrokersDown) && state.heard.is_some();
        if hopeless || !(follows || state.heard.as_ref().is_some_and(|heard| heard.hopeless)) {
            state.heard = Some(Heard { text: reason.to_string(), hopeless });
        }
    }
}

impl ConsumerContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut state = self.state();
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            // What was thrown away with an aborted transaction says nothing of the reason.
            if state.undelivered.is_none()
                && code != RDKafkaErrorCode::PurgeQueue
                && code != RDKafkaErrorCode::PurgeInflight
            {
                state.undelivered = Some(code);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(options: &[(&str, &str)]) -> Result<Connection> {
        let all = [("properties.bootstrap.servers", "127.0.0.1:1")].into_iter().chain(options.iter().copied());
        Connection::new(&all.collect(), Path::new("/"))
    }

    #[test]
    fn a_property_that_nobody_knows_or_that_is_ours_is_refused_by_name() {
        let error = connection(&[("properties.linger.msec", "hidden")]).unwrap_err().to_string();
        assert!(error.contains("'properties.linger.msec'") && !error.contains("hidden"), "{error}");
        let error = connection(&[("properties.transactional.id", "x")]).unwrap_err().to_string();
        assert!(error.contains("'sink.transactional-id-prefix'"), "{error}");
        let error = connection(&[("properties.ssl.truststore.location", "x.jks")]).unwrap_err().to_string();
        assert!(error.contains("'properties.ssl.ca.location'"), "{error}");
        let none = Connection::new(&Options::default(), Path::new("/")).unwrap_err().to_string();
        assert!(none.contains("'properties.bootstrap.servers' is missing"), "{none}");
    }

    #[test]
    fn a_secret_is_in_no_text_of_a_connection() {
        let connection = connection(&[("properties.sasl.password", "hunter22")]).unwrap();
        assert!(!format!("{connection:?}").contains("hunter22"));
        assert_eq!(connection.scrub("login of hunter22 failed".into()), "login of *** failed");
    }
}

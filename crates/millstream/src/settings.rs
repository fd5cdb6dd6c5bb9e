//! What `SET 'key' = 'value'` says of the queries after it.
//!
//! Every key that is known stands in [`KEYS`]; another one is refused by name, so that a misspelt setting is never
//! silently without effect. What the command line says wins over what the SQL says.

use std::collections::BTreeMap;

use millstream_core::query::{OnError, QueryConfig, Trigger};
use millstream_core::{Error, Result};
use millstream_io::options::{nearest, parse_duration};

/// The keys of SET with what they mean, for a person.
pub const KEYS: [(&str, &str); 14] = [
    ("pipeline.name", "the name of the pipeline in `run` and `status`"),
    ("execution.trigger", "when a batch begins: 'continuous', 'available-now', or an interval: '500 ms'"),
    ("batch.max-rows", "rows that a batch may hold, over all sources (65536)"),
    ("batch.max-bytes", "bytes that a batch may hold as they lie in the sources: '64 mb'"),
    ("on-error", "a row that makes an expression fail: 'reject' leaves it out, 'stop' stops the query"),
    ("on-error.max-rows", "more such rows in one batch stop the query (1000)"),
    ("checkpoint.work", "a checkpoint is made when running again what came since would take so long ('1500 ms')"),
    ("commit.linger", "how long a commit waits for the next batch before it is flushed by itself ('20 ms')"),
    ("retry.give-up-after", "how long a source or sink that is away is waited for ('5 min')"),
    ("parallelism.default", "partitions that are read and decoded at once (the machine's cores)"),
    ("table.local-time-zone", "the time zone of a session: 'UTC', which it always is"),
    ("state.ttl", "how long a key is remembered that nothing touches: '1 h'; '0' is for ever, as without it"),
    ("log.segment-bytes", "the size at which a segment of the batch log is followed by a new one ('8 mb')"),
    ("rejected.max-bytes", "about how much is kept of rejected and late rows ('1 gb')"),
];

/// The settings of one query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Takes in one SET.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where the key is not known or the value has another form.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        is_known(key)?;
        let mut with = self.clone();
        with.0.insert(key.to_string(), value.to_string());
        with.apply(&mut QueryConfig::new("", ""))?;
        *self = with;
        Ok(())
    }

    /// Takes a SET back.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where the key is not known.
    pub fn reset(&mut self, key: &str) -> Result<()> {
        is_known(key)?;
        self.0.remove(key);
        Ok(())
    }

    /// The value of a key, where it was set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// How long keys are remembered that nothing touches, in microseconds; `None` for ever.
    pub fn state_ttl_us(&self) -> Option<i64> {
        self.get("state.ttl").and_then(parse_ttl).flatten()
    }

    /// Partitions that are read and decoded at once: as many as the machine has cores where nothing is said.
    pub fn parallelism(&self) -> usize {
        let set = self.get("parallelism.default").and_then(|n| n.trim().parse().ok());
        set.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Puts them into the configuration of a query.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a value has another form than its key wants.
    pub fn apply(&self, config: &mut QueryConfig) -> Result<()> {
        for (key, value) in &self.0 {
            let expects = |form: &str| Error::config(format!("'{key}' is '{value}', where {form} is expected"));
            let span = || parse_duration(value).ok_or_else(|| expects("a length of time like '500 ms'"));
            let bytes = || parse_bytes(value).ok_or_else(|| expects("a size like '64 mb'"));
            let count = || value.trim().parse().ok().filter(|n| *n > 0).ok_or_else(|| expects("a number above 0"));
            match key.as_str() {
                "execution.trigger" => {
                    config.trigger = parse_trigger(value)
                        .ok_or_else(|| expects("'continuous', 'available-now' or an interval like '500 ms'"))?;
                }
                "batch.max-rows" => config.limit.rows = count()?,
                "batch.max-bytes" => config.limit.bytes = bytes()?,
                "on-error" => {
                    config.on_error = match value.as_str() {
                        "reject" => OnError::Reject,
                        "stop" => OnError::Stop,
                        _ => return Err(expects("'reject' or 'stop'")),
                    }
                }
                "on-error.max-rows" => config.poison_rows_max = usize::try_from(count()?).unwrap_or(usize::MAX),
                "checkpoint.work" => config.checkpoint_work = span()?,
                "commit.linger" => config.commit_linger = span()?,
                "retry.give-up-after" => config.retry.give_up_after = span()?,
                "state.ttl" => drop(parse_ttl(value).ok_or_else(|| expects("a length of time like '1 h'"))?),
                "log.segment-bytes" => config.retention.log_segment_bytes = bytes()?,
                "rejected.max-bytes" => config.retention.dropped_bytes = bytes()?,
                "parallelism.default" => drop(count()?),
                "table.local-time-zone" if value != "UTC" => {
                    return Err(expects("'UTC', the only time zone that a session has, and convert_tz(..) for others"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A length of time in microseconds, as `state.ttl` has it: `Some(None)` where it is 0, which is for ever.
pub fn parse_ttl(text: &str) -> Option<Option<i64>> {
    let trimmed = text.trim();
    let zero = trimmed.trim_start_matches('0');
    if zero.len() < trimmed.len() && zero.chars().all(|c| c.is_ascii_alphabetic() || c == ' ') {
        return Some(None);
    }
    let us = i64::try_from(parse_duration(trimmed)?.as_micros()).ok()?;
    Some(Some(us).filter(|us| *us > 0))
}

fn is_known(key: &str) -> Result<()> {
    if KEYS.iter().any(|(known, _)| *known == key) {
        return Ok(());
    }
    let hint = nearest(key, KEYS.iter().map(|(known, _)| *known)).map(|near| format!("; did you mean '{near}'?"));
    let hint = hint.unwrap_or_else(|| "; docs/sql.md lists them".to_string());
    Err(Error::config(format!("there is no setting '{key}'{hint}")))
}

/// When a batch begins, as it is written in SET and on the command line.
pub fn parse_trigger(text: &str) -> Option<Trigger> {
    match text {
        "continuous" => Some(Trigger::Continuous),
        "available-now" => Some(Trigger::AvailableNow),
        interval => parse_duration(interval).map(Trigger::Interval),
    }
}

/// Bytes, with a unit or without: `4096`, `64 mb`, `1gb`. A kb is 1,024 bytes.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn applied(key: &str, value: &str) -> Result<QueryConfig> {
        let mut settings = Settings::default();
        settings.set(key, value)?;
        let mut config = QueryConfig::new("q", "dir");
        settings.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn each_key_reaches_the_query() {
        assert_eq!(
            applied("execution.trigger", "500 ms").unwrap().trigger,
            Trigger::Interval(Duration::from_millis(500))
        );
        assert_eq!(applied("execution.trigger", "available-now").unwrap().trigger, Trigger::AvailableNow);
        assert_eq!(applied("batch.max-rows", "7").unwrap().limit.rows, 7);
        assert_eq!(applied("batch.max-bytes", "2 mb").unwrap().limit.bytes, 2 << 20);
        assert_eq!(applied("on-error", "stop").unwrap().on_error, OnError::Stop);
        assert_eq!(applied("on-error.max-rows", "3").unwrap().poison_rows_max, 3);
        assert_eq!(applied("checkpoint.work", "1 ms").unwrap().checkpoint_work, Duration::from_millis(1));
        assert_eq!(applied("commit.linger", "5 ms").unwrap().commit_linger, Duration::from_millis(5));
        assert_eq!(applied("retry.give-up-after", "1 s").unwrap().retry.give_up_after, Duration::from_secs(1));
        assert_eq!(applied("log.segment-bytes", "64kb").unwrap().retention.log_segment_bytes, 64 << 10);
        assert_eq!(applied("rejected.max-bytes", "4096").unwrap().retention.dropped_bytes, 4096);
    }

    #[test]
    fn the_reference_lists_every_key() {
        let page = include_str!("../../../docs/sql.md");
        for (key, meaning) in KEYS {
            assert!(page.contains(&format!("| `{key}` | {meaning} |")), "{key}");
        }
    }

    #[test]
    fn what_nobody_knows_is_refused_with_a_did_you_mean() {
        let error = applied("on-eror", "stop").unwrap_err().to_string();
        assert_eq!(error, "there is no setting 'on-eror'; did you mean 'on-error'?");
        let error = Settings::default().reset("nonsense").unwrap_err().to_string();
        assert_eq!(error, "there is no setting 'nonsense'; docs/sql.md lists them");
        let error = applied("on-error", "explode").unwrap_err().to_string();
        assert_eq!(error, "'on-error' is 'explode', where 'reject' or 'stop' is expected");
        assert!(applied("batch.max-rows", "0").is_err());
        assert!(applied("batch.max-bytes", "12 parsecs").is_err());
    }
}

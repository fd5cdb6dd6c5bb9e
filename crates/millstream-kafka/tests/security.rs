//! TLS with an own CA and client certificates, SASL, and what is said where they are wrong.

#![allow(clippy::unwrap_used, clippy::panic)]

mod broker;

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use broker::broker;
use futures::TryStreamExt;
use millstream_core::batch::{BatchId, Positions};
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit};
use millstream_core::source::{Chunk, Limit};
use millstream_core::{ErrorKind, Result};
use millstream_io::TableSpec;

fn output() -> Output {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
    Output { schema, kind: OutputKind::Append, batches: vec![rows] }
}

fn spec(topic: &str, options: &[(&str, String)]) -> TableSpec {
    let base = [("connector", "kafka"), ("topic", topic), ("format", "json")].map(|(k, v)| (k, v.to_string()));
    TableSpec {
        name: "t".into(),
        schema: output().schema,
        options: base.into_iter().chain(options.iter().cloned()).collect(),
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: "/".into(),
    }
}

/// Writes two rows and reads them again.
async fn round_trip(options: &[(&str, String)]) -> Result<usize> {
    let topic = broker().topic("secure", 1, &[]);
    let spec = spec(&topic, options);
    let mut sink = millstream_kafka::sink(&spec, "q", OutputKind::Append, output().schema)?;
    let owner = Owner { query: "q".into(), incarnation: "a".into(), epoch: 1 };
    sink.open(&owner).await?;
    let marker = Marker { owner, batch: BatchId(1), digest: Digest(1) };
    sink.publish(&Permit::unchecked(marker, None), &output()).await?;
    let source = millstream_kafka::source_table(&spec)?.source(&[0])?;
    let begun = Instant::now();
    loop {
        let offer = source.offer(&Positions::new(), Limit { rows: 100, bytes: 1 << 20 }).await?;
        if let Some(range) = offer.ranges.first() {
            let chunks: Vec<Chunk> = source.open(range).await?.try_collect().await?;
            return Ok(chunks.iter().map(|chunk| chunk.rows.num_rows()).sum());
        }
        assert!(begun.elapsed().as_secs() < 20, "what was committed is never seen");
    }
}

fn tls(listener: &str) -> Vec<(&'static str, String)> {
    vec![
        ("properties.bootstrap.servers", broker().fact(listener).to_string()),
        ("properties.security.protocol", listener.to_string()),
        ("properties.ssl.ca.location", broker().fact("CA").to_string()),
    ]
}

fn sasl(mechanism: &str, password: &str) -> Vec<(&'static str, String)> {
    let mut options = tls("SASL_SSL");
    options.push(("properties.sasl.mechanism", mechanism.to_string()));
    options.push(("properties.sasl.username", broker().fact("USER").to_string()));
    options.push(("properties.sasl.password", password.to_string()));
    options
}

#[tokio::test]
async fn a_client_certificate_of_an_own_ca_is_let_in() {
    let mut options = tls("SSL");
    options.push(("properties.ssl.certificate.location", broker().fact("CLIENT_CERT").to_string()));
    options.push(("properties.ssl.key.location", broker().fact("CLIENT_KEY").to_string()));
    assert_eq!(round_trip(&options).await.unwrap(), 2);
}

#[tokio::test]
async fn passwords_are_let_in_from_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{}\n", broker().fact("PASSWORD"))).unwrap();
    let reference = format!("${{file:{}}}", file.display());
    for (mechanism, password) in
        [("PLAIN", broker().fact("PASSWORD")), ("SCRAM-SHA-256", &reference), ("SCRAM-SHA-512", &reference)]
    {
        assert_eq!(round_trip(&sasl(mechanism, password)).await.unwrap(), 2, "{mechanism}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once_and_never_shown() {
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let begun = Instant::now();
        let error = round_trip(&sasl(mechanism, "hunter22-is-wrong")).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        assert!(text.contains("authentication") || text.contains("Authentication"), "{text}");
        assert!(!text.contains("hunter22") && !format!("{error:?}").contains("hunter22"), "{text}");
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
        // The source says it too.
        let spec = spec("secure", &sasl(mechanism, "hunter22-is-wrong"));
        let source = millstream_kafka::source_table(&spec).unwrap().source(&[0]).unwrap();
        let error = source.offer(&Positions::new(), Limit { rows: 1, bytes: 1 }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(!error.to_string().contains("hunter22"), "{error}");
        assert!(!format!("{source:?}").contains("hunter22"));
    }
}

/// Why nothing comes through. On a busy machine the client's time may be over before it has met the certificate: it
/// says so with a kind that is retried, and so it is.
async fn refused(options: &[(&str, String)]) -> millstream_core::Error {
    let mut error = round_trip(options).await.unwrap_err();
    for _ in 0..5 {
        if error.kind() == ErrorKind::Retry {
            error = round_trip(options).await.unwrap_err();
        }
    }
    error
}

#[tokio::test]
async fn a_certificate_that_is_wrong_or_missing_is_said() {
    let unknown = vec![
        ("properties.bootstrap.servers", broker().fact("SASL_SSL").to_string()),
        ("properties.security.protocol", "SSL".to_string()),
    ];
    let error = refused(&unknown).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let error = round_trip(&tls("SSL")).await.unwrap_err();
    assert!(error.to_string().contains("certificate") || error.to_string().contains("SSL"), "{error}");
}

//! A server that demands TLS, passwords and certificates.

use std::sync::Arc;

use arrow::array::Int64Array;
use arrow::datatypes::DataType;
use millstream_core::ErrorKind;
use millstream_core::sink::OutputKind;

use crate::server::{Publisher, field, script, spec, start};

struct Server {
    port: String,
    certs: String,
}

fn server() -> Server {
    let url = start("tls");
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().to_string();
    Server { port, certs: format!("{}/certs", script("home", "tls").unwrap()) }
}

impl Server {
    /// Publishes a row; the error is of the kind that is expected.
    async fn publish(&self, user: &str, host: &str, options: &[(&str, &str)]) -> millstream_core::Result<()> {
        let url = format!("postgresql://{user}@{host}:{}/postgres", self.port);
        let options: Vec<_> =
            options.iter().map(|(name, value)| (*name, value.replace("CERTS", &self.certs))).collect();
        let mut options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        options.push(("sink.create-table", "true"));
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let table = format!("t{nanos}_{n}");
        let spec = spec(&url, &table, vec![field("id", DataType::Int64)], &[], &options);
        let mut sink = Publisher::new(&spec, OutputKind::Append, 1)?;
        sink.open().await?;
        sink.publish(vec![Arc::new(Int64Array::from(vec![1]))]).await
    }

    async fn refused(&self, user: &str, host: &str, options: &[(&str, &str)], word: &str) {
        let error = self.publish(user, host, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.to_string().contains(word), "'{word}' is not said in: {error}");
        assert!(!error.to_string().contains("correct horse"), "{error}");
    }
}

const PASSWORD: (&str, &str) = ("password", "correct horse");
const CA: (&str, &str) = ("sslrootcert", "CERTS/ca.crt");
const OTHER_CA: (&str, &str) = ("sslrootcert", "CERTS/other-ca.crt");

#[tokio::test]
async fn a_server_is_believed_as_far_as_sslmode_says() {
    let server = server();
    for options in [
        vec![PASSWORD],
        vec![PASSWORD, ("sslmode", "require")],
        vec![PASSWORD, ("sslmode", "verify-full"), CA],
        vec![PASSWORD, ("sslmode", "verify-ca"), CA],
    ] {
        server.publish("millstream", "localhost", &options).await.unwrap();
    }
    server.refused("millstream", "localhost", &[PASSWORD, ("sslmode", "verify-full"), OTHER_CA], "certificate").await;
    server.refused("millstream", "localhost", &[PASSWORD, ("sslmode", "require"), OTHER_CA], "certificate").await;
    // The certificate names localhost, and not its address.
    server.publish("millstream", "127.0.0.1", &[PASSWORD, ("sslmode", "verify-ca"), CA]).await.unwrap();
    server.refused("millstream", "127.0.0.1", &[PASSWORD, ("sslmode", "verify-full"), CA], "certificate").await;
    server.refused("millstream", "localhost", &[PASSWORD, ("sslmode", "disable")], "SQLSTATE 28000").await;
}

#[tokio::test]
async fn a_user_is_known_by_password_or_certificate() {
    let server = server();
    server.refused("millstream", "localhost", &[("password", "battery staple")], "SQLSTATE 28P01").await;
    server.refused("millstream", "localhost", &[], "password").await;
    let certificate = [("sslmode", "verify-full"), CA, ("sslcert", "CERTS/client.crt"), ("sslkey", "CERTS/client.key")];
    server.publish("with_certificate", "localhost", &certificate).await.unwrap();
    server.refused("with_certificate", "localhost", &[("sslmode", "require")], "28000").await;
    server.refused("millstream", "localhost", &[("sslcert", "CERTS/client.crt")], "belong together").await;
    server
        .refused("millstream", "localhost", &[("sslmode", "verify-ca"), ("sslrootcert", "CERTS/none.crt")], "none.crt")
        .await;
}

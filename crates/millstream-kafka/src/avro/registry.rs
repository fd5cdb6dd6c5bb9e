//! A schema registry with Confluent's interface: schemas by their ids, ids for schemas. Calls block.
//!
//! What was once answered is remembered: an id never means another schema.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream_core::{Error, Result};
use millstream_io::format::avro::Schema;
use millstream_io::{Options, secret};
use serde::Deserialize;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::base64;

/// What one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a system keeps the CAs that it trusts.
const SYSTEM_CA: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A registry.
pub(crate) struct Registry {
    url: String,
    /// The address without a login.
    shown: String,
    authorization: Option<String>,
    agent: ureq::Agent,
    schemas: Mutex<HashMap<u32, Answer>>,
}

/// The schema of an id, or why there is none for good.
pub(super) type Answer = std::result::Result<Arc<Schema>, String>;

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Found {
    schema: String,
    #[serde(default, rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("url", &self.shown).finish_non_exhaustive()
    }
}

impl Registry {
    /// Takes the options; talks to nobody.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where one is missing or wrong.
    pub(crate) fn new(options: &Options, base_dir: &Path) -> Result<Self> {
        let secret = |name: &str| -> Result<Option<String>> {
            let text = options.get(name).map(|text| secret::reveal(text, base_dir));
            text.transpose().map_err(|e| e.at(format!("the option '{name}'")))
        };
        let url = secret("avro-confluent.url")?;
        let url =
            url.ok_or_else(|| Error::config("the option 'avro-confluent.url' is missing: name the schema registry"))?;
        options.one_of("avro-confluent.basic-auth.credentials-source", &[("USER_INFO", ())])?;
        options.one_of("avro-confluent.bearer-auth.credentials-source", &[("STATIC_TOKEN", ())])?;
        let basic = secret("avro-confluent.basic-auth.user-info")?;
        let bearer = secret("avro-confluent.bearer-auth.token")?;
        let authorization = match (basic, bearer) {
            (Some(_), Some(_)) => return Err(Error::config("the schema registry has two logins: keep one of them")),
            (Some(basic), None) => {
                let mut text = String::from("Basic ");
                base64(basic.as_bytes(), &mut text);
                Some(text)
            }
            (None, Some(bearer)) => Some(format!("Bearer {bearer}")),
            (None, None) => None,
        };
        let mut config = ureq::Agent::config_builder().timeout_global(Some(CALL_TIMEOUT)).http_status_as_error(false);
        if url.starts_with("https:") {
            config = config.tls_config(tls(options.get("avro-confluent.ssl.ca.location"), base_dir)?);
        } else {
            options.get("avro-confluent.ssl.ca.location");
        }
        let url = url.trim_end_matches('/').to_string();
        let shown = secret::without_login(&url).into_owned();
        Ok(Self { url, shown, authorization, agent: config.build().into(), schemas: Mutex::default() })
    }

    /// The schema of an id.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Retry`] where the registry doesn't answer,
    /// [`millstream_core::ErrorKind::Config`] where it lets nobody in.
    pub(super) fn schema(&self, id: u32) -> Result<Answer> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = schemas.get(&id) {
            return Ok(known.clone());
        }
        let request = self.agent.get(format!("{}/schemas/ids/{id}", self.url));
        let request = match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        };
        let answer = match self.answer(request.call())? {
            (200, body) => match serde_json::from_str::<Found>(&body) {
                Ok(found) if found.schema_type.as_deref().is_some_and(|t| t != "AVRO") => {
                    Err(format!("schema {id} is {} and no Avro", found.schema_type.unwrap_or_default()))
                }
                Ok(found) if !found.references.is_empty() => {
                    Err(format!("schema {id} refers to other schemas, which is not supported"))
                }
                Ok(found) => Schema::parse(&found.schema).map(Arc::new).map_err(|e| format!("schema {id}: {e}")),
                Err(e) => return Err(self.broken(&format!("its answer can't be read ({e})"))),
            },
            // It isn't remembered: it may be registered yet.
            (404, _) => return Ok(Err(format!("schema {id} is not in the registry {}", self.shown))),
            (status, body) => return Err(self.refused(status, &body)),
        };
        schemas.insert(id, answer.clone());
        Ok(answer)
    }

    /// The id of a schema under this subject, which is registered where it is new.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where the registry refuses it, [`millstream_core::ErrorKind::Retry`] where
    /// it doesn't answer.
    pub(crate) fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let request = self.agent.post(format!("{}/subjects/{subject}/versions", self.url));
        let request = match &self.authorization {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        };
        let sent = request
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .send(serde_json::json!({ "schema": schema }).to_string());
        match self.answer(sent)? {
            (200, body) => match serde_json::from_str::<Registered>(&body) {
                Ok(registered) => Ok(registered.id),
                Err(e) => Err(self.broken(&format!("its answer can't be read ({e})"))),
            },
            (409 | 422, body) => Err(Error::config(format!(
                "the schema registry {} refuses the table's schema as a version of '{subject}', as it does not fit those \
                 before: {}. Change the columns, name another 'avro-confluent.subject', or relax the subject's compatibility",
                self.shown,
                shown(&body)
            ))),
            (status, body) => Err(self.refused(status, &body)),
        }
    }

    /// A text without the login of the address.
    fn scrub(&self, text: &str) -> String {
        text.replace(&self.url, &self.shown)
    }

    fn answer(
        &self,
        result: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, String)> {
        let away = |e: ureq::Error| {
            Error::retry(format!("the schema registry {} does not answer: {}", self.shown, self.scrub(&e.to_string())))
        };
        let mut response = result.map_err(away)?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_string().map_err(away)?))
    }

    fn refused(&self, status: u16, body: &str) -> Error {
        match status {
            401 | 403 => Error::config(format!(
                "the schema registry {} lets nobody in ({status}): set 'avro-confluent.basic-auth.user-info' or \
                 'avro-confluent.bearer-auth.token'",
                self.shown
            )),
            _ => self.broken(&format!("it answered {status}: {}", shown(body))),
        }
    }

    fn broken(&self, what: &str) -> Error {
        Error::retry(format!("the schema registry {} is of no use now: {what}", self.shown))
    }
}

fn shown(body: &str) -> String {
    body.chars().take(300).collect()
}

fn tls(ca: Option<&str>, base_dir: &Path) -> Result<TlsConfig> {
    let path = match ca {
        Some(path) => base_dir.join(path),
        None => match SYSTEM_CA.iter().map(Path::new).find(|path| path.exists()) {
            Some(path) => path.to_path_buf(),
            None => {
                return Err(Error::config(
                    "no CA is known here: name a PEM file with 'avro-confluent.ssl.ca.location'",
                ));
            }
        },
    };
    let unusable = |what: &str| Error::config(format!("the CA in {} {what}", path.display()));
    let pem = std::fs::read(&path).map_err(|e| unusable("can't be read").caused_by(e))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(unusable("is no PEM file with certificates"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = RootCerts::Specific(Arc::new(certificates));
    Ok(TlsConfig::builder().unversioned_rustls_crypto_provider(provider).root_certs(roots).build())
}

//! Where the server is, and a connection to it.
//!
//! No state of a session is relied on: no named statement, temporary table or setting outlives its transaction, so
//! that a pool in transaction mode can stand between. A secret is never part of a message or of `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_core::{Error, Result};
use millstream_io::Options;
use millstream_io::secret::reveal;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config};

use crate::failure::failed;
use crate::tls::{MODES, Mode, Tls};

/// How long a connection may take where the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long data that nobody acknowledges means that the other side is gone.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// A server, a database and a user.
#[derive(Clone)]
pub(crate) struct Endpoint {
    config: Config,
    tls: Tls,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// Host, port and database: all that is ever shown.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts().iter().enumerate().map(|(i, host)| {
            let ports = self.config.get_ports();
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        });
        f.write_str(&hosts.collect::<Vec<_>>().join(","))?;
        write!(f, "/{}", self.config.get_dbname().or(self.config.get_user()).unwrap_or_default())
    }
}

impl Endpoint {
    /// Takes 'url', 'username', 'password', 'sslmode', 'sslrootcert', 'sslcert' and 'sslkey'. The first three may hold
    /// references to secrets: `${env:NAME}`, `${file:/path}`.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where one means nothing; the message shows no part of the URL.
    pub(crate) fn new(options: &Options, base_dir: &Path) -> Result<Self> {
        let revealed = reveal(options.required("url")?.trim(), base_dir)?;
        let url = revealed.as_str();
        let url = url.strip_prefix("jdbc:").unwrap_or(url);
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err(Error::config(
                "the option 'url' is no URL of PostgreSQL: write 'postgresql://host:5432/database'",
            ));
        }
        let (url, from_url) = split(url)?;
        let mut config: Config = url.parse().map_err(|e| {
            Error::config("the option 'url' can't be read: write 'postgresql://user@host:5432/database'").caused_by(e)
        })?;
        let option = |name: &str| -> Option<String> {
            let in_url = from_url.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
            options.get(name).map(str::to_string).or(in_url)
        };
        if let Some(user) = options.get("username") {
            config.user(reveal(user, base_dir)?);
        }
        if let Some(password) = options.get("password") {
            config.password(reveal(password, base_dir)?);
        }
        let path = |name: &str| -> Option<PathBuf> {
            let text = option(name)?;
            Some(if text == "system" { PathBuf::from(text) } else { base_dir.join(text) })
        };
        let mode = match option("sslmode") {
            None => Mode::Prefer,
            Some(text) => MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode).ok_or_else(|| {
                let names: Vec<_> = MODES.iter().map(|(name, _)| format!("'{name}'")).collect();
                Error::config(format!("the option 'sslmode' = '{text}': it is one of {}", names.join(", ")))
            })?,
        };
        let tls = Tls { mode, root: path("sslrootcert"), certificate: path("sslcert"), key: path("sslkey") };
        config.ssl_mode(tls.ssl_mode());
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(GONE_AFTER);
        }
        config.keepalives_idle(GONE_AFTER);
        if config.get_application_name().is_none() {
            config.application_name("millstream");
        }
        if config.get_hosts().is_empty() {
            return Err(Error::config("the option 'url' names no host: write 'postgresql://host:5432/database'"));
        }
        Ok(Self { config, tls })
    }

    /// Connects.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where the server refuses the user or a certificate is not trusted;
    /// [`millstream_core::ErrorKind::Retry`] where it can't be reached.
    pub(crate) async fn connect(&self) -> Result<Session> {
        let connector = self.tls.connector()?;
        let connected = self.config.connect(connector).await;
        let (client, connection) = connected.map_err(|e| failed(format_args!("{self} can't be connected to"), e))?;
        let driver = tokio::spawn(async move {
            // Its error reaches whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Session { client: Some(client), driver })
    }
}

/// A URL without the parameters that only we understand.
type Split = (String, Vec<(&'static str, String)>);

/// Takes the parameters of TLS, which the client library does not know, out of a URL.
fn split(url: &str) -> Result<Split> {
    const OURS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
    let Some((base, query)) = url.split_once('?') else { return Ok((url.to_string(), vec![])) };
    let mut ours = Vec::new();
    let mut rest = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match OURS.iter().find(|known| **known == name) {
            Some(known) => ours.push((
                *known,
                unescaped(value).ok_or_else(|| {
                    Error::config(format!("the parameter '{name}' of the option 'url' is no percent-encoded text"))
                })?,
            )),
            None => rest.push(parameter),
        }
    }
    let url = if rest.is_empty() { base.to_string() } else { format!("{base}?{}", rest.join("&")) };
    Ok((url, ours))
}

/// Percent-encoded text.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A connection and the task that drives it. Dropped, it is cut: what was under way there is rolled back, or is
/// found out about by the marker.
#[derive(Debug)]
pub(crate) struct Session {
    client: Option<Client>,
    driver: JoinHandle<()>,
}

impl Session {
    /// The client.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Retry`] where the connection is gone.
    pub(crate) fn client(&self) -> Result<&Client> {
        let open = self.client.as_ref().filter(|client| !client.is_closed());
        open.ok_or_else(|| Error::retry("the connection to PostgreSQL was lost"))
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(mut self) {
        self.client = None;
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.driver).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(options: &[(&str, &str)]) -> Result<Endpoint> {
        Endpoint::new(&options.iter().copied().collect(), Path::new("/base"))
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = "jdbc:postgresql://me:hush@db.example:6432/shop?sslmode=require&application_name=a";
        for options in [vec![("url", url)], vec![("url", "postgresql://db.example:6432/shop"), ("password", "hush")]] {
            let endpoint = endpoint(&options).unwrap();
            assert_eq!(endpoint.to_string(), "db.example:6432/shop");
            assert!(!format!("{endpoint:?}").contains("hush"));
        }
        for url in
            ["postgresql://me:hush@db:port/shop", "postgresql://me:hush@db/shop?hush=hush", "mysql://me:hush@db/x"]
        {
            let error = endpoint(&[("url", url)]).unwrap_err();
            assert_eq!(error.kind(), millstream_core::ErrorKind::Config);
            assert!(!error.to_string().contains("hush@") && !format!("{error:?}").contains("hush@"), "{error:?}");
        }
    }

    #[test]
    fn tls_parameters_stand_in_the_url_or_beside_it() {
        let url = "postgresql://db/shop?sslmode=verify-full&sslrootcert=my%20ca.pem";
        let tls = endpoint(&[("url", url)]).unwrap().tls;
        assert_eq!((tls.mode, tls.root), (Mode::VerifyFull, Some("/base/my ca.pem".into())));
        let tls = endpoint(&[("url", url), ("sslmode", "verify-ca")]).unwrap().tls;
        assert_eq!(tls.mode, Mode::VerifyCa);
        let error = endpoint(&[("url", "postgresql://db/shop?sslmode=always")]).unwrap_err();
        assert!(error.to_string().contains("'sslmode' = 'always': it is one of 'disable'"), "{error}");
    }

    #[test]
    fn a_server_is_not_believed_without_an_authority() {
        let endpoint = endpoint(&[("url", "postgresql://db/shop?sslmode=verify-full")]).unwrap();
        assert!(endpoint.tls.connector().err().unwrap().to_string().contains("'sslrootcert'"));
    }
}

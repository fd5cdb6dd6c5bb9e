//! Secrets in options: `'${env:NAME}'` and `'${file:/path}'` stand for what they name, wherever they are in a text.
//!
//! They are looked up when a connector needs them and never before: an option keeps the reference, so that neither
//! the log of a query nor its checkpoints ever hold the secret itself. No error here ever shows one.

use std::borrow::Cow;
use std::path::Path;

use millstream_core::{Error, Result};

/// The text with every reference replaced by what it names. The line end at the end of a file is not part of it.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where a variable is not set, a file can't be read, or a reference is of
/// neither form.
pub fn reveal(text: &str, base_dir: &Path) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((reference, after)) = after.split_once('}') else {
            return Err(Error::config("a reference to a secret begins with '${' and has no '}': write '${env:NAME}'"));
        };
        out.push_str(&look_up(reference, base_dir)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// What the names of options hold whose values are secrets.
const SECRET: [&str; 7] = ["password", "secret", "token", "jaas", "user-info", "key.pem", "ssl.key"];

/// An option's text as it may be shown: without what may be a secret. A reference to one is none.
pub fn hidden<'a>(name: &str, text: &'a str) -> Cow<'a, str> {
    let name = name.to_ascii_lowercase();
    let reference = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
    if SECRET.iter().any(|part| name.contains(part)) && !name.ends_with("location") {
        return if reference { text.into() } else { "***".into() };
    }
    without_login(text)
}

/// The text without the login of a URL in it, and without a password among its parameters.
pub fn without_login(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::from(text);
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if let Some((login, _)) = host.rsplit_once('@') {
            let rest = rest.get(login.len()..).unwrap_or_default();
            shown = format!("{scheme}://***{rest}").into();
        }
    }
    let lower = shown.to_ascii_lowercase();
    let Some(at) = lower.find("password=").map(|at| at + "password=".len()) else { return shown };
    let (before, value) = shown.split_at_checked(at).unwrap_or((&shown, ""));
    let after = value.find(['&', ' ', ';', ',']).and_then(|end| value.get(end..)).unwrap_or_default();
    format!("{before}***{after}").into()
}

fn look_up(reference: &str, base_dir: &Path) -> Result<String> {
    match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            Error::config(format!(
                "the environment variable {name}, that '${{{reference}}}' names, is not set: export it"
            ))
        }),
        Some(("file", path)) => {
            let path = base_dir.join(path);
            let text = std::fs::read_to_string(&path).map_err(|e| {
                let path = path.display();
                Error::config(format!("the file {path}, that '${{{reference}}}' names, can't be read")).caused_by(e)
            })?;
            Ok(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_string())
        }
        _ => Err(Error::config(format!(
            "'${{{reference}}}' is no reference that is known here: write '${{env:NAME}}' or '${{file:/path}}'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_replaced_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "s e c\n").unwrap();
        assert_eq!(reveal("u:${file:password}!", dir.path()).unwrap(), "u:s e c!");
        let home = std::env::var("PATH").unwrap();
        assert_eq!(reveal("${env:PATH}", dir.path()).unwrap(), home);
        assert_eq!(reveal("no reference: $5 {}", dir.path()).unwrap(), "no reference: $5 {}");
    }

    #[test]
    fn what_is_not_there_is_named_and_nothing_else_is() {
        let error = reveal("${env:MILLSTREAM_NOT_SET}", Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("MILLSTREAM_NOT_SET") && error.contains("export it"), "{error}");
        assert!(reveal("${file:/nowhere/x}", Path::new("/")).is_err());
        assert!(reveal("${vault:x}", Path::new("/")).is_err());
        assert!(reveal("${env:PATH", Path::new("/")).is_err());
    }
}

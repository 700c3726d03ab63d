//! The configuration file: TOML, parsed strictly, checked completely, then trusted.
//!
//! These keys of Kairoi are accepted: `log.level`, `controller.listen`, `database.fsync_on_persist` and
//! `database.framerate`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::text::refused_value;
use serde::Deserialize;

use crate::api::{AccessRules, HTTP_CONNECTIONS_DEFAULT, HttpSettings, OidcSettings, Role, Token};
use crate::kcp::{Access, KcpSettings, Tls};
use crate::scheduler::{LedgerSettings, RunnerSettings, Secret, time};

/// Default address of the REST API.
const HTTP_DEFAULT: &str = "127.0.0.1:5680";
/// Default address of the line protocol.
const KCP_DEFAULT: &str = "127.0.0.1:5678";
/// Default time that a message may take from its first byte to its last.
const MESSAGE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Shortest lease that can be renewed in time, and longest one that is worth waiting for.
const LEASE_BOUNDS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Default maximum of connections to the line protocol at once.
const CONNECTIONS_DEFAULT: usize = 20_000;

/// The content of a configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    log: Log,
    #[serde(default)]
    store: Store,
    #[serde(default)]
    controller: Controller,
    #[serde(default)]
    kcp: Kcp,
    #[serde(default)]
    http: HttpKeys,
    #[serde(default)]
    database: Kairoi,
    #[serde(default)]
    scheduler: SchedulerKeys,
    #[serde(default)]
    runners: Runners,
    #[serde(default)]
    jobs: Jobs,
    #[serde(default)]
    shutdown: ShutdownKeys,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    level: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Store {
    url: Option<String>,
}

/// Kairoi's name for the listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Controller {
    listen: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kcp {
    listen: Option<String>,
    token_file: Option<PathBuf>,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    connections_max: Option<usize>,
    message_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpKeys {
    enabled: Option<bool>,
    listen: Option<String>,
    #[serde(default)]
    tokens: Vec<TokenKeys>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    origins: Vec<String>,
    body_max: Option<usize>,
    rate: Option<NonZeroU32>,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    insecure: bool,
    connections_max: Option<usize>,
    metrics: Option<String>,
    oidc: Option<OidcKeys>,
}

/// Sign-in by OpenID Connect.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct OidcKeys {
    issuer: String,
    client_id: String,
    client_secret_file: Option<PathBuf>,
    address: String,
    scopes: Option<Vec<String>>,
    name_claim: Option<String>,
    role_claim: Option<String>,
    roles: BTreeMap<String, String>,
}

/// A token by its hash: the file may be read by more people than may use the token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenKeys {
    name: String,
    role: String,
    sha256: String,
}

/// Kairoi's settings of its database. Batchwright always syncs and has no frames.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kairoi {
    fsync_on_persist: Option<bool>,
    framerate: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchedulerKeys {
    enabled: Option<bool>,
    lease: Option<String>,
    misfire_after: Option<String>,
    keep_for: Option<String>,
    keep_count: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runners {
    shell_max: Option<usize>,
    http_max: Option<usize>,
    job_max: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jobs {
    running_max: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShutdownKeys {
    grace: Option<String>,
}

/// A problem in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration `{}` cannot be used: {problem}", file.display())]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The problem, with line and column if known.
    pub problem: String,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The log level: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
    /// URL of the store.
    pub store: Option<String>,
    /// The scheduler and its line protocol; `None`: this server only runs executions.
    pub scheduler: Option<SchedulerSettings>,
    /// The REST API; `None` when it is disabled.
    pub http: Option<HttpSettings>,
    /// Maximum of job executions at once.
    pub jobs_max: Option<usize>,
    /// How long the end of the server waits for running work.
    pub grace: Option<Duration>,
    /// Notes about keys without effect, to be logged.
    pub notes: Vec<String>,
}

/// The settings of the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerSettings {
    /// The listener of the line protocol.
    pub kcp: KcpSettings,
    /// The settings of the ledger; the server's lease replaces its lease when the file contains none.
    pub ledger: LedgerSettings,
    /// Whether the file contains a lease.
    pub has_lease: bool,
    /// How many calls each kind of runner makes at once.
    pub runners: RunnerSettings,
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first problem.
    pub fn read(file: &Path) -> Result<Settings, ConfigError> {
        let wrong = |problem: String| ConfigError { file: file.to_owned(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text, file.parent().unwrap_or(Path::new(""))).map_err(wrong)
    }

    /// Returns the URL of the store that `file` contains, if any. The rest of the file must have known keys
    /// and types, but its values are not checked.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the first problem.
    pub fn store_url(file: &Path) -> Result<Option<String>, ConfigError> {
        let wrong = |problem: String| ConfigError { file: file.to_owned(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        Self::of_text(&text).map(|config| config.store.url).map_err(wrong)
    }

    fn of_text(text: &str) -> Result<Self, String> {
        // The parser's own text quotes the line, which may contain a password.
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(String::new(), |span| place(text, span.start));
            format!("{at}{}", refused_value(error.message()))
        })
    }

    /// Checks `text`; files that it names are taken relative to `folder`.
    ///
    /// # Errors
    ///
    /// A sentence about the first problem, with line and column if known.
    pub fn parse(text: &str, folder: &Path) -> Result<Settings, String> {
        Self::of_text(text)?.checked(folder)
    }

    fn checked(self, folder: &Path) -> Result<Settings, String> {
        if let Some(level) = &self.log.level
            && !["off", "error", "warn", "info", "debug", "trace"]
                .contains(&level.to_lowercase().as_str())
        {
            return Err(format!(
                "log.level `{level}`: expected off, error, warn, info, debug or trace"
            ));
        }
        let mut notes = Vec::new();
        if self.database.fsync_on_persist == Some(false) {
            let message =
                "database.fsync_on_persist = false is ignored: every change answered OK is durable";
            notes.push(message.to_owned());
        }
        if self.database.framerate.is_some() {
            let message = "database.framerate is ignored: the scheduler has no frames";
            notes.push(message.to_owned());
        }
        let grace = length("shutdown.grace", &self.shutdown.grace)?;
        let lease = length("scheduler.lease", &self.scheduler.lease)?;
        if let Some(lease) = lease.filter(|lease| !LEASE_BOUNDS.contains(lease)) {
            return Err(format!(
                "scheduler.lease = {}: expected 1s to 1h",
                time::show_duration(lease)
            ));
        }
        let scheduler = match self.scheduler.enabled {
            Some(false) => None,
            Some(true) | None => {
                let default = LedgerSettings::default();
                let misfire_after =
                    length("scheduler.misfire_after", &self.scheduler.misfire_after)?;
                let keep_for = length("scheduler.keep_for", &self.scheduler.keep_for)?;
                let ledger = LedgerSettings {
                    lease: lease.unwrap_or(default.lease),
                    misfire_after: misfire_after.unwrap_or(default.misfire_after),
                    keep_for: keep_for.unwrap_or(default.keep_for),
                    keep_count: self.scheduler.keep_count.unwrap_or(default.keep_count),
                    pulse: None,
                };
                let default = RunnerSettings::default();
                let runners = RunnerSettings {
                    shell_max: bounded(
                        "runners.shell_max",
                        self.runners.shell_max,
                        default.shell_max,
                    )?,
                    http_max: bounded("runners.http_max", self.runners.http_max, default.http_max)?,
                    job_max: bounded("runners.job_max", self.runners.job_max, default.job_max)?,
                };
                let has_lease = lease.is_some();
                Some(SchedulerSettings { kcp: self.kcp(folder)?, ledger, has_lease, runners })
            }
        };
        let jobs_max = self.jobs.running_max;
        if jobs_max == Some(0) {
            return Err("jobs.running_max: expected at least 1".to_owned());
        }
        let http = match self.http.enabled {
            Some(false) if self.http.metrics.is_some() => {
                return Err(
                    "http.metrics needs the listener of http, and http.enabled is false".to_owned()
                );
            }
            Some(false) => None,
            Some(true) | None => Some(self.http(folder)?),
        };
        Ok(Settings {
            log_level: self.log.level,
            store: self.store.url,
            scheduler,
            http,
            jobs_max,
            grace,
            notes,
        })
    }

    fn http(&self, folder: &Path) -> Result<HttpSettings, String> {
        let http = &self.http;
        let listen = address("http.listen", http.listen.as_deref().unwrap_or(HTTP_DEFAULT))?;
        let default = AccessRules::default();
        if let Some(wrong) = http.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(format!(
                "http.origins `{wrong}`: expected an origin as browsers write it: https://HOST or https://HOST:PORT, in lower case, without a path"
            ));
        }
        let access = AccessRules {
            tokens: http.tokens.iter().map(token).collect::<Result<_, _>>()?,
            hosts: http.hosts.clone(),
            origins: http.origins.clone(),
            body_max: http.body_max.unwrap_or(default.body_max),
            read_only: false,
            rate: http.rate,
            oidc: http.oidc.as_ref().map(|keys| oidc(keys, folder)).transpose()?,
        };
        let mut access = access;
        // Browsers send the name in this address.
        let named = access.oidc.as_ref().and_then(|oidc| oidc.address.split("://").nth(1));
        let named = named.and_then(|rest| rest.split(['/', ':']).next()).map(str::to_owned);
        access.hosts.extend(named);
        let tls = tls("http", &http.tls_certificate, &http.tls_key, folder)?;
        let connections_max =
            bounded("http.connections_max", http.connections_max, HTTP_CONNECTIONS_DEFAULT)?;
        let metrics =
            http.metrics.as_deref().map(|text| address("http.metrics", text)).transpose()?;
        let insecure = http.insecure;
        Ok(HttpSettings { listen, access, tls, insecure, connections_max, metrics })
    }

    fn kcp(&self, folder: &Path) -> Result<KcpSettings, String> {
        let kcp = &self.kcp;
        let named = match (&kcp.listen, &self.controller.listen) {
            (Some(_), Some(_)) => {
                return Err("kcp.listen and controller.listen are the same key: set one".to_owned());
            }
            (Some(address), None) | (None, Some(address)) => address,
            (None, None) => KCP_DEFAULT,
        };
        let listen = address("kcp.listen", named)?;
        let access = match &kcp.token_file {
            None => Access::default(),
            Some(file) => Access::token(secret_of("kcp.token_file", &folder.join(file))?.expose()),
        };
        let tls = tls("kcp", &kcp.tls_certificate, &kcp.tls_key, folder)?;
        let connections_max =
            bounded("kcp.connections_max", kcp.connections_max, CONNECTIONS_DEFAULT)?;
        let message_timeout = length("kcp.message_timeout", &kcp.message_timeout)?;
        let message_timeout = message_timeout.unwrap_or(MESSAGE_TIMEOUT_DEFAULT);
        if message_timeout < Duration::from_secs(1) {
            return Err("kcp.message_timeout: expected at least 1s".to_owned());
        }
        let insecure = kcp.insecure;
        Ok(KcpSettings { listen, connections_max, message_timeout, access, tls, insecure })
    }
}

/// Returns the place of byte `at` as `line 3, column 7: `.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: ")
}

/// Returns whether `text` is an origin as browsers send it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    matches!(scheme, "http" | "https")
        && !host.is_empty()
        && !host.contains(['/', '*', '?', '#', '@', ' '])
        && *text == text.to_lowercase()
}

fn address(key: &str, named: &str) -> Result<SocketAddr, String> {
    let address = named.replace("localhost:", "127.0.0.1:").parse();
    address.map_err(|_| format!("{key} `{named}`: expected ADDRESS:PORT"))
}

fn tls(
    section: &str,
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
    folder: &Path,
) -> Result<Option<Tls>, String> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(Tls { certificate: folder.join(certificate), key: folder.join(key) }))
        }
        (None, None) => Ok(None),
        _ => Err(format!("{section}.tls_certificate and {section}.tls_key must be set together")),
    }
}

fn oidc(keys: &OidcKeys, folder: &Path) -> Result<OidcSettings, String> {
    let role = |(value, role): (&String, &String)| {
        let known = Role::from_name(role);
        let known = known.ok_or_else(|| {
            format!("http.oidc.roles `{value}`: role must be viewer, operator or admin")
        })?;
        Ok::<_, String>((value.clone(), known))
    };
    let roles = keys.roles.iter().map(role).collect::<Result<Vec<_>, _>>()?;
    if roles.is_empty() {
        return Err("http.oidc.roles is empty, so that no person could sign in".to_owned());
    }
    let address = keys.address.trim_end_matches('/');
    if !["http://", "https://"].iter().any(|scheme| address.starts_with(scheme)) {
        return Err(format!(
            "http.oidc.address `{address}`: expected https://HOST, as browsers see it"
        ));
    }
    let default = || vec!["profile".to_owned(), "email".to_owned()];
    Ok(OidcSettings {
        issuer: keys.issuer.clone(),
        client_id: keys.client_id.clone(),
        client_secret: match &keys.client_secret_file {
            Some(file) => Some(secret_of("http.oidc.client_secret_file", &folder.join(file))?),
            None => None,
        },
        address: address.to_owned(),
        scopes: keys.scopes.clone().unwrap_or_else(default),
        name_claim: keys.name_claim.clone().unwrap_or_else(|| "preferred_username".to_owned()),
        role_claim: keys.role_claim.clone().unwrap_or_else(|| "groups".to_owned()),
        roles,
    })
}

/// Reads a secret from its file.
fn secret_of(key: &str, file: &Path) -> Result<Secret, String> {
    let wrong = |problem: &dyn std::fmt::Display| format!("{key} `{}`: {problem}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    match text.trim() {
        "" => Err(wrong(&"it is empty")),
        secret => Ok(Secret::new(secret)),
    }
}

fn token(keys: &TokenKeys) -> Result<Token, String> {
    let TokenKeys { name, role, sha256 } = keys;
    let wrong = |what: &str| format!("http.tokens `{name}`: {what}");
    let role =
        Role::from_name(role).ok_or_else(|| wrong("role must be viewer, operator or admin"))?;
    let digits: Option<Vec<u8>> = (0..sha256.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(sha256.get(at..at + 2)?, 16).ok())
        .collect();
    let sha256 = digits.and_then(|digits| digits.try_into().ok());
    let sha256 =
        sha256.ok_or_else(|| wrong("sha256 must be the hash of the token in 64 hex digits"))?;
    Ok(Token { name: name.clone(), role, sha256 })
}

fn length(key: &str, text: &Option<String>) -> Result<Option<Duration>, String> {
    match text {
        None => Ok(None),
        Some(text) => time::duration(text).map(Some).map_err(|message| format!("{key}: {message}")),
    }
}

fn bounded(key: &str, given: Option<usize>, default: usize) -> Result<usize, String> {
    match given {
        None => Ok(default),
        Some(number @ 1..=1_000_000) => Ok(number),
        Some(number) => Err(format!("{key} = {number}: expected 1 to 1000000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Config::parse(text, Path::new(""))
    }

    #[test]
    fn the_keys_of_kairoi_are_understood() {
        let text = "[log]\nlevel = \"debug\"\n[controller]\nlisten = \"127.0.0.1:9000\"\n\
                    [database]\nfsync_on_persist = true\nframerate = 128\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.log_level.as_deref(), Some("debug"));
        assert_eq!(settings.scheduler.unwrap().kcp.listen, "127.0.0.1:9000".parse().unwrap());
    }

    #[test]
    fn a_misspelt_key_is_not_silently_ignored() {
        let message = parse("[scheduler]\nleese = \"3s\"\n").unwrap_err();
        assert!(message.contains("leese") && message.contains("line 2"), "{message}");
    }

    #[test]
    fn a_line_of_the_file_is_not_repeated_because_it_may_hold_a_password() {
        let message = parse("[store]\nurl = \"postgres://a:secret@h/d\n").unwrap_err();
        assert!(message.contains("line 2") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "[log]\nlevel = \"loud\"",
            "[kcp]\nlisten = \"here\"",
            "[kcp]\nlisten = \"127.0.0.1:1\"\n[controller]\nlisten = \"127.0.0.1:2\"",
            "[kcp]\ntls_key = \"a\"",
            "[kcp]\ntoken_file = \"there-is-none\"",
            "[kcp]\nconnections_max = 0",
            "[runners]\nshell_max = 0",
            "[jobs]\nrunning_max = 0",
            "[scheduler]\nlease = \"soon\"",
            "[scheduler]\nlease = \"0s\"",
            "[scheduler]\nlease = \"2h\"",
            "[kcp]\nmessage_timeout = \"0s\"",
            "[http]\norigins = [\"https://example.org/\"]",
            "[http]\norigins = [\"*\"]",
            "[shutdown]\ngrace = 3",
            "[http]\nlisten = \"here\"",
            "[http]\nmetrics = \"here\"",
            "[http]\nenabled = false\nmetrics = \"127.0.0.1:9464\"",
            "[http]\ntls_key = \"a\"",
            "[http.oidc]\nissuer = \"https://a\"\nclient_id = \"b\"\naddress = \"https://c\"\nroles = {}",
            "[http.oidc]\nissuer = \"https://a\"\nclient_id = \"b\"\naddress = \"https://c\"\nroles = { x = \"king\" }",
            "[http.oidc]\nissuer = \"https://a\"\nclient_id = \"b\"\naddress = \"c\"\nroles = { x = \"admin\" }",
            "[[http.tokens]]\nname = \"a\"\nrole = \"king\"\nsha256 = \"00\"",
            "[[http.tokens]]\nname = \"a\"\nrole = \"admin\"\nsha256 = \"00\"",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

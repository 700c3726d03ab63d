//! The URL of a server, with its password.

use std::fmt;

#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnectOptions;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;

/// Default maximum of connections of one repository, without `connections=N` in the URL: some for steps that
/// run in parallel, one for the heartbeat, one for queries.
const CONNECTIONS_DEFAULT: usize = 6;
/// Upper bound of `connections=N`, more than any server allows.
const CONNECTIONS_MAX: usize = 1_000;

/// A database on a server. `Display` and `Debug` omit the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerDatabase {
    url: String,
    /// The URL without its password.
    shown: String,
    connections: usize,
    /// Whether the server is reached through a pool such as PgBouncer in transaction mode, so that no state
    /// may be left in a session.
    pooled: bool,
}

impl ServerDatabase {
    #[cfg(feature = "postgres")]
    pub(super) fn postgres(url: &str) -> Result<Self, String> {
        let mut database = Self::new(url)?;
        let options: PgConnectOptions = database.url.parse().map_err(|_| unusable("postgres"))?;
        if database.pooled && options.get_options().is_some() {
            let what = "`options` cannot be used with a pool, which keeps no settings of a session";
            return Err(what.to_owned());
        }
        let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
        let base = options.get_database().unwrap_or(user);
        database.shown = format!("postgres://{user}@{host}:{port}/{base}");
        Ok(database)
    }

    #[cfg(not(feature = "postgres"))]
    pub(super) fn postgres(_: &str) -> Result<Self, String> {
        Err(super::without("postgres"))
    }

    #[cfg(feature = "mysql")]
    pub(super) fn mysql(url: &str) -> Result<Self, String> {
        let mut database = Self::new(url)?;
        if database.pooled {
            return Err("`pgbouncer` and `statement-cache` are options of PostgreSQL".to_owned());
        }
        let options: MySqlConnectOptions = database.url.parse().map_err(|_| unusable("mysql"))?;
        let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
        let base = options.get_database().unwrap_or_default();
        database.shown = format!("mysql://{user}@{host}:{port}/{base}");
        Ok(database)
    }

    #[cfg(not(feature = "mysql"))]
    pub(super) fn mysql(_: &str) -> Result<Self, String> {
        Err(super::without("mysql"))
    }

    /// Removes the options from the URL that the driver does not know: `connections=N`, `pgbouncer=true`,
    /// `statement-cache=0`.
    #[cfg(feature = "server")]
    fn new(url: &str) -> Result<Self, String> {
        let mut database = Self {
            url: url.to_owned(),
            shown: String::new(),
            connections: CONNECTIONS_DEFAULT,
            pooled: false,
        };
        let Some((base, query)) = url.split_once('?') else { return Ok(database) };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("connections", number)) => {
                    let parsed = number.parse().ok();
                    database.connections =
                        parsed.filter(|n| (1..=CONNECTIONS_MAX).contains(n)).ok_or_else(|| {
                            format!("`connections` is a number from 1 to {CONNECTIONS_MAX}")
                        })?;
                }
                Some(("pgbouncer", "true") | ("statement-cache", "0")) => database.pooled = true,
                Some(("pgbouncer", "false")) => database.pooled = false,
                Some(("pgbouncer", _)) => {
                    return Err("`pgbouncer` is `true` or `false`".to_owned());
                }
                Some(("statement-cache", _)) => {
                    return Err(
                        "`statement-cache` takes only 0, which keeps no prepared statements"
                            .to_owned(),
                    );
                }
                _ => rest.push(pair),
            }
        }
        database.url =
            if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        Ok(database)
    }

    /// Returns the maximum number of connections of a repository.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Whether the server is reached through a pool, so that no state may be left in a session.
    pub(super) fn is_pooled(&self) -> bool {
        self.pooled
    }

    #[cfg(feature = "server")]
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

#[cfg(feature = "server")]
/// Returns the message about a URL that cannot be parsed. It repeats neither the URL nor the parser's error,
/// because both may contain the password.
fn unusable(scheme: &str) -> String {
    format!(
        "the URL cannot be parsed; its form is {scheme}://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for `@` and the like in a password"
    )
}

impl fmt::Display for ServerDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for ServerDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerDatabase({self})")
    }
}

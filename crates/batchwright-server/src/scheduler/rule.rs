//! Rules: which runner fires which triggers, with which retries and timeout.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use batchwright::parameters::MASK;
use batchwright::store::schedule::RuleRow;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::time;

/// The runner of a rule: what a trigger calls when it fires.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "runner", rename_all = "lowercase", deny_unknown_fields)]
pub enum Runner {
    /// `sh COMMAND IDENTIFIER`.
    Shell {
        /// Path of a script.
        command: String,
    },
    /// A message to RabbitMQ; its payload is the identifier.
    Amqp {
        /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        dsn: Secret,
        /// The exchange, which must exist; empty for the default exchange.
        exchange: String,
        /// The routing key of the message.
        routing_key: String,
    },
    /// A signed `POST`.
    Http {
        /// Target of the request.
        url: Secret,
        /// Key of the signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret>,
    },
    /// An execution of a batch job.
    Job {
        /// Name of the job.
        name: String,
        /// Parameters of the job, as a JSON object.
        #[serde(default, skip_serializing_if = "JobArguments::is_empty")]
        parameters: JobArguments,
    },
}

impl Runner {
    /// Returns the kind of the runner and the name of its call, without what may be secret.
    pub(crate) fn call(&self) -> (&'static str, String) {
        match self {
            Self::Shell { command } => ("shell", format!("sh {command}")),
            Self::Amqp { exchange, routing_key, .. } => {
                let to = if exchange.is_empty() { routing_key } else { exchange };
                ("amqp", format!("send {to}"))
            }
            Self::Http { .. } => ("http", "POST".to_owned()),
            Self::Job { name, .. } => ("job", format!("run {name}")),
        }
    }
}

/// Parameters of a rule for its job. The values may be secret and are never shown.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobArguments(pub Map<String, Value>);

impl JobArguments {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the parameters with every value masked, because the rule does not know which are secret.
    fn masked(&self) -> Map<String, Value> {
        self.0.keys().map(|name| (name.clone(), MASK.into())).collect()
    }
}

impl std::fmt::Debug for JobArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.masked().fmt(f)
    }
}

/// A text that may contain a password and is never shown.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the hidden text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(MASK)
    }
}

/// The settings of a rule: its runner, retries and timeout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSettings {
    /// The runner.
    #[serde(flatten)]
    pub runner: Runner,
    /// Number of retries after the first attempt. Default: 3 for `http` and `amqp`, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Wait before the first retry; it doubles with each further retry. Default 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// Timeout of one attempt. Default: 30 s for `http`, an hour for `shell`, no limit for `job`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Most retries of a rule.
const RETRIES_MAX: u32 = 100;
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

impl RuleSettings {
    /// Parses the words after the pattern of a `RULE SET`.
    ///
    /// # Errors
    ///
    /// A sentence about the first problem.
    pub fn parse(words: &[impl AsRef<str>]) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let (runner, rest) = match words.as_slice() {
            ["shell", command, rest @ ..] => (shell(command)?, rest),
            ["amqp", dsn, exchange, routing_key, rest @ ..] => {
                super::runner::amqp::check_dsn(dsn)?;
                short("exchange", exchange)?;
                short("routing key", routing_key)?;
                let dsn = Secret::new(*dsn);
                let (exchange, routing_key) = ((*exchange).to_owned(), (*routing_key).to_owned());
                (Runner::Amqp { dsn, exchange, routing_key }, rest)
            }
            ["http", url, rest @ ..] => {
                super::runner::http::check_url(url)?;
                // Options come in pairs, so an odd number of arguments begins with the secret.
                let (secret, rest) = match rest {
                    [secret, rest @ ..] if rest.len() % 2 == 0 => {
                        (Some(Secret::new(*secret)), rest)
                    }
                    rest => (None, rest),
                };
                (Runner::Http { url: Secret::new(*url), secret }, rest)
            }
            ["job", name, rest @ ..] => {
                let (parameters, rest) = match rest {
                    [json, rest @ ..] if rest.len() % 2 == 0 => (parameters(json)?, rest),
                    rest => (JobArguments::default(), rest),
                };
                if name.is_empty() {
                    return Err("the job has no name".to_owned());
                }
                (Runner::Job { name: (*name).to_owned(), parameters }, rest)
            }
            ["shell" | "amqp" | "http" | "job", ..] => {
                return Err(
                    "expected `shell COMMAND`, `amqp DSN EXCHANGE ROUTING_KEY`, `http URL [SECRET]` or \
                     `job NAME [PARAMETERS]`"
                        .to_owned(),
                );
            }
            [other, ..] => {
                return Err(format!(
                    "there is no runner `{other}`; the runners are shell, amqp, http and job"
                ));
            }
            [] => return Err("the runner is missing".to_owned()),
        };
        let mut settings = Self { runner, retries: None, backoff_ms: None, timeout_ms: None };
        for pair in rest.chunks(2) {
            let millis = |text: &str| -> Result<u64, String> {
                u64::try_from(time::duration(text)?.as_millis()).map_err(|error| error.to_string())
            };
            match pair {
                ["retry", number] => {
                    let number = number.parse().ok().filter(|number| *number <= RETRIES_MAX);
                    settings.retries = Some(number.ok_or_else(|| {
                        format!("`retry` must be a number from 0 to {RETRIES_MAX}")
                    })?);
                }
                ["backoff", text] => settings.backoff_ms = Some(millis(text)?),
                ["timeout", _] if matches!(settings.runner, Runner::Amqp { .. }) => {
                    return Err(
                        "an amqp rule has no timeout, because it waits for its broker".to_owned()
                    );
                }
                ["timeout", text] => settings.timeout_ms = Some(millis(text)?),
                [other, ..] => {
                    return Err(format!(
                        "`{other}` is not an option of a rule; the options are retry N, backoff DURATION and timeout DURATION"
                    ));
                }
                [] => {}
            }
        }
        Ok(settings)
    }

    /// Returns the settings as JSON for the store, secrets included.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// Parses stored settings.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Returns the words of the settings with secrets masked, for display.
    pub fn words(&self) -> Vec<String> {
        self.words_with(super::runner::redacted, |_| MASK.to_owned(), JobArguments::masked)
    }

    /// Returns the words that [`parse`](Self::parse) accepts, secrets included.
    pub(crate) fn wire_words(&self) -> Vec<String> {
        let exposed = |secret: &Secret| secret.expose().to_owned();
        self.words_with(str::to_owned, exposed, |given| given.0.clone())
    }

    fn words_with(
        &self,
        url_word: impl Fn(&str) -> String,
        secret_word: impl Fn(&Secret) -> String,
        arguments: impl Fn(&JobArguments) -> Map<String, Value>,
    ) -> Vec<String> {
        let mut words = match &self.runner {
            Runner::Shell { command } => vec!["shell".to_owned(), command.clone()],
            Runner::Amqp { dsn, exchange, routing_key } => {
                vec![
                    "amqp".to_owned(),
                    url_word(dsn.expose()),
                    exchange.clone(),
                    routing_key.clone(),
                ]
            }
            Runner::Http { url, secret } => {
                let mut words = vec!["http".to_owned(), url_word(url.expose())];
                words.extend(secret.as_ref().map(secret_word));
                words
            }
            Runner::Job { name, parameters } => {
                let mut words = vec!["job".to_owned(), name.clone()];
                if !parameters.is_empty() {
                    words.push(Value::Object(arguments(parameters)).to_string());
                }
                words
            }
        };
        let mut word = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([name.to_owned(), value]);
            }
        };
        let length = |millis: u64| time::show_duration(Duration::from_millis(millis));
        word("retry", self.retries.map(|number| number.to_string()));
        word("backoff", self.backoff_ms.map(length));
        word("timeout", self.timeout_ms.map(length));
        words
    }

    /// Returns the number of retries.
    pub(crate) fn retries(&self) -> u32 {
        self.retries.unwrap_or(match self.runner {
            Runner::Http { .. } | Runner::Amqp { .. } => 3,
            Runner::Shell { .. } | Runner::Job { .. } => 0,
        })
    }

    /// Returns the wait before the next attempt after `failed` failures.
    pub(crate) fn backoff(&self, failed: u32) -> Duration {
        let first = self.backoff_ms.map_or(Duration::from_secs(10), Duration::from_millis);
        first.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(BACKOFF_MAX)
    }

    /// Returns the wait before the next attempt after `failed` failures, at least `asked`, which the target
    /// requests.
    pub(crate) fn wait(&self, failed: u32, asked: Option<Duration>) -> Duration {
        self.backoff(failed).max(asked.unwrap_or_default()).min(BACKOFF_MAX)
    }

    /// Returns the timeout of one attempt.
    pub(crate) fn timeout(&self) -> Duration {
        /// A timeout that is never reached.
        const NEVER: Duration = Duration::from_secs(10 * 366 * 86_400);
        self.timeout_ms.map_or(
            match self.runner {
                Runner::Http { .. } => Duration::from_secs(30),
                Runner::Shell { .. } => Duration::from_secs(3_600),
                Runner::Amqp { .. } | Runner::Job { .. } => NEVER,
            },
            Duration::from_millis,
        )
    }
}

fn shell(command: &str) -> Result<Runner, String> {
    match command {
        "" => Err("the command is empty".to_owned()),
        _ if command.starts_with(['-', '+']) => Err(format!(
            "the command `{command}` would be an option of the shell; write ./{command}"
        )),
        _ if command.contains('\0') => Err("the command contains a NUL".to_owned()),
        _ => Ok(Runner::Shell { command: command.to_owned() }),
    }
}

/// Checks that a name has at most 255 bytes, the limit of the AMQP protocol.
fn short(what: &str, text: &str) -> Result<(), String> {
    match text.len() {
        0..=255 => Ok(()),
        length => Err(format!("the {what} has {length} bytes; the maximum is 255")),
    }
}

fn parameters(json: &str) -> Result<JobArguments, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("the parameters are not a JSON object: {error}"))
}

/// A stored rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name of the rule.
    pub identifier: String,
    /// Prefix of the triggers that the rule applies to.
    pub pattern: String,
    /// The runner, and how it is called.
    pub settings: RuleSettings,
    pub(crate) sequence: i64,
}

impl Rule {
    pub(crate) fn from_row(row: &RuleRow) -> Result<Self, String> {
        Ok(Self {
            identifier: row.identifier.clone(),
            pattern: row.pattern.clone(),
            settings: RuleSettings::from_json(&row.runner)?,
            sequence: row.sequence,
        })
    }
}

/// All rules, indexed by pattern: the longest pattern that is a prefix of an identifier wins, and of two
/// rules with the same pattern the newest.
#[derive(Debug, Default)]
pub(crate) struct Rulebook {
    by_pattern: HashMap<String, Arc<Rule>>,
    lengths: BTreeSet<usize>,
}

impl Rulebook {
    pub(crate) fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut book = Self::default();
        for rule in rules {
            book.lengths.insert(rule.pattern.len());
            let known = book.by_pattern.get(&rule.pattern);
            if known.is_none_or(|known| known.sequence < rule.sequence) {
                book.by_pattern.insert(rule.pattern.clone(), Arc::new(rule));
            }
        }
        book
    }

    pub(crate) fn find(&self, identifier: &str) -> Option<&Arc<Rule>> {
        self.lengths
            .range(..=identifier.len())
            .rev()
            .filter_map(|length| identifier.get(..*length))
            .find_map(|prefix| self.by_pattern.get(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(identifier: &str, pattern: &str, sequence: i64) -> Rule {
        let settings = RuleSettings::parse(&["shell", "/bin/true"]).unwrap();
        Rule { identifier: identifier.into(), pattern: pattern.into(), settings, sequence }
    }

    #[test]
    fn the_longest_pattern_wins_and_then_the_newest() {
        let book = Rulebook::new([
            rule("all", "", 1),
            rule("old", "app.", 2),
            rule("new", "app.", 4),
            rule("deep", "app.mail.", 3),
        ]);
        let found = |identifier| book.find(identifier).map(|rule| rule.identifier.clone());
        assert_eq!(found("app.mail.7").as_deref(), Some("deep"));
        assert_eq!(found("app.7").as_deref(), Some("new"));
        assert_eq!(found("äpp").as_deref(), Some("all"));
        assert_eq!(found("").as_deref(), Some("all"));
        assert!(Rulebook::default().find("x").is_none());
    }

    #[test]
    fn a_command_that_the_shell_would_take_for_an_option_is_refused() {
        for command in ["-c", "-", "+x", "", "a\0b"] {
            assert!(RuleSettings::parse(&["shell", command]).is_err(), "{command:?}");
        }
    }

    #[test]
    fn words_that_no_runner_has_are_refused() {
        for words in [
            &["shell"][..],
            &["shell", "a", "b"],
            &["shell", "a", "retry", "many"],
            &["shell", "a", "retry", "1000"],
            &["shell", "a", "again", "3"],
            &["amqp", "amqp://localhost", "e"],
            &["amqp", "nonsense", "e", "k"],
            &["amqp", "amqp://localhost", "e", "k", "timeout", "3s"],
            &["http", "ftp://x/"],
            &["job"],
            &["job", "a", "[1]"],
            &["carrier-pigeon", "a"],
            &[],
        ] {
            assert!(RuleSettings::parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_is_shown_of_a_rule_holds_no_secret() {
        for words in [
            &["amqp", "amqp://me:hush@localhost:5672/%2f", "e", "k"][..],
            &["http", "https://me:hush@localhost/x?token=hush", "hush", "retry", "3"],
            &["http", "https:/me:hush@localhost/hush/hush"],
            &["job", "load", r#"{"pin": "hush"}"#],
        ] {
            let settings = RuleSettings::parse(words).unwrap();
            assert!(!settings.words().join(" ").contains("hush"), "{:?}", settings.words());
            assert!(!format!("{settings:?}").contains("hush"));
            assert_eq!(RuleSettings::from_json(&settings.to_json()).unwrap(), settings);
        }
    }

    #[test]
    fn waits_grow_and_have_an_end() {
        let settings = RuleSettings::parse(&["shell", "a", "retry", "9", "backoff", "1s"]).unwrap();
        assert_eq!(settings.backoff(1), Duration::from_secs(1));
        assert_eq!(settings.backoff(3), Duration::from_secs(4));
        assert_eq!(settings.backoff(u32::MAX), BACKOFF_MAX);
    }
}

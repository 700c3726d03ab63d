//! Process identities: names this process as an owner, and checks whether another owner is alive.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::text::hex;

/// The identity of a process in the `owner` field of an execution: `host/boot/pid/started/nonce`.
///
/// Boot, process namespace and start time distinguish a process from an earlier one with the same process
/// number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    host: String,
    boot: String,
    pid: u32,
    started: String,
    nonce: String,
}

/// The liveness of another process, as far as this process can determine it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// A process of this host that has ended.
    Dead,
    /// A process that is alive, or may be alive on another host; only its lease decides.
    Unknown,
}

impl ProcessIdentity {
    /// Returns the identity of this process.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<ProcessIdentity> = OnceLock::new();
        CURRENT.get_or_init(|| {
            let pid = std::process::id();
            let host = rustix::system::uname().nodename().to_string_lossy().replace('/', "_");
            let started = start_time(pid).unwrap_or_default();
            Self { host, boot: boot_id(), pid, started, nonce: unique_id()[..8].to_owned() }
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let (host, boot, pid) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        Some(Self { host, boot, pid, started: parts.next()?, nonce: parts.next()? })
    }

    /// Returns the liveness of the owner `text`, as far as this process can determine it.
    pub fn liveness_of(text: &str) -> Liveness {
        let here = Self::current();
        let Some(owner) = Self::parse(text) else { return Liveness::Unknown };
        // The same host name with another boot may be another machine; the expiry of the lease decides.
        if owner.host != here.host || owner.boot != here.boot || here.boot.is_empty() {
            return Liveness::Unknown;
        }
        match start_time(owner.pid) {
            Some(started) if started == owner.started => Liveness::Unknown,
            _ => Liveness::Dead,
        }
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, boot, pid, started, nonce } = self;
        write!(f, "{host}/{boot}/{pid}/{started}/{nonce}")
    }
}

/// Returns an owner for a message: its process and host; the text itself when it has another form.
pub(crate) fn shown(owner: &str) -> String {
    match ProcessIdentity::parse(owner) {
        Some(ProcessIdentity { host, pid, .. }) => format!("process {pid} on host {host}"),
        None => owner.to_owned(),
    }
}

/// Identifies this boot and this process namespace (each container has its own).
///
/// Empty where the system does not expose them; then only leases decide.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let Ok(space) = std::fs::read_link("/proc/self/ns/pid") else { return String::new() };
    let digits = |text: &str| text.chars().filter(char::is_ascii_hexdigit).collect::<String>();
    format!("{:.12}-{}", digits(&id), digits(&space.to_string_lossy().replace("pid", "")))
}

/// Returns the clock ticks after boot at which the process began; `None` when it has ended or is a zombie.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in parentheses, may contain any character: fields are counted after the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Returns a unique name: a hash of process, time and a counter.
#[expect(clippy::disallowed_methods, reason = "uniqueness, not a time that anything depends on")]
pub(crate) fn unique_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hash = Sha256::new();
    hash.update(std::process::id().to_be_bytes());
    hash.update(COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    hash.update(jiff::Timestamp::now().as_nanosecond().to_be_bytes());
    hash.update(boot_id().as_bytes());
    hash.update(format!("{:p}", &raw const COUNTER).as_bytes());
    hex(&hash.finalize())[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_never_taken_for_dead() {
        let me = ProcessIdentity::current().to_string();
        assert_eq!(ProcessIdentity::liveness_of(&me), Liveness::Unknown);
    }

    #[test]
    fn a_process_number_that_was_given_away_again_does_not_pass_for_the_old_owner() {
        let mut other = ProcessIdentity::current().clone();
        other.started = "1".to_owned();
        assert_eq!(ProcessIdentity::liveness_of(&other.to_string()), Liveness::Dead);
    }

    #[test]
    fn nothing_is_said_of_other_hosts() {
        let mut other = ProcessIdentity::current().clone();
        other.host = "elsewhere".to_owned();
        other.pid = u32::MAX;
        assert_eq!(ProcessIdentity::liveness_of(&other.to_string()), Liveness::Unknown);
        assert_eq!(ProcessIdentity::liveness_of("anything"), Liveness::Unknown);
    }
}

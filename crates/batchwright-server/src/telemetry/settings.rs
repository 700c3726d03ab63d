//! The standard variables of OpenTelemetry: where to send what. Source: the specification of OpenTelemetry, "Environment variable
//! specification" and "OTLP exporter configuration".

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::execution::TraceContext;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use percent_encoding::percent_decode_str;

use super::text;

/// The settings of the exporter.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) traces: Option<Target>,
    pub(super) metrics: Option<Target>,
    pub(super) logs: Option<Target>,
    pub(super) resource: Vec<KeyValue>,
    /// How often the metrics are sent.
    pub(super) interval: Duration,
    pub(super) sampler: Sampler,
}

/// Which traces are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// The share of traces, from 0 to 1.
    pub(super) share: f64,
    /// Whether the caller decides about what it asked for.
    is_parent_based: bool,
}

impl Sampler {
    /// Whether `span` is sent. Its mark is the decision of its caller, or of the share for a trace that began in Batchwright.
    pub(super) fn takes(self, span: TraceContext) -> bool {
        match self.is_parent_based {
            true => span.is_sampled(),
            false => span.is_in_share(self.share),
        }
    }
}

/// Where a signal is sent.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) url: reqwest::Url,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers have the password of the collector.
        f.debug_struct("Target").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The default time-out of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The default interval of metrics.
const INTERVAL: Duration = Duration::from_secs(60);
/// The ends of the names of variables of the exporter that count, also for one signal.
const USED: [&str; 4] = ["ENDPOINT", "HEADERS", "PROTOCOL", "TIMEOUT"];

/// Whether `name` is a variable for exporters that changes nothing here.
fn is_ignored(name: &str) -> bool {
    let of_exporter = name.strip_prefix("OTEL_EXPORTER_OTLP_");
    let is_used = |rest: &str| {
        let signals = ["TRACES_", "METRICS_", "LOGS_"];
        let rest = signals.iter().find_map(|signal| rest.strip_prefix(signal)).unwrap_or(rest);
        USED.contains(&rest)
    };
    let others = [
        "OTEL_BSP_",
        "OTEL_BLRP_",
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "OTEL_METRICS_EXEMPLAR",
        "OTEL_SPAN_",
        "OTEL_ATTRIBUTE_",
    ];
    of_exporter.is_some_and(|rest| !is_used(rest))
        || others.iter().any(|other| name.starts_with(other))
}

impl Settings {
    /// Reads the variables that `get` returns; `None` when they name no collector. The texts name variables without effect.
    pub(super) fn read(
        variables: &BTreeMap<String, String>,
    ) -> Result<Option<(Self, Vec<String>)>, String> {
        let get =
            |name: &str| variables.get(name).filter(|value| !value.trim().is_empty()).cloned();
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let traces = target(&get, "TRACES", "v1/traces")?;
        let metrics = target(&get, "METRICS", "v1/metrics")?;
        let logs = target(&get, "LOGS", "v1/logs")?;
        if traces.is_none() && metrics.is_none() && logs.is_none() {
            return Ok(None);
        }
        let interval = match get("OTEL_METRIC_EXPORT_INTERVAL") {
            Some(value) => millis("OTEL_METRIC_EXPORT_INTERVAL", &value)?,
            None => INTERVAL,
        };
        let ignored = variables.keys().filter(|name| is_ignored(name) && get(name).is_some());
        let notes = ignored
            .filter(|name| !(name.ends_with("_COMPRESSION") && variables[*name] == "none"))
            .map(|name| format!("{name} has no effect"))
            .collect();
        let settings = Self {
            traces,
            metrics,
            logs,
            resource: resource(&get)?,
            interval: interval.max(Duration::from_millis(10)),
            sampler: sampler(&get)?,
        };
        Ok(Some((settings, notes)))
    }
}

fn target(
    get: &impl Fn(&str) -> Option<String>,
    signal: &str,
    path: &str,
) -> Result<Option<Target>, String> {
    let both = |key: &str| {
        get(&format!("OTEL_EXPORTER_OTLP_{signal}_{key}"))
            .or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{key}")))
    };
    let url = match (
        get(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")),
        get("OTEL_EXPORTER_OTLP_ENDPOINT"),
    ) {
        (Some(whole), _) => whole,
        (None, Some(base)) => format!("{}/{path}", base.trim_end_matches('/')),
        (None, None) => return Ok(None),
    };
    match get(&format!("OTEL_{signal}_EXPORTER")).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => {
            return Err(format!("OTEL_{signal}_EXPORTER is `{other}`: expected otlp or none"));
        }
    }
    let url: reqwest::Url = url.parse().map_err(|error| {
        format!("the endpoint of OTLP is no URL such as http://127.0.0.1:4318: {error}")
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the endpoint of OTLP must begin with http:// or https://".to_owned());
    }
    if let Some(other) = both("PROTOCOL").filter(|it| it != "http/protobuf") {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is `{other}`: this program speaks http/protobuf; collectors listen for it on port 4318"
        ));
    }
    let headers = both("HEADERS").map_or(Ok(Vec::new()), |list| {
        pairs(&list).ok_or("OTEL_EXPORTER_OTLP_HEADERS: expected name=value, separated by commas")
    })?;
    let timeout = match both("TIMEOUT") {
        Some(value) => millis("OTEL_EXPORTER_OTLP_TIMEOUT", &value)?,
        None => TIMEOUT,
    };
    Ok(Some(Target { url, headers, timeout }))
}

fn millis(name: &str, value: &str) -> Result<Duration, String> {
    let count = value.trim().parse();
    count
        .map(Duration::from_millis)
        .map_err(|_| format!("{name} is `{value}`: expected milliseconds"))
}

/// Parses `name=value` pairs that are separated by commas; values are percent-encoded.
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    let pair = |text: &str| {
        let (name, value) = text.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().to_owned(), value.into_owned()))
    };
    list.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
}

fn resource(get: &impl Fn(&str) -> Option<String>) -> Result<Vec<KeyValue>, String> {
    let given = get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut given = pairs(&given)
        .ok_or("OTEL_RESOURCE_ATTRIBUTES: expected name=value, separated by commas")?;
    let named = get("OTEL_SERVICE_NAME");
    let defaults = [
        ("service.name", "batchwright".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", crate::api::random_word()),
    ];
    for (name, value) in defaults {
        if !given.iter().any(|(known, _)| known == name) {
            given.push((name.to_owned(), value));
        }
    }
    if let Some(named) = named {
        given
            .iter_mut()
            .filter(|(name, _)| name == "service.name")
            .for_each(|it| it.1.clone_from(&named));
    }
    Ok(given.into_iter().map(|(name, value)| text(&name, value)).collect())
}

fn sampler(get: &impl Fn(&str) -> Option<String>) -> Result<Sampler, String> {
    let named = get("OTEL_TRACES_SAMPLER").unwrap_or_else(|| "parentbased_always_on".to_owned());
    let share = match named.trim_start_matches("parentbased_") {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let share = get("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
            let parsed = share.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
            parsed.ok_or_else(|| {
                format!("OTEL_TRACES_SAMPLER_ARG is `{share}`: expected a number from 0 to 1")
            })?
        }
        _ => {
            return Err(format!(
                "OTEL_TRACES_SAMPLER is `{named}`: expected always_on, always_off or traceidratio, also with parentbased_ before it"
            ));
        }
    };
    Ok(Sampler { share, is_parent_based: named.starts_with("parentbased_") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<(Settings, Vec<String>)>, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::read(&variables.iter().map(owned).collect())
    }

    #[test]
    fn nothing_is_exported_until_a_collector_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");
        for none in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "nightly"), ("OTEL_METRICS_EXPORTER", "prometheus")],
            &[endpoint, ("OTEL_SDK_DISABLED", "true")],
        ] {
            assert!(read(none).unwrap().is_none(), "{none:?}");
        }
        let (settings, notes) = read(&[
            endpoint,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/own"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret, x=1"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_SERVICE_NAME", "nightly"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(settings.traces.as_ref().unwrap().url.as_str(), "https://traces.example/own");
        let metrics = settings.metrics.as_ref().unwrap();
        assert_eq!(metrics.url.as_str(), "http://127.0.0.1:4318/v1/metrics");
        assert_eq!(metrics.headers[0], ("authorization".to_owned(), "Bearer secret".to_owned()));
        assert!(settings.logs.is_none() && !format!("{settings:?}").contains("secret"));
        assert_eq!(settings.sampler, Sampler { share: 0.25, is_parent_based: true });
        assert_eq!(notes.len(), 2);
        let names: Vec<_> = settings.resource.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(names[..2], ["deployment.environment.name", "service.name"]);
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no pair"),
            ("OTEL_RESOURCE_ATTRIBUTES", "no pair"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
            ("OTEL_TRACES_EXPORTER", "jaeger"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
        ] {
            let refused = read(&[endpoint, (name, value)]).unwrap_err();
            assert!(refused.contains(name), "{name}: {refused}");
        }
        assert!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318")]).is_err());
    }
}

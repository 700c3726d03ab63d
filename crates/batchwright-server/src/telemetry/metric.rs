//! The metrics of `/metrics` as those of OTLP: the same names and values, so that both are one contract.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

use super::text;

/// Returns the metrics in `exposed`, a text of OpenMetrics as `/metrics` has it, counted since `since` and read at `now`, in
/// nanoseconds of Unix time.
pub(super) fn metrics(exposed: &str, since: u64, now: u64) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    let mut histograms: BTreeMap<Vec<(String, String)>, HistogramDataPoint> = BTreeMap::new();
    for line in exposed.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, more) = (words.next(), words.next(), words.next().unwrap_or_default());
            let Some(name) = name else { continue };
            let last = metrics.last_mut().filter(|metric| metric.name == name);
            match (what, last) {
                (Some("HELP"), Some(metric)) => more.clone_into(&mut metric.description),
                (Some("HELP" | "TYPE"), None) => {
                    take(&mut metrics, &mut histograms);
                    let description = if what == Some("HELP") { more } else { "" };
                    let unit = if name.ends_with("_seconds") { "s" } else { "" };
                    metrics.push(Metric {
                        name: name.to_owned(),
                        description: description.to_owned(),
                        unit: unit.to_owned(),
                        ..Metric::default()
                    });
                }
                _ => {}
            }
            if what == Some("TYPE")
                && let Some(metric) = metrics.last_mut()
            {
                metric.data = data_of(more);
            }
            continue;
        }
        let Some((name, labels, value)) = sample(line) else { continue };
        let Some(metric) = metrics.last_mut() else { continue };
        let part = name.strip_prefix(&metric.name).unwrap_or_default();
        match &mut metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.push(point(labels, value, since, now)),
            Some(Data::Sum(sum)) => sum.data_points.push(point(labels, value, since, now)),
            Some(Data::Histogram(_)) => add(&mut histograms, part, labels, value, (since, now)),
            _ => {}
        }
    }
    take(&mut metrics, &mut histograms);
    metrics
}

fn data_of(kind: &str) -> Option<Data> {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    match kind {
        "gauge" => Some(Data::Gauge(Gauge::default())),
        "counter" => {
            let sum = Sum { aggregation_temporality, is_monotonic: true, ..Sum::default() };
            Some(Data::Sum(sum))
        }
        "histogram" => {
            Some(Data::Histogram(Histogram { aggregation_temporality, ..Histogram::default() }))
        }
        _ => None,
    }
}

/// Gives the data points that were read to the last metric.
fn take(
    metrics: &mut [Metric],
    histograms: &mut BTreeMap<Vec<(String, String)>, HistogramDataPoint>,
) {
    let read = std::mem::take(histograms);
    let Some(Data::Histogram(last)) = metrics.last_mut().and_then(|it| it.data.as_mut()) else {
        return;
    };
    for (_, mut point) in read {
        // Prometheus counts all up to a bound, OTLP those between two bounds.
        for index in (1..point.bucket_counts.len()).rev() {
            let below = point.bucket_counts[index - 1];
            point.bucket_counts[index] = point.bucket_counts[index].saturating_sub(below);
        }
        last.data_points.push(point);
    }
}

/// Adds a sample of a histogram to its data point.
fn add(
    histograms: &mut BTreeMap<Vec<(String, String)>, HistogramDataPoint>,
    part: &str,
    mut labels: Vec<(String, String)>,
    value: f64,
    (since, now): (u64, u64),
) {
    let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
    let attributes = attributes(&labels);
    let point = histograms.entry(labels).or_insert_with(|| HistogramDataPoint {
        attributes,
        start_time_unix_nano: since,
        time_unix_nano: now,
        ..HistogramDataPoint::default()
    });
    match part {
        "_sum" => point.sum = Some(value),
        "_count" => point.count = count(value),
        "_bucket" => {
            point.bucket_counts.push(count(value));
            point
                .explicit_bounds
                .extend(bound.and_then(|it| it.parse().ok()).filter(|it: &f64| it.is_finite()));
        }
        _ => {}
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count is a whole number from 0"
)]
fn count(value: f64) -> u64 {
    value as u64
}

fn point(labels: Vec<(String, String)>, value: f64, since: u64, now: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(&labels),
        start_time_unix_nano: since,
        time_unix_nano: now,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| text(name, &**value)).collect()
}

/// The name, the labels and the value of a line.
type Sample<'a> = (&'a str, Vec<(String, String)>, f64);

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(list) = rest.strip_prefix('{') {
        rest = list;
        while !rest.starts_with('}') {
            let (label, value) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(value)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.trim().split(' ').next()?.parse().ok()?;
    Some((name, labels, value))
}

/// Returns the text up to the next quotation mark, unescaped, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            letter => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_prometheus_becomes_metrics() {
        let exposed = "# HELP b_items Items.\n# TYPE b_items counter\nb_items_total{job=\"a\\\"b\\\\,}\",op=\"read\"} 10\n\
            # HELP b_took_seconds Took.\n# TYPE b_took_seconds histogram\n# UNIT b_took_seconds seconds\n\
            b_took_seconds_sum{job=\"x\"} 1.5\nb_took_seconds_count{job=\"x\"} 3\nb_took_seconds_bucket{le=\"0.5\",job=\"x\"} 1\n\
            b_took_seconds_bucket{le=\"1.0\",job=\"x\"} 3\nb_took_seconds_bucket{le=\"+Inf\",job=\"x\"} 3\n\
            # HELP b_running Running.\n# TYPE b_running gauge\nb_running 2\n# EOF\n";
        let all = metrics(exposed, 1, 2);
        let names: Vec<_> = all.iter().map(|it| (it.name.as_str(), it.unit.as_str())).collect();
        assert_eq!(names, [("b_items", ""), ("b_took_seconds", "s"), ("b_running", "")]);
        let Some(Data::Sum(sum)) = &all[0].data else { panic!("{all:?}") };
        assert!(sum.is_monotonic && sum.data_points.len() == 1);
        assert_eq!(sum.data_points[0].attributes[0], text("job", "a\"b\\,}"));
        assert_eq!(sum.data_points[0].value, Some(Value::AsDouble(10.0)));
        let Some(Data::Histogram(took)) = &all[1].data else { panic!("{all:?}") };
        let point = &took.data_points[0];
        assert_eq!((point.count, point.sum), (3, Some(1.5)));
        assert_eq!(
            (&point.bucket_counts[..], &point.explicit_bounds[..]),
            (&[1, 2, 0][..], &[0.5, 1.0][..])
        );
        assert!(matches!(&all[2].data, Some(Data::Gauge(gauge)) if gauge.data_points.len() == 1));
    }
}

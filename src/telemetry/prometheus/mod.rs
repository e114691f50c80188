//! Renders metrics in the Prometheus text format.
//!
//! What is counted elsewhere is read at each scrape by a [`Source`]; [`Metrics`] holds the registry they
//! are all in.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{self, MetricFamily};
use prometheus::{Registry, TextEncoder};

use super::stats::{Histogram, HistogramTotal};

pub mod definitions;

pub use definitions::{Definition, Kind};

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Something that can be read at a scrape.
pub trait Source: Send + Sync {
    /// The families it may have samples of.
    fn definitions(&self) -> &'static [&'static Definition];

    /// Adds its samples of now, only of its own definitions. It may not block for long.
    fn collect(&self, samples: &mut Samples);
}

impl<S: Source + ?Sized> Source for std::sync::Arc<S> {
    fn definitions(&self) -> &'static [&'static Definition] {
        (**self).definitions()
    }

    fn collect(&self, samples: &mut Samples) {
        (**self).collect(samples);
    }
}

/// All metrics of the process.
#[derive(Clone, Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Metrics with those of the process itself and of the build.
    ///
    /// # Errors
    /// Never with the definitions of this crate; their test registers all of them.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self(Registry::new());
        metrics.0.register(Box::new(ProcessCollector::for_self()))?;
        metrics.register(Build)?;
        Ok(metrics)
    }

    /// Reads `source` at each scrape from now on.
    ///
    /// # Errors
    /// When a family of it belongs to another source already.
    pub fn register(&self, source: impl Source + 'static) -> prometheus::Result<()> {
        let descriptions = source.definitions().iter().map(|definition| definition.description());
        let descriptions = descriptions.collect::<prometheus::Result<_>>()?;
        self.0.register(Box::new(Bridge { source, descriptions }))
    }

    /// All metrics of now as text. It asks every source and may take milliseconds.
    ///
    /// # Errors
    /// When a sample can't be written; the text so far is lost.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.0.gather())
    }
}

/// The samples of one scrape.
#[derive(Debug, Default)]
pub struct Samples(HashMap<&'static str, MetricFamily>);

impl Samples {
    /// Adds a counter's or gauge's value. `labels` are the values of the definition's labels, in order.
    pub fn value(&mut self, definition: &'static Definition, labels: &[&str], value: f64) {
        let mut metric = proto::Metric::from_label(pairs(definition, labels));
        match definition.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram => return,
        }
        self.family(definition).mut_metric().push(metric);
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, definition: &'static Definition, labels: &[&str], total: &HistogramTotal) {
        let mut count = 0;
        let buckets = Histogram::BOUNDS_MICROS.iter().zip(&total.buckets).map(|(bound, n)| {
            count += n;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e6);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(total.count());
        histogram.set_sample_sum(total.sum.as_secs_f64());
        let mut metric = proto::Metric::from_label(pairs(definition, labels));
        metric.set_histogram(histogram);
        self.family(definition).mut_metric().push(metric);
    }

    fn family(&mut self, definition: &'static Definition) -> &mut MetricFamily {
        self.0.entry(definition.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(definition.name.to_owned());
            family.set_help(definition.help.to_owned());
            family.set_field_type(definition.kind.into());
            family
        })
    }
}

fn pairs(definition: &Definition, values: &[&str]) -> Vec<proto::LabelPair> {
    debug_assert_eq!(definition.labels.len(), values.len(), "labels of {}", definition.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    definition.labels.iter().zip(values).map(pair).collect()
}

/// A source as the registry knows them.
struct Bridge<S> {
    source: S,
    descriptions: Vec<Desc>,
}

impl<S: Source> Collector for Bridge<S> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Samples::default();
        self.source.collect(&mut samples);
        samples.0.into_values().collect()
    }
}

/// What was built.
struct Build;

impl Source for Build {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[definitions::BUILD_INFO]
    }

    fn collect(&self, samples: &mut Samples) {
        samples.value(definitions::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    }
}

#[cfg(test)]
mod tests;

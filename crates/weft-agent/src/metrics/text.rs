//! The text format of Prometheus (exposition format 0.0.4), as little of it as is needed: a
//! family is its HELP and TYPE, then its samples. A crate for it would bring a registry that
//! owns all values; here they are read from where they live when somebody asks.

use std::fmt::{Display, Write as _};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// Label names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page of metrics that is being written.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a family. Names and label names are constants of the callers, made of letters,
    /// digits and `_`; a family is begun once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let kind_name = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind_name}\n");
        Family { page: self, name }
    }

    /// A family with one sample.
    pub fn one(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// The whole page.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// Writes a sample of a counter or a gauge.
    pub fn sample(&mut self, labels: Labels, value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// Writes a histogram.
    pub fn histogram(&mut self, labels: Labels, histogram: &Histogram) -> &mut Self {
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            below += count;
            self.line("_bucket", labels, Some(&bound.to_string()), below);
        }
        self.line("_bucket", labels, Some("+Inf"), histogram.count());
        self.line("_sum", labels, None, histogram.sum);
        self.line("_count", labels, None, histogram.count());
        self
    }

    fn line(&mut self, suffix: &str, labels: Labels, le: Option<&str>, value: impl Display) {
        let out = &mut self.page.0;
        let _ = write!(out, "{}{suffix}", self.name);
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        for (n, (name, value)) in all.enumerate() {
            out.push(if n == 0 { '{' } else { ',' });
            let _ = write!(out, "{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        if !labels.is_empty() || le.is_some() {
            out.push('}');
        }
        let _ = writeln!(out, " {value}");
    }
}

/// Observations by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper bounds, rising; what is above the last one is in the last count.
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// Without observations.
    pub fn new(bounds: Vec<f64>) -> Self {
        let counts = vec![0; bounds.len() + 1];
        Self { bounds, counts, sum: 0.0 }
    }

    /// Takes a value in; bounds are inclusive.
    pub fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|b| *b < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    /// How many values were taken in.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// `count` bounds from `start`, each `factor` times the one before.
pub fn exponential(start: f64, factor: f64, count: usize) -> Vec<f64> {
    std::iter::successors(Some(start), |b| Some(b * factor)).take(count).collect()
}

/// `count` bounds from `start`, each `width` more than the one before.
pub fn linear(start: f64, width: f64, count: u32) -> impl Iterator<Item = f64> {
    (0..count).map(move |n| start + f64::from(n) * width)
}

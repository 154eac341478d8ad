//! What the agent counts, in the text form of Prometheus, and whether each duty is at work.
//!
//! A [`Family`] is a constant beside those who count in it: name, kind, what it means. Knows nothing of what is counted,
//! and nothing of HTTP (`metrics/serve.rs` hands the text out).

mod calls;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use calls::listen;
pub use serve::{bind, serve};

/// Seconds of the buckets of a duration, from an ADD of some milliseconds to one that waits for a lock.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// One metric: `trestle_...`, with its labels given at each use, always the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Counter,
    Gauge,
    Duration,
}

impl Family {
    /// The name ends in `_total`.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }

    /// A histogram; the name ends in `_seconds`.
    pub const fn duration(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Duration }
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

#[derive(Debug, Clone)]
enum Value {
    Number(f64),
    Spread { buckets: Vec<u64>, count: u64, sum: f64 },
}

#[derive(Debug, Default)]
struct Registry {
    families: BTreeMap<Family, BTreeMap<String, Value>>,
    /// Duties that must work before the agent counts as ready, and those that do.
    wanted: BTreeSet<&'static str>,
    working: BTreeSet<&'static str>,
}

/// A handle; clones count into the same place.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub fn add(&self, family: &Family, labels: Labels<'_>, more: u64) {
        self.change(family, labels, |value| {
            if let Value::Number(n) = value {
                *n += more as f64;
            }
        });
    }

    pub fn set(&self, family: &Family, labels: Labels<'_>, now: f64) {
        self.change(family, labels, |value| *value = Value::Number(now));
    }

    pub fn observe(&self, family: &Family, labels: Labels<'_>, seconds: f64) {
        self.change(family, labels, |value| {
            if let Value::Spread { buckets, count, sum } = value {
                if let Some(i) = BUCKETS.iter().position(|limit| seconds <= *limit) {
                    buckets[i] += 1;
                }
                *count += 1;
                *sum += seconds;
            }
        });
    }

    /// All values of a gauge whose things come and go, by its one label. At once: a scrape meets neither none nor half.
    pub fn replace<'a>(&self, family: &Family, label: &str, values: impl IntoIterator<Item = (&'a str, f64)>) {
        let values = values.into_iter().map(|(of, now)| (label_text(&[(label, of)]), Value::Number(now))).collect();
        let families = &mut self.registry().families;
        match BTreeMap::is_empty(&values) {
            true => families.remove(family),
            false => families.insert(*family, values),
        };
    }

    /// `/readyz` waits for this duty.
    pub fn expect(&self, duty: &'static str) {
        self.registry().wanted.insert(duty);
    }

    pub fn working(&self, duty: &'static str, does: bool) {
        let mut registry = self.registry();
        if does {
            registry.working.insert(duty);
        } else {
            registry.working.remove(duty);
        }
    }

    /// Duties that are waited for.
    pub fn waiting(&self) -> Vec<&'static str> {
        let registry = self.registry();
        registry.wanted.difference(&registry.working).copied().collect()
    }

    /// The text form, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (family, values) in &self.registry().families {
            // Writing to a String cannot fail.
            let _ = family.write(&mut text, values);
        }
        text
    }

    fn change(&self, family: &Family, labels: Labels<'_>, how: impl FnOnce(&mut Value)) {
        let mut registry = self.registry();
        let values = registry.families.entry(*family).or_default();
        how(values.entry(label_text(labels)).or_insert_with(|| family.zero()));
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    fn zero(&self) -> Value {
        match self.kind {
            Kind::Counter | Kind::Gauge => Value::Number(0.0),
            Kind::Duration => Value::Spread { buckets: vec![0; BUCKETS.len()], count: 0, sum: 0.0 },
        }
    }

    fn write(&self, out: &mut String, values: &BTreeMap<String, Value>) -> std::fmt::Result {
        let Self { name, help, .. } = self;
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Duration => "histogram",
        };
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for (labels, value) in values {
            match value {
                Value::Number(n) => writeln!(out, "{name}{} {n}", braced(labels))?,
                Value::Spread { buckets, count, sum } => {
                    let mut below = 0;
                    let comma = if labels.is_empty() { "" } else { "," };
                    for (limit, n) in BUCKETS.iter().zip(buckets) {
                        below += n;
                        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{limit}\"}} {below}")?;
                    }
                    writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
                    writeln!(out, "{name}_sum{} {sum}", braced(labels))?;
                    writeln!(out, "{name}_count{} {count}", braced(labels))?;
                }
            }
        }
        Ok(())
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

/// `a="x",b="y"`, with the three characters escaped that the form wants escaped.
fn label_text(labels: Labels<'_>) -> String {
    let escape = |v: &str| v.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: Family = Family::counter("trestle_test_total", "Calls.");
    const PORTS: Family = Family::gauge("trestle_test_ports", "Ports.");
    const TIME: Family = Family::duration("trestle_test_seconds", "Time.");

    #[test]
    fn the_text_has_each_kind_in_its_form() {
        let m = Metrics::default();
        m.clone().add(&CALLS, &[("verb", "ADD"), ("why", "a \"b\"\n\\")], 2);
        m.add(&CALLS, &[("verb", "ADD"), ("why", "a \"b\"\n\\")], 1);
        m.set(&PORTS, &[], 4.0);
        for s in [0.0004, 0.02, 99.0] {
            m.observe(&TIME, &[("verb", "DEL")], s);
        }
        let text = m.text();
        for line in [
            "# TYPE trestle_test_total counter",
            r#"trestle_test_total{verb="ADD",why="a \"b\"\n\\"} 3"#,
            "# HELP trestle_test_ports Ports.",
            "trestle_test_ports 4",
            "# TYPE trestle_test_seconds histogram",
            r#"trestle_test_seconds_bucket{verb="DEL",le="0.001"} 1"#,
            r#"trestle_test_seconds_bucket{verb="DEL",le="0.025"} 2"#,
            r#"trestle_test_seconds_bucket{verb="DEL",le="30"} 2"#,
            r#"trestle_test_seconds_bucket{verb="DEL",le="+Inf"} 3"#,
            r#"trestle_test_seconds_count{verb="DEL"} 3"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        m.replace(&PORTS, "of", [("a", 1.0), ("b", 2.0)]);
        m.replace(&PORTS, "of", [("b", 3.0)]);
        let ports: Vec<String> =
            m.text().lines().filter(|l| l.starts_with("trestle_test_p")).map(str::to_owned).collect();
        assert_eq!(ports, ["trestle_test_ports{of=\"b\"} 3"]);
        m.replace(&PORTS, "of", []);
        assert!(!m.text().contains("trestle_test_ports"));
    }

    #[test]
    fn ready_is_when_all_that_are_waited_for_work() {
        let m = Metrics::default();
        assert!(m.waiting().is_empty());
        m.expect("watch");
        m.expect("repair");
        m.working("repair", true);
        assert_eq!(m.waiting(), ["watch"]);
        m.working("watch", true);
        assert!(m.waiting().is_empty());
        m.working("repair", false);
        assert_eq!(m.waiting(), ["repair"]);
    }
}

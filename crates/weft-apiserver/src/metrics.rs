//! What `/metrics` says, in the text format of Prometheus 0.0.4, under the names of kube-apiserver.

use crate::{http::route::Target, server::State, store::Scope};
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use weft_kinds::Kind;

/// The content type of the answer.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper ends of the buckets of durations, in seconds: some of kube-apiserver's, and below them
/// what answers take here.
const BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];

/// What was asked, as labels: only of kinds that are served, so that nobody can make more of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked(String);

impl Asked {
    /// A path that is no resource.
    pub(crate) fn path(method: &http::Method) -> Self {
        let verb = if *method == http::Method::GET { "GET" } else { "other" };
        Self::labels(verb, ["", "", "", ""], "")
    }

    pub(crate) fn resource(method: &http::Method, target: &Target, watch: bool) -> Self {
        let verb = match (method.as_str(), target.name.is_some()) {
            _ if crate::proxy::is_stream(target) => "CONNECT",
            ("GET" | "HEAD", false) if watch => "WATCH",
            ("GET" | "HEAD", false) => "LIST",
            ("GET" | "HEAD", true) => "GET",
            ("DELETE", false) => "DELETECOLLECTION",
            ("POST", _) => "POST",
            ("PUT", _) => "PUT",
            ("PATCH", _) => "PATCH",
            ("DELETE", _) => "DELETE",
            _ => "other",
        };
        let kind = &*target.kind;
        let own = kind.all_subresources();
        let sub = target.subresource.as_deref().unwrap_or_default();
        let sub = own.iter().find(|s| s.name == sub).map_or("", |s| s.name);
        let scope = match (&target.name, &target.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        Self::labels(verb, [&kind.group, &kind.version, &kind.plural, sub], scope)
    }

    fn labels(verb: &str, [group, version, resource, sub]: [&str; 4], scope: &str) -> Self {
        Self(format!(
            "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",scope=\"{scope}\",\
             subresource=\"{sub}\",verb=\"{verb}\",version=\"{version}\""
        ))
    }
}

#[derive(Default)]
struct Durations {
    buckets: [u64; BUCKETS_S.len()],
    sum: Duration,
    count: u64,
}

#[derive(Default)]
struct Counts {
    /// By the code of the answer.
    answers: BTreeMap<u16, u64>,
    durations: Durations,
    /// Watches that are open.
    open: i64,
}

/// Counters of one server.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<Asked, Counts>>);

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Asked, Counts>> {
        self.0.lock().expect("invariant: nothing panics while it counts")
    }

    /// A request was answered. Of a watch this is its beginning, whose duration says nothing.
    pub(crate) fn answered(&self, asked: Asked, code: u16, took: Option<Duration>) {
        let mut all = self.lock();
        let counts = all.entry(asked).or_default();
        *counts.answers.entry(code).or_default() += 1;
        let Some(took) = took else { return };
        let durations = &mut counts.durations;
        durations.sum += took;
        durations.count += 1;
        let seconds = took.as_secs_f64();
        for (bucket, end) in durations.buckets.iter_mut().zip(BUCKETS_S) {
            *bucket += u64::from(seconds <= end);
        }
    }

    fn open(&self, asked: &Asked, change: i64) {
        self.lock().entry(asked.clone()).or_default().open += change;
    }
}

/// A watch, as long as it is open.
pub(crate) struct Open {
    state: Arc<State>,
    asked: Asked,
}

impl Open {
    pub(crate) fn watch(state: &Arc<State>, kind: &Arc<Kind>, scope: &Scope) -> Self {
        let namespace = scope.namespace.as_ref().map(ToString::to_string);
        let target = Target { kind: kind.clone(), namespace, name: None, subresource: None };
        let asked = Asked::resource(&http::Method::GET, &target, true);
        state.metrics.open(&asked, 1);
        Self { state: state.clone(), asked }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.metrics.open(&self.asked, -1);
    }
}

/// The whole page.
pub(crate) fn page(state: &State) -> String {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    };
    {
        let all = state.metrics.lock();
        let name = "apiserver_request_total";
        head(&mut out, name, "counter", "Requests by what was asked and the code of the answer.");
        for (Asked(labels), counts) in &*all {
            for (code, count) in &counts.answers {
                let _ = writeln!(out, "{name}{{code=\"{code}\",{labels}}} {count}");
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(&mut out, name, "histogram", "Time to the answer, without watches.");
        for (Asked(labels), Counts { durations, .. }) in &*all {
            if durations.count == 0 {
                continue;
            }
            for (count, end) in durations.buckets.iter().zip(BUCKETS_S) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{end}\"}} {count}");
            }
            let Durations { sum, count, .. } = durations;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", sum.as_secs_f64());
            let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
        }
        let name = "apiserver_longrunning_requests";
        head(&mut out, name, "gauge", "Watches that are open.");
        for (Asked(labels), counts) in all.iter().filter(|(_, counts)| counts.open > 0) {
            let _ = writeln!(out, "{name}{{{labels}}} {}", counts.open);
        }
    }
    let name = "apiserver_storage_objects";
    head(&mut out, name, "gauge", "Stored objects of each kind.");
    for (table, count) in state.store.counts() {
        let (group, plural) = table.split_once('/').unwrap_or(("", &table));
        let dot = if group.is_empty() { "" } else { "." };
        let _ = writeln!(out, "{name}{{resource=\"{plural}{dot}{group}\"}} {count}");
    }
    process(&mut out);
    out
}

/// What every exporter says of its own process, from /proc.
fn process(out: &mut String) {
    /// `USER_HZ` of every Linux.
    const TICKS_PER_S: f64 = 100.0;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    // The name in parentheses may hold anything; the third field follows it.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let boot = read("/proc/stat");
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")?.parse::<f64>().ok());
    let limits = read("/proc/self/limits");
    let files = limits.lines().find_map(|l| {
        l.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<f64>().ok()
    });
    let status = read("/proc/self/status");
    let resident = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64;
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Processor time, user and system.",
            (field(14) + field(15)) / TICKS_PER_S,
        ),
        ("process_open_fds", "gauge", "Open file descriptors.", open),
        ("process_max_fds", "gauge", "Most file descriptors.", files.unwrap_or_default()),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory.", field(23)),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            resident.unwrap_or_default() * 1024.0,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start of the process since 1970.",
            boot.unwrap_or_default() + field(22) / TICKS_PER_S,
        ),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

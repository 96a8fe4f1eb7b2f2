//! What one front-end counts, how siblings' counts add up, and the text that Prometheus reads.
//!
//! Names, bounds and the form that travels between API servers are those of the Python API server, so a scrape of any
//! one gives the whole service, whatever its siblings are written in.

use crate::engine::Engine;
use crate::log;
use crate::messages::{Blob, EngineOptions, MetricsGathered, RankId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const ONE_TOKEN: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
/// Bounds between the steps that `StepTokens` counts apart.
const STEP_SIZES: &[f64] = &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// Only go up. The strings of a `Series` are the values of the counter's labels.
#[derive(Clone, Copy)]
pub enum Counter {
    PromptTokens,
    PromptSources,
    PromptCached,
    GenerationTokens,
    Finished,
    Http,
}

/// Name, help, label names, and the values of the label behind `engine` that every rank has from its start.
const COUNTERS: [(&str, &str, &[&str], &[&str]); 6] = [
    ("vllm:prompt_tokens", "Prompt tokens of requests that got a first token.", &["engine"], &[]),
    (
        "vllm:prompt_tokens_by_source",
        "The same, by where keys and values came from.",
        &["engine", "source"],
        &["local_compute", "local_cache_hit"],
    ),
    ("vllm:prompt_tokens_cached", "The same, as far as the prefix cache held them.", &["engine"], &[]),
    ("vllm:generation_tokens", "Tokens generated.", &["engine"], &[]),
    (
        "vllm:request_success",
        "Completions that ended, by reason; abort: the client left; error: the engine failed.",
        &["engine", "finished_reason"],
        &["stop", "length", "abort", "error"],
    ),
    ("http_requests", "HTTP requests answered.", &["handler", "method", "status"], &[]),
];

/// Observed for each rank.
#[derive(Clone, Copy)]
pub enum Histogram {
    FirstToken,
    InterToken,
    PerToken,
    Latency,
    QueueTime,
    PrefillTime,
    DecodeTime,
    InferenceTime,
    RequestPrompt,
    RequestComputed,
    RequestOutput,
    RequestLongest,
    AskedTokens,
    AskedChoices,
}

/// Name, help, upper bounds.
const HISTOGRAMS: [(&str, &str, &[f64]); 14] = [
    ("vllm:time_to_first_token_seconds", "From the request's arrival to its first token.", FIRST_TOKEN),
    ("vllm:inter_token_latency_seconds", "Time between two tokens.", ONE_TOKEN),
    ("vllm:request_time_per_output_token_seconds", "A request's mean time a token after the first.", ONE_TOKEN),
    ("vllm:e2e_request_latency_seconds", "From the request's arrival to its last token.", REQUEST),
    ("vllm:request_queue_time_seconds", "From a request's arrival in its rank until a step ran it.", REQUEST),
    ("vllm:request_prefill_time_seconds", "From then to its first token.", REQUEST),
    ("vllm:request_decode_time_seconds", "From its first to its last token.", REQUEST),
    ("vllm:request_inference_time_seconds", "Prefill and decode time together.", REQUEST),
    ("vllm:request_prompt_tokens", "Prompt tokens a completion.", TOKENS),
    ("vllm:request_prefill_kv_computed_tokens", "Of these, those that no prefix cache held.", TOKENS),
    ("vllm:request_generation_tokens", "Generated tokens a completion.", TOKENS),
    ("vllm:request_max_num_generation_tokens", "Generated tokens of a prompt's longest completion.", TOKENS),
    ("vllm:request_params_max_tokens", "max_tokens a completion.", TOKENS),
    ("vllm:request_params_n", "Completions a prompt.", CHOICES),
];

/// The values of a metric's labels.
type Labels = Vec<String>;
type Series = BTreeMap<Labels, f64>;
/// Observations by bucket, the last above all bounds; and their sum.
type Observations = (Vec<u64>, f64);

#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    counters: Vec<Series>,
    histograms: Vec<BTreeMap<Labels, Observations>>,
}

/// One API server's values at one moment, as they travel.
#[derive(Serialize, Deserialize)]
struct Samples {
    counters: BTreeMap<String, Vec<(Vec<String>, f64)>>,
    histograms: BTreeMap<String, Vec<(Labels, Vec<u64>, f64)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { counters: vec![Series::new(); COUNTERS.len()], histograms: vec![BTreeMap::new(); HISTOGRAMS.len()] }
    }
}

impl Metrics {
    pub fn add(&mut self, counter: Counter, labels: &[String], amount: usize) {
        let series = &mut self.counters[counter as usize];
        match series.get_mut(labels) {
            Some(value) => *value += amount as f64,
            None => drop(series.insert(labels.to_vec(), amount as f64)),
        }
    }

    pub fn observe(&mut self, histogram: Histogram, engine: &[String; 1], value: f64, times: usize) {
        let bounds = HISTOGRAMS[histogram as usize].2;
        let (counts, total) = observations(&mut self.histograms[histogram as usize], engine, bounds);
        counts[bounds.partition_point(|&bound| bound < value)] += times as u64;
        *total += value * times as f64;
    }

    /// Show a rank from its start, and not only once it has counted something: a rate needs the zero before.
    fn begin(&mut self, rank: RankId) {
        let engine = rank.to_string();
        for ((_, _, labels, further), series) in COUNTERS.iter().zip(&mut self.counters) {
            match (labels, further) {
                (["engine"], _) => drop(series.entry(vec![engine.clone()]).or_default()),
                (["engine", ..], further) => further.iter().for_each(|&each| {
                    series.entry(vec![engine.clone(), each.to_owned()]).or_default();
                }),
                _ => {}
            }
        }
        for ((_, _, bounds), series) in HISTOGRAMS.iter().zip(&mut self.histograms) {
            observations(series, &[engine.clone()], bounds);
        }
    }

    /// For a sibling that is being scraped.
    pub fn samples(&self) -> Vec<u8> {
        let counters = COUNTERS.iter().zip(&self.counters);
        let histograms = HISTOGRAMS.iter().zip(&self.histograms);
        let samples = Samples {
            counters: counters
                .map(|((name, ..), series)| ((*name).into(), series.clone().into_iter().collect()))
                .collect(),
            histograms: histograms
                .map(|((name, ..), series)| {
                    let each = series.iter().map(|(labels, (counts, total))| (labels.clone(), counts.clone(), *total));
                    ((*name).into(), each.collect())
                })
                .collect(),
        };
        rmp_serde::to_vec(&samples).expect("samples are plain data")
    }

    /// The sum of this front-end's and its siblings' values.
    pub fn merged<'a>(&self, siblings: impl Iterator<Item = &'a Blob>) -> Result<Self, rmp_serde::decode::Error> {
        let mut merged = self.clone();
        for sibling in siblings {
            merged.take(sibling)?;
        }
        Ok(merged)
    }

    /// Begin with what the one before us in our place had counted.
    pub fn count_on(&mut self, counted: &Blob) {
        if let Err(error) = self.take(counted) {
            log::error(format!("what our predecessor had counted does not decode, and is left out: {error}"));
        }
    }

    /// Add samples. What another release counts and we do not is left out.
    fn take(&mut self, blob: &Blob) -> Result<(), rmp_serde::decode::Error> {
        let samples: Samples = rmp_serde::from_slice(&blob.0)?;
        for ((name, ..), series) in COUNTERS.iter().zip(&mut self.counters) {
            for (labels, value) in samples.counters.get(*name).into_iter().flatten() {
                *series.entry(labels.clone()).or_default() += value;
            }
        }
        for ((name, _, bounds), series) in HISTOGRAMS.iter().zip(&mut self.histograms) {
            for (labels, theirs, sum) in samples.histograms.get(*name).into_iter().flatten() {
                if theirs.len() == bounds.len() + 1 {
                    let (counts, total) = observations(series, labels, bounds);
                    counts.iter_mut().zip(theirs).for_each(|(count, more)| *count += more);
                    *total += sum;
                }
            }
        }
        Ok(())
    }

    /// Prometheus' text form 0.0.4. `gathered`: what the supervisor said of the others; what ranks report every API
    /// server hears, so it comes from this one alone. Of each of the `expected` ranks there are noughts at least.
    pub fn exposition(
        mut self,
        engine: &Engine,
        expected: &[RankId],
        gathered: &MetricsGathered,
        model: &str,
        options: &EngineOptions,
    ) -> String {
        expected.iter().for_each(|&rank| self.begin(rank));
        let mut text = Text { out: String::new(), model };
        for ((name, help, labels, _), series) in COUNTERS.iter().zip(&self.counters) {
            let name = format!("{name}_total");
            text.head(&name, help, "counter");
            for (values, amount) in series {
                let pairs: Vec<_> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                text.sample(&name, &pairs, *amount);
            }
        }
        for ((name, help, bounds), series) in HISTOGRAMS.iter().zip(&self.histograms) {
            text.head(name, help, "histogram");
            for (labels, (counts, total)) in series {
                text.histogram(name, &labels[0], bounds, counts, *total);
            }
        }
        text.restarts("phalanx:rank_restarts_total", "rank", "engine", &gathered.rank_restarts);
        text.restarts("phalanx:api_server_restarts_total", "API server", "api_server", &gathered.api_server_restarts);
        text.ranks(engine, options, 1 + gathered.samples.len());
        text.head("phalanx:ranks_expected", "Engine ranks of the service.", "gauge");
        let _ = writeln!(text.out, "phalanx:ranks_expected {}.0", expected.len());
        text.out
    }
}

/// Name, help and kind of what ranks report.
const OF_RANKS: [(&str, &str, &str); 7] = [
    ("vllm:num_requests_running", "Requests that the rank runs.", "gauge"),
    ("vllm:num_requests_waiting", "Requests that wait in the rank.", "gauge"),
    ("vllm:kv_cache_usage_perc", "Share of the rank's KV cache in use; 1 is all of it.", "gauge"),
    ("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", "counter"),
    ("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", "counter"),
    ("vllm:num_preemptions_total", "Running requests put back to free KV cache.", "counter"),
    ("phalanx:engine_steps_total", "Steps of the rank.", "counter"),
];

struct Text<'a> {
    out: String,
    model: &'a str,
}

impl Text<'_> {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.out, "{name}{{model_name=\"{}\"", escaped(self.model));
        for (label, value) in labels {
            let _ = write!(self.out, ",{label}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.out, "}} {value:?}");
    }

    fn histogram(&mut self, name: &str, rank: &str, bounds: &[f64], counts: &[u64], total: f64) {
        let (bucket, mut seen) = (format!("{name}_bucket"), 0);
        let bounds = bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".into()]);
        for (bound, count) in bounds.zip(counts) {
            seen += count;
            self.sample(&bucket, &[("engine", rank), ("le", &bound)], seen as f64);
        }
        self.sample(&format!("{name}_count"), &[("engine", rank)], seen as f64);
        self.sample(&format!("{name}_sum"), &[("engine", rank)], total);
    }

    fn restarts(&mut self, name: &str, what: &str, label: &str, counts: &BTreeMap<u32, u64>) {
        let help = format!("Times the {what} was started again after a fall.");
        self.head(name, &help, "counter");
        for (number, count) in counts {
            self.sample(name, &[(label, &number.to_string())], *count as f64);
        }
    }

    fn ranks(&mut self, engine: &Engine, options: &EngineOptions, servers: usize) {
        let (mut rows, mut steps, mut caches) = (Vec::new(), Vec::new(), Vec::new());
        engine.each_rank(|hello, view, step_tokens| {
            let rank = hello.rank.to_string();
            if let Some(load) = &view.load {
                let share = load.kv_used_tokens as f64 / load.kv_total_tokens.max(1) as f64;
                let counts = [load.prefix_query_tokens, load.prefix_hit_tokens, load.preemptions, load.steps];
                let counts = counts.map(|count| count as f64);
                let [queries, hits, preemptions, steps] = counts;
                let values = [load.running as f64, load.waiting as f64, share, queries, hits, preemptions, steps];
                rows.push((rank.clone(), values));
            }
            // A rank of another release may tell the sizes of its steps by other bounds.
            steps.extend(
                step_tokens
                    .filter(|told| told.steps.len() == STEP_SIZES.len() + 1)
                    .map(|told| (rank.clone(), told.clone())),
            );
            caches.push((rank, (hello.kv_cache_tokens / options.block_size).to_string()));
        });
        let attached = caches.len();
        for (column, (name, help, kind)) in OF_RANKS.iter().enumerate() {
            self.head(name, help, kind);
            for (rank, values) in &rows {
                self.sample(name, &[("engine", rank)], values[column]);
            }
        }
        let name = "vllm:iteration_tokens_total";
        self.head(name, "Tokens that a step of the rank ran.", "histogram");
        for (rank, told) in &steps {
            self.histogram(name, rank, STEP_SIZES, &told.steps, told.tokens as f64);
        }
        let name = "vllm:cache_config_info";
        self.head(name, "The rank's KV cache, in its labels.", "gauge");
        let size = options.block_size.to_string();
        let reuse = if options.enable_prefix_caching { "True" } else { "False" };
        for (rank, blocks) in &caches {
            let labels = [
                ("engine", &**rank),
                ("block_size", &*size),
                ("num_gpu_blocks", &**blocks),
                ("enable_prefix_caching", reuse),
            ];
            self.sample(name, &labels, 1.0);
        }
        self.head("phalanx:api_servers", "API servers that answered this scrape.", "gauge");
        let _ = writeln!(self.out, "phalanx:api_servers {servers}.0");
        self.head("phalanx:ranks", "Engine ranks attached.", "gauge");
        let _ = writeln!(self.out, "phalanx:ranks {attached}.0");
    }
}

fn observations<'a>(
    series: &'a mut BTreeMap<Labels, Observations>,
    labels: &[String],
    bounds: &[f64],
) -> &'a mut Observations {
    if !series.contains_key(labels) {
        series.insert(labels.to_vec(), (vec![0; bounds.len() + 1], 0.0));
    }
    series.get_mut(labels).expect("it is there now")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Metrics {
        let engine = ["0".to_owned()];
        let mut metrics = Metrics::default();
        metrics.add(Counter::GenerationTokens, &engine, 5);
        metrics.add(Counter::Finished, &["0".to_owned(), "stop".to_owned()], 1);
        metrics.observe(Histogram::FirstToken, &engine, 0.001, 1);
        metrics.observe(Histogram::FirstToken, &engine, 99.0, 2);
        metrics
    }

    #[test]
    fn siblings_add_up() {
        let others = [Blob(some().samples()), Blob(some().samples())];
        let merged = some().merged(others.iter()).unwrap();
        let gathered = MetricsGathered {
            tag: 24,
            query: 1,
            samples: others.to_vec(),
            kept: Vec::new(),
            rank_restarts: BTreeMap::from([(0, 0), (1, 4)]),
            api_server_restarts: BTreeMap::from([(2, 1)]),
        };
        let options = EngineOptions { max_logprobs: 20, block_size: 16, enable_prefix_caching: true };
        let text = merged.exposition(&Engine::new(0), &[0, 2], &gathered, "m\"x", &options);
        for line in [
            "vllm:generation_tokens_total{model_name=\"m\\\"x\",engine=\"0\"} 15.0",
            "vllm:request_success_total{model_name=\"m\\\"x\",engine=\"0\",finished_reason=\"stop\"} 3.0",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"m\\\"x\",engine=\"0\",le=\"0.001\"} 3.0",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"m\\\"x\",engine=\"0\",le=\"+Inf\"} 9.0",
            "vllm:time_to_first_token_seconds_count{model_name=\"m\\\"x\",engine=\"0\"} 9.0",
            "vllm:generation_tokens_total{model_name=\"m\\\"x\",engine=\"2\"} 0.0",
            "vllm:request_success_total{model_name=\"m\\\"x\",engine=\"2\",finished_reason=\"abort\"} 0.0",
            "vllm:e2e_request_latency_seconds_count{model_name=\"m\\\"x\",engine=\"2\"} 0.0",
            "phalanx:ranks_expected 2.0",
            "phalanx:api_servers 3.0",
            "phalanx:rank_restarts_total{model_name=\"m\\\"x\",engine=\"1\"} 4.0",
            "phalanx:api_server_restarts_total{model_name=\"m\\\"x\",api_server=\"2\"} 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn samples_that_do_not_decode_are_an_error() {
        assert!(some().merged([Blob(vec![1, 2, 3])].iter()).is_err());
    }

    #[test]
    fn a_successor_counts_on() {
        let mut successor = some();
        successor.count_on(&Blob(some().samples()));
        let merged = successor.merged([].iter()).unwrap();
        assert_eq!(merged.counters[Counter::GenerationTokens as usize][&vec!["0".to_owned()]], 10.0);
        assert_eq!(merged.histograms[Histogram::FirstToken as usize][&vec!["0".to_owned()]].0.iter().sum::<u64>(), 6);
        let before = successor.clone();
        successor.count_on(&Blob(vec![1, 2, 3]));
        assert_eq!(successor, before);
    }
}

//! The messages that this front-end sends and takes, as `docs/protocol.md` says them.
//!
//! A message is a msgpack array, its integer tag first. What we take is read leniently: fields at the end that an older
//! peer leaves out have defaults, and more than we know are skipped.

use crate::frames::FrameError;
use serde::de::{DeserializeOwned, Error, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::fmt;

pub const PROTOCOL_VERSION: u64 = 2;

pub type RankId = u32;
pub type RequestId = u64;
pub type TokenId = u32;

/// Tags of what is sent and taken after the handshake.
pub mod tag {
    pub const HELLO: u64 = 1;
    pub const STAGE: u64 = 2;
    pub const READY: u64 = 3;
    pub const FAILED: u64 = 4;
    pub const METRICS_REPORT: u64 = 5;
    pub const METRICS_QUERY: u64 = 6;
    #[cfg(test)]
    pub const API_SERVERS: u64 = 20;
    pub const WELCOME: u64 = 21;
    pub const STOP: u64 = 22;
    pub const METRICS_REQUEST: u64 = 23;
    pub const METRICS_GATHERED: u64 = 24;
    pub const REFUSED: u64 = 25;
    pub const RANKS: u64 = 32;
    pub const SUBMIT: u64 = 40;
    pub const ABORT: u64 = 41;
    pub const ENGINE_HELLO: u64 = 60;
    pub const STEP_OUTPUT: u64 = 61;
}

/// Bytes, which msgpack tells from an array of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Declare structs that are read from msgpack arrays. `= value` is what a field is where the array ends before it.
macro_rules! read_from_arrays {
    (@absent $name:ident $field:ident) => {
        return Err(A::Error::custom(concat!(stringify!($name), " ends before ", stringify!($field))))
    };
    (@absent $name:ident $field:ident $default:expr) => { $default };
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty $(= $default:expr)?,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> Visitor<'de> for Fields {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("an array: ", stringify!($name)))
                    }
                    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<$name, A::Error> {
                        $(let $field: $type = match array.next_element()? {
                            Some(value) => value,
                            None => read_from_arrays!(@absent $name $field $($default)?),
                        };)*
                        while array.next_element::<IgnoredAny>()?.is_some() {}
                        Ok($name { $($field,)* })
                    }
                }
                deserializer.deserialize_seq(Fields)
            }
        }
    )*};
}

read_from_arrays! {
    /// First message of the handshake.
    Opening { tag: u64, magic: String, version: u64, nonce: Blob, }
    Challenge { tag: u64, version: u64, nonce: Blob, proof: Blob, }
    Proof { tag: u64, proof: Blob, }
    /// In the handshake, and as the supervisor's answer to a Hello that cannot be.
    Refusal { tag: u64, reason: String, }

    Endpoint { index: u32, address: String, }
    /// The API servers there are now.
    ApiServers { tag: u64, endpoints: Vec<Endpoint>, }
    Welcome {
        tag: u64,
        config: Config,
        api_servers: ApiServers,
        leader: String = String::new(),
        /// What the one before us in our place had counted, as it reported it; empty: none.
        counted: Blob = Blob(Vec::new()),
    }
    MetricsRequest { tag: u64, query: u64, }
    /// The ranks that are to serve, attached or not.
    Ranks { tag: u64, number: u64, ranks: Vec<RankId>, }
    MetricsGathered {
        tag: u64,
        query: u64,
        samples: Vec<Blob>,
        /// The last known of those that did not answer, or are not there.
        kept: Vec<Blob> = Vec::new(),
        rank_restarts: BTreeMap<u32, u64> = BTreeMap::new(),
        api_server_restarts: BTreeMap<u32, u64> = BTreeMap::new(),
    }

    /// First message of a rank, sent when it can take requests.
    EngineHello {
        tag: u64,
        rank: RankId,
        incarnation: u64,
        max_model_len: usize,
        max_num_seqs: u64,
        kv_cache_tokens: u64,
    }
    /// `rank` (1 = most likely) and log probability of a token, and the most likely ids with theirs, in order.
    TokenLogprobs { logprob: f64, rank: u64, top_ids: Vec<TokenId>, top_logprobs: Vec<f64>, }
    /// What one step brought one request.
    RequestOutput {
        request_id: RequestId,
        /// What ended it is included, as the last.
        tokens: Vec<TokenId>,
        finish: Option<u64> = None,
        stop_token: Option<TokenId> = None,
        logprobs: Option<Vec<TokenLogprobs>> = None,
        /// With the first tokens, where asked for: one a prompt token, None for the first.
        prompt_logprobs: Option<Vec<Option<TokenLogprobs>>> = None,
        /// With the first tokens: prompt tokens that the prefix cache held.
        cached_tokens: u64 = 0,
        error: String = String::new(),
        /// With the first tokens.
        times: Option<PhaseTimes> = None,
    }
    /// Seconds that a rank kept a request before its first token, by the rank's own clock.
    PhaseTimes { queue: f64, prefill: f64, }
    /// What a rank has to do; `others_*` leave out this server's own requests, which it counts itself.
    Load {
        others_prefill_tokens: i64,
        others_decode_tokens: i64,
        others_requests: i64,
        running: u64,
        waiting: u64,
        kv_used_tokens: u64,
        kv_total_tokens: u64,
        prefix_query_tokens: u64,
        prefix_hit_tokens: u64,
        preemptions: u64,
        steps: u64,
    }
    /// How many tokens a rank's steps ran, since its start: steps by `metrics::STEP_SIZES`, and all tokens.
    StepTokens { steps: Vec<u64>, tokens: u64, }
    StepOutput { tag: u64, outputs: Vec<RequestOutput>, load: Load, step_tokens: Option<StepTokens> = None, }
}

/// `RequestOutput::finish`.
pub mod finish {
    pub const STOP: u64 = 1;
    pub const LENGTH: u64 = 2;
}

/// What this front-end needs of the service's configuration; the rest of the tree is skipped.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    pub model: ModelOptions,
    pub parallel: ParallelOptions,
    pub engine: EngineOptions,
    pub http: HttpOptions,
    pub service: ServiceOptions,
    pub facts: ModelFacts,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelOptions {
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub served_model_name: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ParallelOptions {
    pub data_parallel_size: u32,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EngineOptions {
    pub max_logprobs: u64,
    pub block_size: u64,
    pub enable_prefix_caching: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HttpOptions {
    pub api_key: Vec<String>,
    pub max_body_bytes: usize,
    pub max_batch: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ServiceOptions {
    pub log_level: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelFacts {
    pub vocab_size: u32,
    pub max_model_len: usize,
    /// Of generation_config.json: what a request gets where it says nothing.
    pub default_sampling: HashMap<String, f64>,
}

impl Config {
    /// Names that `model` in a request may carry; the first is the one that is reported.
    pub fn served_names(&self) -> Vec<String> {
        if self.model.served_model_name.is_empty() {
            return vec![self.model.model.clone().unwrap_or_else(|| "phalanx-demo".into())];
        }
        self.model.served_model_name.clone()
    }
}

/// How to choose tokens. A rank trusts it, so it is checked here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SamplingParams {
    pub max_tokens: usize,
    pub min_tokens: usize,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: u32,
    pub min_p: f64,
    pub presence_penalty: f64,
    pub frequency_penalty: f64,
    pub repetition_penalty: f64,
    pub seed: u64,
    pub stop_token_ids: Vec<TokenId>,
    pub ignore_eos: bool,
    #[serde(serialize_with = "as_map")]
    pub logit_bias: Vec<(TokenId, f64)>,
    pub logprobs: Option<u64>,
    pub prompt_logprobs: Option<u64>,
    pub allowed_token_ids: Vec<TokenId>,
    pub bad_words: Vec<Vec<TokenId>>,
    pub cache_salt: String,
}

/// Nil where there is none.
fn as_map<S: Serializer>(pairs: &[(TokenId, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    if pairs.is_empty() {
        return serializer.serialize_none();
    }
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (token, bias) in pairs {
        map.serialize_entry(token, bias)?;
    }
    map.end()
}

/// What this front-end sends.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Outgoing<'a> {
    /// tag, role, index, incarnation, pid, worker
    Hello(u64, &'static str, u32, u64, u32, u32),
    /// tag, stage, progress, detail
    Stage(u64, &'static str, Option<f64>, &'static str),
    /// tag, detail, drains
    Ready(u64, &'a str, bool),
    /// tag, reason, traceback
    Failed(u64, &'a str, &'a str),
    /// tag, query, samples
    MetricsReport(u64, Option<u64>, Blob),
    /// tag, query
    MetricsQuery(u64, u64),
    /// tag, request, prompt, sampling, generated, expected tokens, priority
    Submit(u64, RequestId, &'a [TokenId], &'a SamplingParams, [TokenId; 0], usize, i64),
    /// tag, requests
    Abort(u64, &'a [RequestId]),
}

impl<'a> Outgoing<'a> {
    pub fn hello(index: u32, incarnation: u64, pid: u32) -> Self {
        Self::Hello(tag::HELLO, "api", index, incarnation, pid, 0)
    }

    pub fn stage(stage: &'static str) -> Self {
        Self::Stage(tag::STAGE, stage, None, "")
    }

    pub fn ready(detail: &'a str) -> Self {
        Self::Ready(tag::READY, detail, false)
    }

    pub fn failed(reason: &'a str) -> Self {
        Self::Failed(tag::FAILED, reason, "")
    }

    pub fn metrics_report(query: Option<u64>, samples: Vec<u8>) -> Self {
        Self::MetricsReport(tag::METRICS_REPORT, query, Blob(samples))
    }

    pub fn metrics_query(query: u64) -> Self {
        Self::MetricsQuery(tag::METRICS_QUERY, query)
    }

    pub fn submit(
        id: RequestId,
        prompt: &'a [TokenId],
        sampling: &'a SamplingParams,
        expected_tokens: usize,
        priority: i64,
    ) -> Self {
        Self::Submit(tag::SUBMIT, id, prompt, sampling, [], expected_tokens, priority)
    }

    pub fn abort(ids: &'a [RequestId]) -> Self {
        Self::Abort(tag::ABORT, ids)
    }
}

/// The tag of a message, without reading the rest.
pub fn tag(body: &[u8]) -> Result<u64, FrameError> {
    let rest = match body.first() {
        Some(0x91..=0x9f) => body.get(1..),
        Some(0xdc) => body.get(3..),
        Some(0xdd) => body.get(5..),
        _ => None,
    };
    // An integer may be written wider than it needs to be.
    match rest {
        Some([tag @ 0..=127, ..] | [0xcc | 0xd0, tag, ..] | [0xcd | 0xd1, 0, tag, ..]) => Ok((*tag).into()),
        Some([0xce | 0xd2, 0, 0, 0, tag, ..] | [0xcf | 0xd3, 0, 0, 0, 0, 0, 0, 0, tag, ..]) => Ok((*tag).into()),
        _ => Err(FrameError("what came is not a message of this protocol".into())),
    }
}

/// A whole message; what is missing of it or follows it is an error.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let failed = |error| FrameError(format!("a message does not decode: {error}"));
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    let message = T::deserialize(&mut deserializer).map_err(failed)?;
    match bool::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(message),
        _ => Err(FrameError("bytes follow a message".into())),
    }
}

//! The byte-exact vectors of `tests/vectors`: what every implementation of the protocol must write and read.

use crate::frames::{self, FrameError, FrameReader, MAX_UNPROVEN_FRAME};
use crate::handshake::{Dialer, Listener, Refused, Step};
use crate::messages::{
    self, tag, ApiServers, Blob, EngineHello, MetricsGathered, MetricsRequest, Outgoing, Ranks, Refusal, RequestOutput,
    SamplingParams, StepOutput, TokenLogprobs, Welcome,
};
use serde_json::{json, Value};
use std::path::Path;

fn file(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn entries(name: &str) -> Vec<Value> {
    file(name).as_array().unwrap().clone()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn numbers<T: TryFrom<u64>>(list: &Value) -> Vec<T> {
    list.as_array().unwrap().iter().map(|each| T::try_from(each.as_u64().unwrap()).ok().unwrap()).collect()
}

// --- what we write ---

fn sampling(of: &Value) -> SamplingParams {
    let number = |name: &str| of[name].as_f64().unwrap();
    let count = |name: &str| of[name].as_u64().unwrap();
    SamplingParams {
        max_tokens: count("max_tokens") as usize,
        min_tokens: count("min_tokens") as usize,
        temperature: number("temperature"),
        top_p: number("top_p"),
        top_k: count("top_k") as u32,
        min_p: number("min_p"),
        presence_penalty: number("presence_penalty"),
        frequency_penalty: number("frequency_penalty"),
        repetition_penalty: number("repetition_penalty"),
        seed: count("seed"),
        stop_token_ids: numbers(&of["stop_token_ids"]),
        ignore_eos: of["ignore_eos"].as_bool().unwrap(),
        logit_bias: of["logit_bias"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(token, bias)| (token.parse().unwrap(), bias.as_f64().unwrap()))
            .collect(),
        logprobs: of["logprobs"].as_u64(),
        prompt_logprobs: of["prompt_logprobs"].as_u64(),
        allowed_token_ids: numbers(&of["allowed_token_ids"]),
        bad_words: of["bad_words"].as_array().unwrap().iter().map(numbers).collect(),
        cache_salt: of["cache_salt"].as_str().unwrap().to_owned(),
    }
}

/// Our bytes for a vector's message; None for one that a front-end like this never sends.
fn written(entry: &Value) -> Option<Vec<u8>> {
    let of = &entry["message"];
    let text = |name: &str| of[name].as_str().unwrap();
    let count = |name: &str| of[name].as_u64().unwrap();
    let encode = |message: Outgoing| rmp_serde::to_vec(&message).unwrap();
    Some(match entry["type"].as_str().unwrap() {
        "Hello" if text("role") == "api" => {
            encode(Outgoing::hello(count("index") as u32, count("incarnation"), count("pid") as u32))
        }
        "Stage" if of["progress"].is_null() && text("detail").is_empty() => {
            encode(Outgoing::stage(text("stage").to_owned().leak()))
        }
        "Ready" if of["drains"] == json!(false) => encode(Outgoing::ready(text("detail"))),
        "Failed" if text("traceback").is_empty() => encode(Outgoing::failed(text("reason"))),
        "MetricsReport" => encode(Outgoing::metrics_report(of["query"].as_u64(), bytes(&of["samples"]))),
        "MetricsQuery" => encode(Outgoing::metrics_query(count("query"))),
        "Submit" if of["generated"] == json!([]) => encode(Outgoing::submit(
            count("request_id"),
            &numbers::<u32>(&of["prompt"]),
            &sampling(&of["sampling"]),
            count("expected_tokens") as usize,
            of["priority"].as_i64().unwrap(),
        )),
        "Abort" => encode(Outgoing::abort(&numbers::<u64>(&of["request_ids"]))),
        _ => return None,
    })
}

#[test]
fn what_we_send_is_written_byte_for_byte() {
    let mut seen = Vec::new();
    for entry in entries("control.json").iter().chain(&entries("engine.json")) {
        if let Some(ours) = written(entry) {
            assert_eq!(hex(&ours), entry["hex"].as_str().unwrap(), "{}", entry["name"]);
            seen.push(entry["type"].as_str().unwrap().to_owned());
        }
    }
    for kind in ["Hello", "Stage", "Ready", "Failed", "MetricsReport", "MetricsQuery", "Submit", "Abort"] {
        assert!(seen.iter().any(|each| each == kind), "no vector of {kind}");
    }
}

// --- what we read ---

fn score(of: &TokenLogprobs) -> Value {
    json!({"logprob": of.logprob, "rank": of.rank, "top_ids": of.top_ids, "top_logprobs": of.top_logprobs})
}

fn output(of: &RequestOutput) -> Value {
    json!({
        "request_id": of.request_id,
        "tokens": of.tokens,
        "finish": of.finish,
        "stop_token": of.stop_token,
        "logprobs": of.logprobs.as_ref().map(|scores| scores.iter().map(score).collect::<Vec<_>>()),
        "prompt_logprobs": of
            .prompt_logprobs
            .as_ref()
            .map(|scores| scores.iter().map(|each| each.as_ref().map(score)).collect::<Vec<_>>()),
        "cached_tokens": of.cached_tokens,
        "error": of.error,
        "times": of.times.as_ref().map(|times| json!({"queue": times.queue, "prefill": times.prefill})),
    })
}

/// A message as the vectors write it, as far as we read it; None for one that a front-end like this never gets.
fn read(kind: &str, body: &[u8]) -> Result<Option<Value>, FrameError> {
    let named = |of: &ApiServers| {
        let each = |end: &messages::Endpoint| json!({"index": end.index, "address": end.address});
        json!({"endpoints": of.endpoints.iter().map(each).collect::<Vec<_>>()})
    };
    Ok(Some(match kind {
        "EngineHello" => {
            let EngineHello { rank, incarnation, max_model_len, max_num_seqs, kv_cache_tokens, .. } =
                messages::decode(body)?;
            json!({
                "rank": rank,
                "incarnation": incarnation,
                "max_model_len": max_model_len,
                "max_num_seqs": max_num_seqs,
                "kv_cache_tokens": kv_cache_tokens,
            })
        }
        "StepOutput" => {
            let StepOutput { outputs, load, step_tokens, .. } = messages::decode(body)?;
            json!({
                "outputs": outputs.iter().map(output).collect::<Vec<_>>(),
                "load": {
                    "others_prefill_tokens": load.others_prefill_tokens,
                    "others_decode_tokens": load.others_decode_tokens,
                    "others_requests": load.others_requests,
                    "running": load.running,
                    "waiting": load.waiting,
                    "kv_used_tokens": load.kv_used_tokens,
                    "kv_total_tokens": load.kv_total_tokens,
                    "prefix_query_tokens": load.prefix_query_tokens,
                    "prefix_hit_tokens": load.prefix_hit_tokens,
                    "preemptions": load.preemptions,
                    "steps": load.steps,
                },
                "step_tokens": step_tokens.map(|told| json!({"steps": told.steps, "tokens": told.tokens})),
            })
        }
        "ApiServers" => named(&messages::decode(body)?),
        "Welcome" => {
            let Welcome { config, api_servers, counted, .. } = messages::decode(body)?;
            json!({
                "config": {
                    "model": {"model": config.model.model, "served_model_name": config.model.served_model_name},
                    "parallel": {"data_parallel_size": config.parallel.data_parallel_size},
                    "engine": {
                        "max_logprobs": config.engine.max_logprobs,
                        "block_size": config.engine.block_size,
                        "enable_prefix_caching": config.engine.enable_prefix_caching,
                    },
                    "http": {
                        "api_key": config.http.api_key,
                        "max_body_bytes": config.http.max_body_bytes,
                        "max_batch": config.http.max_batch,
                    },
                    "service": {"log_level": config.service.log_level},
                    "facts": {
                        "vocab_size": config.facts.vocab_size,
                        "max_model_len": config.facts.max_model_len,
                        "default_sampling": config.facts.default_sampling,
                    },
                },
                "api_servers": named(&api_servers),
                "counted": hex(&counted.0),
            })
        }
        "Ranks" => {
            let Ranks { number, ranks, .. } = messages::decode(body)?;
            json!({"number": number, "ranks": ranks})
        }
        "MetricsRequest" => json!({"query": messages::decode::<MetricsRequest>(body)?.query}),
        "MetricsGathered" => {
            let MetricsGathered { query, samples, kept, rank_restarts, api_server_restarts, .. } =
                messages::decode(body)?;
            let blobs = |of: &[Blob]| of.iter().map(|Blob(each)| hex(each)).collect::<Vec<_>>();
            json!({
                "query": query,
                "samples": blobs(&samples),
                "kept": blobs(&kept),
                "rank_restarts": rank_restarts,
                "api_server_restarts": api_server_restarts,
            })
        }
        "Refused" => json!({"reason": messages::decode::<Refusal>(body)?.reason}),
        "Stop" => json!({}),
        _ => return Ok(None),
    }))
}

/// All of `ours` is in `theirs`, numbers by value.
fn assert_within(ours: &Value, theirs: &Value, place: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, value) in ours {
                assert_within(value, &theirs[name], &format!("{place}.{name}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{place}");
            ours.iter().zip(theirs).for_each(|(ours, theirs)| assert_within(ours, theirs, place));
        }
        (Value::Number(ours), Value::Number(theirs)) if ours != theirs => {
            assert_eq!(ours.as_f64(), theirs.as_f64(), "{place}");
        }
        _ => assert_eq!(ours, theirs, "{place}"),
    }
}

#[test]
fn what_we_are_sent_is_read_for_what_it_is() {
    let mut seen = Vec::new();
    for name in ["control.json", "engine.json", "compatible.json"] {
        for entry in entries(name) {
            let (kind, body) = (entry["type"].as_str().unwrap(), bytes(&entry["hex"]));
            let found = read(kind, &body).unwrap_or_else(|error| panic!("{}: {error}", entry["name"]));
            if let Some(found) = found {
                assert_within(&found, &entry["message"], &entry["name"].to_string());
                seen.push(kind.to_owned());
            }
        }
    }
    let kinds =
        ["EngineHello", "StepOutput", "ApiServers", "Welcome", "MetricsRequest", "MetricsGathered", "Refused", "Ranks"];
    for kind in kinds {
        assert!(seen.iter().any(|each| each == kind), "no vector of {kind}");
    }
}

#[test]
fn tags_are_read_however_wide_they_are_written() {
    let tags = [
        ("Hello", tag::HELLO),
        ("Stage", tag::STAGE),
        ("Ready", tag::READY),
        ("Stop", tag::STOP),
        ("Submit", tag::SUBMIT),
        ("Abort", tag::ABORT),
        ("StepOutput", tag::STEP_OUTPUT),
    ];
    for entry in entries("compatible.json") {
        let known = tags.iter().find(|(kind, _)| entry["type"] == *kind);
        if let Some((_, tag)) = known {
            assert_eq!(messages::tag(&bytes(&entry["hex"])).unwrap(), *tag, "{}", entry["name"]);
        }
    }
}

#[test]
fn what_is_no_message_is_not_taken_for_one() {
    for entry in entries("rejected.json") {
        let body = bytes(&entry["hex"]);
        let taken = match messages::tag(&body) {
            Ok(tag::API_SERVERS) => read("ApiServers", &body),
            Ok(tag::WELCOME) => read("Welcome", &body),
            Ok(tag::METRICS_REQUEST) => read("MetricsRequest", &body),
            Ok(tag::METRICS_GATHERED) => read("MetricsGathered", &body),
            Ok(tag::REFUSED) => read("Refused", &body),
            Ok(tag::RANKS) => read("Ranks", &body),
            Ok(tag::ENGINE_HELLO) => read("EngineHello", &body),
            Ok(tag::STEP_OUTPUT) => read("StepOutput", &body),
            Ok(tag::STOP) => panic!("{} is taken for Stop", entry["name"]),
            // Another's, which is passed over; or none at all.
            _ => Ok(None),
        };
        assert!(!matches!(taken, Ok(Some(_))), "{}", entry["name"]);
    }
    let refused = |digits: &str| read("Refused", &bytes(&json!(digits)));
    assert_eq!(refused("9219a178").unwrap(), Some(json!({"reason": "x"})));
    assert!(refused("9219a17800").is_err(), "a byte follows");
    assert!(refused("9219a278").is_err(), "a byte is missing");
}

// --- the handshake ---

fn frame(step: &Step) -> String {
    let mut out = Vec::new();
    frames::append(&mut out, step).unwrap();
    hex(&out)
}

fn body(frame: &Value) -> bytes::Bytes {
    let mut reader = FrameReader::new(MAX_UNPROVEN_FRAME);
    reader.space().extend_from_slice(&bytes(frame));
    reader.take().unwrap().unwrap()
}

#[test]
fn the_handshake_is_that_of_the_transcripts_on_both_sides() {
    for transcript in file("handshake.json")["transcripts"].as_array().unwrap() {
        let secret = transcript["secret"].as_str().unwrap().as_bytes();
        assert_eq!(secret, bytes(&transcript["key"]));
        let nonce = |side: &str| bytes(&transcript[side]).try_into().unwrap();
        let frames: Vec<&Value> = transcript["frames"].as_array().unwrap().iter().map(|each| &each["hex"]).collect();
        let [opening, challenge, proof, accepted] = frames[..] else { panic!("four frames") };

        let mut dialer = Dialer::new(secret, nonce("dialer_nonce"));
        assert_eq!(frame(&dialer.opening()), *opening);
        assert_eq!(frame(&dialer.receive(&body(challenge)).unwrap().unwrap()), *proof);
        assert!(dialer.receive(&body(accepted)).unwrap().is_none() && dialer.done);

        let mut listener = Listener::new(secret, nonce("listener_nonce"));
        assert_eq!(frame(&listener.receive(&body(opening)).unwrap().unwrap()), *challenge);
        assert_eq!(frame(&listener.receive(&body(proof)).unwrap().unwrap()), *accepted);
        assert!(listener.done);
    }
}

#[test]
fn refusals_and_other_versions_are_those_of_the_vectors() {
    for entry in file("handshake.json")["messages"].as_array().unwrap() {
        let body = bytes(&entry["hex"]);
        match entry["type"].as_str().unwrap() {
            "Refusal" => {
                let reason = entry["message"]["reason"].as_str().unwrap();
                let refused = Refused(reason.into());
                assert_eq!(rmp_serde::to_vec(&Step::refusal(&refused)).unwrap(), body);
                let told = Dialer::new(b"s", [0; 32]).receive(&body).unwrap_err().0;
                assert_eq!(told, format!("refused by the listener: {reason}"));
            }
            "Opening" => {
                let told = Listener::new(b"s", [0; 32]).receive(&body).unwrap_err().0;
                assert!(told.starts_with("protocol version 3 at the dialer"), "{told}");
            }
            _ => {}
        }
    }
}

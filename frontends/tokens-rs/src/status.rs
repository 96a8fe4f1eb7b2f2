//! What operators, balancers and dashboards ask: /health, /ready, /metrics; and /v1/models.

use crate::app::App;
use crate::body::{json, typed, Answer};
use crate::errors::ApiError;
use hyper::Response;
use serde::Serialize;

/// This process lives; says nothing of the engine.
pub fn health() -> Response<Answer> {
    json(200, br#"{"status":"ok"}"#.to_vec())
}

/// An engine rank as this front-end sees it.
#[derive(Serialize)]
struct Rank {
    rank: u32,
    incarnation: u64,
    max_num_seqs: u64,
    kv_cache_tokens: u64,
    own_requests: usize,
    /// These three: null where the rank has not been heard yet.
    running: Option<u64>,
    waiting: Option<u64>,
    kv_used_tokens: Option<u64>,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    ranks: Vec<Rank>,
}

pub fn ready(app: &App) -> Response<Answer> {
    let mut ranks = Vec::new();
    app.engine.each_rank(|hello, view, _| {
        let load = view.load.as_ref();
        ranks.push(Rank {
            rank: hello.rank,
            incarnation: hello.incarnation,
            max_num_seqs: hello.max_num_seqs,
            kv_cache_tokens: hello.kv_cache_tokens,
            own_requests: view.own_requests,
            running: load.map(|load| load.running),
            waiting: load.map(|load| load.waiting),
            kv_used_tokens: load.map(|load| load.kv_used_tokens),
        });
    });
    let (status, word) = if ranks.is_empty() { (503, "waiting for a rank") } else { (200, "ready") };
    plain(status, &Readiness { status: word, ranks })
}

/// The whole service's, whichever API server is asked.
pub async fn metrics(app: &App) -> Result<Response<Answer>, ApiError> {
    let gathered = app.siblings.gather().await?;
    // What is shown is what the supervisor knows: a death of ours takes nothing of it back.
    app.siblings.report(app.metrics.borrow().samples());
    let merged = app.metrics.borrow().merged(gathered.samples.iter().chain(&gathered.kept));
    let merged = merged
        .map_err(|error| ApiError::server(format!("A sibling's samples do not decode: {error}.")))?
        .exposition(&app.engine, &app.ranks.borrow(), &gathered, &app.names[0], &app.config.engine);
    Ok(typed(200, "text/plain; version=0.0.4; charset=utf-8", merged.into_bytes()))
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    max_model_len: usize,
}

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

fn described<'a>(app: &'a App, name: &'a str) -> Model<'a> {
    Model {
        id: name,
        object: "model",
        created: app.started,
        owned_by: "phalanx",
        root: &app.names[0],
        max_model_len: app.max_model_len(),
    }
}

pub fn models(app: &App) -> Response<Answer> {
    plain(200, &Models { object: "list", data: app.names.iter().map(|name| described(app, name)).collect() })
}

pub fn model(app: &App, name: &str) -> Result<Response<Answer>, ApiError> {
    let name = app.check_model(Some(name))?;
    Ok(plain(200, &described(app, &name)))
}

fn plain<T: Serialize>(status: u16, answer: &T) -> Response<Answer> {
    json(status, serde_json::to_vec(answer).expect("plain data"))
}

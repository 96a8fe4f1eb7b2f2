//! Running the completions of one HTTP request: submit, stream or collect, count, and let go of the engine.
//!
//! The two endpoints differ only in the JSON they make of it, which is their `Form`.

use crate::app::App;
use crate::body::{Answer, Events};
use crate::engine::{Failure, Generation};
use crate::errors::ApiError;
use crate::messages::{finish, PhaseTimes, RankId, RequestOutput, SamplingParams, TokenId, TokenLogprobs};
use crate::metrics::{Counter, Histogram};
use crate::sampling::choice_seed;
use bytes::Bytes;
use hyper::http::HeaderValue;
use hyper::{header, Response};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Says which ranks ran a request.
const RANKS: &str = "x-phalanx-ranks";

/// What one HTTP request asks of the engine.
pub struct Plan {
    pub prompts: Vec<(Rc<[TokenId]>, SamplingParams)>,
    /// Completions a prompt.
    pub n: usize,
    pub priority: i64,
    pub stream: bool,
    pub arrival: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    Stop,
    Length,
}

/// One completion of one prompt.
pub struct Branch {
    pub index: usize,
    pub prompt: Rc<[TokenId]>,
    /// So far.
    pub tokens: usize,
    pub cached_tokens: u64,
    pub finish: Option<Finish>,
    /// What ended it, where `finish` is Stop: of `stop_token_ids`, or the checkpoint's own end-of-sequence token.
    pub ended_by: Option<TokenId>,
    /// It was one of `stop_token_ids`.
    pub by_stop_token: bool,
    max_tokens: usize,
    generation: Option<Generation>,
    app: Rc<App>,
    arrival: Instant,
    first: Option<Instant>,
    last: Instant,
    /// The rank that runs it, as metrics name it; empty: none.
    engine: [String; 1],
    times: Option<PhaseTimes>,
    /// The engine could not finish it.
    failed: bool,
}

/// What became due for a branch at once.
pub struct Piece {
    pub tokens: Vec<TokenId>,
    pub logprobs: Option<Vec<TokenLogprobs>>,
    pub prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    pub is_first: bool,
}

impl Branch {
    /// Wait for the next tokens. The end is where `finish` is set; not to be polled after it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Piece, ApiError>> {
        let Some(generation) = &self.generation else {
            self.finish = Some(Finish::Length);
            return Poll::Ready(Ok(Piece { tokens: vec![], logprobs: None, prompt_logprobs: None, is_first: true }));
        };
        match generation.poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(output)) => Poll::Ready(self.absorb(output)),
            Poll::Ready(Err(failure)) => {
                self.failed = failure != Failure::Stopping;
                Poll::Ready(Err(explained(failure)))
            }
        }
    }

    fn absorb(&mut self, output: RequestOutput) -> Result<Piece, ApiError> {
        let now = Instant::now();
        let is_first = self.first.is_none();
        let finish = match output.finish {
            None => None,
            Some(finish::STOP) => Some(Finish::Stop),
            Some(finish::LENGTH) => Some(Finish::Length),
            Some(_) => {
                self.failed = true;
                let reason = if output.error.is_empty() { "it was aborted" } else { &output.error };
                return Err(ApiError::server(format!("The engine could not run this request: {reason}.")));
            }
        };
        let mut metrics = self.app.metrics.borrow_mut();
        if is_first {
            self.first = Some(now);
            self.cached_tokens = output.cached_tokens;
            self.times = output.times;
            let cached = output.cached_tokens as usize;
            let computed = self.prompt.len().saturating_sub(cached);
            metrics.observe(Histogram::FirstToken, &self.engine, (now - self.arrival).as_secs_f64(), 1);
            metrics.add(Counter::PromptTokens, &self.engine, self.prompt.len());
            metrics.add(Counter::PromptCached, &self.engine, cached);
            metrics.add(Counter::PromptSources, &labelled(&self.engine, "local_compute"), computed);
            metrics.add(Counter::PromptSources, &labelled(&self.engine, "local_cache_hit"), cached);
        } else if !output.tokens.is_empty() {
            let count = output.tokens.len();
            let gap = (now - self.last).as_secs_f64() / count as f64;
            metrics.observe(Histogram::InterToken, &self.engine, gap, count);
        }
        self.last = now;
        let mut piece = Piece {
            tokens: output.tokens,
            logprobs: output.logprobs,
            prompt_logprobs: output.prompt_logprobs,
            is_first,
        };
        if self.max_tokens == 0 {
            // One token was generated because the engine scores a prompt on the way to it.
            piece.tokens.clear();
            piece.logprobs = None;
            self.finish = Some(Finish::Length);
        } else {
            self.tokens += piece.tokens.len();
            metrics.add(Counter::GenerationTokens, &self.engine, piece.tokens.len());
            self.finish = finish;
            if finish == Some(Finish::Stop) {
                self.by_stop_token = output.stop_token.is_some();
                self.ended_by = output.stop_token.or(piece.tokens.last().copied());
            }
        }
        drop(metrics);
        if self.finish.is_some() {
            self.count_end(now);
        }
        Ok(piece)
    }

    fn count_end(&self, now: Instant) {
        let mut metrics = self.app.metrics.borrow_mut();
        let mut observe = |histogram, value| metrics.observe(histogram, &self.engine, value, 1);
        let decode = self.first.map_or(0.0, |first| (now - first).as_secs_f64());
        observe(Histogram::Latency, (now - self.arrival).as_secs_f64());
        if let Some(times) = &self.times {
            observe(Histogram::QueueTime, times.queue);
            observe(Histogram::PrefillTime, times.prefill);
            observe(Histogram::DecodeTime, decode);
            observe(Histogram::InferenceTime, times.prefill + decode);
        }
        if self.tokens > 1 {
            observe(Histogram::PerToken, decode / (self.tokens - 1) as f64);
        }
        observe(Histogram::RequestPrompt, self.prompt.len() as f64);
        observe(Histogram::RequestComputed, self.prompt.len() as f64 - self.cached_tokens as f64);
        observe(Histogram::RequestOutput, self.tokens as f64);
        observe(Histogram::AskedTokens, self.max_tokens as f64);
        metrics.add(Counter::Finished, &labelled(&self.engine, self.finish_name().unwrap_or("abort")), 1);
    }

    pub fn finish_name(&self) -> Option<&'static str> {
        self.finish.map(|finish| match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        })
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        if self.finish.is_none() {
            let reason = if self.failed { "error" } else { "abort" };
            self.app.metrics.borrow_mut().add(Counter::Finished, &labelled(&self.engine, reason), 1);
        }
    }
}

/// A rank and a further label.
fn labelled(engine: &[String; 1], further: &str) -> [String; 2] {
    [engine[0].clone(), further.to_owned()]
}

/// Count prompts whose completions, `n` each, have all ended, for the rank of the first of them.
fn count_prompts(app: &App, branches: &[Branch], n: usize) {
    let mut metrics = app.metrics.borrow_mut();
    for completions in branches.chunks(n) {
        if completions.iter().all(|branch| branch.finish.is_some() && branch.generation.is_some()) {
            let longest = completions.iter().map(|branch| branch.tokens).max().unwrap_or(0);
            metrics.observe(Histogram::AskedChoices, &completions[0].engine, n as f64, 1);
            metrics.observe(Histogram::RequestLongest, &completions[0].engine, longest as f64, 1);
        }
    }
}

/// Prompt and completion tokens, and those prompt tokens that a cache held; each prompt counts once.
pub struct Usage {
    pub prompt: usize,
    pub completion: usize,
    pub cached: u64,
}

pub fn usage<'a>(branches: impl Iterator<Item = &'a Branch>, n: usize) -> Usage {
    let mut spent = Usage { prompt: 0, completion: 0, cached: 0 };
    for branch in branches {
        spent.completion += branch.tokens;
        if branch.index % n == 0 {
            spent.prompt += branch.prompt.len();
            spent.cached += branch.cached_tokens;
        }
    }
    spent
}

/// How one endpoint writes what it is given.
pub trait Form: 'static {
    /// One event of the stream.
    fn event(&self, out: &mut Vec<u8>, branch: &Branch, piece: &Piece);
    /// What follows the last branch's last event.
    fn end(&self, out: &mut Vec<u8>, branches: &[Branch]);
    /// The whole answer of a request that does not stream.
    fn whole(&self, branches: &[Branch], pieces: &[Piece]) -> Vec<u8>;
}

/// Answer a request; whatever happens, none of its branches is left running in the engine.
pub async fn run<F: Form>(app: &Rc<App>, plan: Plan, form: F) -> Result<Response<Answer>, ApiError> {
    let mut branches = submit(app, &plan)?;
    let ranks = ranks_of(&branches);
    if plan.stream {
        let mut stream = Stream { branches, n: plan.n, form, waiting: Vec::new(), ended: false };
        stream.waiting = poll_fn(|context| stream.poll_begin(context)).await?;
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
            .header(header::CACHE_CONTROL, "no-cache")
            // Tells nginx not to collect the events.
            .header("x-accel-buffering", "no")
            .body(Answer::Events(Box::new(stream)))
            .expect("these headers are sound");
        response.headers_mut().insert(RANKS, ranks);
        return Ok(response);
    }
    let mut pieces: Vec<Option<Piece>> = branches.iter().map(|_| None).collect();
    poll_fn(|context| poll_to_the_end(&mut branches, &mut pieces, context)).await?;
    count_prompts(app, &branches, plan.n);
    let pieces: Vec<Piece> = pieces.into_iter().flatten().collect();
    let mut response = crate::body::json(200, form.whole(&branches, &pieces));
    response.headers_mut().insert(RANKS, ranks);
    Ok(response)
}

/// The ranks that run a request, by number, in a header of its answer.
fn ranks_of(branches: &[Branch]) -> HeaderValue {
    let ranks: BTreeSet<RankId> = branches.iter().filter_map(|branch| Some(branch.generation.as_ref()?.rank)).collect();
    let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    ranks.join(",").try_into().expect("digits and commas")
}

fn submit(app: &Rc<App>, plan: &Plan) -> Result<Vec<Branch>, ApiError> {
    let mut branches = Vec::with_capacity(plan.prompts.len() * plan.n);
    for (prompt, sampling) in &plan.prompts {
        for choice in 0..plan.n {
            // A prompt is scored on the way to its first token.
            let scored_only = sampling.max_tokens == 0 && sampling.prompt_logprobs.is_some();
            let runs = sampling.max_tokens > 0 || scored_only;
            let mut own = sampling.clone();
            own.seed = choice_seed(sampling.seed, choice);
            own.max_tokens = sampling.max_tokens.max(1);
            let generation = match runs {
                true => Some(app.engine.generate(prompt, &own, plan.priority).map_err(explained)?),
                false => None,
            };
            let engine = [generation.as_ref().map_or_else(String::new, |running| running.rank.to_string())];
            branches.push(Branch {
                index: branches.len(),
                prompt: prompt.clone(),
                tokens: 0,
                cached_tokens: 0,
                finish: None,
                ended_by: None,
                by_stop_token: false,
                max_tokens: sampling.max_tokens,
                generation,
                app: app.clone(),
                arrival: plan.arrival,
                first: None,
                last: plan.arrival,
                engine,
                times: None,
                failed: false,
            });
        }
    }
    Ok(branches)
}

fn explained(failure: Failure) -> ApiError {
    match failure {
        Failure::RankDied(reason) => {
            ApiError::server(format!("The engine failed while it ran this request: {reason}.")).code("engine_died")
        }
        Failure::NoRank => {
            ApiError::server("No engine rank is attached, so nothing can be generated now; try again in a moment.")
                .status(503)
                .code("no_rank")
                .header("retry-after", "1")
        }
        Failure::Stopping => ApiError::server("The server is being stopped.").status(503).code("stopping"),
        Failure::Unsendable(reason) => ApiError::server(format!("The request cannot be sent to the engine: {reason}.")),
    }
}

fn poll_to_the_end(
    branches: &mut [Branch],
    collected: &mut [Option<Piece>],
    context: &mut Context<'_>,
) -> Poll<Result<(), ApiError>> {
    let mut waits = false;
    for (branch, collected) in branches.iter_mut().zip(collected) {
        while branch.finish.is_none() {
            let Poll::Ready(piece) = branch.poll(context) else {
                waits = true;
                break;
            };
            let piece = piece?;
            match collected {
                None => *collected = Some(piece),
                Some(earlier) => {
                    earlier.tokens.extend(piece.tokens);
                    if let (Some(earlier), Some(later)) = (&mut earlier.logprobs, piece.logprobs) {
                        earlier.extend(later);
                    }
                }
            }
        }
    }
    if waits {
        Poll::Pending
    } else {
        Poll::Ready(Ok(()))
    }
}

/// A stream of events: an event for what a step brought a branch. A client that reads slowly gets fewer and larger ones.
struct Stream<F> {
    branches: Vec<Branch>,
    /// Completions a prompt.
    n: usize,
    form: F,
    /// What came before the status was sent, by branch.
    waiting: Vec<(usize, Piece)>,
    ended: bool,
}

impl<F: Form> Stream<F> {
    /// Until the first tokens of any branch, or an error that still has a status of its own.
    fn poll_begin(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<(usize, Piece)>, ApiError>> {
        let mut begun = Vec::new();
        for (position, branch) in self.branches.iter_mut().enumerate() {
            if let Poll::Ready(piece) = branch.poll(context) {
                match piece {
                    Ok(piece) => begun.push((position, piece)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        if begun.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(begun))
        }
    }
}

impl<F: Form> Events for Stream<F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        let mut out = Vec::with_capacity(512);
        for (position, piece) in self.waiting.drain(..) {
            self.form.event(&mut out, &self.branches[position], &piece);
        }
        let mut live = 0;
        for branch in &mut self.branches {
            if branch.finish.is_some() {
                continue;
            }
            match branch.poll(context) {
                Poll::Pending => live += 1,
                Poll::Ready(Ok(piece)) => {
                    self.form.event(&mut out, branch, &piece);
                    live += usize::from(branch.finish.is_none());
                }
                Poll::Ready(Err(error)) => {
                    // The status has been sent; what is left is an event in the error's form, and no [DONE].
                    out.extend(error.event());
                    self.ended = true;
                    self.branches.clear();
                    return Poll::Ready(out.into());
                }
            }
        }
        if live == 0 {
            if let Some(branch) = self.branches.first() {
                count_prompts(&branch.app, &self.branches, self.n);
            }
            self.form.end(&mut out, &self.branches);
            self.ended = true;
        } else if out.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(out.into())
    }

    fn ended(&self) -> bool {
        self.ended
    }
}

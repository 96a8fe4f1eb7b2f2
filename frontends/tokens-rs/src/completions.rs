//! POST /v1/completions with token-id prompts, in OpenAI's shape.
//!
//! There is no tokenizer here: `text` is always empty and `token_ids` holds the answer. Tokens in logprobs are written
//! `token_id:N`.

use crate::app::App;
use crate::body::Answer;
use crate::errors::ApiError;
use crate::fields::{invalid, Fields};
use crate::generation::{run, usage, Branch, Form, Piece, Plan, Usage};
use crate::messages::TokenLogprobs;
use crate::prompts::{too_many, Prompts};
use crate::sampling::{Names, Options};
use crate::write::{finite, list, logprob, raw, value};
use hyper::Response;
use std::rc::Rc;
use std::time::Instant;

const NAMES: Names = Names {
    max_tokens: "max_tokens",
    min_tokens: "min_tokens",
    seeds: &["seed"],
    prompt: "prompt",
    // OpenAI's.
    default_max_tokens: 16,
};

const MOST_USER_CHARACTERS: usize = 1024;

/// Options of OpenAI's and vLLM's that need what this front-end does not have.
const UNSUPPORTED: &[&str] =
    &["response_format", "guided_json", "guided_regex", "guided_choice", "structured_outputs", "prompt_embeds"];

pub async fn completions(app: &Rc<App>, body: &[u8], arrival: Instant) -> Result<Response<Answer>, ApiError> {
    let (plan, form) = read(app, body, arrival)?;
    run(app, plan, form).await
}

fn read(app: &App, body: &[u8], arrival: Instant) -> Result<(Plan, CompletionForm), ApiError> {
    let config = &app.config;
    let mut fields = Fields::of_body(body)?;
    let model = app.check_model(fields.take::<String>("model")?.as_deref())?;
    let n = fields.number("n", 1..=usize::MAX)?.unwrap_or(1);
    let stream = fields.flag("stream")?.unwrap_or(false);
    let mut include_usage = false;
    let mut continuous_usage = false;
    if let Some(options) = fields.raw("stream_options") {
        if !stream {
            let text = "stream_options is only for requests with stream set to true.";
            return Err(ApiError::invalid(text).param("stream_options"));
        }
        let mut options = Fields::of_object("stream_options", options)?;
        include_usage = options.flag("include_usage")?.unwrap_or(false);
        continuous_usage = options.flag("continuous_usage_stats")?.unwrap_or(false);
        options.finish(&[])?;
    }
    let mut options = Options::take(&mut fields, &NAMES, &config.facts)?;
    let top = fields.number("logprobs", 0..=config.engine.max_logprobs)?;
    options.logprobs(top, None);
    let priority = fields.number("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?.unwrap_or(0);
    if fields.number("best_of", 1..=usize::MAX)?.is_some_and(|best_of| best_of != n) {
        let text = "best_of other than n is not supported.";
        return Err(ApiError::invalid(text).param("best_of").code("unsupported_parameter"));
    }
    if fields.take::<String>("user")?.is_some_and(|user| user.chars().count() > MOST_USER_CHARACTERS) {
        return Err(invalid("user", &format!("it is longer than {MOST_USER_CHARACTERS} characters")));
    }
    let prompt_ids = fields.flag("return_token_ids")?;
    if prompt_ids == Some(false) {
        let text = "return_token_ids is false, and token ids are all that this front-end can return.";
        return Err(ApiError::invalid(text).param("return_token_ids").code("unsupported_parameter"));
    }
    // Both shape the text, of which there is none; either way says the same.
    fields.flag("skip_special_tokens")?;
    fields.flag("include_stop_str_in_output")?;
    fields.flag("add_special_tokens")?;
    fields.refuse_unless("stop", &["[]"])?;
    fields.refuse_unless("echo", &["false"])?;
    fields.refuse_unless("suffix", &["\"\""])?;
    fields.refuse_unless("service_tier", &["\"auto\"", "\"default\""])?;
    fields.refuse_unless("use_beam_search", &["false"])?;
    let Some(prompt) = fields.raw("prompt") else {
        return Err(ApiError::invalid("prompt is missing: give a list of token ids.").param("prompt"));
    };
    fields.finish(UNSUPPORTED)?;

    let most = config.http.max_batch;
    let given = Prompts::read("prompt", prompt, config.facts.vocab_size, most)?;
    if given.prompts.len().saturating_mul(n) > most {
        return Err(too_many("n", given.prompts.len(), n, most));
    }
    let limit = app.max_model_len();
    let prompts = given
        .prompts
        .into_iter()
        .map(|prompt| {
            let sampling = options.for_prompt(prompt.len(), limit, &NAMES)?;
            Ok((prompt, sampling))
        })
        .collect::<Result<_, ApiError>>()?;
    let form = CompletionForm {
        head: head(&app.new_id("cmpl-"), &model),
        top,
        prompt_ids: prompt_ids.is_some(),
        include_usage,
        continuous_usage,
        n,
    };
    Ok((Plan { prompts, n, priority, stream, arrival }, form))
}

/// What every answer and every event begins with.
fn head(id: &str, model: &str) -> Vec<u8> {
    let mut head = Vec::new();
    raw(&mut head, "{\"id\":");
    value(&mut head, id);
    raw(&mut head, ",\"object\":\"text_completion\",\"created\":");
    value(&mut head, &crate::app::unix_time());
    raw(&mut head, ",\"model\":");
    value(&mut head, model);
    raw(&mut head, ",\"choices\":[");
    head
}

struct CompletionForm {
    head: Vec<u8>,
    top: Option<u64>,
    prompt_ids: bool,
    include_usage: bool,
    continuous_usage: bool,
    n: usize,
}

impl Form for CompletionForm {
    fn event(&self, out: &mut Vec<u8>, branch: &Branch, piece: &Piece) {
        raw(out, "data: ");
        out.extend_from_slice(&self.head);
        self.choice(out, branch, piece);
        out.push(b']');
        if self.continuous_usage {
            write_usage(out, &usage([branch].into_iter(), 1));
        } else if self.include_usage {
            raw(out, ",\"usage\":null");
        }
        raw(out, "}\n\n");
    }

    fn end(&self, out: &mut Vec<u8>, branches: &[Branch]) {
        if self.include_usage {
            raw(out, "data: ");
            out.extend_from_slice(&self.head);
            out.push(b']');
            write_usage(out, &usage(branches.iter(), self.n));
            raw(out, "}\n\n");
        }
        raw(out, "data: [DONE]\n\n");
    }

    fn whole(&self, branches: &[Branch], pieces: &[Piece]) -> Vec<u8> {
        let mut out = self.head.clone();
        for (position, (branch, piece)) in branches.iter().zip(pieces).enumerate() {
            if position > 0 {
                out.push(b',');
            }
            self.choice(&mut out, branch, piece);
        }
        out.push(b']');
        write_usage(&mut out, &usage(branches.iter(), self.n));
        out.push(b'}');
        out
    }
}

impl CompletionForm {
    fn choice(&self, out: &mut Vec<u8>, branch: &Branch, piece: &Piece) {
        raw(out, "{\"index\":");
        value(out, &branch.index);
        raw(out, ",\"text\":\"\",\"logprobs\":");
        match self.top {
            Some(top) => logprobs(out, piece, top as usize),
            None => raw(out, "null"),
        }
        raw(out, ",\"finish_reason\":");
        value(out, &branch.finish_name());
        raw(out, ",\"stop_reason\":");
        value(out, &branch.ended_by.filter(|_| branch.by_stop_token));
        raw(out, ",\"token_ids\":");
        value(out, &piece.tokens);
        if self.prompt_ids && piece.is_first {
            raw(out, ",\"prompt_token_ids\":");
            value(out, &branch.prompt[..]);
        }
        out.push(b'}');
    }
}

/// Four lists of equal length, an entry a token.
fn logprobs(out: &mut Vec<u8>, piece: &Piece, top: usize) {
    let scores: &[TokenLogprobs] = piece.logprobs.as_deref().unwrap_or_default();
    let scored = || piece.tokens.iter().zip(scores);
    raw(out, "{\"text_offset\":");
    list(out, scored(), |out, _| out.push(b'0'));
    raw(out, ",\"token_logprobs\":");
    list(out, scored(), |out, (_, of)| value(out, &logprob(of)));
    raw(out, ",\"tokens\":");
    list(out, scored(), |out, (token, _)| name(out, *token));
    raw(out, ",\"top_logprobs\":");
    list(out, scored(), |out, (&token, of)| {
        let mut likely: Vec<(u32, f64)> =
            of.top_ids.iter().copied().zip(of.top_logprobs.iter().copied()).take(top).collect();
        // The token itself is there even where it is not among the most likely.
        if !likely.iter().any(|&(id, _)| id == token) {
            likely.push((token, of.logprob));
        }
        out.push(b'{');
        for (position, (id, logprob)) in likely.into_iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            name(out, id);
            out.push(b':');
            value(out, &finite(logprob));
        }
        out.push(b'}');
    });
    out.push(b'}');
}

fn name(out: &mut Vec<u8>, token: u32) {
    raw(out, "\"token_id:");
    value(out, &token);
    out.push(b'"');
}

fn write_usage(out: &mut Vec<u8>, spent: &Usage) {
    raw(out, ",\"usage\":{\"prompt_tokens\":");
    value(out, &spent.prompt);
    raw(out, ",\"completion_tokens\":");
    value(out, &spent.completion);
    raw(out, ",\"total_tokens\":");
    value(out, &(spent.prompt + spent.completion));
    raw(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    value(out, &spent.cached);
    raw(out, "}}");
}

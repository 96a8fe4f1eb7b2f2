//! POST /generate in SGLang's shape, with `input_ids` in place of a text.
//!
//! There is no tokenizer here: `text` is always empty and `output_ids` holds the answer. Events of a stream carry the
//! new tokens alone, as SGLang's do with incremental streaming output.

use crate::app::App;
use crate::body::Answer;
use crate::errors::ApiError;
use crate::fields::{invalid, list, reason, Fields};
use crate::generation::{run, Branch, Finish, Form, Piece, Plan};
use crate::messages::{SamplingParams, TokenId, TokenLogprobs};
use crate::prompts::{too_many, Prompts};
use crate::sampling::{Names, Options};
use crate::write::{self, finite, logprob, raw, value};
use hyper::Response;
use serde_json::value::RawValue;
use std::rc::Rc;
use std::time::Instant;

const NAMES: Names = Names {
    max_tokens: "max_new_tokens",
    min_tokens: "min_new_tokens",
    seeds: &["sampling_seed", "seed"],
    prompt: "input_ids",
    // SGLang's.
    default_max_tokens: 128,
};

/// SGLang's options that need what this front-end or the engine does not have.
const UNSUPPORTED: &[&str] = &[
    "input_embeds",
    "image_data",
    "audio_data",
    "video_data",
    "modalities",
    "token_ids_logprob",
    "lora_path",
    "session_params",
    "custom_logit_processor",
    "return_routed_experts",
];
const UNSUPPORTED_SAMPLING: &[&str] =
    &["stop_regex", "json_schema", "regex", "ebnf", "structural_tag", "custom_params", "stream_interval"];

pub async fn generate(app: &Rc<App>, body: &[u8], arrival: Instant) -> Result<Response<Answer>, ApiError> {
    let (plan, form) = read(app, body, arrival)?;
    run(app, plan, form).await
}

/// One prompt's sampling_params.
struct Wish {
    options: Options,
    n: usize,
}

fn read(app: &App, body: &[u8], arrival: Instant) -> Result<(Plan, GenerateForm), ApiError> {
    let config = &app.config;
    let mut fields = Fields::of_body(body)?;
    app.check_model(fields.take::<String>("model")?.as_deref())?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let priority = fields.number("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?.unwrap_or(0);
    let top = fields.number("top_logprobs_num", 0..=config.engine.max_logprobs)?.unwrap_or(0);
    let start: i64 = fields.number("logprob_start_len", -1..=i64::from(i32::MAX))?.unwrap_or(-1);
    let scores = fields.flag("return_logprob")?.unwrap_or(false).then_some(Scores { top, start });
    if scores.is_none() && (top > 0 || start >= 0) {
        let text = "top_logprobs_num and logprob_start_len are only for requests with return_logprob set to true.";
        return Err(ApiError::invalid(text).param("return_logprob"));
    }
    let ids = fields.raw("rid");
    let wishes = fields.raw("sampling_params");
    if fields.raw("text").is_some() {
        let text = "text is given. This front-end has no tokenizer: give input_ids, a list of token ids.";
        return Err(ApiError::invalid(text).param("text").code("token_ids_only"));
    }
    // It would put texts into logprobs.
    fields.refuse_unless("return_text_in_logprobs", &["false"])?;
    fields.refuse_unless("return_hidden_states", &["false"])?;
    fields.refuse_unless("log_metrics", &["true"])?;
    let Some(prompt) = fields.raw("input_ids") else {
        return Err(ApiError::invalid("input_ids is missing: give a list of token ids.").param("input_ids"));
    };
    fields.finish(UNSUPPORTED)?;

    let most = config.http.max_batch;
    let given = Prompts::read("input_ids", prompt, config.facts.vocab_size, most)?;
    let count = given.prompts.len();
    let wishes = read_wishes(app, wishes, count, scores)?;
    let n = wishes[0].n;
    if count.saturating_mul(n) > most {
        return Err(too_many("sampling_params.n", count, n, most));
    }
    let ids = read_ids(app, ids, count, given.many)?;
    let limit = app.max_model_len();
    let prompts = given
        .prompts
        .into_iter()
        .enumerate()
        .map(|(position, prompt)| {
            let wish = wishes.get(position).unwrap_or(&wishes[0]);
            let sampling = wish.options.for_prompt(prompt.len(), limit, &NAMES)?;
            Ok((prompt, sampling))
        })
        .collect::<Result<Vec<(Rc<[TokenId]>, SamplingParams)>, ApiError>>()?;
    let form = GenerateForm { ids, n, many: given.many || n > 1, scores };
    Ok((Plan { prompts, n, priority, stream, arrival }, form))
}

/// One for all prompts, or one a prompt.
fn read_wishes(
    app: &App,
    given: Option<&RawValue>,
    prompts: usize,
    scores: Option<Scores>,
) -> Result<Vec<Wish>, ApiError> {
    let name = "sampling_params";
    let each: Vec<&RawValue> = match given {
        None => return Ok(vec![read_wish(app, None, scores)?]),
        Some(one) if !one.get().starts_with('[') => return Ok(vec![read_wish(app, Some(one), scores)?]),
        Some(several) => list(name, several, prompts)?,
    };
    if each.len() != prompts {
        return Err(invalid(name, &format!("{} of them for {prompts} prompts", each.len())));
    }
    let wishes = each.into_iter().map(|each| read_wish(app, Some(each), scores));
    let wishes = wishes.collect::<Result<Vec<Wish>, ApiError>>()?;
    if wishes.iter().any(|wish| wish.n != wishes[0].n) {
        return Err(invalid("sampling_params.n", "it must be the same for all prompts"));
    }
    Ok(wishes)
}

fn read_wish(app: &App, given: Option<&RawValue>, scores: Option<Scores>) -> Result<Wish, ApiError> {
    let mut fields = match given {
        Some(given) => Fields::of_object("sampling_params", given)?,
        None => Fields::default(),
    };
    let n = fields.number("n", 1..=usize::MAX)?.unwrap_or(1);
    let mut options = Options::take(&mut fields, &NAMES, &app.config.facts)?;
    if let Some(Scores { top, start }) = scores {
        options.logprobs(Some(top), (start >= 0).then_some(top));
    }
    // These shape the text, of which there is none; either way says the same.
    fields.flag("skip_special_tokens")?;
    fields.flag("spaces_between_special_tokens")?;
    fields.flag("no_stop_trim")?;
    fields.refuse_unless("stop", &["[]"])?;
    fields.finish(UNSUPPORTED_SAMPLING)?;
    Ok(Wish { options, n })
}

/// The ids that answers carry, one a prompt.
fn read_ids(app: &App, given: Option<&RawValue>, prompts: usize, many: bool) -> Result<Vec<String>, ApiError> {
    let ids: Vec<String> = match given {
        None => return Ok((0..prompts).map(|_| app.new_id("")).collect()),
        Some(given) if many => list("rid", given, prompts)?,
        Some(given) => {
            vec![serde_json::from_str(given.get()).map_err(|error| invalid("rid", &reason(&error)))?]
        }
    };
    if ids.len() != prompts {
        return Err(invalid("rid", &format!("{} of them for {prompts} prompts", ids.len())));
    }
    match ids.iter().find(|id| id.len() > 256) {
        Some(_) => Err(invalid("rid", "it is longer than 256 bytes")),
        None => Ok(ids),
    }
}

/// Log probabilities are asked for.
#[derive(Clone, Copy)]
struct Scores {
    /// Of so many of the most likely tokens, besides the token's own.
    top: u64,
    /// The prompt's too, from this position on; -1: none.
    start: i64,
}

struct GenerateForm {
    /// One a prompt.
    ids: Vec<String>,
    n: usize,
    /// The answer is a list.
    many: bool,
    scores: Option<Scores>,
}

impl Form for GenerateForm {
    fn event(&self, out: &mut Vec<u8>, branch: &Branch, piece: &Piece) {
        raw(out, "data: {\"index\":");
        value(out, &branch.index);
        out.push(b',');
        self.answer(out, branch, piece);
        raw(out, "\n\n");
    }

    fn end(&self, out: &mut Vec<u8>, _: &[Branch]) {
        raw(out, "data: [DONE]\n\n");
    }

    fn whole(&self, branches: &[Branch], pieces: &[Piece]) -> Vec<u8> {
        let mut out = Vec::new();
        let answer = |out: &mut Vec<u8>, (branch, piece): (&Branch, &Piece)| {
            out.push(b'{');
            self.answer(out, branch, piece);
        };
        match self.many {
            true => write::list(&mut out, branches.iter().zip(pieces), answer),
            false => answer(&mut out, (&branches[0], &pieces[0])),
        }
        out
    }
}

impl GenerateForm {
    /// All after the opening brace.
    fn answer(&self, out: &mut Vec<u8>, branch: &Branch, piece: &Piece) {
        raw(out, "\"text\":\"\",\"output_ids\":");
        value(out, &piece.tokens);
        raw(out, ",\"meta_info\":{\"id\":");
        value(out, &self.ids[branch.index / self.n]);
        raw(out, ",\"finish_reason\":");
        match branch.finish {
            None => raw(out, "null"),
            Some(Finish::Stop) => {
                raw(out, "{\"type\":\"stop\",\"matched\":");
                value(out, &branch.ended_by);
                out.push(b'}');
            }
            Some(Finish::Length) => {
                raw(out, "{\"type\":\"length\",\"length\":");
                value(out, &branch.tokens);
                out.push(b'}');
            }
        }
        raw(out, ",\"prompt_tokens\":");
        value(out, &branch.prompt.len());
        raw(out, ",\"completion_tokens\":");
        value(out, &branch.tokens);
        raw(out, ",\"cached_tokens\":");
        value(out, &branch.cached_tokens);
        if let Some(scores) = self.scores {
            let outputs = piece.tokens.iter().copied().zip(piece.logprobs.iter().flatten().map(Some));
            write_scores(out, "output", outputs, scores.top);
            if let (Some(prompt), true) = (&piece.prompt_logprobs, scores.start >= 0) {
                let inputs = branch.prompt.iter().copied().zip(prompt.iter().map(Option::as_ref));
                write_scores(out, "input", inputs.skip(scores.start as usize), scores.top);
            }
        }
        raw(out, "}}");
    }
}

/// Entries are `[logprob, token, null]`: the null is where SGLang puts the token's text. The first token of a prompt,
/// which nothing predicts, has null for its logprob.
fn write_scores<'a>(
    out: &mut Vec<u8>,
    side: &str,
    scored: impl Iterator<Item = (TokenId, Option<&'a TokenLogprobs>)> + Clone,
    top: u64,
) {
    raw(out, &format!(",\"{side}_token_logprobs\":"));
    write::list(out, scored.clone(), |out, (token, of)| entry(out, of.map(logprob), token));
    if top == 0 {
        return;
    }
    raw(out, &format!(",\"{side}_top_logprobs\":"));
    write::list(out, scored, |out, (_, of)| match of {
        None => raw(out, "null"),
        Some(of) => {
            write::list(out, of.top_ids.iter().zip(&of.top_logprobs).take(top as usize), |out, (&token, &logprob)| {
                entry(out, Some(finite(logprob)), token)
            })
        }
    });
}

fn entry(out: &mut Vec<u8>, logprob: Option<f64>, token: TokenId) {
    out.push(b'[');
    value(out, &logprob);
    out.push(b',');
    value(out, &token);
    raw(out, ",null]");
}

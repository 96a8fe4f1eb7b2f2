//! How to choose tokens: a request's options, checked, to what the engine gets.

use crate::errors::ApiError;
use crate::fields::{invalid, list, reason, Fields};
use crate::messages::{ModelFacts, SamplingParams, TokenId};
use std::collections::BTreeMap;

const MOST_STOP_TOKENS: usize = 128;
const MOST_BIASES: usize = 1024;
/// Longer JSON of `logit_bias` cannot be sensible; nothing is built from it.
const BIAS_TEXT: usize = 1 << 18;
const MOST_TOKENS: usize = (1 << 31) - 1;
/// Odd, from the golden ratio: the seeds of a request's choices are far apart (Knuth, TAOCP 3, 6.4).
const SEED_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What an endpoint calls its options.
pub struct Names {
    pub max_tokens: &'static str,
    pub min_tokens: &'static str,
    /// The first that is given counts.
    pub seeds: &'static [&'static str],
    pub prompt: &'static str,
    /// Where a request names none.
    pub default_max_tokens: usize,
}

/// One request's options; each prompt's own limits are still to be applied.
#[derive(Debug)]
pub struct Options {
    /// As asked for.
    max_tokens: Option<usize>,
    default_max_tokens: usize,
    seed: Option<u64>,
    values: SamplingParams,
}

impl Options {
    /// The request's values, then the checkpoint's defaults, then OpenAI's.
    pub fn take(fields: &mut Fields, names: &Names, facts: &ModelFacts) -> Result<Self, ApiError> {
        let default = |name: &str, otherwise: f64| facts.default_sampling.get(name).copied().unwrap_or(otherwise);
        let max_tokens = fields.number(names.max_tokens, 0..=MOST_TOKENS)?;
        let mut seed = None;
        for name in names.seeds {
            let given: Option<i64> = fields.take(name)?;
            // Python's `seed % 2**64`.
            seed = seed.or(given.map(|given| given as u64));
        }
        let repetition_penalty = fields.number("repetition_penalty", 0.0..=100.0)?;
        if repetition_penalty == Some(0.0) {
            return Err(invalid(&fields.full("repetition_penalty"), "it must be above 0"));
        }
        let top_k = fields.number("top_k", -1..=i32::MAX)?.map(f64::from);
        let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(default("top_p", 1.0));
        let values = SamplingParams {
            max_tokens: 0,
            min_tokens: fields.number(names.min_tokens, 0..=MOST_TOKENS)?.unwrap_or(0),
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(default("temperature", 1.0)),
            // 0 asks for the most likely token alone, which the smallest positive share gives.
            top_p: top_p.max(1e-9),
            top_k: top_k.unwrap_or(default("top_k", 0.0)).max(0.0) as u32,
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default("min_p", 0.0)),
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
            repetition_penalty: repetition_penalty.unwrap_or(default("repetition_penalty", 1.0)),
            seed: 0,
            stop_token_ids: stop_token_ids(fields, facts.vocab_size)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            logit_bias: logit_bias(fields, facts.vocab_size)?,
            logprobs: None,
            prompt_logprobs: None,
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
            cache_salt: String::new(),
        };
        let default_max_tokens = default("max_new_tokens", names.default_max_tokens as f64) as usize;
        Ok(Self { max_tokens, default_max_tokens, seed, values })
    }

    pub fn logprobs(&mut self, logprobs: Option<u64>, prompt_logprobs: Option<u64>) {
        self.values.logprobs = logprobs;
        self.values.prompt_logprobs = prompt_logprobs;
    }

    /// For a prompt of so many tokens, where prompt and output together may have `limit`.
    pub fn for_prompt(&self, prompt: usize, limit: usize, names: &Names) -> Result<SamplingParams, ApiError> {
        let asked = self.max_tokens;
        // A prompt that is only scored needs room for one token too: the engine scores it on the way there.
        if prompt.saturating_add(asked.unwrap_or(1).max(1)) > limit {
            return Err(too_long(prompt, asked.filter(|&asked| asked > 0), limit, names));
        }
        let max_tokens = asked.unwrap_or(self.default_max_tokens.min(limit - prompt));
        let min_tokens = self.values.min_tokens;
        if min_tokens > max_tokens {
            let name = names.min_tokens;
            let text = format!("{name} is {min_tokens}, more than the {max_tokens} tokens this request may produce.");
            return Err(ApiError::invalid(text).param(name));
        }
        Ok(SamplingParams { max_tokens, seed: self.seed.unwrap_or_else(random_seed), ..self.values.clone() })
    }
}

/// Seed of the choice-th completion of one prompt; the first keeps the request's own.
pub fn choice_seed(seed: u64, choice: usize) -> u64 {
    seed.wrapping_add((choice as u64).wrapping_mul(SEED_STEP))
}

fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    getrandom::getrandom(&mut bytes).expect("the system gives random bytes");
    u64::from_le_bytes(bytes)
}

fn too_long(prompt: usize, asked: Option<usize>, limit: usize, names: &Names) -> ApiError {
    // Clients tell an overflow by these words and by the code.
    let request = match asked {
        Some(asked) => format!(
            "you requested {} tokens ({prompt} in the prompt, {asked} in the completion), which",
            prompt + asked
        ),
        None => format!("your prompt resulted in {prompt} tokens, which with an answer"),
    };
    let param = if asked.is_some() && prompt < limit { names.max_tokens } else { names.prompt };
    let text = format!(
        "This model's maximum context length is {limit} tokens. However, {request} exceeds the context window of this \
         model. Please reduce the length of the prompt or completion (context_length_exceeded)."
    );
    ApiError::invalid(text).param(param).code("context_length_exceeded")
}

fn stop_token_ids(fields: &mut Fields, vocabulary: u32) -> Result<Vec<TokenId>, ApiError> {
    let name = fields.full("stop_token_ids");
    let Some(value) = fields.raw("stop_token_ids") else { return Ok(Vec::new()) };
    let tokens: Vec<TokenId> = list(&name, value, MOST_STOP_TOKENS)?;
    check_vocabulary(&name, tokens.iter().copied(), vocabulary)?;
    Ok(tokens)
}

fn logit_bias(fields: &mut Fields, vocabulary: u32) -> Result<Vec<(TokenId, f64)>, ApiError> {
    let full = fields.full("logit_bias");
    let Some(value) = fields.raw("logit_bias") else { return Ok(Vec::new()) };
    let many = || invalid(&full, &format!("it has more than {MOST_BIASES} entries"));
    if value.get().len() > BIAS_TEXT {
        return Err(many());
    }
    let biases: BTreeMap<TokenId, f64> =
        serde_json::from_str(value.get()).map_err(|error| invalid(&full, &reason(&error)))?;
    if biases.len() > MOST_BIASES {
        return Err(many());
    }
    check_vocabulary(&full, biases.keys().copied(), vocabulary)?;
    match biases.values().find(|bias| !(-100.0..=100.0).contains(*bias)) {
        Some(bias) => Err(invalid(&full, &format!("{bias} is not between -100 and 100"))),
        None => Ok(biases.into_iter().collect()),
    }
}

fn check_vocabulary(name: &str, tokens: impl Iterator<Item = TokenId>, vocabulary: u32) -> Result<(), ApiError> {
    match tokens.max() {
        Some(most) if most >= vocabulary => {
            let text = format!("{name} names token {most}; the model's tokens are 0 to {}.", vocabulary - 1);
            Err(ApiError::invalid(text).param(name))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names {
        max_tokens: "max_tokens",
        min_tokens: "min_tokens",
        seeds: &["seed"],
        prompt: "prompt",
        default_max_tokens: 16,
    };

    fn facts(defaults: &[(&str, f64)]) -> ModelFacts {
        let default_sampling = defaults.iter().map(|&(name, value)| (name.into(), value)).collect();
        ModelFacts { vocab_size: 100, max_model_len: 64, default_sampling }
    }

    fn read(body: &str, defaults: &[(&str, f64)]) -> Result<Options, ApiError> {
        let mut fields = Fields::of_body(body.as_bytes())?;
        let options = Options::take(&mut fields, &NAMES, &facts(defaults))?;
        fields.finish(&[])?;
        Ok(options)
    }

    fn refused(body: &str) -> (String, Option<String>) {
        let error = read(body, &[]).and_then(|options| options.for_prompt(10, 64, &NAMES)).unwrap_err();
        let (message, param) = error.told();
        (message.into(), param.map(String::from))
    }

    #[test]
    fn what_a_request_leaves_out_is_the_checkpoints_and_else_openais() {
        let plain = read("{}", &[]).unwrap().for_prompt(10, 64, &NAMES).unwrap();
        assert_eq!((plain.temperature, plain.top_p, plain.top_k, plain.max_tokens), (1.0, 1.0, 0, 16));
        let theirs = [("temperature", 0.6), ("top_k", 20.0), ("repetition_penalty", 1.1)];
        let longer = read("{}", &[("max_new_tokens", 40.0)]).unwrap();
        assert_eq!(longer.for_prompt(10, 64, &NAMES).unwrap().max_tokens, 40);
        assert_eq!(longer.for_prompt(44, 64, &NAMES).unwrap().max_tokens, 20);
        let own = read("{\"temperature\": 0}", &theirs).unwrap().for_prompt(10, 64, &NAMES).unwrap();
        assert_eq!((own.temperature, own.top_k, own.repetition_penalty), (0.0, 20, 1.1));
    }

    #[test]
    fn every_option_has_its_limits() {
        for (body, param) in [
            (r#"{"temperature": 2.1}"#, "temperature"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"temperature": 1e999}"#, "temperature"),
            (r#"{"top_p": -0.1}"#, "top_p"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"min_p": 1.5}"#, "min_p"),
            (r#"{"presence_penalty": 3}"#, "presence_penalty"),
            (r#"{"frequency_penalty": -3}"#, "frequency_penalty"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"seed": 9223372036854775808}"#, "seed"),
            (r#"{"max_tokens": -1}"#, "max_tokens"),
            (r#"{"max_tokens": 55}"#, "max_tokens"),
            (r#"{"min_tokens": 17}"#, "min_tokens"),
            (r#"{"stop_token_ids": [100]}"#, "stop_token_ids"),
            (r#"{"stop_token_ids": 5}"#, "stop_token_ids"),
            (r#"{"logit_bias": {"100": 1}}"#, "logit_bias"),
            (r#"{"logit_bias": {"1": 101}}"#, "logit_bias"),
            (r#"{"logit_bias": {"one": 1}}"#, "logit_bias"),
            (r#"{"ignore_eos": 1}"#, "ignore_eos"),
            (r#"{"temprature": 1}"#, "temprature"),
        ] {
            assert_eq!(refused(body).1.as_deref(), Some(param), "{body}");
        }
        let many: Vec<String> = (0..129).map(|_| "1".into()).collect();
        assert!(refused(&format!("{{\"stop_token_ids\": [{}]}}", many.join(","))).0.contains("more than 128 entries"));
        let long = " ".repeat(BIAS_TEXT);
        assert!(refused(&format!("{{\"logit_bias\": {{{long}}}}}")).0.contains("more than 1024"));
    }

    #[test]
    fn prompt_and_output_must_fit_the_model() {
        let asked = read(r#"{"max_tokens": 54}"#, &[]).unwrap();
        assert_eq!(asked.for_prompt(10, 64, &NAMES).unwrap().max_tokens, 54);
        let told = asked.for_prompt(11, 64, &NAMES).unwrap_err();
        assert_eq!(
            told.told().0,
            "This model's maximum context length is 64 tokens. However, you requested 65 tokens (11 in the prompt, 54 in \
             the completion), which exceeds the context window of this model. Please reduce the length of the prompt \
             or completion (context_length_exceeded)."
        );
        let open = read("{}", &[]).unwrap();
        assert_eq!(open.for_prompt(60, 64, &NAMES).unwrap().max_tokens, 4);
        assert_eq!(open.for_prompt(64, 64, &NAMES).unwrap_err().told().1, Some("prompt"));
        assert_eq!(read(r#"{"max_tokens": 0}"#, &[]).unwrap().for_prompt(63, 64, &NAMES).unwrap().max_tokens, 0);
    }

    #[test]
    fn seeds_are_kept_and_those_of_choices_differ() {
        let params = read(r#"{"seed": -1}"#, &[]).unwrap().for_prompt(1, 64, &NAMES).unwrap();
        assert_eq!(params.seed, u64::MAX);
        assert_eq!(choice_seed(params.seed, 0), u64::MAX);
        assert_eq!(choice_seed(u64::MAX, 2), 2u64.wrapping_mul(SEED_STEP) - 1);
        let random = read("{}", &[]).unwrap();
        let seed = || random.for_prompt(1, 64, &NAMES).unwrap().seed;
        assert_ne!(seed(), seed());
    }

    #[test]
    fn biases_and_stop_tokens_reach_the_engine() {
        let body = r#"{"logit_bias": {"7": -1.5, "3": 2}, "stop_token_ids": [9, 8], "top_p": 0, "ignore_eos": true}"#;
        let params = read(body, &[]).unwrap().for_prompt(1, 64, &NAMES).unwrap();
        assert_eq!(params.logit_bias, [(3, 2.0), (7, -1.5)]);
        assert_eq!((params.stop_token_ids, params.top_p, params.ignore_eos), (vec![9, 8], 1e-9, true));
    }
}

//! Prompts as clients give them: `[1, 2]` or `[[1, 2], [3]]`.

use crate::errors::ApiError;
use crate::fields::{invalid, list, reason};
use crate::messages::TokenId;
use serde_json::value::RawValue;
use std::rc::Rc;

pub struct Prompts {
    pub prompts: Vec<Rc<[TokenId]>>,
    /// A list of lists was given, be it of one.
    pub many: bool,
}

impl Prompts {
    /// `name`: of the field; `most`: prompts that one request may bring.
    pub fn read(name: &str, value: &RawValue, vocabulary: u32, most: usize) -> Result<Self, ApiError> {
        let text = value.get();
        let inner = text.strip_prefix('[').map_or("", str::trim_start);
        if text.starts_with('"') || inner.starts_with('"') {
            let text = format!(
                "{name} is a text. This front-end has no tokenizer: give a list of token ids, or a list of such lists."
            );
            return Err(ApiError::invalid(text).param(name).code("token_ids_only"));
        }
        let many = inner.starts_with('[');
        let lists: Vec<Vec<TokenId>> = if many {
            list(name, value, most)?
        } else {
            vec![serde_json::from_str(text).map_err(|error| invalid(name, &reason(&error)))?]
        };
        for tokens in &lists {
            let Some(&largest) = tokens.iter().max() else {
                let text = format!("{name} is empty: there is no token to begin from.");
                return Err(ApiError::invalid(text).param(name));
            };
            if largest >= vocabulary {
                let text = format!("{name} has token {largest}; the model's tokens are 0 to {}.", vocabulary - 1);
                return Err(ApiError::invalid(text).param(name));
            }
        }
        Ok(Self { prompts: lists.into_iter().map(Rc::from).collect(), many })
    }
}

/// More completions than one HTTP request may ask for.
pub fn too_many(name: &str, prompts: usize, n: usize, most: usize) -> ApiError {
    let asked = prompts.saturating_mul(n);
    let text = format!("{prompts} prompts with n = {n} are {asked} completions; one request may ask for {most}.");
    ApiError::invalid(text).param(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Prompts, ApiError> {
        let value = RawValue::from_string(text.into()).unwrap();
        Prompts::read("prompt", &value, 100, 3)
    }

    #[test]
    fn one_prompt_and_several_are_told_apart() {
        let one = read("[ 1,2]").unwrap();
        assert!(!one.many && *one.prompts[0] == [1, 2]);
        let several = read("[ [1], [2, 3]]").unwrap();
        assert!(several.many && *several.prompts[1] == [2, 3]);
        assert!(read("[[5]]").unwrap().many);
    }

    #[test]
    fn texts_are_refused_with_the_reason() {
        for text in ["\"hello\"", "[\"a\", \"b\"]", "[ \"a\"]"] {
            assert!(read(text).err().unwrap().told().0.contains("no tokenizer"), "{text}");
        }
    }

    #[test]
    fn what_no_model_can_run_is_refused() {
        for text in ["[]", "[[]]", "[[1], []]", "[100]", "[-1]", "[1.5]", "[[1], 2]", "[1, [2]]", "{}", "7", "true"] {
            assert_eq!(read(text).err().unwrap().told().1, Some("prompt"), "{text}");
        }
        assert!(read("[[1],[1],[1],[1]]").err().unwrap().told().0.contains("more than 3 entries"));
    }
}

//! JSON by hand, where it is written for every token.

use crate::messages::TokenLogprobs;
use serde::Serialize;

/// Stands for minus infinity, which JSON cannot say.
const LOWEST: f64 = -9999.0;

pub fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Any value as JSON.
pub fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("plain data goes into memory");
}

pub fn logprob(of: &TokenLogprobs) -> f64 {
    finite(of.logprob)
}

pub fn finite(logprob: f64) -> f64 {
    logprob.max(LOWEST)
}

/// `[`, what `item` writes for each, `]`.
pub fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut item: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (position, each) in items.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        item(out, each);
    }
    out.push(b']');
}

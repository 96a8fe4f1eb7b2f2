//! Lines on stderr, which the supervisor passes on.

use std::fmt::Display;
use std::sync::atomic::{AtomicU8, Ordering};

#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

static LEAST: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Print nothing below the level of this name.
pub fn set_least(name: &str) {
    let least = match name {
        "debug" => Level::Debug,
        "warning" => Level::Warning,
        "error" => Level::Error,
        _ => Level::Info,
    };
    LEAST.store(least as u8, Ordering::Relaxed);
}

fn print(level: Level, name: &str, text: impl Display) {
    if level as u8 >= LEAST.load(Ordering::Relaxed) {
        eprintln!("{name} tokens: {text}");
    }
}

pub fn warning(text: impl Display) {
    print(Level::Warning, "WARNING", text);
}

pub fn error(text: impl Display) {
    print(Level::Error, "ERROR", text);
}

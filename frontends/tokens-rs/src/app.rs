//! What every request handler works with.

use crate::channel::Outbox;
use crate::engine::Engine;
use crate::errors::{shortened, ApiError};
use crate::messages::{Config, MetricsGathered, Outgoing, RankId};
use crate::metrics::Metrics;
use crate::running_time::timeout;
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

pub struct App {
    /// This front-end's among the API servers.
    pub index: u32,
    pub config: Config,
    pub names: Vec<String>,
    pub engine: Rc<Engine>,
    /// That are to serve, attached or not; the configuration's, until the supervisor has said which.
    pub ranks: RefCell<Vec<RankId>>,
    pub metrics: RefCell<Metrics>,
    pub siblings: Siblings,
    pub started: u64,
    /// Digests are of equal length, so comparing them tells nothing of a key's length either.
    keys: Vec<[u8; 32]>,
}

pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl App {
    pub fn new(index: u32, config: Config, engine: Rc<Engine>, siblings: Siblings) -> Rc<Self> {
        Rc::new(Self {
            index,
            names: config.served_names(),
            keys: config.http.api_key.iter().map(|key| digest(key.as_bytes())).collect(),
            ranks: RefCell::new((0..config.parallel.data_parallel_size).collect()),
            config,
            engine,
            metrics: RefCell::default(),
            siblings,
            started: unix_time(),
        })
    }

    /// Longest prompt plus output in tokens: the model's, or less where an attached rank holds less.
    pub fn max_model_len(&self) -> usize {
        let mut least = self.config.facts.max_model_len;
        self.engine.each_rank(|hello, _, _| least = least.min(hello.max_model_len));
        least
    }

    /// The name to report for `model`; 404 for one that is not served.
    pub fn check_model(&self, model: Option<&str>) -> Result<String, ApiError> {
        match model {
            None => Ok(self.names[0].clone()),
            Some(name) if self.names.iter().any(|known| known == name) => Ok(name.to_owned()),
            Some(name) => {
                let known: Vec<String> = self.names.iter().map(|name| format!("'{name}'")).collect();
                let name = shortened(name);
                let text = format!("The model '{name}' does not exist; this server has {}.", known.join(", "));
                Err(ApiError::invalid(text).status(404).param("model").code("model_not_found"))
            }
        }
    }

    /// `authorization`: that header's value. Fails where the server has keys and this is none of them.
    pub fn check_key(&self, authorization: Option<&[u8]>) -> Result<(), ApiError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let given = authorization.unwrap_or_default();
        let (scheme, key) = given.split_at(given.iter().position(|&byte| byte == b' ').unwrap_or(given.len()));
        let key = digest(trimmed(key));
        // Every key is compared in full: time must not tell which was nearly right.
        let known = self.keys.iter().fold(false, |known, each| {
            known | (each.iter().zip(&key).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0)
        });
        if known && scheme.eq_ignore_ascii_case(b"bearer") {
            return Ok(());
        }
        let text = match given {
            [] => "This server needs an API key: send the header `Authorization: Bearer KEY`.",
            _ => "This API key is not one of the server's.",
        };
        Err(ApiError::invalid(text).status(401).code("invalid_api_key").header("www-authenticate", "Bearer"))
    }

    /// The id of an answer, behind a prefix.
    pub fn new_id(&self, prefix: &str) -> String {
        let mut random = [0; 16];
        getrandom::getrandom(&mut random).expect("the system gives random bytes");
        format!("{prefix}{:032x}", u128::from_le_bytes(random))
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let from = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(text.len());
    let to = text.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(from, |last| last + 1);
    &text[from..to]
}

/// The other API servers' counts, through the supervisor: a scrape of one gives the whole service.
pub struct Siblings {
    control: Outbox,
    last_query: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<MetricsGathered>>>,
    reported: RefCell<Vec<u8>>,
}

/// The supervisor gets so long to answer; it has a shorter patience with the siblings.
const PATIENCE: Duration = Duration::from_secs(5);

impl Siblings {
    pub fn new(control: Outbox) -> Self {
        Self { control, last_query: Cell::new(0), waiting: RefCell::default(), reported: RefCell::default() }
    }

    /// What the others have counted. A scrape without them would look like counters that went back, so where the
    /// supervisor does not answer, there is none.
    pub async fn gather(&self) -> Result<MetricsGathered, ApiError> {
        let query = self.last_query.get() + 1;
        self.last_query.set(query);
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().insert(query, answer);
        self.control.post(&Outgoing::metrics_query(query)).expect("a query is small");
        let gathered = timeout(PATIENCE, answered).await;
        self.waiting.borrow_mut().remove(&query);
        match gathered {
            Some(Ok(gathered)) => Ok(gathered),
            _ => {
                let seconds = PATIENCE.as_secs();
                let text = format!("The supervisor gave no samples of the other API servers within {seconds} s.");
                Err(ApiError::server(text).status(503))
            }
        }
    }

    pub fn gathered(&self, answer: MetricsGathered) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&answer.query) {
            // A scrape that was given up wants no answer.
            let _ = waiting.send(answer);
        }
    }

    /// Tell the supervisor what has been counted by now, in case we die; nothing where nothing has changed.
    pub fn report(&self, samples: Vec<u8>) {
        if *self.reported.borrow() != samples {
            self.reported.replace(samples.clone());
            self.control.post(&Outgoing::metrics_report(None, samples)).expect("samples are small");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(keys: &[&str]) -> Rc<App> {
        let config = serde_json::json!({
            "model": {"served_model_name": ["m", "other/name"]},
            "parallel": {"data_parallel_size": 2},
            "engine": {"max_logprobs": 20, "block_size": 16, "enable_prefix_caching": true},
            "http": {"api_key": keys, "max_body_bytes": 1024, "max_batch": 4},
            "service": {"log_level": "info"},
            "facts": {"vocab_size": 100, "max_model_len": 64, "default_sampling": {}},
        });
        let engine = Engine::new(0);
        App::new(0, serde_json::from_value(config).unwrap(), engine, Siblings::new(Outbox::default()))
    }

    #[test]
    fn keys_are_honoured() {
        assert!(app(&[]).check_key(None).is_ok());
        let app = app(&["one", "two"]);
        for good in ["Bearer one", "bearer  two "] {
            assert!(app.check_key(Some(good.as_bytes())).is_ok(), "{good}");
        }
        for bad in ["", "Bearer", "Bearer three", "one", "Basic one", "Bearer on"] {
            assert_eq!(app.check_key(Some(bad.as_bytes())).unwrap_err().status, 401, "{bad}");
        }
        assert!(app.check_key(None).unwrap_err().told().0.contains("needs an API key"));
    }

    #[test]
    fn a_model_that_is_not_served_is_told_the_names_there_are() {
        let app = app(&[]);
        assert_eq!(app.check_model(None).unwrap(), "m");
        assert_eq!(app.check_model(Some("other/name")).unwrap(), "other/name");
        let error = app.check_model(Some("x")).unwrap_err();
        assert_eq!(
            (error.status, error.told().0),
            (404, "The model 'x' does not exist; this server has 'm', 'other/name'.")
        );
    }
}

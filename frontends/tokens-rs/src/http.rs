//! HTTP on the inherited socket: connections, the key, the route, and every failure as an error of OpenAI's form.

use crate::app::App;
use crate::body::{self, Answer};
use crate::errors::{shortened, ApiError};
use crate::launch;
use crate::metrics::Counter;
use crate::{completions, generate, log, status};
use hyper::body::Body;
use hyper::server::conn::Http;
use hyper::service::service_fn;
use hyper::{header, Method, Request, Response};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{watch, Notify};
use tokio::task::spawn_local;
use tokio::time::timeout;

/// All connections of clients.
pub struct Server {
    app: Rc<App>,
    stopping: watch::Sender<bool>,
    open: Cell<usize>,
    closed: Notify,
}

/// hyper runs what it starts on this thread.
#[derive(Clone)]
struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

trait Connection: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Connection for S {}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl Server {
    pub fn new(app: Rc<App>) -> Rc<Self> {
        Rc::new(Self { app, stopping: watch::channel(false).0, open: Cell::new(0), closed: Notify::new() })
    }

    /// Accept connections until the server stops.
    pub fn listen(self: &Rc<Self>, listener: launch::Listener) -> io::Result<()> {
        let listener = match listener {
            launch::Listener::Tcp(listener) => Accepting::Tcp(TcpListener::from_std(listener)?),
            launch::Listener::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener)?),
        };
        let server = self.clone();
        let mut stopping = self.stopping.subscribe();
        spawn_local(async move {
            let mut accepting = pin!(server.accept(listener));
            let mut stopped = pin!(stopping.changed());
            poll_fn(|context| match stopped.as_mut().poll(context) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => accepting.as_mut().poll(context),
            })
            .await;
        });
        Ok(())
    }

    async fn accept(self: &Rc<Self>, listener: Accepting) {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    self.open.set(self.open.get() + 1);
                    let open = Open(self.clone());
                    spawn_local(async move { open.0.serve(stream).await });
                }
                Err(error) => {
                    log::error(format_args!("cannot accept a connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, stream: Box<dyn Connection>) {
        let begun = Cell::new(false);
        let service = service_fn(|request| {
            begun.set(true);
            let app = self.app.clone();
            async move { Ok::<_, Infallible>(answer(&app, request).await) }
        });
        let mut http = Http::new().with_executor(Here);
        let mut connection = pin!(http.http1_only(true).serve_connection(stream, service));
        let mut stopping = self.stopping.subscribe();
        let mut stopped = pin!(stopping.changed());
        let mut told = false;
        // Fails where a client breaks the protocol or leaves, which is no news.
        let _ = poll_fn(|context| {
            if !told && stopped.as_mut().poll(context).is_ready() {
                told = true;
                connection.as_mut().graceful_shutdown();
                // hyper would wait for the first request of a connection.
                if !begun.get() {
                    return Poll::Ready(Ok(()));
                }
            }
            connection.as_mut().poll(context)
        })
        .await;
    }

    /// Take no more connections, let those there are write what is due, and be back within `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.stopping.send_replace(true);
        self.app.engine.stop();
        let all_closed = async {
            while self.open.get() > 0 {
                self.closed.notified().await;
            }
            // They are being stopped too, and would report a front-end that leaves before them as lost.
            self.app.engine.all_gone().await;
        };
        let _ = timeout(grace, all_closed).await;
    }
}

/// A connection that counts as open, however its task ends.
struct Open(Rc<Server>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.closed.notify_one();
    }
}

const MODELS: &str = "/v1/models";

#[derive(Clone, Copy, PartialEq)]
enum Route {
    Completions,
    Generate,
    Models,
    Model,
    Health,
    Ready,
    Metrics,
}

impl Route {
    /// What is at a path, and what it is called in metrics.
    fn at(path: &str) -> Option<(Self, &'static str)> {
        Some(match path {
            "/v1/completions" => (Self::Completions, "/v1/completions"),
            "/generate" => (Self::Generate, "/generate"),
            MODELS => (Self::Models, MODELS),
            "/health" => (Self::Health, "/health"),
            "/ready" => (Self::Ready, "/ready"),
            "/metrics" => (Self::Metrics, "/metrics"),
            _ if path.strip_prefix("/v1/models/").is_some_and(|name| !name.is_empty()) => {
                (Self::Model, "/v1/models/{model}")
            }
            _ => return None,
        })
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Completions | Self::Generate => "POST",
            _ => "GET, HEAD",
        }
    }

    fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|name| name == method.as_str())
    }

    /// Needs no API key.
    fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }
}

async fn answer(app: &Rc<App>, request: Request<Body>) -> Response<Answer> {
    let route = Route::at(request.uri().path()).filter(|(route, _)| route.takes(request.method()));
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    };
    let mut counted = Counted { app, handler: "none", method: "other", status: "gone" };
    if let Some((_, name)) = route {
        (counted.handler, counted.method) = (name, method);
    }
    let response = respond(app, request, route.map(|(route, _)| route)).await;
    let mut response = response.unwrap_or_else(|error| body::refusal(&error));
    response.headers_mut().insert("x-phalanx-api-server", app.index.into());
    counted.status = match response.status().as_u16() / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    };
    response
}

/// Counts a request when it has its answer, or when its client has gone before.
struct Counted<'a> {
    app: &'a App,
    handler: &'static str,
    method: &'static str,
    status: &'static str,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.app.metrics.borrow_mut().add(
            Counter::Http,
            &[self.handler, self.method, self.status].map(str::to_owned),
            1,
        );
    }
}

async fn respond(app: &Rc<App>, request: Request<Body>, route: Option<Route>) -> Result<Response<Answer>, ApiError> {
    let arrival = Instant::now();
    let header = |name| request.headers().get(name).map(hyper::http::HeaderValue::as_bytes);
    if !route.is_some_and(Route::is_open) {
        app.check_key(header(header::AUTHORIZATION))?;
    }
    let Some(route) = route else { return Err(no_route(&request)) };
    if !matches!(header(header::CONTENT_ENCODING), None | Some(b"identity")) {
        return Err(ApiError::invalid("Compressed request bodies are not supported.").status(415));
    }
    match route {
        Route::Health => Ok(status::health()),
        Route::Ready => Ok(status::ready(app)),
        Route::Metrics => status::metrics(app).await,
        Route::Models => Ok(status::models(app)),
        Route::Model => {
            // A name may be a path, so it is all that follows.
            let name = &request.uri().path()[MODELS.len() + 1..];
            status::model(app, &unescaped(name))
        }
        Route::Completions => completions::completions(app, &read(app, request).await?, arrival).await,
        Route::Generate => generate::generate(app, &read(app, request).await?, arrival).await,
    }
}

fn read(app: &App, request: Request<Body>) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, ApiError>>>> {
    Box::pin(body::read(request, app.config.http.max_body_bytes))
}

fn no_route(request: &Request<Body>) -> ApiError {
    let path = shortened(request.uri().path());
    match Route::at(request.uri().path()) {
        Some((route, _)) => {
            let methods = route.methods();
            ApiError::invalid(format!("{path} takes {methods}, not {}.", shortened(request.method().as_str())))
                .status(405)
                .header("allow", methods)
        }
        None => {
            let text = "this front-end has /v1/completions, /generate, /v1/models, /health, /ready and /metrics";
            ApiError::invalid(format!("There is no {path} here; {text}.")).status(404)
        }
    }
}

/// Percent-encoding undone; what is no encoding stays.
fn unescaped(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let digits = bytes.get(position + 1..position + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[position] == b'%' => {
                out.push(byte);
                position += 3;
            }
            _ => {
                out.push(bytes[position]);
                position += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        assert_eq!(unescaped("org%2Fname%20x/y"), "org/name x/y");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%ff"), "%zz\u{fffd}");
    }

    #[test]
    fn routes_know_their_methods() {
        let (route, name) = Route::at("/v1/models/a/b").unwrap();
        assert!(name.ends_with("{model}") && route.takes(&Method::HEAD) && !route.takes(&Method::POST));
        assert!(Route::at("/v1/models/").is_none() && Route::at("/v1/chat/completions").is_none());
        assert!(!Route::at("/health").unwrap().0.takes(&Method::from_bytes(b"GET, HEAD").unwrap_or(Method::PUT)));
    }
}

//! Bodies: requests' are read whole and bounded, answers' are whole or a stream of events.

use crate::errors::ApiError;
use bytes::Bytes;
use hyper::body::{Body, HttpBody, SizeHint};
use hyper::http::{HeaderMap, HeaderValue};
use hyper::{header, Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// For which the rest of a refused body is read and dropped, so that the client gets to read the refusal: closing a
/// socket with unread input resets it, and many clients then never see the answer.
const LINGER: Duration = Duration::from_secs(1);

/// Server-sent events on their way.
pub trait Events {
    /// The next ones, in one piece. Not to be polled once `ended`.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Bytes>;
    fn ended(&self) -> bool;
}

pub enum Answer {
    Whole(Bytes),
    Events(Box<dyn Events>),
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_data(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        match &mut *self {
            Self::Whole(body) if body.is_empty() => Poll::Ready(None),
            Self::Whole(body) => Poll::Ready(Some(Ok(std::mem::take(body)))),
            Self::Events(events) if events.ended() => Poll::Ready(None),
            Self::Events(events) => events.poll(context).map(|events| Some(Ok(events))),
        }
    }

    fn poll_trailers(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Infallible>> {
        Poll::Ready(Ok(None))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_empty(),
            Self::Events(events) => events.ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

pub fn json(status: u16, body: Vec<u8>) -> Response<Answer> {
    typed(status, "application/json", body)
}

pub fn typed(status: u16, content_type: &'static str, body: Vec<u8>) -> Response<Answer> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .body(Answer::Whole(body.into()))
        .expect("these headers are sound")
}

pub fn refusal(error: &ApiError) -> Response<Answer> {
    let mut response = json(error.status, error.body());
    if let Some((name, value)) = error.header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The whole body of a request. One over `limit` bytes is an error, and the rest of it is not kept.
pub async fn read(request: Request<Body>, limit: usize) -> Result<Vec<u8>, ApiError> {
    let (head, mut body) = request.into_parts();
    let declared = body.size_hint().lower();
    if declared > limit as u64 {
        // A client that asks before it sends has sent nothing yet.
        if !head.headers.contains_key(header::EXPECT) {
            drop_rest(&mut body).await;
        }
        return Err(too_large(limit));
    }
    let mut whole = Vec::with_capacity(declared as usize);
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| ApiError::invalid(format!("The request body broke off: {error}.")))?;
        if whole.len() + part.len() > limit {
            drop_rest(&mut body).await;
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole)
}

async fn drop_rest(body: &mut Body) {
    let rest = async { while let Some(Ok(_)) = body.data().await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

fn too_large(limit: usize) -> ApiError {
    let text = format!("The request body is larger than {limit} bytes, the most this server reads (--max-body-bytes).");
    ApiError::invalid(text).status(413).code("body_too_large").header("connection", "close")
}

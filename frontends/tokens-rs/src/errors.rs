//! Errors as OpenAI's API gives them: `{"error": {"message", "type", "param", "code"}}` and a status.

use serde::Serialize;

/// A request ends here; the message is for the person who sent it.
#[derive(Debug)]
pub struct ApiError {
    pub status: u16,
    /// Name and value.
    pub header: Option<(&'static str, &'static str)>,
    detail: Detail,
}

#[derive(Debug, Serialize)]
struct Detail {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: String) -> Self {
        Self { status, header: None, detail: Detail { message, kind, param: None, code: None } }
    }

    /// The client's own fault.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message.into())
    }

    /// Ours, or the engine's.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(500, "server_error", message.into())
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.detail.param = Some(param.into());
        self
    }

    pub fn code(mut self, code: &'static str) -> Self {
        self.detail.code = Some(code);
        self
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    pub fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Whole<'a> {
            error: &'a Detail,
        }
        serde_json::to_vec(&Whole { error: &self.detail }).expect("an error is plain data")
    }

    /// As the last event of a stream whose status has been sent.
    pub fn event(&self) -> Vec<u8> {
        [b"data: ", &self.body()[..], b"\n\n"].concat()
    }

    #[cfg(test)]
    pub fn told(&self) -> (&str, Option<&str>) {
        (&self.detail.message, self.detail.param.as_deref())
    }
}

/// At most so much of a client's own text is repeated.
pub fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(200).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

//! Authenticated connections: dialled (control) or accepted (ranks), then frames in both directions.

use crate::frames::{self, FrameReader, MAX_FRAME, MAX_UNPROVEN_FRAME};
use crate::handshake::{nonce, Dialer, Listener, Refused, Step};
use crate::running_time::timeout;
use serde::Serialize;
use socket2::{SockRef, TcpKeepalive};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

/// For a listener to prove itself to us, its backlog included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// For a peer that dialled to prove itself.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}
type Boxed = Box<dyn Stream>;

/// A connection whose ends have proved to each other that they know the secret.
pub struct Channel {
    stream: Boxed,
    reader: FrameReader,
}

fn failed(text: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::Other, text.to_string())
}

/// Connect to `unix:/path` or `tcp:host:port`.
async fn connect(address: &str) -> io::Result<Boxed> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let target = address.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':'));
    let port = target.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|&port| port != 0);
    let (Some((host, _)), Some(port)) = (target, port) else {
        return Err(failed("not an address that can be dialled"));
    };
    let stream = TcpStream::connect((host.trim_start_matches('[').trim_end_matches(']'), port)).await?;
    tune(&stream)?;
    Ok(Box::new(stream))
}

/// No delay for small frames; a half-open peer is noticed: 5 s idle, then 5 probes 2 s apart.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    socket.set_tcp_keepalive(&probes.with_retries(5))?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(15)))
}

/// Connect and prove ourselves. The error says what happened at `address`.
pub async fn dial(address: &str, secret: &[u8]) -> io::Result<Channel> {
    let proven = async {
        let mut channel = Channel::unproven(connect(address).await?);
        let mut handshake = Dialer::new(secret, nonce());
        channel.send(&handshake.opening()).await?;
        while !handshake.done {
            let body = channel.receive_unproven().await?;
            let answer = handshake.receive(&body);
            channel.answer(answer).await?;
        }
        Ok(channel.proven())
    };
    timeout(DIAL_TIMEOUT, proven)
        .await
        .unwrap_or_else(|| Err(failed(format!("no answer within {} s", DIAL_TIMEOUT.as_secs()))))
        .map_err(|error: io::Error| failed(format!("{address}: {error}")))
}

/// Let a peer that has connected prove itself.
pub async fn accept(stream: Boxed, secret: &[u8]) -> io::Result<Channel> {
    let proven = async {
        let mut channel = Channel::unproven(stream);
        let mut handshake = Listener::new(secret, nonce());
        while !handshake.done {
            let body = channel.receive_unproven().await?;
            let answer = handshake.receive(&body);
            channel.answer(answer).await?;
        }
        Ok(channel.proven())
    };
    let seconds = PROOF_TIMEOUT.as_secs();
    timeout(PROOF_TIMEOUT, proven)
        .await
        .unwrap_or_else(|| Err(failed(format!("the peer did not prove itself within {seconds} s"))))
}

impl Channel {
    fn unproven(stream: Boxed) -> Self {
        Self { stream, reader: FrameReader::new(MAX_UNPROVEN_FRAME) }
    }

    fn proven(mut self) -> Self {
        self.reader.limit = MAX_FRAME;
        self
    }

    async fn receive_unproven(&mut self) -> io::Result<bytes::Bytes> {
        read_frame(&mut self.stream, &mut self.reader).await?.ok_or_else(|| failed("the peer closed the connection"))
    }

    async fn answer(&mut self, answer: Result<Option<Step>, Refused>) -> io::Result<()> {
        match answer {
            Ok(Some(step)) => self.send(&step).await,
            Ok(None) => Ok(()),
            Err(refused) => {
                // The peer is told why; whether it still listens does not matter.
                let _ = self.send(&Step::refusal(&refused)).await;
                Err(failed(refused.0))
            }
        }
    }

    pub async fn send<M: Serialize>(&mut self, message: &M) -> io::Result<()> {
        let mut frame = Vec::new();
        frames::append(&mut frame, message).map_err(failed)?;
        self.stream.write_all(&frame).await
    }

    /// The two directions, for two tasks.
    pub fn split(self) -> (Receiver, Outbox, Sender) {
        let (read, write) = tokio::io::split(self.stream);
        let outbox = Outbox::default();
        (Receiver { stream: read, reader: self.reader }, outbox.clone(), Sender { stream: write, outbox })
    }
}

async fn read_frame<S: AsyncRead + Unpin>(
    stream: &mut S,
    reader: &mut FrameReader,
) -> io::Result<Option<bytes::Bytes>> {
    loop {
        if let Some(body) = reader.take().map_err(failed)? {
            return Ok(Some(body));
        }
        if stream.read_buf(reader.space()).await? == 0 {
            return Ok(None);
        }
    }
}

pub struct Receiver {
    stream: ReadHalf<Boxed>,
    reader: FrameReader,
}

impl Receiver {
    /// The next frame body; None at the end of the connection.
    pub async fn receive(&mut self) -> io::Result<Option<bytes::Bytes>> {
        read_frame(&mut self.stream, &mut self.reader).await
    }
}

/// Messages on their way out. Posting never waits; what is posted after the end goes nowhere.
#[derive(Clone, Default)]
pub struct Outbox(Rc<Posted>);

#[derive(Default)]
struct Posted {
    frames: RefCell<Vec<u8>>,
    changed: Notify,
    closed: Cell<bool>,
}

impl Outbox {
    /// A message that no receiver would take is an error.
    pub fn post<M: Serialize>(&self, message: &M) -> Result<(), frames::FrameError> {
        if !self.0.closed.get() {
            frames::append(&mut self.0.frames.borrow_mut(), message)?;
            self.0.changed.notify_one();
        }
        Ok(())
    }

    /// End the connection once what was posted has gone out.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.changed.notify_one();
    }
}

/// Writes what is posted.
pub struct Sender {
    stream: WriteHalf<Boxed>,
    outbox: Outbox,
}

impl Sender {
    /// Until the outbox is closed, or the peer has gone, which the receiver tells.
    pub async fn run(mut self) {
        let Posted { frames, changed, closed } = &*self.outbox.0;
        loop {
            let posted = frames.take();
            if !posted.is_empty() {
                if self.stream.write_all(&posted).await.is_err() {
                    closed.set(true);
                    return;
                }
            } else if closed.get() {
                let _ = self.stream.shutdown().await;
                return;
            } else {
                changed.notified().await;
            }
        }
    }
}

//! The engine plane: ranks dial in, requests go out, tokens come back to who waits.

use crate::channel::{self, Outbox, Receiver};
use crate::frames::FrameError;
use crate::launch;
use crate::log;
use crate::messages::{
    self, finish, tag, EngineHello, Outgoing, RankId, RequestId, RequestOutput, SamplingParams, StepOutput, StepTokens,
    TokenId,
};
use crate::router::{Chance, Placement, RankView, Router};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// All ranks attached to this front-end, and the live requests in them.
pub struct Engine {
    state: RefCell<State>,
    rank_gone: Notify,
}

struct State {
    router: Router,
    links: BTreeMap<RankId, Link>,
    live: HashMap<RequestId, Live>,
    last_request: RequestId,
    last_link: u64,
    stopping: bool,
}

/// The connection to one rank.
struct Link {
    number: u64,
    hello: EngineHello,
    outbox: Outbox,
    /// As it last told; None: not yet.
    step_tokens: Option<StepTokens>,
}

struct Live {
    slot: Rc<RefCell<Slot>>,
    placement: Placement,
}

/// What has come for one request and has not been taken yet.
#[derive(Default)]
struct Slot {
    output: Option<RequestOutput>,
    failure: Option<Failure>,
    waker: Option<Waker>,
}

/// Why a request cannot go on, or cannot begin.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The rank that ran it has gone.
    RankDied(String),
    /// No rank is attached.
    NoRank,
    /// This front-end ends.
    Stopping,
    /// The message that starts it cannot be sent.
    Unsendable(String),
}

impl Engine {
    /// `index`: of this front-end; equal choices must not fall alike in all of them.
    pub fn new(index: u32) -> Rc<Self> {
        let state = State {
            router: Router::new(Chance(index.into())),
            links: BTreeMap::new(),
            live: HashMap::new(),
            last_request: 0,
            last_link: 0,
            stopping: false,
        };
        Rc::new(Self { state: RefCell::new(state), rank_gone: Notify::new() })
    }

    /// Choose a rank and submit at once.
    pub fn generate(
        self: &Rc<Self>,
        prompt: &[TokenId],
        sampling: &SamplingParams,
        priority: i64,
    ) -> Result<Generation, Failure> {
        let state = &mut *self.state.borrow_mut();
        if state.stopping {
            return Err(Failure::Stopping);
        }
        let placement = state.router.place(prompt.len(), sampling.max_tokens).ok_or(Failure::NoRank)?;
        let id = state.last_request + 1;
        let submit = Outgoing::submit(id, prompt, sampling, placement.expected_tokens, priority);
        if let Err(error) = state.links[&placement.rank].outbox.post(&submit) {
            state.router.release(&placement, false);
            return Err(Failure::Unsendable(error.0));
        }
        state.last_request = id;
        let rank = placement.rank;
        let slot = Rc::new(RefCell::new(Slot::default()));
        state.live.insert(id, Live { slot: slot.clone(), placement });
        Ok(Generation { rank, engine: self.clone(), id, slot })
    }

    /// The attached ranks, by number.
    pub fn each_rank(&self, mut take: impl FnMut(&EngineHello, &RankView, Option<&StepTokens>)) {
        let state = self.state.borrow();
        for (&rank, link) in &state.links {
            if let Some(view) = state.router.view(rank) {
                take(&link.hello, view, link.step_tokens.as_ref());
            }
        }
    }

    /// No more requests; those in flight fail.
    pub fn stop(&self) {
        let mut state = self.state.borrow_mut();
        state.stopping = true;
        for (_, live) in state.live.drain() {
            live.slot.borrow_mut().fail(Failure::Stopping);
        }
    }

    /// Until every rank has hung up.
    pub async fn all_gone(&self) {
        while !self.state.borrow().links.is_empty() {
            self.rank_gone.notified().await;
        }
    }

    /// A rank has said who it is. Gives the number of its connection.
    fn attach(&self, hello: EngineHello, outbox: Outbox) -> Result<u64, FrameError> {
        let rank = hello.rank;
        if let Some(old) = self.state.borrow().links.get(&rank) {
            if old.hello.incarnation > hello.incarnation {
                return Err(FrameError(format!("rank {rank}: incarnation {} has been replaced", hello.incarnation)));
            }
        }
        self.detach(rank, None, &format!("rank {rank} came back"));
        let state = &mut *self.state.borrow_mut();
        state.last_link += 1;
        state.links.insert(rank, Link { number: state.last_link, hello, outbox, step_tokens: None });
        state.router.attach(rank);
        Ok(state.last_link)
    }

    /// A rank's connection has ended, or another takes its place. `number`: only if it is this one.
    fn detach(&self, rank: RankId, number: Option<u64>, reason: &str) {
        let state = &mut *self.state.borrow_mut();
        match state.links.get(&rank) {
            Some(link) if number.map_or(true, |number| number == link.number) => link.outbox.close(),
            _ => return,
        }
        state.links.remove(&rank);
        self.rank_gone.notify_one();
        state.router.detach(rank);
        state.live.retain(|_, live| {
            let stays = live.placement.rank != rank;
            if !stays {
                let failure = Failure::RankDied(format!("engine rank {rank} has gone: {reason}"));
                live.slot.borrow_mut().fail(failure);
            }
            stays
        });
    }

    fn step(&self, rank: RankId, number: u64, step: StepOutput) {
        let state = &mut *self.state.borrow_mut();
        let link = match state.links.get_mut(&rank) {
            Some(link) if link.number == number => link,
            // An older connection's last words, after its successor has come.
            _ => return,
        };
        if step.step_tokens.is_some() {
            link.step_tokens = step.step_tokens;
        }
        state.router.report(rank, step.load);
        for output in step.outputs {
            // Aborted a moment ago: what the rank had sent by then is nobody's.
            let Some(live) = state.live.get_mut(&output.request_id) else { continue };
            state.router.progress(&mut live.placement, output.tokens.len());
            match output.finish {
                None => live.slot.borrow_mut().push(output),
                Some(reason) => {
                    let by_itself = matches!(reason, finish::STOP | finish::LENGTH);
                    state.router.release(&live.placement, by_itself);
                    let live = state.live.remove(&output.request_id).expect("it is live");
                    live.slot.borrow_mut().push(output);
                }
            }
        }
    }

    /// Nobody wants the rest of a request; nothing where it has ended.
    fn forget(&self, id: RequestId) {
        let state = &mut *self.state.borrow_mut();
        let Some(live) = state.live.remove(&id) else { return };
        state.router.release(&live.placement, false);
        if let Some(link) = state.links.get(&live.placement.rank) {
            link.outbox.post(&Outgoing::abort(&[id])).expect("an Abort is small");
        }
    }
}

/// One request in flight; dropping it aborts what has not ended.
pub struct Generation {
    /// Where it runs.
    pub rank: RankId,
    engine: Rc<Engine>,
    id: RequestId,
    slot: Rc<RefCell<Slot>>,
}

impl Generation {
    /// All that came since the last call, as one output. A failure comes after every token that was sent.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Result<RequestOutput, Failure>> {
        let mut slot = self.slot.borrow_mut();
        if let Some(output) = slot.output.take() {
            return Poll::Ready(Ok(output));
        }
        if let Some(failure) = &slot.failure {
            return Poll::Ready(Err(failure.clone()));
        }
        match &slot.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => slot.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.engine.forget(self.id);
    }
}

impl Slot {
    fn push(&mut self, output: RequestOutput) {
        match &mut self.output {
            Some(first) => merge(first, output),
            none => *none = Some(output),
        }
        self.wake();
    }

    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

fn merge(first: &mut RequestOutput, then: RequestOutput) {
    first.tokens.extend(then.tokens);
    first.finish = then.finish;
    first.stop_token = then.stop_token;
    match (&mut first.logprobs, then.logprobs) {
        (Some(earlier), Some(later)) => earlier.extend(later),
        (none, later) => *none = none.take().or(later),
    }
    first.prompt_logprobs = first.prompt_logprobs.take().or(then.prompt_logprobs);
    first.cached_tokens = first.cached_tokens.max(then.cached_tokens);
    first.error = then.error;
    first.times = first.times.take().or(then.times);
}

/// Serve ranks on an inherited listener; those that dialled early wait in its backlog.
pub fn listen(
    engine: &Rc<Engine>,
    listener: launch::Listener,
    secret: Rc<[u8]>,
) -> io::Result<impl Future<Output = ()>> {
    enum Accepting {
        Tcp(TcpListener),
        Unix(UnixListener),
    }
    let listener = match listener {
        launch::Listener::Tcp(listener) => Accepting::Tcp(TcpListener::from_std(listener)?),
        launch::Listener::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener)?),
    };
    let engine = engine.clone();
    Ok(async move {
        loop {
            let accepted: io::Result<Box<dyn channel::Stream>> = match &listener {
                Accepting::Tcp(listener) => listener
                    .accept()
                    .await
                    .and_then(|(stream, _)| channel::tune(&stream).map(|()| Box::new(stream) as Box<_>)),
                Accepting::Unix(listener) => listener.accept().await.map(|(stream, _)| Box::new(stream) as Box<_>),
            };
            match accepted {
                Ok(stream) => {
                    let (engine, secret) = (engine.clone(), secret.clone());
                    spawn_local(async move {
                        if let Err(error) = serve(&engine, stream, &secret).await {
                            log::warning(format_args!("dropped a connection: {error}"));
                        }
                    });
                }
                Err(error) => {
                    log::error(format_args!("cannot accept a rank: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    })
}

/// One connection of a rank, from its proof to its end.
async fn serve(engine: &Rc<Engine>, stream: Box<dyn channel::Stream>, secret: &[u8]) -> io::Result<()> {
    let (mut receiver, outbox, sender) = channel::accept(stream, secret).await?.split();
    spawn_local(sender.run());
    let _closed = Closing(outbox.clone());
    let Some(body) = receiver.receive().await? else { return Ok(()) };
    let odd = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
    if messages::tag(&body).map_err(odd)? != tag::ENGINE_HELLO {
        return Err(odd(FrameError("a rank began with something other than EngineHello".into())));
    }
    let hello: EngineHello = messages::decode(&body).map_err(odd)?;
    let rank = hello.rank;
    let attached = Attached { engine, rank, number: engine.attach(hello, outbox).map_err(odd)? };
    let end = attached.steps(&mut receiver).await;
    let reason = end.as_ref().map_or_else(ToString::to_string, |()| "it closed the connection".into());
    engine.detach(rank, Some(attached.number), &reason);
    end.or_else(|error| if error.kind() == io::ErrorKind::InvalidData { Err(error) } else { Ok(()) })
}

/// Whatever ends the connection's task, its other half ends with it.
struct Closing(Outbox);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A rank's connection as long as it is there; no way out of its task leaves its requests waiting.
struct Attached<'a> {
    engine: &'a Engine,
    rank: RankId,
    number: u64,
}

impl Attached<'_> {
    async fn steps(&self, receiver: &mut Receiver) -> io::Result<()> {
        let odd =
            |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, format!("rank {}: {error}", self.rank));
        while let Some(body) = receiver.receive().await? {
            if messages::tag(&body).map_err(odd)? == tag::STEP_OUTPUT {
                self.engine.step(self.rank, self.number, messages::decode(&body).map_err(odd)?);
            }
        }
        Ok(())
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.engine.detach(self.rank, Some(self.number), "its connection failed here");
    }
}

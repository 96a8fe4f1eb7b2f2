//! The connection to the supervisor: enlist, report, obey, and end with it.

use crate::channel::{self, Outbox, Receiver};
use crate::launch::Launch;
use crate::log;
use crate::messages::{self, tag, MetricsGathered, MetricsRequest, Outgoing, Ranks, Refusal, Welcome};
use std::io;
use std::time::Duration;
use tokio::task::{spawn_local, JoinHandle};
use tokio::time::timeout;

/// The supervisor is gone; nobody will read this status, a log of the machine may.
const EXIT_ORPHANED: i32 = 70;
const EXIT_FAILED: i32 = 1;

/// Our words to the supervisor.
pub struct Control {
    pub outbox: Outbox,
    sender: JoinHandle<()>,
}

/// What the supervisor asks of a front-end that serves, or tells it.
pub enum Order {
    Stop,
    MetricsRequest(MetricsRequest),
    MetricsGathered(MetricsGathered),
    Ranks(Ranks),
}

fn odd(text: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_string())
}

/// Join the service: dial, say Hello, take the configuration.
pub async fn enlist(launch: &Launch) -> io::Result<(Welcome, Orders, Control)> {
    let mut channel = channel::dial(&launch.control, &launch.secret).await?;
    channel.send(&Outgoing::hello(launch.index, launch.incarnation, std::process::id())).await?;
    let (mut receiver, outbox, sender) = channel.split();
    let sender = spawn_local(sender.run());
    let answer = receiver.receive().await?.ok_or_else(|| odd("the supervisor hung up on our Hello"))?;
    match messages::tag(&answer).map_err(odd)? {
        tag::WELCOME => {}
        tag::REFUSED => {
            let refused: Refusal = messages::decode(&answer).map_err(odd)?;
            return Err(odd(format!("the supervisor refused us: {}", refused.reason)));
        }
        other => return Err(odd(format!("the supervisor answered Hello with message {other}"))),
    }
    Ok((messages::decode(&answer).map_err(odd)?, Orders(receiver), Control { outbox, sender }))
}

/// What comes from the supervisor after Welcome.
pub struct Orders(Receiver);

impl Orders {
    /// The next that we know; others are for newer front-ends. When the supervisor is gone, so is this process.
    pub async fn next(&mut self) -> io::Result<Order> {
        loop {
            let Ok(Some(body)) = self.0.receive().await else {
                std::process::exit(EXIT_ORPHANED);
            };
            return Ok(match messages::tag(&body).map_err(odd)? {
                tag::STOP => Order::Stop,
                tag::METRICS_REQUEST => Order::MetricsRequest(messages::decode(&body).map_err(odd)?),
                tag::METRICS_GATHERED => Order::MetricsGathered(messages::decode(&body).map_err(odd)?),
                tag::RANKS => Order::Ranks(messages::decode(&body).map_err(odd)?),
                _ => continue,
            });
        }
    }
}

impl Control {
    pub fn stage(&self, stage: &'static str) {
        self.outbox.post(&Outgoing::stage(stage)).expect("a stage is small");
    }

    /// Say why this process is about to end, and end it.
    pub async fn fail(self, reason: &str) -> ! {
        log::error(reason);
        // A broken connection means the supervisor is gone: nobody is left to tell.
        let _ = self.outbox.post(&Outgoing::failed(reason));
        self.outbox.close();
        let _ = timeout(Duration::from_secs(1), self.sender).await;
        std::process::exit(EXIT_FAILED);
    }
}

//! Front-end of Phalanx for clients that already hold token ids: `POST /generate` and `/v1/completions`.
//!
//! Started by the supervisor in place of a Python API server: `--control ADDRESS --index I --incarnation K`.

mod app;
mod body;
mod channel;
mod completions;
mod control;
mod engine;
mod errors;
mod fields;
mod frames;
mod generate;
mod generation;
mod handshake;
mod http;
mod launch;
mod log;
mod messages;
mod metrics;
mod prompts;
mod router;
mod running_time;
mod sampling;
mod status;
#[cfg(test)]
mod vectors;
mod write;

use app::{App, Siblings};
use channel::Outbox;
use control::{Order, Orders};
use engine::Engine;
use frames::FrameError;
use http::Server;
use launch::Launch;
use messages::{Outgoing, Welcome};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::{spawn_local, LocalSet};
use tokio::time::sleep;

/// In which connections may still take what has been written for them when the front-end stops.
const GRACE: Duration = Duration::from_secs(1);

fn main() {
    let launch = Launch::from_process().unwrap_or_else(|problem| {
        eprintln!("phalanx-tokens: {problem}");
        std::process::exit(2);
    });
    let runtime = Builder::new_current_thread().enable_all().build().expect("the system gives an event loop");
    runtime.block_on(LocalSet::new().run_until(run(launch)));
    // At once: nothing that still runs is owed anything.
    std::process::exit(0);
}

async fn run(launch: Launch) {
    let (welcome, orders, control) = match control::enlist(&launch).await {
        Ok(enlisted) => enlisted,
        Err(error) => {
            eprintln!("phalanx-tokens: {error}");
            std::process::exit(1);
        }
    };
    log::set_least(&welcome.config.service.log_level);
    control.stage("started");
    // In a task of its own, so that a defect in it is told to the supervisor too.
    match spawn_local(serve(launch, welcome, orders, control.outbox.clone())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => control.fail(&error.to_string()).await,
        Err(defect) => control.fail(&format!("a defect of this front-end: {defect}")).await,
    }
}

/// Serve until the supervisor says Stop.
async fn serve(launch: Launch, welcome: Welcome, mut orders: Orders, control: Outbox) -> io::Result<()> {
    let engine = Engine::new(launch.index);
    let app = App::new(launch.index, welcome.config, engine.clone(), Siblings::new(control.clone()));
    if !welcome.counted.0.is_empty() {
        app.metrics.borrow_mut().count_on(&welcome.counted);
    }
    spawn_local(report(app.clone()));
    let secret: Rc<[u8]> = launch.secret.into();
    for listener in launch.engine {
        spawn_local(engine::listen(&engine, listener, secret.clone())?);
    }
    let server = Server::new(app.clone());
    for listener in launch.http {
        server.listen(listener)?;
    }
    control.post(&Outgoing::ready("")).map_err(other)?;
    loop {
        match orders.next().await? {
            Order::Stop => {
                server.stop(GRACE).await;
                return Ok(());
            }
            Order::MetricsRequest(request) => {
                let samples = app.metrics.borrow().samples();
                control.post(&Outgoing::metrics_report(Some(request.query), samples)).map_err(other)?;
            }
            Order::MetricsGathered(answer) => app.siblings.gathered(answer),
            Order::Ranks(told) => drop(app.ranks.replace(told.ranks)),
        }
    }
}

/// Once a second, what we have counted: our successor counts on from there.
async fn report(app: Rc<App>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        let samples = app.metrics.borrow().samples();
        app.siblings.report(samples);
    }
}

fn other(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::Other, error)
}

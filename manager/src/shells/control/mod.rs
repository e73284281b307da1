//! The control server: HTTP with JSON on `manager.sock`. It translates between HTTP and the command
//! vocabulary and serves what the manager remembers; it decides nothing. `docs/control-api.md`
//! describes it for clients.

pub mod admin;
mod door;
pub mod error;
mod events;
mod logs;
mod loopback;
pub mod metrics;
pub mod metrics_port;
pub mod next;
mod parameters;
mod places;
mod stored;
mod stream;
mod tail;
mod turns;
pub mod upgrade;
mod visit;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::door::{Door, Peer};
use self::error::ControlError;
pub use self::metrics::Scrapes;
pub use self::next::NextManager;
pub use self::upgrade::Upgrades;
use self::visit::whole_requests;
use self::wire::ManagerInfo;
use crate::command::{Answer, Command, Matching, Selection, WatcherStatus};
use crate::config::model::Configuration;
use crate::shells::asking::Asker;
use crate::shells::events::Events;
use crate::shells::history::{History, Line};
use crate::shells::kernel_report::{self, resident_kib};
use crate::shells::listeners::HeldListener;
use crate::shells::log::Log;
use crate::shells::upgrade::ANSWERS_PATIENCE;

/// How long a visitor may stay silent when the manager leaves.
const UNREAD_PATIENCE: Duration = Duration::from_secs(1);

/// How long answers may take of which visitors wait for the next manager with us; then those who are
/// left are told to come again. Below [`ANSWERS_PATIENCE`].
const TURNS_PATIENCE: Duration = ANSWERS_PATIENCE.saturating_sub(Duration::from_secs(1));

/// Longest request body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// So many lines are told of what a process wrote that stopped a rolling run.
const LAST_WORDS_LINES: usize = 20;

/// Commands that wait for their answers at once; further clients wait to be heard.
pub const COMMANDS_WAITING_MAX: usize = 256;

/// What does not change while a manager lives.
#[derive(Debug)]
pub struct About {
    /// The configuration file, absolute.
    pub configuration: PathBuf,
    /// The runtime directory.
    pub runtime_dir: PathBuf,
    /// The kernel's socket.
    pub kernel_socket: PathBuf,
    /// When the manager began.
    pub since: Instant,
}

/// Whether the manager goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Until further notice.
    Yes,
    /// It has done its work: whoever follows something gets the rest of it and is let go.
    No,
    /// Nothing happens any more, so there is nothing more to tell either.
    Over,
}

/// Waits until the manager leaves.
async fn left(stay: &mut watch::Receiver<Stay>) {
    // Gone without a word is gone too.
    let _ = stay.wait_for(|stay| *stay != Stay::Yes).await;
}

/// All that the control server may touch.
#[derive(Clone, Debug)]
pub struct Control {
    /// Commands go here.
    pub asker: Asker,
    /// Output of children.
    pub history: History,
    /// What happens.
    pub events: Events,
    /// The configuration as it is now.
    pub configuration: watch::Receiver<Arc<Configuration>>,
    /// Whether the manager goes on.
    pub stay: watch::Receiver<Stay>,
    /// The rest.
    pub about: Arc<About>,
    /// Upgrades of the manager.
    pub upgrades: Upgrades,
    /// What scrapers were told.
    pub scrapes: Scrapes,
    /// Where visitors go when the manager becomes another program.
    pub next: NextManager,
}

/// Serves until the manager leaves and all answers are on their way.
///
/// # Errors
/// When the socket cannot be used at all.
pub async fn serve(listener: HeldListener, control: Control, log: Log) -> std::io::Result<()> {
    let mut stay = control.stay.clone();
    let next = control.next.clone();
    let door = Door::new(listener, next.clone(), stay.clone(), log);
    let (mut unread, mut inside) = (door.unread(), door.inside());
    axum::serve(
        door,
        router(control).into_make_service_with_connect_info::<Peer>(),
    )
    .with_graceful_shutdown(async move {
        left(&mut stay).await;
        if next.is_open() {
            // Each goes there between two requests.
            let gone = inside.wait_for(|inside| *inside == 0);
            let _ = tokio::time::timeout(TURNS_PATIENCE, gone).await;
            return;
        }
        // Whoever was let in just now is heard; but not waited for if silent.
        let heard = unread.wait_for(|unread| *unread == 0);
        let _ = tokio::time::timeout(UNREAD_PATIENCE, heard).await;
    })
    .await
}

fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/watchers", get(watchers))
        .route("/v1/watchers/{name}", get(watcher))
        .route("/v1/commands", post(commands))
        .route("/v1/logs", get(logs::get))
        .route("/v1/kernel", get(kernel))
        .route("/v1/events", get(events::get))
        .route("/metrics", get(metrics::get))
        .route("/v1/upgrade", get(upgrade::get).post(upgrade::post))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(whole_requests::<Peer>))
        .with_state(control)
}

async fn not_found(uri: Uri) -> ControlError {
    let message = format!(
        "nothing at {}; docs/control-api.md lists the paths",
        uri.path()
    );
    ControlError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn method_not_allowed(method: Method, uri: Uri) -> ControlError {
    let message = format!("{} does not take {method}", uri.path());
    ControlError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}

impl Control {
    async fn ask(&self, command: Command) -> Result<Answer, ControlError> {
        Ok(self.asker.ask(command).await?)
    }

    /// Adds what processes said last that stopped a rolling run.
    fn with_last_words(&self, mut answer: Answer) -> Answer {
        if let Answer::Runs { runs } = &mut answer {
            for run in runs {
                let pid = run.trouble.as_ref().and_then(|trouble| trouble.pid);
                let Some(pid) = pid else { continue };
                let (lines, _) = self.history.last(LAST_WORDS_LINES, |line| {
                    line.origin.pid == pid.0 && line.origin.watcher == run.watcher
                });
                let text = |line: &Line| String::from_utf8_lossy(&line.text).into_owned();
                run.output = lines.iter().map(text).collect();
            }
        }
        answer
    }

    /// Adds what processes wrote last that ended although nobody wanted it.
    fn add_last_words(&self, watchers: &mut [WatcherStatus]) {
        let ends = watchers.iter().flat_map(|watcher| &watcher.ends);
        let pids: BTreeSet<u32> = ends.map(|end| end.pid.0).collect();
        if pids.is_empty() {
            return;
        }
        let words = self.history.last_words(&pids, LAST_WORDS_LINES);
        for watcher in watchers {
            for end in &mut watcher.ends {
                let lines = words.get(&end.pid.0).into_iter().flatten();
                let own = lines.filter(|line| line.origin.watcher == watcher.name);
                end.output = own.map(Line::to_text).collect();
            }
        }
    }

    fn manager(&self) -> ManagerInfo {
        ManagerInfo {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.about.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            configuration: self.about.configuration.display().to_string(),
            runtime_dir: self.about.runtime_dir.display().to_string(),
        }
    }

    /// The engine's report with what only a shell can know: memory of each process, and who we are.
    async fn report(&self, selection: Selection) -> Result<Value, ControlError> {
        let answer = self.ask(Command::Status(selection)).await?;
        let Answer::Status(mut report) = answer else {
            return Err(internal("the engine answered status with something else"));
        };
        self.add_last_words(&mut report.watchers);
        let mut value = serde_json::to_value(&report).map_err(internal)?;
        add_memory(&mut value);
        value["manager"] = serde_json::to_value(self.manager()).map_err(internal)?;
        Ok(value)
    }
}

fn internal(error: impl ToString) -> ControlError {
    ControlError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        error.to_string(),
    )
}

fn add_memory(report: &mut Value) {
    let watchers = report["watchers"].as_array_mut().into_iter().flatten();
    for watcher in watchers {
        for process in watcher["processes"].as_array_mut().into_iter().flatten() {
            let pid = process["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok());
            if let Some(resident) = pid.and_then(resident_kib) {
                process["resident_kib"] = json!(resident);
            }
        }
    }
}

async fn status(
    State(control): State<Control>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ControlError> {
    control.report(selection(query)?).await.map(Json)
}

async fn watchers(
    State(control): State<Control>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ControlError> {
    let mut report = control.report(selection(query)?).await?;
    Ok(Json(json!({ "watchers": report["watchers"].take() })))
}

fn selection(query: Vec<(String, String)>) -> Result<Selection, ControlError> {
    let mut selection = Selection::default();
    for (key, value) in query {
        match key.as_str() {
            "name" => selection.watchers.push(value),
            _ => return Err(parameters::unknown(&key, &["name"])),
        }
    }
    Ok(selection)
}

async fn watcher(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ControlError> {
    let selection = Selection {
        watchers: vec![name.clone()],
        matching: Matching::Simple,
    };
    let mut report = control.report(selection).await?;
    match report["watchers"].get_mut(0) {
        Some(watcher) => Ok(Json(watcher.take())),
        None => Err(ControlError::unknown_watcher(&name)),
    }
}

async fn commands(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Json<Value>, ControlError> {
    let answer = match parameters::command(&body)? {
        Command::Status(selection) => return control.report(selection).await.map(Json),
        mut command => {
            if command.keeps_caller() {
                let caller = tokio::task::spawn_blocking(move || peer.caller()).await;
                command.set_caller(caller.map_err(internal)?);
            }
            control.with_last_words(control.ask(command).await?)
        }
    };
    serde_json::to_value(&answer).map(Json).map_err(internal)
}

async fn kernel(State(control): State<Control>) -> Result<Response, ControlError> {
    let socket = control.about.kernel_socket.clone();
    let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"));
    let report = tokio::task::spawn_blocking(move || kernel_report::fetch(&socket, client)).await;
    match report {
        Ok(Ok(report)) => Ok(Json(report).into_response()),
        Ok(Err(error)) => Err(ControlError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "kernel_unreachable",
            error.to_string(),
        )),
        Err(error) => Err(internal(error)),
    }
}

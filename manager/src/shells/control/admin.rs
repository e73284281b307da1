//! `[admin]`: the paths of Wiseguy's admin server on a loopback port, for scripts and `curl`. Each is one command of ours with other
//! words. They change things with GET, as they always did, so a request that a web page could have made is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::door::Peer;
use super::error::ControlError;
use super::loopback::Service;
use super::{Control, internal, method_not_allowed, not_found, parameters};
use crate::command::{
    Add, Answer, Change, Command, Matching, Roll, RollOptions, Selection, SetOptions, StatsRequest,
    Wait,
};
use crate::config::model::AdminConfig;
use crate::shells::history::Line;
use crate::shells::listeners::Listeners;
use crate::shells::log::Log;

const SERVICE: Service = Service {
    name: "admin",
    key: "[admin] endpoint",
    what: "Wiseguy's paths are served",
};

/// How long a process more runs where a request does not say.
const PROFILE_SECONDS: f64 = 60.0;

/// So many lines are told of what it wrote.
const PROFILE_LINES: usize = 10_000;

/// What Wiseguy took for a limit of memory, in MB.
const MAX_RSS_MB: std::ops::RangeInclusive<u64> = 20..=800;

const INDEX: &str = "\
/server-status                                       watchers and processes
/server-cycle?workers=N&skew=SECONDS&force=1         replace processes while enough of them are ready
    also min_active=N, max_surge=N, timeout=SECONDS, wait=1
/server-suspend-spawning  /server-resume-spawning    start no processes, or again
/server-set-max-rss?max_rss=MB                       replace processes that have more; 0: never
/server-profile?seconds=N&env=NAME=VALUE             one process more for a while, with other variables
/server-profile-data  /server-profile-memory         what it wrote; what processes have
All take name=WATCHER, which may be a pattern and come several times.
";

/// What the handlers have.
#[derive(Clone)]
struct Admin {
    control: Control,
    watchers: Vec<String>,
}

/// Serves until the manager leaves; without a section it closes what an earlier manager has left.
pub async fn serve(admin: Option<AdminConfig>, listeners: Listeners, control: Control, log: Log) {
    let Some(AdminConfig { endpoint, watchers }) = admin else {
        return SERVICE.forget(listeners).await;
    };
    let state = Admin {
        control: control.clone(),
        watchers,
    };
    let router = Router::new()
        .route("/", any(|| async { INDEX }))
        .route("/server-status", any(status))
        .route("/server-cycle", any(cycle))
        .route("/server-suspend-spawning", any(suspend))
        .route("/server-resume-spawning", any(resume))
        .route("/server-set-max-rss", any(set_max_rss))
        .route("/server-profile", any(profile))
        .route("/server-profile-data", any(profile_data))
        .route("/server-profile-memory", any(profile_memory))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(refuse_web_pages))
        .with_state(state);
    SERVICE
        .serve(endpoint, listeners, &control, router, log)
        .await;
}

/// A page in somebody's browser can make it send a request, with that person's rights, to any port of the machine. Browsers say
/// so, and a name that leads here is not one of ours.
async fn refuse_web_pages(request: Request, next: Next) -> Response {
    match about_origin(request.headers()) {
        None => next.run(request).await,
        Some(why) => {
            let message = format!("{why}; ask with curl, or a program of your own");
            ControlError::new(StatusCode::FORBIDDEN, "forbidden", message).into_response()
        }
    }
}

fn about_origin(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST.as_str()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_matches(['[', ']']);
    let is_loopback = |address: IpAddr| address.is_loopback();
    if name != "localhost" && !name.parse().is_ok_and(is_loopback) {
        return Some(format!("{host:?} is no name of this port"));
    }
    if headers.contains_key(header::ORIGIN) {
        return Some("the request comes from a web page".to_owned());
    }
    match text("sec-fetch-site") {
        None | Some("none") => None,
        Some(_) => Some("the request comes from a web page".to_owned()),
    }
}

/// The query of a request, taken apart one by one; what nobody took is refused.
struct Parameters {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Parameters {
    fn all(&mut self, key: &'static str) -> Vec<String> {
        self.known.push(key);
        let (found, left) = std::mem::take(&mut self.left)
            .into_iter()
            .partition::<Vec<_>, _>(|(name, _)| name.replace('-', "_") == key);
        self.left = left;
        found.into_iter().map(|(_, value)| value).collect()
    }

    /// The last one, as in a dictionary.
    fn text(&mut self, key: &'static str) -> Option<String> {
        self.all(key).pop().filter(|value| !value.is_empty())
    }

    fn number(&mut self, key: &'static str) -> Result<Option<u32>, ControlError> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| ControlError::invalid(format!("{key}={text}: a whole number is needed")))
    }

    fn milliseconds(&mut self, key: &'static str) -> Result<Option<u64>, ControlError> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let seconds = text.parse().ok();
        let time = seconds.and_then(|it| std::time::Duration::try_from_secs_f64(it).ok());
        let millis = time.and_then(|it| u64::try_from(it.as_millis()).ok());
        millis
            .map(Some)
            .ok_or_else(|| ControlError::invalid(format!("{key}={text}: seconds are needed")))
    }

    fn flag(&mut self, key: &'static str) -> Result<bool, ControlError> {
        match self.all(key).pop().as_deref() {
            None | Some("0" | "false" | "no") => Ok(false),
            Some("1" | "true" | "yes" | "") => Ok(true),
            Some(text) => Err(ControlError::invalid(format!(
                "{key}={text}: 1 or 0 is needed"
            ))),
        }
    }

    fn end(self) -> Result<(), ControlError> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(parameters::unknown(key, &self.known)),
        }
    }
}

type Asked = Query<Vec<(String, String)>>;

impl Admin {
    /// The watchers that a request means, and the rest of it.
    fn read(&self, Query(left): Asked) -> (Selection, Parameters) {
        let known = Vec::new();
        let mut parameters = Parameters { left, known };
        let mut watchers = parameters.all("name");
        if watchers.is_empty() {
            watchers.clone_from(&self.watchers);
        }
        let matching = Matching::Glob;
        (Selection { watchers, matching }, parameters)
    }

    async fn ask(&self, command: Command) -> Result<Json<Value>, ControlError> {
        let answer = self
            .control
            .with_last_words(self.control.ask(command).await?);
        serde_json::to_value(&answer).map(Json).map_err(internal)
    }

    /// The names of the watchers that a request means.
    async fn names(&self, selection: Selection) -> Result<Vec<String>, ControlError> {
        match self.control.ask(Command::List(selection)).await? {
            Answer::List { watchers } => Ok(watchers),
            other => Err(internal(format!("the engine answered list with {other:?}"))),
        }
    }

    /// The one watcher that a request means.
    async fn one(&self, selection: Selection) -> Result<String, ControlError> {
        let is_own = |name: &String| !name.ends_with(PROFILED);
        let all = self.names(selection).await?;
        let mut names: Vec<String> = all.into_iter().filter(is_own).collect();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (last, _) => {
                names.extend(last);
                let names = names.join(", ");
                Err(ControlError::invalid(format!(
                    "say which one with name=: {names}"
                )))
            }
        }
    }
}

/// How the name of a watcher ends that [`Add::profile`] makes.
const PROFILED: &str = "-profile";

async fn status(State(admin): State<Admin>, asked: Asked) -> Result<Json<Value>, ControlError> {
    let (selection, parameters) = admin.read(asked);
    parameters.end()?;
    admin.control.report(selection).await.map(Json)
}

async fn cycle(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    asked: Asked,
) -> Result<Json<Value>, ControlError> {
    let (selection, mut parameters) = admin.read(asked);
    let options = RollOptions {
        workers: parameters.number("workers")?,
        skew_ms: parameters.milliseconds("skew")?,
        force: parameters.flag("force")?,
        min_active: parameters.number("min_active")?,
        max_surge: parameters.number("max_surge")?,
        timeout_ms: parameters.milliseconds("timeout")?,
    };
    let wait = Wait::from(parameters.flag("wait")?);
    parameters.end()?;
    let by = tokio::task::spawn_blocking(move || peer.caller()).await;
    let request = Roll {
        selection,
        options,
        dry_run: false,
        wait,
        by: by.map_err(internal)?,
    };
    admin.ask(Command::Roll(request)).await
}

async fn suspend(State(admin): State<Admin>, asked: Asked) -> Result<Json<Value>, ControlError> {
    let (selection, parameters) = admin.read(asked);
    parameters.end()?;
    let wait = Wait::No;
    admin
        .ask(Command::Suspend(Change { selection, wait }))
        .await
}

async fn resume(State(admin): State<Admin>, asked: Asked) -> Result<Json<Value>, ControlError> {
    let (selection, parameters) = admin.read(asked);
    parameters.end()?;
    let wait = Wait::No;
    admin.ask(Command::Resume(Change { selection, wait })).await
}

async fn set_max_rss(
    State(admin): State<Admin>,
    asked: Asked,
) -> Result<Json<Value>, ControlError> {
    let (selection, mut parameters) = admin.read(asked);
    let size = parameters.text("max_rss");
    parameters.end()?;
    let options = [("max_rss".to_owned(), max_rss(size.as_deref())?)].into();
    let wait = Wait::No;
    let request = SetOptions {
        selection,
        options,
        wait,
    };
    admin.ask(Command::Set(request)).await
}

/// The value of the option. Nothing takes an earlier word back.
fn max_rss(size: Option<&str>) -> Result<Value, ControlError> {
    let (low, high) = (MAX_RSS_MB.start(), MAX_RSS_MB.end());
    let needed = || {
        ControlError::invalid(format!(
            "max_rss: a number of MB from {low} to {high} is needed, a size such as 2G, or 0 for what the file says"
        ))
    };
    let size = size.ok_or_else(needed)?;
    match size.parse::<u64>() {
        Ok(0) => Ok(Value::Null),
        Ok(number) if MAX_RSS_MB.contains(&number) => Ok(json!(format!("{number}M"))),
        Ok(_) => Err(needed()),
        Err(_) => Ok(json!(size)),
    }
}

async fn profile(State(admin): State<Admin>, asked: Asked) -> Result<Json<Value>, ControlError> {
    let (selection, mut parameters) = admin.read(asked);
    let lifetime = parameters.milliseconds("seconds")?;
    let mut env = BTreeMap::new();
    for pair in parameters.all("env") {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let message = format!("env={pair}: write it as env=NAME=VALUE");
            return Err(ControlError::invalid(message));
        };
        env.insert(name.to_owned(), value.to_owned());
    }
    parameters.end()?;
    let usual = std::time::Duration::from_secs_f64(PROFILE_SECONDS).as_millis();
    let usual = u64::try_from(usual).unwrap_or(u64::MAX);
    let name = admin.one(selection).await?;
    let request = Add {
        wait: Wait::Done,
        ..Add::profile(&name, env, lifetime.unwrap_or(usual))
    };
    admin.ask(Command::Add(request)).await
}

/// What the process wrote, as far as this manager remembers it.
async fn profile_data(State(admin): State<Admin>, asked: Asked) -> Result<String, ControlError> {
    let (selection, parameters) = admin.read(asked);
    parameters.end()?;
    let name = format!("{}{PROFILED}", admin.one(selection).await?);
    let its = |line: &Line| line.origin.watcher.eq_ignore_ascii_case(&name);
    let (lines, _) = admin.control.history.last(PROFILE_LINES, its);
    let text = |line: &Line| format!("{}\n", String::from_utf8_lossy(&line.text));
    Ok(lines.iter().map(text).collect())
}

async fn profile_memory(
    State(admin): State<Admin>,
    asked: Asked,
) -> Result<Json<Value>, ControlError> {
    let (selection, parameters) = admin.read(asked);
    parameters.end()?;
    let request = StatsRequest {
        selection,
        ..StatsRequest::default()
    };
    admin.ask(Command::Stats(request)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_requests_that_no_web_page_could_make_are_answered() {
        for good in [
            headers(&[("host", "127.0.0.1:8011")]),
            headers(&[("host", "localhost:8011"), ("sec-fetch-site", "none")]),
            headers(&[("host", "[::1]:8011")]),
        ] {
            assert_eq!(about_origin(&good), None, "{good:?}");
        }
        for bad in [
            headers(&[]),
            headers(&[("host", "evil.example:8011")]),
            headers(&[("host", "127.0.0.1.evil.example:8011")]),
            headers(&[
                ("host", "127.0.0.1:8011"),
                ("origin", "http://evil.example"),
            ]),
            headers(&[("host", "127.0.0.1:8011"), ("sec-fetch-site", "cross-site")]),
        ] {
            assert!(about_origin(&bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn memory_is_limited_in_wiseguys_megabytes_or_in_sizes() {
        assert_eq!(max_rss(Some("200")), Ok(json!("200M")));
        assert_eq!(max_rss(Some("2G")), Ok(json!("2G")));
        assert_eq!(max_rss(Some("0")), Ok(Value::Null));
        for wrong in [None, Some("19"), Some("801")] {
            assert!(max_rss(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_refused() {
        let left = [("skew", "2"), ("max-surge", "1"), ("x", "1")];
        let left = left.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut parameters = Parameters {
            left: left.into(),
            known: Vec::new(),
        };
        assert_eq!(parameters.milliseconds("skew"), Ok(Some(2000)));
        assert_eq!(parameters.number("max_surge"), Ok(Some(1)));
        assert!(parameters.end().is_err());
    }
}

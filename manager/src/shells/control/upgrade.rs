//! `/v1/upgrade`: this manager becomes another program.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::error::ControlError;
use super::{Control, Stay, internal};
use crate::shells::asking::leaving;
use crate::shells::upgrade::{Extent, Going, PATIENCE, Report, UpgradeRequest};

/// Most that may be asked for.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// Where upgrades are asked for, and how the last one went.
#[derive(Clone, Debug)]
pub struct Upgrades {
    ask: mpsc::Sender<UpgradeRequest>,
    last: Arc<OnceLock<Report>>,
}

impl Upgrades {
    /// Requests go to `ask`.
    #[must_use]
    pub fn new(ask: mpsc::Sender<UpgradeRequest>) -> Self {
        Self {
            ask,
            last: Arc::default(),
        }
    }

    /// How this manager came to be; the first report stays.
    pub fn tell(&self, report: Report) {
        let _ = self.last.set(report);
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// The candidate, absolute; what is installed now when it is left out.
    pub program: Option<PathBuf>,
    /// Only rehearse.
    pub check: bool,
    /// How long the new manager may take, milliseconds.
    pub patience_ms: Option<u64>,
}

/// The answer to that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// `checked`, or `going`: then ask again until `last` in the answer is this attempt.
    pub state: String,
    /// What the candidate said.
    #[serde(flatten)]
    pub going: Going,
}

pub(super) async fn post(
    State(control): State<Control>,
    body: Bytes,
) -> Result<Json<Accepted>, ControlError> {
    let wanted: Wanted = serde_json::from_slice(&body)
        .map_err(|error| ControlError::invalid(format!("the body is no such request: {error}")))?;
    if wanted
        .program
        .as_ref()
        .is_some_and(|path| path.is_relative())
    {
        return Err(ControlError::invalid("the program needs an absolute path"));
    }
    let patience = wanted.patience_ms.map_or(PATIENCE, Duration::from_millis);
    let (reply, answer) = oneshot::channel();
    let request = UpgradeRequest {
        program: wanted.program,
        extent: match wanted.check {
            true => Extent::CheckOnly,
            false => Extent::Whole,
        },
        patience: patience.min(PATIENCE_MAX),
        reply,
    };
    let asked = control.upgrades.ask.send(request).await;
    asked.map_err(|_| ControlError::from(leaving()))?;
    match answer.await {
        Ok(Ok(going)) => Ok(Json(Accepted {
            state: if wanted.check { "checked" } else { "going" }.to_owned(),
            going,
        })),
        Ok(Err(reason)) => Err(ControlError::new(
            StatusCode::CONFLICT,
            "upgrade_refused",
            format!("nothing has happened: {reason}"),
        )),
        Err(_) => Err(ControlError::from(leaving())),
    }
}

pub(super) async fn get(State(control): State<Control>) -> Result<Json<Value>, ControlError> {
    let stays = *control.stay.borrow() == Stay::Yes;
    let manager = serde_json::to_value(control.manager()).map_err(internal)?;
    Ok(Json(json!({
        "state": if stays { "serving" } else { "leaving" },
        "manager": manager,
        "last": control.upgrades.last.get(),
    })))
}

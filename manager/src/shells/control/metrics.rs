//! `/metrics`: gathers what is known, for [`crate::shells::metrics`].

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;

use super::error::ControlError;
use super::{Control, internal};
use crate::command::{Answer, Command, Selection, StatsRequest};
use crate::shells::kernel_report;
use crate::shells::metrics::{Acknowledged, Known, render};

/// Prometheus's text form.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is remembered between two looks.
#[derive(Clone, Debug, Default)]
pub struct Scrapes(Arc<Mutex<Acknowledged>>);

pub(super) async fn get(State(control): State<Control>) -> Result<Response, ControlError> {
    let Answer::Status(status) = control.ask(Command::Status(Selection::default())).await? else {
        return Err(internal("the engine answered status with something else"));
    };
    let Answer::Stats {
        watchers: statistics,
    } = control.ask(Command::Stats(StatsRequest::default())).await?
    else {
        return Err(internal("the engine answered stats with something else"));
    };
    let socket = control.about.kernel_socket.clone();
    let client = concat!("kingpole-manager/", env!("CARGO_PKG_VERSION"), " metrics");
    let kernel = spawn_blocking(move || kernel_report::fetch(&socket, client)).await;
    // A scraper shall learn of a kernel that is out of reach, and of everything else as before.
    let kernel = kernel.map_err(internal)?.ok();
    let ends = control.events.ends();
    let known = Known {
        manager: &control.manager(),
        status: &status,
        statistics: &statistics,
        kernel: kernel.as_ref(),
        ends: &ends,
    };
    let page = {
        let mut before = control
            .scrapes
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        render(&known, &mut before)
    };
    Ok(([(CONTENT_TYPE, FORMAT)], page).into_response())
}

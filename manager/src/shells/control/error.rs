//! What the control server says when it does not do what was asked.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::command::{Refusal, RefusalKind};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// See [`ErrorDetail`].
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A permanent word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControlError {
    status: StatusCode,
    detail: ErrorDetail,
}

impl ControlError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            detail: ErrorDetail {
                code: code.to_owned(),
                message: message.into(),
            },
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(super) fn unknown_watcher(name: &str) -> Self {
        let message = format!("no watcher matches {name:?}");
        Self::new(StatusCode::NOT_FOUND, "unknown_watcher", message)
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match refusal.kind {
            RefusalKind::UnknownWatcher => (StatusCode::NOT_FOUND, "unknown_watcher"),
            RefusalKind::UnknownProcess => (StatusCode::NOT_FOUND, "unknown_process"),
            RefusalKind::UnknownOption => (StatusCode::NOT_FOUND, "unknown_option"),
            RefusalKind::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
            RefusalKind::InvalidConfiguration => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration")
            }
            RefusalKind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            RefusalKind::Busy => (StatusCode::CONFLICT, "busy"),
            RefusalKind::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            RefusalKind::Leaving => (StatusCode::SERVICE_UNAVAILABLE, "leaving"),
            RefusalKind::Replaced => (StatusCode::SERVICE_UNAVAILABLE, "replaced"),
            RefusalKind::KernelLost => (StatusCode::SERVICE_UNAVAILABLE, "kernel_lost"),
            RefusalKind::NotRemembered => (StatusCode::INTERNAL_SERVER_ERROR, "not_remembered"),
        };
        Self::new(status, code, refusal.reason)
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.detail })).into_response()
    }
}

//! `metrics_endpoint`: `/metrics` and nothing else on a loopback port, for scrapers that know no unix sockets.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;

use super::loopback::Service;
use super::{Control, method_not_allowed, metrics, not_found};
use crate::shells::listeners::Listeners;
use crate::shells::log::Log;

const SERVICE: Service = Service {
    name: "metrics",
    key: "metrics_endpoint",
    what: "metrics are served",
};

/// Serves until the manager leaves; without an address it closes what an earlier manager has left.
pub async fn serve(address: Option<SocketAddr>, listeners: Listeners, control: Control, log: Log) {
    let Some(address) = address else {
        return SERVICE.forget(listeners).await;
    };
    let router = Router::new()
        .route("/metrics", get(metrics::get))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(control.clone());
    SERVICE
        .serve(address, listeners, &control, router, log)
        .await;
}

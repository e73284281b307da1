//! The events endpoint: what happens, in Circus's topics.

use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};

use super::json::to_bytes;
use crate::shells::control::wire::EventLine;
use crate::shells::log::Log;
use crate::shells::zmtp::Publisher;

/// Publishes events for as long as there are any.
pub async fn publish(
    mut events: broadcast::Receiver<Arc<EventLine>>,
    publisher: Publisher,
    log: Log,
) {
    loop {
        match events.recv().await {
            Ok(event) => {
                let payload = to_bytes(&event.circus_payload());
                publisher.publish(event.topic.as_bytes(), &payload);
            }
            Err(RecvError::Lagged(count)) => log.warning(format!(
                "pubsub_endpoint: {count} events came too fast and were not published"
            )),
            Err(RecvError::Closed) => return,
        }
    }
}

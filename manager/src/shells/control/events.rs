//! `GET /v1/events`: what happened lately, and what goes on happening.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::error::ControlError;
use super::parameters::{self, Follow};
use super::wire::EventLine;
use super::{Control, left, stream};
use crate::config::pattern;

/// Events that are shown when the client does not say how many.
const EVENTS_DEFAULT: usize = 20;

/// What a client asked for.
#[derive(Debug)]
struct Wanted {
    patterns: Vec<String>,
    count: usize,
    follow: Follow,
}

impl Wanted {
    fn read(query: Vec<(String, String)>) -> Result<Self, ControlError> {
        let mut wanted = Self {
            patterns: Vec::new(),
            count: EVENTS_DEFAULT,
            follow: Follow::No,
        };
        for (key, value) in query {
            match key.as_str() {
                "name" => wanted.patterns.push(value.to_lowercase()),
                "count" => wanted.count = parameters::number("count", &value)?,
                "follow" => wanted.follow = Follow::read(&value)?,
                _ => return Err(parameters::unknown(&key, &["name", "count", "follow"])),
            }
        }
        Ok(wanted)
    }

    fn is_meant(&self, event: &EventLine) -> bool {
        let name = event.watcher.to_lowercase();
        self.patterns.is_empty() || self.patterns.iter().any(|p| pattern::matches(p, &name))
    }
}

pub(super) async fn get(
    State(control): State<Control>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ControlError> {
    let wanted = Wanted::read(query)?;
    let watchers = control.configuration.borrow().clone();
    for name in &wanted.patterns {
        let is_one = |watcher: &str| pattern::matches(name, &watcher.to_lowercase());
        let known = watchers.watchers.iter().any(|it| is_one(&it.name));
        // A watcher that was removed may have left events behind.
        let told = || {
            let (events, _) = control.events.recent_and_next(1, |it| is_one(&it.watcher));
            !events.is_empty()
        };
        if !known && !told() {
            return Err(ControlError::unknown_watcher(name));
        }
    }
    let (recent, mut next) = control
        .events
        .recent_and_next(wanted.count, |event| wanted.is_meant(event));
    let mut stay = control.stay.clone();
    let (mut sink, response) = stream::lines();
    tokio::spawn(async move {
        for event in recent {
            if sink.write(&*event).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() || wanted.follow == Follow::No {
            return;
        }
        loop {
            let event = tokio::select! {
                // What has happened is told before the end is looked at.
                biased;
                event = next.recv() => event,
                () = sink.gone() => return,
                () = left(&mut stay) => return,
            };
            let written = match event {
                Ok(event) if wanted.is_meant(&event) => sink.write(&*Arc::clone(&event)).await,
                Ok(_) => continue,
                Err(RecvError::Lagged(dropped)) => sink.write(&json!({ "dropped": dropped })).await,
                Err(RecvError::Closed) => return,
            };
            if written.is_err() || sink.flush().await.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

//! The control endpoint: one reply to each request, none to a cast.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;

use super::reply::render;
use super::request;
use super::translate::answer;
use crate::config::model::Configuration;
use crate::shells::asking::Asker;
use crate::shells::zmtp::message::Parts;
use crate::shells::zmtp::router::{Begun, Pending, Service, Turn};

/// Answers requests of Circus's clients.
#[derive(Clone, Debug)]
pub struct CircusService {
    /// Whom commands are put to.
    pub asker: Asker,
    /// Whose `endpoint_owner` decides who may be run.
    pub configuration: watch::Receiver<Arc<Configuration>>,
}

impl Service for CircusService {
    async fn begin(&self, mut message: Parts) -> Begun {
        // What stands before the body (the empty part of a REQ socket, the route through a proxy)
        // goes back as it came. Circus drops such messages.
        let Some(body) = message.pop() else {
            return Begun::NoReply;
        };
        let (envelope, request) = request::read(&body);
        // What takes its time lets others pass, if its reply can be told from theirs.
        let turn = match (&envelope.id, &request) {
            (Some(_), Ok(request)) if request.properties.flag("waiting", false) => Turn::WhenReady,
            _ => Turn::InOrder,
        };
        let asker = self.asker.clone();
        let owner = self.configuration.borrow().global.endpoint_owner.clone();
        let reply = Box::pin(async move {
            let outcome = match request {
                Ok(request) => answer(request, &asker, owner.as_deref()).await,
                Err(error) => Err(error),
            };
            (!envelope.cast).then(|| {
                message.push(render(envelope.id, outcome));
                message
            })
        });
        begin_now(turn, reply).await
    }
}

/// Polls a reply once, which puts its command into the manager's queue before the next message of
/// the connection is looked at.
async fn begin_now(
    turn: Turn,
    mut reply: Pin<Box<dyn Future<Output = Option<Parts>> + Send>>,
) -> Begun {
    let first = poll_fn(|cx| Poll::Ready(reply.as_mut().poll(cx))).await;
    match first {
        Poll::Pending => Begun::Later(Pending { turn, reply }),
        Poll::Ready(None) => Begun::NoReply,
        Poll::Ready(Some(parts)) => Begun::Ready(turn, parts),
    }
}

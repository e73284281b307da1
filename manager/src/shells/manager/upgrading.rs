//! The loop's part in an upgrade: the rehearsal runs beside it, then clients are answered, then the
//! engine leaves as on SIGTERM.

use std::future::pending;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::{Running, Upgrading};
use crate::command::{Command, End};
use crate::shells::clock;
use crate::shells::control::Stay;
use crate::shells::upgrade::rehearse::{installed_program, rehearse};
use crate::shells::upgrade::{ANSWERS_PATIENCE, Extent, Going, Plan, Ready, UpgradeRequest};

impl Upgrading {
    /// Until when clients are answered, if that is what is going on.
    pub(super) fn answers_until(&self) -> Option<Instant> {
        match self {
            Self::Answering(_, until) => Some(*until),
            Self::No | Self::Rehearsing(..) | Self::Leaving(_) => None,
        }
    }

    /// What came of the rehearsal; never, when there is none. May be dropped at any time.
    pub(super) async fn rehearsed(&mut self) -> Result<Ready, String> {
        match self {
            Self::Rehearsing(rehearsal, _) => match rehearsal.await {
                Ok(result) => result,
                Err(error) => Err(error.to_string()),
            },
            Self::No | Self::Answering(..) | Self::Leaving(_) => pending().await,
        }
    }
}

impl Running {
    pub(super) fn start_rehearsal(&mut self, request: UpgradeRequest) {
        let refusal = match (&self.upgrading, self.connected) {
            (Upgrading::No, true) => None,
            (Upgrading::No, false) => Some("the process kernel is out of reach"),
            _ => Some("another upgrade is going on"),
        };
        if let Some(refusal) = refusal {
            // Whoever asked may have gone.
            let _ = request.reply.send(Err(refusal.to_owned()));
            return;
        }
        let program = request.program.clone();
        let rehearsal = spawn_blocking(move || {
            let program = program.map_or_else(installed_program, Ok)?;
            rehearse(&program)
        });
        self.upgrading = Upgrading::Rehearsing(rehearsal, Box::new(request));
    }

    pub(super) fn handle_rehearsed(&mut self, ready: Result<Ready, String>) {
        let Upgrading::Rehearsing(_, request) =
            std::mem::replace(&mut self.upgrading, Upgrading::No)
        else {
            return;
        };
        let UpgradeRequest {
            program,
            extent,
            patience,
            reply,
        } = *request;
        let program = match program {
            Some(program) => Ok(program),
            None => installed_program(),
        };
        let (program, ready) = match (program, ready) {
            (Ok(program), Ok(ready)) => (program, ready),
            (Err(reason), _) | (_, Err(reason)) => {
                let text = format!("upgrade: nothing has happened: {reason}");
                self.manager.log.warning(text);
                let _ = reply.send(Err(reason));
                return;
            }
        };
        let attempt = clock::wall_ns();
        let going = Going {
            program: program.clone(),
            ready,
            attempt,
        };
        let release = going.ready.release.clone();
        let takes_connections = going.ready.takes_connections;
        let takes_visitors = going.ready.takes_visitors;
        let _ = reply.send(Ok(going));
        if extent == Extent::CheckOnly {
            return;
        }
        self.manager.log.info(format!(
            "upgrade: {} (release {release}) is ready; answering who waits",
            program.display()
        ));
        let plan = Plan {
            program,
            attempt,
            patience,
            takes_connections,
            lease: None,
            left_ns: 0,
        };
        self.upgrading = Upgrading::Answering(plan, Instant::now() + ANSWERS_PATIENCE);
        if takes_visitors {
            self.manager.next.open();
        }
        // From here on clients wait in the socket's queue, for the next program.
        self.manager.stay.send_replace(Stay::No);
    }

    pub(super) fn leave_for_upgrade(&mut self) {
        if let Upgrading::Answering(plan, _) = std::mem::replace(&mut self.upgrading, Upgrading::No)
        {
            self.manager.greeting.cancel();
            self.upgrading = Upgrading::Leaving(Plan {
                lease: self.manager.link.lease(),
                left_ns: clock::wall_ns(),
                ..plan
            });
            self.ask(Command::Detach(End::default()), None);
        }
    }
}

//! `kingpole listsockets`: managed sockets and where they listen.

use std::path::Path;

use clap::Args;

use super::client::{ManagerClient, Patience};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::table::{Align, Table};
use super::{print, print_json};
use crate::command::{Answer, Command, SocketDetail, SocketState};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kingpole listsockets")]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, dir: &Path) -> Outcome {
    let answer = ManagerClient::new(dir)?.command(&Command::ListSockets, Patience::Usual)?;
    let Answer::Sockets { sockets } = &answer else {
        return Err(Failure::failed("the manager's answer is not understood"));
    };
    if arguments.json {
        return print_json(sockets);
    }
    if sockets.is_empty() {
        print("no sockets are configured\n")?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("FD", Align::Right),
        ("NAME", Align::Left),
        ("ADDRESS", Align::Left),
        ("BACKLOG", Align::Right),
        ("STATE", Align::Left),
    ]);
    for socket in sockets {
        table.row([
            socket
                .fd
                .map_or_else(|| "-".to_owned(), |fd| fd.to_string()),
            socket.name.clone(),
            address(socket),
            socket.backlog.to_string(),
            state(socket.state).to_owned(),
        ]);
    }
    print(&table.render())?;
    Ok(Exit::Done)
}

fn address(socket: &SocketDetail) -> String {
    match (&socket.path, &socket.host, socket.port) {
        (Some(path), _, _) => path.clone(),
        (None, Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (None, Some(host), Some(port)) => format!("{host}:{port}"),
        (None, _, _) => String::new(),
    }
}

const fn state(state: SocketState) -> &'static str {
    match state {
        SocketState::Pending => "pending",
        SocketState::Ready => "ready",
        SocketState::Failed => "failed",
    }
}

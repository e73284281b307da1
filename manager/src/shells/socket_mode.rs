//! Makes a socket that the process kernel holds blocking, or not: its descriptor is fetched, and shares this
//! flag with those of the kernel and of all processes that have it.

use std::path::Path;
use std::time::Duration;

use kingpole_protocol::client::blocking::Client;
use kingpole_protocol::places::Address;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::model::Blocking;

/// How long the kernel may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets the mode of the socket of that name in the kernel.
///
/// # Errors
/// Why it could not be done, for people.
pub(super) fn set(kernel: &Path, name: &str, blocking: Blocking) -> Result<(), String> {
    let client = concat!(
        "kingpole-manager/",
        env!("CARGO_PKG_VERSION"),
        " socket-mode"
    );
    let address = Address::Unix(kernel.to_owned());
    let connected = Client::connect(&address, client, Some(ANSWER_TIMEOUT));
    let mut kernel = connected.map_err(|error| error.to_string())?;
    let fetched = kernel.fetch_socket(name);
    let (_, socket) = fetched.map_err(|error| error.to_string())?;
    let failed = |error: nix::Error| error.desc().to_owned();
    let found = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL).map_err(failed)?);
    let mut wanted = found;
    wanted.set(OFlag::O_NONBLOCK, blocking == Blocking::No);
    if wanted != found {
        fcntl(&socket, FcntlArg::F_SETFL(wanted)).map_err(failed)?;
    }
    Ok(())
}

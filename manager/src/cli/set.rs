//! `kingpole set`: options of watchers change.

use std::path::Path;

use clap::Args;

use serde_json::Value;

use super::change::{Waiting, send};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::options_args::{OptionArguments, parse_pair};
use crate::command::{Command, Selection, SetOptions};

#[derive(Debug, Args)]
#[command(
    after_help = "Options are those of a section [watcher:NAME]. They hold until the file says \
something else, also for later managers.\n\nExamples:\n  kingpole set web graceful_timeout=5\n  kingpole \
set 'web*' args='--verbose' stop_signal=QUIT --wait\n  kingpole set web --unset args"
)]
pub(super) struct Arguments {
    /// Name of a watcher, or a pattern such as 'web*'
    #[arg(value_name = "NAME")]
    name: String,
    /// Options and their values
    #[arg(value_name = "KEY=VALUE", value_parser = parse_pair)]
    options: Vec<(String, String)>,
    /// Take an earlier change of an option back (repeat it for several)
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    more: OptionArguments,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) fn run(arguments: Arguments, dir: &Path) -> Outcome {
    let mut options = arguments.more.with(arguments.options);
    for key in arguments.unset {
        options.insert(key, Value::Null);
    }
    if options.is_empty() {
        return Err(Failure::new(Exit::Usage, "nothing to set; write KEY=VALUE"));
    }
    let request = SetOptions {
        selection: Selection {
            watchers: vec![arguments.name],
            ..Selection::default()
        },
        options,
        wait: arguments.waiting.wait(),
    };
    send(&Command::Set(request), &arguments.waiting, dir)
}

//! `kingpole completions`: what the Tab key offers, from the same table as `--help`, with the names
//! of the watchers that there are at that moment.

use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::print;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kingpole completions bash > /etc/bash_completion.d/kingpole
  kingpole completions zsh > \"${fpath[1]}/_kingpole\"
  kingpole completions fish > ~/.config/fish/completions/kingpole.fish")]
pub(super) struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// bash 4 or newer
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// What prints the names: nothing, when no manager runs.
const NAMES: &str = "kingpole list 2>/dev/null";

pub(super) fn run(arguments: &Arguments, command: &mut Command) -> Outcome {
    print(&script(arguments.shell, command)?)?;
    Ok(Exit::Done)
}

fn script(kind: Kind, command: &mut Command) -> Result<String, Failure> {
    let shell = match kind {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(shell, command, "kingpole", &mut bytes);
    let text = String::from_utf8(bytes)
        .map_err(|error| Failure::failed(format!("the script is not UTF-8: {error}")))?;
    let verbs = verbs_with_names(command);
    Ok(match kind {
        Kind::Bash => with_names_in_bash(&text, &verbs),
        Kind::Zsh => with_names_in_zsh(&text),
        Kind::Fish => with_names_in_fish(&text, &verbs),
    })
}

/// Verbs that take names of watchers.
fn verbs_with_names(command: &Command) -> Vec<String> {
    let verbs = command.get_subcommands().filter(|verb| takes_names(verb));
    verbs.map(|verb| verb.get_name().to_owned()).collect()
}

/// Whether a verb takes names of watchers.
pub(super) fn takes_names(verb: &Command) -> bool {
    verb.get_positionals().any(|argument| {
        let names = argument.get_value_names().unwrap_or_default();
        names.iter().any(|name| name == "NAME")
    })
}

fn with_names_in_bash(text: &str, verbs: &[String]) -> String {
    // Another function around the generated one: its words, and the names.
    let around = format!(
        r#"
_kingpole_and_names() {{
    _kingpole "$@"
    local word verb current="${{COMP_WORDS[COMP_CWORD]}}" IFS=$'\n'
    [[ $current == -* ]] && return
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ $word == -* ]] || {{ verb=$word; break; }}
    done
    case "$verb" in
        {})
            local name
            for name in $(compgen -W "$({NAMES})" -- "$current"); do
                COMPREPLY+=("$(printf %q "$name")")
            done
            ;;
    esac
}}
complete -F _kingpole_and_names -o nosort -o bashdefault -o default kingpole
"#,
        verbs.join("|")
    );
    format!("{text}{around}")
}

fn with_names_in_zsh(text: &str) -> String {
    let names = format!(
        r#"
_kingpole_names() {{
    local -a names
    names=("${{(@f)$({NAMES})}}")
    compadd -- ${{names:#}}
}}
"#
    );
    // Before the first function, since the file ends by running it.
    let (head, rest) = text.split_once("\n_kingpole()").unwrap_or(("", text));
    let mut out = format!("{head}{names}\n_kingpole()");
    for line in rest.lines() {
        let positional = line.contains("::names -- ");
        let line = if positional {
            line.replace(":_default'", ":_kingpole_names'")
        } else {
            line.to_owned()
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

fn with_names_in_fish(text: &str, verbs: &[String]) -> String {
    format!(
        "{text}complete -c kingpole -n \"__fish_seen_subcommand_from {}\" -f -a \"({NAMES})\"\n",
        verbs.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::io::Write;
    use std::process::{Command as Program, Stdio};

    fn script_for(kind: Kind) -> String {
        script(kind, &mut crate::cli::Cli::command()).unwrap()
    }

    #[test]
    fn every_verb_that_takes_names_offers_them() {
        let verbs = verbs_with_names(&crate::cli::Cli::command());
        for verb in ["status", "start", "stop", "restart", "logs"] {
            assert!(verbs.iter().any(|v| v == verb), "{verb}: {verbs:?}");
        }
        assert!(!verbs.iter().any(|verb| verb == "check"));
        assert!(script_for(Kind::Zsh).contains(":_kingpole_names'"));
        assert!(script_for(Kind::Fish).contains("__fish_seen_subcommand_from"));
    }

    #[test]
    fn bash_completes_verbs_and_the_names_that_there_are() {
        let typed = r#"
            kingpole() { [ "$1" = list ] && printf 'web\nweb two\nqueue\n'; }
            ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
                _kingpole_and_names kingpole "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
                printf '%s\n' "${COMPREPLY[@]}"; }
            echo "verbs:" $(ask kingpole resta)
            echo "names:" $(ask kingpole restart w)
            echo "behind an option:" $(ask kingpole stop --wait q)
            echo "none:" $(ask kingpole check w)
        "#;
        let mut bash = Program::new("bash")
            .args(["--norc", "-eu"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("set +u\n{}{typed}", script_for(Kind::Bash));
        bash.stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = bash.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        for line in [
            "verbs: restart",
            "names: web web\\ two",
            "behind an option: queue",
        ] {
            assert!(said.contains(line), "{line}\n{said}\n{errors}");
        }
        assert!(said.lines().any(|line| line == "none:"), "{said}");
    }
}

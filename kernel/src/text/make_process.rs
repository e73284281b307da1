//! `make process NAME [option=value ...] COMMAND [ARGUMENT ...]`.

use crate::text::error::TextError;
use crate::text::options::{OptionWord, parse_integer, parse_size, split_options};
use crate::text::words::{Word, name_of};
use kingpole_protocol::bytes::ByteString;
use kingpole_protocol::codec;
use kingpole_protocol::names::check_name;
use kingpole_protocol::spec::{LimitSpec, OutputSpec, ProcessSpec, UserSpec};
use std::collections::BTreeMap;

/// Label of a process that was asked for with `shell=1`: its first two arguments are not the
/// client's.
pub const SHELL_LABEL: &str = "text.shell";

/// What `shell=1` puts in front.
pub const SHELL_ARGUMENTS: [&str; 2] = ["/bin/sh", "-c"];

/// Keys of processes started from text sessions.
const KEY_PREFIX: &str = "text:";

/// Parameters of 128-bit FNV-1a, as its authors give them.
const FNV_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

const SOCKET_REFERENCE: &[u8] = b"$(socket.";

/// Whether the session watches the process right away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFromStart {
    /// The process's line is the whole reply.
    No,
    /// Batches of output follow.
    Yes,
}

/// A process as the words describe it; who it runs as is not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessDraft {
    /// Everything but the user.
    pub spec: ProcessSpec,
    /// The word of `uid=`.
    pub user: Option<String>,
    /// The word of `gid=`.
    pub group: Option<String>,
    /// From `watch=1`.
    pub watch: WatchFromStart,
}

impl ProcessDraft {
    /// What to spawn, and the key that makes the same words find the same process.
    ///
    /// # Errors
    /// It is larger than any request may be.
    pub fn into_spec(self, user: Option<UserSpec>) -> Result<(String, ProcessSpec), TextError> {
        let spec = ProcessSpec { user, ..self.spec };
        Ok((key_of(&spec)?, spec))
    }
}

/// Reads the words after `make process`.
///
/// # Errors
/// The name, the command or an option is missing, unknown or wrong.
pub fn parse_make_process(words: &[Word]) -> Result<ProcessDraft, TextError> {
    let (name, words) = words.split_first().ok_or(TextError::ProcessName)?;
    let name = name_of(name)?.to_owned();
    check_name("process", &name)?;
    let (options, arguments) = split_options(words)?;
    let mut draft = ProcessDraft {
        spec: ProcessSpec {
            name,
            ..ProcessSpec::default()
        },
        user: None,
        group: None,
        watch: WatchFromStart::No,
    };
    let mut shell = false;
    let mut captures = true;
    for option in &options {
        match option.name.as_str() {
            "shell" => shell = option.switch()?,
            "bufsize" | "output" => captures = buffer(option, &mut draft.spec)?,
            _ => apply(option, &mut draft)?,
        }
    }
    if !captures {
        draft.spec.stdout = OutputSpec::Null;
        draft.spec.stderr = OutputSpec::Null;
    }
    if arguments.is_empty() {
        return Err(TextError::NoCommand);
    }
    check_references(&draft.spec.name, arguments)?;
    if shell {
        let front = SHELL_ARGUMENTS.map(ByteString::from);
        draft.spec.arguments = front.into_iter().chain(arguments.iter().cloned()).collect();
        draft.spec.labels = BTreeMap::from([(SHELL_LABEL.to_owned(), "True".to_owned())]);
    } else {
        draft.spec.arguments = arguments.to_vec();
    }
    Ok(draft)
}

fn apply(option: &OptionWord, draft: &mut ProcessDraft) -> Result<(), TextError> {
    let word = |option: &OptionWord| -> Result<Option<String>, TextError> {
        Ok(Some(option.text()?.to_owned()).filter(|word| !word.is_empty()))
    };
    let spec = &mut draft.spec;
    match option.name.as_str() {
        "working_dir" => spec.working_directory = option.value.clone(),
        "uid" => draft.user = word(option)?,
        "gid" => draft.group = word(option)?,
        "stdout" => {
            spec.stdout = if option.switch()? {
                OutputSpec::Capture
            } else {
                OutputSpec::Null
            };
        }
        "stderr" => {
            spec.stderr = match &*option.value {
                b"stdout" => OutputSpec::SameAsStdout,
                _ if option.switch()? => OutputSpec::Capture,
                _ => OutputSpec::Null,
            };
        }
        "watch" => {
            draft.watch = match option.switch()? {
                true => WatchFromStart::Yes,
                false => WatchFromStart::No,
            };
        }
        name => {
            if let Some(variable) = name.strip_prefix("env.") {
                if variable == "PATH" {
                    spec.search_path = option.value.clone();
                }
                spec.environment
                    .push((variable.into(), option.value.clone()));
            } else if let Some(limit) = name.strip_prefix("rlimit.") {
                spec.limits.push(parse_limit(limit, &option.value)?);
            } else {
                let option = name.to_owned();
                return Err(TextError::UnknownOption {
                    of: "process",
                    option,
                });
            }
        }
    }
    Ok(())
}

/// Sets the buffer; whether anything is to be captured at all.
fn buffer(option: &OptionWord, spec: &mut ProcessSpec) -> Result<bool, TextError> {
    let wanted = "a number of bytes, or one with k, m or g behind it";
    spec.buffer_bytes = parse_size(&option.value).ok_or_else(|| option.bad(wanted))?;
    Ok(spec.buffer_bytes > 0)
}

/// The limits of Linux by Papa's (Python's) names for them.
const LIMITS: [(&str, libc::__rlimit_resource_t); 17] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("ofile", libc::RLIMIT_NOFILE),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// Soft and hard are set alike; -1 stands for no limit.
fn parse_limit(name: &str, value: &ByteString) -> Result<LimitSpec, TextError> {
    let known = LIMITS
        .iter()
        .find(|(known, _)| name.eq_ignore_ascii_case(known));
    let (_, resource) = known.ok_or_else(|| TextError::UnknownLimit {
        name: name.to_owned(),
    })?;
    let value = match parse_integer(value) {
        Some(-1) => Some(u64::MAX),
        Some(number) => u64::try_from(number).ok(),
        None => None,
    }
    .ok_or_else(|| TextError::BadLimit {
        name: name.to_owned(),
        value: value.to_text().into_owned(),
    })?;
    Ok(LimitSpec {
        resource: *resource,
        soft: value,
        hard: value,
    })
}

/// The sockets that arguments refer to, which [`parse_make_process`] has found well-formed.
#[must_use]
pub fn referenced_sockets(arguments: &[ByteString]) -> Vec<String> {
    let mut names = Vec::new();
    for argument in arguments {
        let text = argument.to_text();
        for reference in text.split("$(socket.").skip(1) {
            let inside = reference.split(')').next().unwrap_or_default();
            if let Some((name, _)) = inside.rsplit_once('.') {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// What is wrong with a reference to a socket, whether or not the socket is there.
fn check_references(process: &str, arguments: &[Word]) -> Result<(), TextError> {
    for argument in arguments {
        let mut rest: &[u8] = argument;
        while let Some(at) = rest
            .windows(SOCKET_REFERENCE.len())
            .position(|part| part == SOCKET_REFERENCE)
        {
            let inside = rest
                .get(at.saturating_add(SOCKET_REFERENCE.len())..)
                .unwrap_or_default();
            let Some(end) = inside.iter().position(|byte| *byte == b')') else {
                return Err(TextError::NoClosingParenthesis {
                    process: process.to_owned(),
                });
            };
            let (reference, behind) = inside.split_at_checked(end).unwrap_or_default();
            if !reference.ends_with(b".port") && !reference.ends_with(b".fileno") {
                return Err(TextError::NoSocketPart);
            }
            rest = behind;
        }
    }
    Ok(())
}

/// Equal specs have equal keys, now and in every later release: the kernel keeps no environments,
/// so this is how it knows a repeated command. What is hashed is the frozen wire form, with
/// variables and limits in order. 128-bit FNV-1a is plenty against accidents; whoever could aim for
/// a collision may replace the process anyway.
fn key_of(spec: &ProcessSpec) -> Result<String, TextError> {
    let mut spec = spec.clone();
    spec.environment.sort();
    spec.limits.sort_by_key(|limit| limit.resource);
    let bytes = codec::encode(&spec).map_err(|error| TextError::TooLarge(error.to_string()))?;
    let hash = bytes.iter().fold(FNV_BASIS, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME)
    });
    // Names may be as long as keys, so only the front of one is for people to read.
    let front: String = spec.name.chars().take(32).collect();
    Ok(format!("{KEY_PREFIX}{front}:{hash:032x}"))
}

/// Whether a process was started from a text session: then text sessions release its output.
#[must_use]
pub fn is_text_key(key: &str) -> bool {
    key.starts_with(KEY_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::words::split_words;

    fn parse(line: &str) -> Result<ProcessDraft, TextError> {
        parse_make_process(&split_words(line.as_bytes(), 100).unwrap())
    }

    fn spec(line: &str) -> ProcessSpec {
        parse(line).unwrap().spec
    }

    fn refused(line: &str) -> String {
        parse(line).unwrap_err().to_string()
    }

    #[test]
    fn options_reach_the_spec() {
        let draft = parse(
            "web working_dir=/srv uid=ann gid=33 bufsize=64k stdout=0 stderr=stdout env.A=b\\ c \
             env.PATH=/bin env.E= rlimit.NOFILE=37 rlimit.core=-1 watch=1 /bin/x a=b",
        )
        .unwrap();
        assert_eq!(
            (draft.user.as_deref(), draft.group.as_deref()),
            (Some("ann"), Some("33"))
        );
        assert_eq!(draft.watch, WatchFromStart::Yes);
        let spec = draft.spec;
        assert_eq!(spec.arguments, ["/bin/x".into(), "a=b".into()]);
        assert_eq!(spec.working_directory, "/srv".into());
        assert_eq!(spec.search_path, "/bin".into());
        let environment: Vec<(ByteString, ByteString)> = vec![
            ("A".into(), "b c".into()),
            ("PATH".into(), "/bin".into()),
            ("E".into(), "".into()),
        ];
        assert_eq!(spec.environment, environment);
        assert_eq!(
            (spec.stdout, spec.stderr),
            (OutputSpec::Null, OutputSpec::SameAsStdout)
        );
        assert_eq!(spec.buffer_bytes, 64 << 10);
        let limit = |resource, value| LimitSpec {
            resource,
            soft: value,
            hard: value,
        };
        let limits = [
            limit(libc::RLIMIT_NOFILE, 37),
            limit(libc::RLIMIT_CORE, u64::MAX),
        ];
        assert_eq!(spec.limits, limits);
    }

    #[test]
    fn no_buffer_captures_nothing_whatever_else_is_said() {
        let spec = spec("a stdout=1 bufsize=0 stderr=stdout /bin/true");
        assert_eq!(
            (spec.stdout, spec.stderr),
            (OutputSpec::Null, OutputSpec::Null)
        );
    }

    #[test]
    fn shell_runs_the_first_argument_and_is_remembered() {
        let spec = spec("a shell=1 exec\\ sleep\\ 600 zero");
        let want: [ByteString; 4] = [
            "/bin/sh".into(),
            "-c".into(),
            "exec sleep 600".into(),
            "zero".into(),
        ];
        assert_eq!(spec.arguments, want);
        assert_eq!(
            spec.labels.get(SHELL_LABEL).map(String::as_str),
            Some("True")
        );
    }

    #[test]
    fn refusals_are_papas() {
        assert_eq!(refused(""), "Process requires a name");
        assert_eq!(refused("p"), "No command");
        assert_eq!(refused("p rlimit.bogus=1 x"), "Unknown rlimit \"bogus\"");
        assert_eq!(
            refused("p rlimit.nofile=x x"),
            "The rlimit value for \"nofile\" must be an integer, not \"x\""
        );
        assert_eq!(
            refused("p echo $(socket.web.fileno"),
            "Process for p argument starts with \"$(socket.\" but has no closing parenthesis"
        );
        let part = "You forgot to specify either \".port\" or \".fileno\" after the name";
        assert_eq!(refused("p echo $(socket.web)"), part);
        assert_eq!(refused("p echo $(socket.a.port)$(socket.web.bogus)"), part);
        assert_eq!(refused("p bogus=1 x"), "Unknown process option \"bogus\"");
        assert!(refused("p bufsize=x x").contains("\"bufsize\""));
    }

    #[test]
    fn same_words_have_the_same_key_and_any_difference_shows() {
        let key = |line: &str| parse(line).unwrap().into_spec(None).unwrap().0;
        let base = "p env.A=1 env.B=2 rlimit.core=0 /bin/x a b";
        assert_eq!(key(base), key("p env.B=2 env.A=1 rlimit.core=0 /bin/x a b"));
        let others = [
            "q env.A=1 env.B=2 rlimit.core=0 /bin/x a b",
            "p env.A=1 env.B=3 rlimit.core=0 /bin/x a b",
            "p env.A=1 env.B=2 rlimit.core=1 /bin/x a b",
            "p env.A=1 env.B=2 rlimit.core=0 /bin/x ab",
            "p env.A=1 env.B=2 rlimit.core=0 shell=1 /bin/x a b",
            "p env.A=1 env.B=2 rlimit.core=0 stderr=0 /bin/x a b",
            "p env.A=1 env.B=2 rlimit.core=0 working_dir=/ /bin/x a b",
            "p env.A=1 env.B=2 rlimit.core=0 bufsize=1m /bin/x a b",
        ];
        for other in others {
            assert_ne!(key(base), key(other), "{other}");
        }
        let user = UserSpec {
            uid: 1,
            gid: 1,
            groups: vec![],
        };
        assert_ne!(
            key(base),
            parse(base).unwrap().into_spec(Some(user)).unwrap().0
        );
        let long = format!("{} /bin/x", "é".repeat(127));
        assert!(key(&long).len() <= kingpole_protocol::limits::NAME_BYTES_MAX);
        // Kept by kernels that are running: it must never change.
        assert_eq!(key("p /bin/x"), "text:p:6d87c75f282a135b8d6e04d683bc140e");
    }
}

//! What a process of ours is started as, and which descriptors it finds where: the one argument
//! that guard and kernel pass to each other.

use std::fmt;
use std::str::FromStr;

/// What the words in the epoll that is handed over mean (`event_loop::polled::Token`). Whoever changes
/// that counts up.
pub const TOKENS_VERSION: u32 = 1;

/// A whole role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Which part.
    pub part: Part,
    /// Where shared memory and the like are.
    pub shared: SharedNumbers,
    /// The link; only for a kernel that has a guard.
    pub link: Option<i32>,
    /// What a kernel saved for its next image; only for an upgrade.
    pub saved: Option<i32>,
    /// The program before, to go back to; only for an upgrade.
    pub previous: Option<i32>,
    /// The epoll that children's pipes hang on already; only for an upgrade. A program that does not
    /// know it, or knows other [`TOKENS_VERSION`]s, makes one of its own.
    pub polled: Option<i32>,
    /// Where to tell that this program serves; only for an upgrade without a guard
    /// ([`crate::upgrade::witness`]).
    pub witness: Option<i32>,
    /// Why the next program could not go on, as text in a memory file; only for one that is gone
    /// back to.
    pub failure: Option<i32>,
    /// The kernel that runs already; only for the next program of a guard.
    pub kernel: Option<i32>,
    /// The program to start kernels with; only for the next program of a guard, or the one before
    /// again.
    pub binary: Option<i32>,
    /// What this process changed about itself and children get back.
    pub original: Original,
}

/// Guard or kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Start a kernel and hold everything.
    Guard,
    /// Serve.
    Kernel,
}

/// Numbers of the descriptors that both share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedNumbers {
    /// The state file.
    pub state: i32,
    /// The journal file.
    pub journal: i32,
    /// The bounce pipe's read end.
    pub bounce_read: i32,
    /// Its write end.
    pub bounce_write: i32,
    /// The eventfd that tells of ends which the guard published.
    pub ended: i32,
    /// The locked file; -1 without one.
    pub lock: i32,
}

/// What was so before the guard changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Original {
    /// Soft and hard limit of open descriptors.
    pub descriptors: Option<(u64, u64)>,
    /// `oom_score_adj`.
    pub oom_score: Option<i32>,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Guard => "guard",
            Part::Kernel => "kernel",
        };
        let SharedNumbers {
            state,
            journal,
            bounce_read,
            bounce_write,
            ended,
            lock,
        } = self.shared;
        write!(
            f,
            "{part},state={state},journal={journal},bounce={bounce_read}:{bounce_write},\
             ended={ended},lock={lock}"
        )?;
        if let Some(link) = self.link {
            write!(f, ",link={link}")?;
        }
        if let Some(saved) = self.saved {
            write!(f, ",saved={saved}")?;
        }
        if let Some(previous) = self.previous {
            write!(f, ",previous={previous}")?;
        }
        if let Some(polled) = self.polled {
            write!(f, ",polled={polled}:{TOKENS_VERSION}")?;
        }
        if let Some(witness) = self.witness {
            write!(f, ",witness={witness}")?;
        }
        if let Some(failure) = self.failure {
            write!(f, ",failure={failure}")?;
        }
        if let Some(kernel) = self.kernel {
            write!(f, ",kernel={kernel}")?;
        }
        if let Some(binary) = self.binary {
            write!(f, ",binary={binary}")?;
        }
        if let Some((soft, hard)) = self.original.descriptors {
            write!(f, ",nofile={soft}:{hard}")?;
        }
        if let Some(score) = self.original.oom_score {
            write!(f, ",oom={score}")?;
        }
        Ok(())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let part = match parts.next() {
            Some("guard") => Part::Guard,
            Some("kernel") => Part::Kernel,
            _ => return Err("a role begins with guard or kernel".to_owned()),
        };
        let fields = parts
            .map(|part| part.split_once('='))
            .collect::<Option<Vec<_>>>()
            .ok_or("a role has fields of the form name=value")?;
        let optional = |name: &str| match find(&fields, name) {
            None => Ok(None),
            Some(text) => number::<i32>(name, text).map(Some),
        };
        let required =
            |name: &str| optional(name)?.ok_or_else(|| format!("the role has no {name}"));
        let bounce = find(&fields, "bounce").and_then(|both| both.split_once(':'));
        let (bounce_read, bounce_write) = bounce.ok_or("the role has no bounce pipe")?;
        let descriptors = match find(&fields, "nofile").and_then(|both| both.split_once(':')) {
            None => None,
            Some((soft, hard)) => Some((number("nofile", soft)?, number("nofile", hard)?)),
        };
        Ok(Self {
            part,
            shared: SharedNumbers {
                state: required("state")?,
                journal: required("journal")?,
                bounce_read: number("bounce", bounce_read)?,
                bounce_write: number("bounce", bounce_write)?,
                ended: required("ended")?,
                lock: required("lock")?,
            },
            link: optional("link")?,
            saved: optional("saved")?,
            previous: optional("previous")?,
            polled: match find(&fields, "polled").and_then(|both| both.split_once(':')) {
                Some((number_of, version)) if version == TOKENS_VERSION.to_string() => {
                    Some(number("polled", number_of)?)
                }
                _ => None,
            },
            witness: optional("witness")?,
            failure: optional("failure")?,
            kernel: optional("kernel")?,
            binary: optional("binary")?,
            original: Original {
                descriptors,
                oom_score: optional("oom")?,
            },
        })
    }
}

fn find<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    let field = fields.iter().find(|(key, _)| *key == name);
    field.map(|(_, value)| *value)
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name}={text}: no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_the_command_line() {
        let mut role = Role {
            part: Part::Kernel,
            shared: SharedNumbers {
                state: 3,
                journal: 4,
                bounce_read: 5,
                bounce_write: 6,
                ended: 7,
                lock: -1,
            },
            link: Some(9),
            saved: Some(10),
            previous: Some(11),
            polled: Some(14),
            witness: Some(15),
            failure: Some(12),
            kernel: Some(1234),
            binary: Some(13),
            original: Original {
                descriptors: Some((1024, u64::MAX)),
                oom_score: Some(-1000),
            },
        };
        assert_eq!(role.to_string().parse(), Ok(role.clone()));
        role = Role {
            part: Part::Guard,
            link: None,
            saved: None,
            previous: None,
            polled: None,
            witness: None,
            failure: None,
            kernel: None,
            binary: None,
            original: Original::default(),
            ..role
        };
        assert_eq!(role.to_string().parse(), Ok(role));
    }

    #[test]
    fn an_epoll_with_words_of_another_kind_is_not_taken() {
        let role = |polled: &str| {
            let text = format!("kernel,state=3,journal=4,bounce=5:6,ended=7,lock=8,{polled}");
            text.parse::<Role>().unwrap().polled
        };
        assert_eq!(role(&format!("polled=14:{TOKENS_VERSION}")), Some(14));
        assert_eq!(role("polled=14:0"), None);
        assert_eq!(role("polled=14"), None);
    }

    #[test]
    fn half_a_role_is_refused_with_what_is_missing() {
        let refused = |text: &str| text.parse::<Role>().unwrap_err();
        assert_eq!(
            refused("king,state=3"),
            "a role begins with guard or kernel"
        );
        assert_eq!(refused("guard,bounce=1:2,state=x"), "state=x: no number");
        assert_eq!(
            refused("guard,bounce=1:2,state=1"),
            "the role has no journal"
        );
    }
}

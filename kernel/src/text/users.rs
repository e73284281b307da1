//! Users and groups by name or number, from the text of the user database's files.
//!
//! The kernel reads the files itself: asking the C library could start threads or wait for a
//! directory server, and one process that waits would make all wait. So only local users are
//! known by name; others are refused, not guessed.

use crate::text::error::TextError;
use kingpole_protocol::spec::UserSpec;

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserDatabase {
    /// Text of `/etc/passwd`.
    pub passwd: String,
    /// Text of `/etc/group`.
    pub group: String,
}

/// Who the kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnIdentity {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

impl UserDatabase {
    /// All users, in file order.
    pub fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(User { name, uid, gid })
        })
    }

    /// All groups, in file order: name, number, members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    /// A user's number, given its name or its number.
    ///
    /// # Errors
    /// There is none.
    pub fn user(&self, word: &str) -> Result<User<'_>, TextError> {
        match word.parse::<u32>() {
            Ok(uid) => {
                self.users()
                    .find(|user| user.uid == uid)
                    .ok_or_else(|| TextError::UnknownUserId {
                        uid: word.to_owned(),
                    })
            }
            Err(_) => {
                self.users()
                    .find(|user| user.name == word)
                    .ok_or_else(|| TextError::UnknownUser {
                        name: word.to_owned(),
                    })
            }
        }
    }

    fn group(&self, word: &str) -> Result<u32, TextError> {
        let number = word.parse::<u32>().ok();
        self.groups()
            .find(|(name, gid, _)| match number {
                Some(number) => *gid == number,
                None => *name == word,
            })
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| TextError::UnknownGroup {
                group: word.to_owned(),
            })
    }

    /// Every group that a user is in, its primary one first.
    fn groups_of(&self, name: &str, primary: u32) -> Vec<u32> {
        let mut gids = vec![primary];
        for (_, gid, members) in self.groups() {
            if members.split(',').any(|member| member == name) && !gids.contains(&gid) {
                gids.push(gid);
            }
        }
        gids
    }

    /// Who a child is to be: `user` and `group` as the words `uid=` and `gid=` gave them. `None`
    /// when that is who the kernel is, so that an unprivileged kernel need not change anything.
    ///
    /// # Errors
    /// No such user or group.
    pub fn resolve(
        &self,
        user: Option<&str>,
        group: Option<&str>,
        own: OwnIdentity,
    ) -> Result<Option<UserSpec>, TextError> {
        let user = user.map(|word| self.user(word)).transpose()?;
        let group = group.map(|word| self.group(word)).transpose()?;
        let uid = user.map_or(own.uid, |user| user.uid);
        let gid = group.or(user.map(|user| user.gid)).unwrap_or(own.gid);
        if uid == own.uid && gid == own.gid && (own.uid != 0 || user.is_none()) {
            return Ok(None);
        }
        let groups = user.map_or_else(|| vec![gid], |user| self.groups_of(user.name, gid));
        Ok(Some(UserSpec { uid, gid, groups }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> UserDatabase {
        UserDatabase {
            passwd: "root:x:0:0:root:/root:/bin/bash\n# no line\n\nbroken:x:y:z\n\
                     ann:x:1000:1000::/home/ann:/bin/sh\nnobody:x:65534:65534:::\n"
                .into(),
            group: "root:x:0:\nann:x:1000:\nweb:x:33:ann,www\nlog:x:4:www,ann\nnogroup:x:65534:\n"
                .into(),
        }
    }

    const ROOT: OwnIdentity = OwnIdentity { uid: 0, gid: 0 };

    fn spec(uid: u32, gid: u32, groups: &[u32]) -> Option<UserSpec> {
        Some(UserSpec {
            uid,
            gid,
            groups: groups.to_vec(),
        })
    }

    #[test]
    fn user_brings_its_primary_group_and_all_its_others() {
        let database = database();
        let ann = spec(1000, 1000, &[1000, 33, 4]);
        assert_eq!(database.resolve(Some("ann"), None, ROOT), Ok(ann.clone()));
        assert_eq!(database.resolve(Some("1000"), None, ROOT), Ok(ann));
        let web = spec(1000, 33, &[33, 4]);
        assert_eq!(database.resolve(Some("ann"), Some("web"), ROOT), Ok(web));
        assert_eq!(
            database.resolve(None, Some("33"), ROOT),
            Ok(spec(0, 33, &[33]))
        );
    }

    #[test]
    fn who_the_kernel_is_already_needs_no_change() {
        let ann = OwnIdentity {
            uid: 1000,
            gid: 1000,
        };
        assert_eq!(database().resolve(Some("ann"), None, ann), Ok(None));
        assert_eq!(database().resolve(None, None, ROOT), Ok(None));
    }

    #[test]
    fn unknown_ones_are_refused_in_papas_words() {
        let database = database();
        let refusal = |user, group| database.resolve(user, group, ROOT).unwrap_err().to_string();
        assert_eq!(refusal(Some("eve"), None), "'eve' is not a valid user name");
        assert_eq!(
            refusal(Some("broken"), None),
            "'broken' is not a valid user name"
        );
        assert_eq!(refusal(Some("77"), None), "'77' is not a valid user id");
        assert_eq!(refusal(None, Some("eve")), "No such group: 'eve'");
        assert_eq!(refusal(None, Some("77")), "No such group: '77'");
    }
}

//! Who a process runs as, from the spec and the container's own files.

use super::beneath;
use crate::failure::{Result, Step, refused};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use shim::protocol::User;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

/// Ids above are negative in programs that keep them in an `int`; some of those take -1 as "unchanged", that is root.
const MAX_ID: u32 = i32::MAX as u32;
const MAX_FILE_BYTES: u64 = 1 << 20;
/// As many supplementary groups as the kernel takes.
const MAX_GROUPS: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, ascending; the primary one is among them.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

pub(crate) fn resolve(root: &OwnedFd, user: &User) -> Result<Identity> {
    decide(user, &read(root, "/etc/passwd")?, &read(root, "/etc/group")?)
}

/// An image controls what is there: only a regular file of sane size is read, and nothing else is even opened, because
/// opening a device or a FIFO can have effects or never return.
fn read(root: &OwnedFd, path: &str) -> Result<String> {
    let step = || format!("read {path} of the container");
    let check = |fd: &OwnedFd| -> Result<()> {
        let stat = fstat(fd).step(step)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(step(), "it is not a regular file"));
        }
        if stat.st_size as u64 > MAX_FILE_BYTES {
            return Err(refused(step(), format!("it has {} bytes, at most {MAX_FILE_BYTES} are read", stat.st_size)));
        }
        Ok(())
    };
    let Some(found) = beneath::find(root, path)? else { return Ok(String::new()) };
    check(&found)?;
    let file = match beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(Errno::NOENT) => return Ok(String::new()),
        file => file.step(step)?,
    };
    check(&file)?;
    let mut bytes = Vec::new();
    File::from(file).take(MAX_FILE_BYTES).read_to_end(&mut bytes).step(step)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// A number or a name. What is all digits is a number, also where a user is called so (CVE-2016-3697).
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let canonical = text == "0" || !text.starts_with('0');
    match text.parse() {
        Ok(id) if canonical => in_range(id).map(Some),
        _ => Err(refused(run_as(text), format!("an id is a decimal number from 0 to {MAX_ID}"))),
    }
}

fn in_range(id: u32) -> Result<u32> {
    if id <= MAX_ID { Ok(id) } else { Err(refused(run_as(&id.to_string()), format!("ids go from 0 to {MAX_ID}"))) }
}

fn run_as(who: &str) -> String {
    format!("run as {who:?}")
}

fn decide(user: &User, passwd: &str, group: &str) -> Result<Identity> {
    let (user_part, group_part) = match user.name.split_once(':') {
        None => (user.name.as_str(), None),
        Some((_, rest)) if rest.is_empty() || rest.contains(':') => return Err(malformed(user)),
        Some(("", _)) => return Err(malformed(user)),
        Some((name, group)) => (name, Some(group)),
    };
    let by_uid = |uid: u32| passwd_entries(passwd).find(|entry| entry.uid == uid);
    let (uid, entry) = match (user.uid, number(user_part)?) {
        (Some(uid), _) | (None, Some(uid)) => (in_range(uid)?, by_uid(uid)),
        (None, None) if user_part.is_empty() => (0, by_uid(0)),
        (None, None) => {
            let entry = passwd_entries(passwd).find(|entry| entry.name == user_part);
            let entry =
                entry.ok_or_else(|| refused(run_as(user_part), "there is no such user in /etc/passwd of the image"))?;
            (in_range(entry.uid)?, Some(entry))
        }
    };
    if user.must_not_be_root && uid == 0 {
        return Err(refused("run as a user other than root", "the container would run as uid 0"));
    }
    // The image's group belongs to the image's user.
    let image_group = group_part.filter(|_| user.uid.is_none());
    let gid = match (user.gid, image_group) {
        (Some(gid), _) => in_range(gid)?,
        (None, Some(name)) => group_id(name, group)?,
        (None, None) => in_range(entry.as_ref().map_or(0, |entry| entry.gid))?,
    };
    let mut groups = vec![gid];
    for gid in &user.additional_gids {
        groups.push(in_range(*gid)?);
    }
    if let Some(entry) = &entry {
        let is_member = |g: &GroupEntry<'_>| g.members.split(',').any(|member| member == entry.name);
        groups.extend(group_entries(group).filter(is_member).map(|g| g.gid).filter(|gid| *gid <= MAX_ID));
    }
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS {
        return Err(refused(run_as(&user.name), format!("it is in more than {MAX_GROUPS} groups")));
    }
    let home = entry.map(|entry| entry.home.to_owned()).filter(|home| home.starts_with('/'));
    Ok(Identity { uid, gid, groups, home })
}

fn malformed(user: &User) -> crate::failure::Failure {
    refused(run_as(&user.name), "the form is user, uid, user:group or uid:gid")
}

fn group_id(name: &str, group: &str) -> Result<u32> {
    if let Some(gid) = number(name)? {
        return Ok(gid);
    }
    let entry = group_entries(group).find(|entry| entry.name == name);
    let entry = entry.ok_or_else(|| {
        refused(format!("run in the group {name:?}"), "there is no such group in /etc/group of the image")
    })?;
    in_range(entry.gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1001::/home/app:/bin/sh\n\
                          1234:x:0:0::/evil:/bin/sh\nbig:x:4294967295:0::/:\nnohome:x:7:7::relative:\n:x:8:8::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\naudio:x:29:app,other\nvideo:x:44:other\n1234:x:0:\nbad\n";

    fn user(name: &str) -> User {
        User { name: name.into(), uid: None, gid: None, additional_gids: vec![], must_not_be_root: false }
    }

    #[test]
    fn s_c01_users_are_what_they_say_or_refused() {
        for (name, expected) in [
            ("", Some((0, 0))),
            ("0", Some((0, 0))),
            ("root", Some((0, 0))),
            ("app", Some((1000, 1001))),
            ("1000", Some((1000, 1001))),
            ("2000", Some((2000, 0))),
            ("app:audio", Some((1000, 29))),
            ("1000:5", Some((1000, 5))),
            ("2147483647", Some((2147483647, 0))),
            ("2147483648", None),
            ("4294967295", None),
            ("4294967296", None),
            ("99999999999999999999999", None),
            ("-1", None),
            ("0x0", None),
            ("00", None),
            ("01000", None),
            (" 1000", None),
            ("1000 ", None),
            ("1000:", None),
            (":1000", None),
            (":", None),
            ("1000:4294967296", None),
            ("1000:1:1", None),
            ("app:nobody", None),
            ("big", None),
            ("broken", None),
            ("nobody", None),
            (&"x".repeat(10_000), None),
        ] {
            let identity = decide(&user(name), PASSWD, GROUP).ok().map(|identity| (identity.uid, identity.gid));
            assert_eq!(identity, expected, "{name:?}");
        }
        for id in [2_147_483_648, u32::MAX] {
            assert!(decide(&User { uid: Some(id), ..user("") }, PASSWD, GROUP).is_err());
            assert!(decide(&User { gid: Some(id), ..user("") }, PASSWD, GROUP).is_err());
            assert!(decide(&User { additional_gids: vec![id], ..user("") }, PASSWD, GROUP).is_err());
        }
    }

    #[test]
    fn s_e09_digits_are_never_a_name() {
        assert_eq!(decide(&user("1234"), PASSWD, GROUP).unwrap().uid, 1234);
        assert_eq!(decide(&user("1000:1234"), PASSWD, GROUP).unwrap().gid, 1234);
    }

    #[test]
    fn s_e02_groups_and_overrides() {
        let both = User { uid: Some(1000), gid: Some(3), additional_gids: vec![9, 3], ..user("root:video") };
        let identity = decide(&both, PASSWD, GROUP).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (1000, 3, vec![3, 9, 29]));
        let identity = decide(&User { uid: Some(5000), ..user("app:audio") }, PASSWD, GROUP).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups, identity.home), (5000, 0, vec![0], None));
        let identity = decide(&user("app"), PASSWD, GROUP).unwrap();
        assert_eq!((identity.groups, identity.home.as_deref()), (vec![29, 1001], Some("/home/app")));
        assert_eq!(decide(&user("nohome"), PASSWD, GROUP).unwrap().home, None);
    }

    #[test]
    fn s_e01_root_is_refused_where_it_must_not_be() {
        let not_root = |name: &str| User { must_not_be_root: true, ..user(name) };
        for (name, allowed) in [("", false), ("0", false), ("root", false), ("app", true), ("1234", true)] {
            assert_eq!(decide(&not_root(name), PASSWD, GROUP).is_ok(), allowed, "{name:?}");
        }
        assert!(decide(&User { uid: Some(0), ..not_root("app") }, PASSWD, GROUP).is_err());
    }

    #[test]
    fn s_b15_only_a_small_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(dir.path().join("nix")).unwrap();
        std::fs::create_dir(&etc).unwrap();
        let root = beneath::open_root(dir.path()).unwrap();
        let passwd = etc.join("passwd");
        assert_eq!(read(&root, "/etc/passwd").unwrap(), "");
        // Absolute links stay inside the root.
        std::fs::write(dir.path().join("nix/passwd"), "in the root").unwrap();
        std::os::unix::fs::symlink("/nix/passwd", &passwd).unwrap();
        assert_eq!(read(&root, "/etc/passwd").unwrap(), "in the root");
        let replace = |make: &dyn Fn()| {
            std::fs::remove_file(&passwd).unwrap();
            make();
            assert!(read(&root, "/etc/passwd").is_err());
        };
        replace(&|| std::fs::File::create(&passwd).unwrap().set_len(10 << 30).unwrap());
        replace(&|| rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, 0o644.into(), 0).unwrap());
        replace(&|| drop(std::os::unix::net::UnixListener::bind(&passwd).unwrap()));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::create_dir(&passwd).unwrap();
        assert!(read(&root, "/etc/passwd").is_err());
    }
}

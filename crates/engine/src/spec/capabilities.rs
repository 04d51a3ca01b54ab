//! Which capabilities a container's processes have.

use cri::v1;
use shim::protocol::Capabilities;

use cri::Refused;

/// Names in the order of their numbers, as capability.h has them.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing: the set that Docker and containerd give.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The capability sets of a container. `held` are those that this process has: nobody can pass on what it lacks.
///
/// # Errors
/// A name that is no capability.
pub(crate) fn resolve(
    asked: Option<&v1::Capability>,
    privileged: Privileged,
    held: u64,
) -> Result<Capabilities, Refused> {
    let nothing = v1::Capability::default();
    let asked = asked.unwrap_or(&nothing);
    let all = (1u64 << NAMES.len()) - 1;
    let mut set = match privileged {
        Privileged::Yes => all,
        Privileged::No => DEFAULT.iter().try_fold(0, |set, name| Ok(set | bits("", name)?))?,
    };
    // "ALL" comes first, so that drop ALL with add KILL leaves KILL, and add ALL with drop KILL leaves all but KILL.
    let names_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let single = |names: &[String], field: &str| {
        let names = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
        names.map(|name| bits(field, name)).try_fold(0, |set, bit| bit.map(|bit| set | bit))
    };
    let add = single(&asked.add_capabilities, "capabilities.add")?;
    let drop = single(&asked.drop_capabilities, "capabilities.drop")?;
    if names_all(&asked.add_capabilities) {
        set = all;
    }
    if names_all(&asked.drop_capabilities) {
        set = 0;
    }
    let ambient = single(&asked.add_ambient_capabilities, "capabilities.add_ambient")? & held;
    let set = ((set | add) & !drop) & held;
    // Inheritable stays empty: with it, a program with file capabilities would gain more than it should.
    Ok(Capabilities {
        bounding: set | ambient,
        effective: set | ambient,
        permitted: set | ambient,
        inheritable: ambient,
        ambient,
    })
}

/// Whether the container is privileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privileged {
    Yes,
    No,
}

fn bits(field: &str, name: &str) -> Result<u64, Refused> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match NAMES.iter().position(|known| *known == bare) {
        Some(number) => Ok(1 << number),
        None => Err(Refused::new(field, format!("{name:?} is no capability: expected a name as in capabilities(7)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = (1 << 41) - 1;

    fn asked(add: &[&str], drop: &[&str]) -> v1::Capability {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        v1::Capability { add_capabilities: names(add), drop_capabilities: names(drop), ..Default::default() }
    }

    #[test]
    fn s_d14_the_sets_for_each_wish() {
        let default = 0xa804_25fb;
        let (kill, net_admin) = (1 << 5, 1 << 12);
        for (add, drop, privileged, expected) in [
            (&[][..], &[][..], Privileged::No, default),
            (&["NET_ADMIN"], &[], Privileged::No, default | net_admin),
            (&["cap_net_admin"], &["CAP_KILL"], Privileged::No, default & !kill | net_admin),
            (&[], &["ALL"], Privileged::No, 0),
            (&["KILL"], &["all"], Privileged::No, kill),
            (&["ALL"], &["KILL"], Privileged::No, ALL & !kill),
            (&["KILL"], &["KILL"], Privileged::No, default & !kill),
            (&[], &[], Privileged::Yes, ALL),
            (&[], &["KILL"], Privileged::Yes, ALL & !kill),
        ] {
            let sets = resolve(Some(&asked(add, drop)), privileged, ALL).unwrap();
            assert_eq!(
                (sets.bounding, sets.effective, sets.permitted),
                (expected, expected, expected),
                "{add:?} {drop:?}"
            );
            assert_eq!((sets.inheritable, sets.ambient), (0, 0));
        }
    }

    #[test]
    fn nobody_passes_on_what_it_lacks() {
        let sets = resolve(None, Privileged::Yes, ALL & !(1 << 24)).unwrap();
        assert_eq!(sets.bounding, ALL & !(1 << 24));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let error = resolve(Some(&asked(&["NET_ADMIM"], &[])), Privileged::No, ALL).unwrap_err();
        assert!(error.to_string().contains("NET_ADMIM"), "{error}");
    }
}

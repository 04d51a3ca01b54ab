//! From root to the container's user, with exactly the rights the spec names.

use super::user::Identity;
use crate::failure::{Result, Step};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_gid,
    set_thread_groups, set_thread_uid,
};
use shim::protocol::Process;

pub(crate) fn apply(process: &Process, identity: &Identity) -> Result<()> {
    let wanted = &process.capabilities;
    drop_bounding(wanted.bounding)?;
    set_keep_capabilities(true).step(|| "keep capabilities across the change of user".into())?;
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).step(|| "set the supplementary groups".into())?;
    set_thread_gid(Gid::from_raw(identity.gid)).step(|| format!("become the group {}", identity.gid))?;
    set_thread_uid(Uid::from_raw(identity.uid)).step(|| format!("become the user {}", identity.uid))?;

    // What this machine does not give us we cannot give away.
    let ours = capabilities(None).step(|| "read our capabilities".into())?.permitted.bits();
    let set = |bits: u64| CapabilitySet::from_bits_retain(bits & ours);
    let sets = CapabilitySets {
        effective: set(wanted.effective & wanted.permitted),
        permitted: set(wanted.permitted),
        inheritable: set(wanted.inheritable),
    };
    set_capabilities(None, sets).step(|| "set the capabilities".into())?;
    clear_ambient_capability_set().step(|| "clear the ambient capabilities".into())?;
    for bit in bits(wanted.ambient & wanted.permitted & wanted.inheritable & ours) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true)
            .step(|| format!("raise the ambient capability {}", bit.trailing_zeros()))?;
    }
    if process.no_new_privs {
        set_no_new_privs(true).step(|| "set no_new_privs".into())?;
    }
    Ok(())
}

/// Drops all others that the kernel knows; the first one it does not know ends the list.
fn drop_bounding(keep: u64) -> Result<()> {
    for bit in bits(u64::MAX) {
        if keep & bit != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno).step(|| format!("drop the capability {}", bit.trailing_zeros())),
        }
    }
    Ok(())
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64).map(|at| 1 << at).filter(move |bit| set & bit != 0)
}

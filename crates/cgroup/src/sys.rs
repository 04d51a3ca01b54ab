//! The bpf(2) calls that install a device program, which no safe crate offers. All `unsafe` of this crate is here.

use crate::devices::Instruction;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is missing as zero.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    /// 0: this group's one program, replaced by the next.
    attach_flags: u32,
}

/// bpf(2): `attributes` must be the structure that `command` takes, and outlive the call with all it points to.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer and the size describe one live object; the caller vouches for its meaning.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Has the kernel verify a device program.
pub(crate) fn load_device_program(code: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        prog_flags: 0,
        prog_name: *b"pod_devices\0\0\0\0\0",
        ifindex: 0,
        expected_attach_type: ATTACH_CGROUP_DEVICE,
    };
    // SAFETY: the structure is BPF_PROG_LOAD's; `code` and the licence outlive the call.
    let fd = unsafe { bpf(PROG_LOAD, &attributes)? };
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes `program` the group's device program, in place of the one it had.
pub(crate) fn attach_device_program(group: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attributes = AttachAttributes {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: the structure is BPF_PROG_ATTACH's; both descriptors live through the call.
    unsafe { bpf(PROG_ATTACH, &attributes) }.map(|_| ())
}

/// Takes the group's device program away; one that has none is left as it is.
pub(crate) fn detach_device_program(group: impl AsFd) -> io::Result<()> {
    let attributes = AttachAttributes {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: 0,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: the structure is BPF_PROG_DETACH's; the descriptor lives through the call.
    match unsafe { bpf(PROG_DETACH, &attributes) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{default_rules, program};

    #[test]
    fn the_kernel_accepts_the_program() {
        match load_device_program(&program(&default_rules(&[]))) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                eprintln!("skipped: bpf(2) is not permitted here ({error})");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

//! File systems of a test's own.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// A file system in memory, mounted until it is dropped: small where a disk is to become full, quick where nobody wants to
/// wait for one.
pub struct MemoryDisk(PathBuf);

impl MemoryDisk {
    /// Makes the directory too.
    pub fn mount(at: &Path, size_bytes: u64) -> MemoryDisk {
        std::fs::create_dir_all(at).expect("a mount point");
        let options = CString::new(format!("mode=0700,size={size_bytes}")).expect("no zero in it");
        mount("none", at, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("a file system in memory");
        MemoryDisk(at.to_owned())
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

//! Facts about the machine, read from `/proc` and `/sys` without running anything.
//!
//! Every source may be missing (small kernels, virtual machines, containers): the field is then empty or zero, never
//! an error. What is read is capped, and file systems that can hang (network, FUSE) are never touched.

mod cpu;
mod disk;
mod facts;
mod ids;
mod machine;
mod memory;
mod network;
mod source;
mod topology;
mod usage;

pub use disk::capacity_bytes;
pub use facts::{Facts, facts, primary_ip};
pub use machine::{
    Cache, Core, DiskInfo, FsInfo, HugePages, MachineInfo, MemoryType, NetInfo, NumaNode, Nvm, machine_info,
};
pub use usage::{Usage, usage};

//! `/proc/cpuinfo`, whose shape differs between architectures.

use std::collections::BTreeSet;

/// The values of a key, in order.
fn values<'a>(cpuinfo: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    cpuinfo.lines().filter_map(move |line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// Processors listed. (s390x lists them as `processor 0: …`, ARM and x86 as `processor : 0`.)
pub(crate) fn count(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.strip_prefix("processor").is_some_and(|rest| rest.contains(':'))).count()
}

/// The maker: `vendor_id` on x86 and s390x, `CPU implementer` on ARM, `mvendorid` on RISC-V.
/// Empty if the machine does not tell or has processors of several makers.
pub(crate) fn vendor(cpuinfo: &str) -> String {
    for key in ["vendor_id", "CPU implementer", "mvendorid"] {
        let found: BTreeSet<&str> = values(cpuinfo, key).collect();
        if let (1, Some(vendor)) = (found.len(), found.first()) {
            return (*vendor).to_owned();
        }
    }
    String::new()
}

/// The highest frequency listed, in kHz: `cpu MHz` on x86, `clock` with a unit on POWER, `cpu MHz dynamic` on s390x.
pub(crate) fn frequency_khz(cpuinfo: &str) -> Option<u64> {
    ["cpu MHz", "clock", "cpu MHz dynamic"]
        .iter()
        .flat_map(|key| values(cpuinfo, key))
        .filter_map(|value| value.trim_end_matches("MHz").trim().parse::<f64>().ok())
        .filter(|mhz| mhz.is_finite() && *mhz > 0.0)
        .map(|mhz| (mhz * 1000.0).round() as u64)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu MHz\t\t: 800.011\nphysical id\t: 0\n\n\
                       processor\t: 1\nvendor_id\t: GenuineIntel\ncpu MHz\t\t: 3401.000\n";
    const ARM64: &str = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n\
                         processor\t: 1\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n";
    const POWER: &str = "processor\t: 0\ncpu\t\t: POWER9\nclock\t\t: 2166.000000MHz\n\ntimebase\t: 512000000\n";
    const S390X: &str = "vendor_id       : IBM/S390\n# processors    : 2\nprocessor 0: version = FF,  identification = 1\n\
                         processor 1: version = FF,  identification = 1\ncpu number      : 0\ncpu MHz dynamic : 5200\n";
    const RISCV: &str = "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc\nmvendorid\t: 0x489\n";
    const BIG_LITTLE: &str = "processor\t: 0\nCPU implementer\t: 0x41\n\nprocessor\t: 1\nCPU implementer\t: 0x51\n";

    #[test]
    fn several_architectures() {
        let cases = [
            ("x86", X86, 2, "GenuineIntel", Some(3_401_000)),
            ("arm64", ARM64, 2, "0x41", None),
            ("power", POWER, 1, "", Some(2_166_000)),
            ("s390x", S390X, 2, "IBM/S390", Some(5_200_000)),
            ("riscv", RISCV, 1, "0x489", None),
            ("two makers", BIG_LITTLE, 2, "", None),
            ("empty", "", 0, "", None),
            ("noise", "processor\nvendor_id\ncpu MHz : NaN\ncpu MHz : -1\n::::\n", 0, "", None),
        ];
        for (name, text, processors, maker, khz) in cases {
            assert_eq!(count(text), processors, "{name}");
            assert_eq!(vendor(text), maker, "{name}");
            assert_eq!(frequency_khz(text), khz, "{name}");
        }
    }
}

//! What an image runs on, and how well that fits this machine.

use crate::digest::shorten;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

/// How well an image fits a machine: the greater, the more of the machine it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fit(Option<u32>);

impl Fit {
    /// Of what does not say for which platform it is.
    pub(super) const UNTOLD: Fit = Fit(None);
}

impl Platform {
    /// The platform of this machine, in the names that images use.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "loongarch64" => "loong64",
            other => other,
        };
        let variant = match architecture {
            "amd64" => Some(amd64_level().to_owned()),
            "arm64" => Some("v8".to_owned()),
            "arm" => Some(arm_version(rustix::system::uname().machine().to_str().unwrap_or_default()).to_owned()),
            _ => None,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// How well an image for this platform fits `host`; `None` when it does not run there.
    pub(crate) fn fit(&self, host: &Platform) -> Option<Fit> {
        if self.os != host.os || self.architecture != host.architecture {
            return None;
        }
        let (own, host) = (self.level()?, host.level()?);
        (own <= host).then_some(Fit(Some(own)))
    }

    pub(crate) fn matches(&self, host: &Platform) -> bool {
        self.fit(host).is_some()
    }

    /// Variants of the known architectures are levels, each of which runs all below it.
    fn level(&self) -> Option<u32> {
        let base = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            "arm" => 7,
            _ => return Some(0),
        };
        match self.variant.as_deref().unwrap_or_default() {
            "" => Some(base),
            variant => variant.strip_prefix('v').unwrap_or(variant).parse().ok(),
        }
    }

    pub(crate) fn describe(&self) -> String {
        let variant = self.variant.as_deref().filter(|v| !v.is_empty()).map(|v| format!("/{v}")).unwrap_or_default();
        shorten(&format!("{}/{}{variant}", self.os, self.architecture))
    }
}

/// The level of the x86-64 psABI that the processor has.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    macro_rules! all {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    if !all!("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cmpxchg16b") {
        "v1"
    } else if !all!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe") {
        "v2"
    } else {
        "v3"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    "v1"
}

/// The version of the 32-bit instruction set of a machine, as uname(2) names that.
fn arm_version(machine: &str) -> &'static str {
    if machine.starts_with("armv5") {
        "v5"
    } else if machine.starts_with("armv6") {
        "v6"
    } else {
        "v7"
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Descriptor, choices};
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut part = || parts.next();
        Platform { os: part().unwrap_or_default(), architecture: part().unwrap_or_default(), variant: part() }
    }

    /// The order in which entries for the platforms would be tried.
    fn order(host: &str, index: &[&str]) -> Vec<String> {
        let entries: Vec<Descriptor> = index
            .iter()
            .map(|text| Descriptor {
                media_type: None,
                digest: crate::digest::Digest::of(text.as_bytes()),
                size: 1,
                platform: (!text.is_empty()).then(|| platform(text)),
                annotations: None,
            })
            .collect();
        let (chosen, others) = choices(&entries, &platform(host));
        assert_eq!(chosen.len() + others.len(), index.len());
        chosen.iter().map(|d| d.platform.as_ref().map(Platform::describe).unwrap_or_default()).collect()
    }

    #[test]
    fn s_b25_the_best_fitting_entry_of_an_index_comes_first() {
        let amd64 =
            ["linux/arm64/v8", "linux/amd64/v4", "linux/amd64/v2", "linux/amd64", "windows/amd64", "linux/amd64/v3"];
        let arm = ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/arm64"];
        for (host, index, expected) in [
            ("linux/amd64/v1", &amd64[..], &["linux/amd64"][..]),
            ("linux/amd64/v2", &amd64, &["linux/amd64/v2", "linux/amd64"]),
            ("linux/amd64/v3", &amd64, &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]),
            (
                "linux/arm64/v8",
                &["linux/arm64/v9", "linux/arm64/v8", "linux/arm64"],
                &["linux/arm64/v8", "linux/arm64"],
            ),
            ("linux/arm/v7", &arm, &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
            ("linux/arm/v6", &arm, &["linux/arm/v6", "linux/arm/v5"]),
            ("linux/riscv64", &["linux/riscv64", "linux/amd64"], &["linux/riscv64"]),
            // What says nothing is looked into last; what is for nobody, as attestations are, never.
            ("linux/amd64/v3", &["", "unknown/unknown", "linux/amd64"], &["linux/amd64", ""]),
            ("linux/amd64/v3", &["linux/amd64/strange", "linux/s390x"], &[]),
            ("linux/amd64/v3", &["linux/amd64/v1", "linux/amd64"], &["linux/amd64/v1", "linux/amd64"]),
        ] {
            assert_eq!(order(host, index), expected, "{host}");
        }
    }

    #[test]
    fn this_machine_runs_what_is_for_its_architecture_at_large() {
        let host = Platform::host();
        assert!(Platform { variant: None, ..host.clone() }.matches(&host), "{host:?}");
        assert!(host.matches(&host), "{host:?}");
        for (machine, version) in [("armv6l", "v6"), ("armv7l", "v7"), ("armv8l", "v7"), ("aarch64", "v7"), ("", "v7")]
        {
            assert_eq!(arm_version(machine), version, "{machine}");
        }
    }
}

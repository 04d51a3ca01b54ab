//! How images come and go.

use super::runtime::Choice;
use super::{ConfigError, ConfigFile, RunFlags, absolute, value_error};
use agent::image_access::{Listed, Verification};
use agent::{ImageGcConfig, ImagesConfig};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Looked into at each pull: nothing need be there at the start.
const REGISTRY_CONFIG_DIR: &str = "/etc/kubelet/registries";
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);

const PARALLEL: &str = "maxParallelImagePulls (--max-parallel-image-pulls)";
const QPS: &str = "registryPullQPS (--registry-qps)";
const BURST: &str = "registryBurst (--registry-burst)";
const HIGH: &str = "imageGCHighThresholdPercent (--image-gc-high-threshold)";
const LOW: &str = "imageGCLowThresholdPercent (--image-gc-low-threshold)";
const VERIFICATION: &str = "imagePullCredentialsVerificationPolicy";
const LISTED: &str = "preloadedImagesVerificationAllowlist";
const MAX_AGE: &str = "imageMaximumGCAge (--image-maximum-gc-age)";

/// Pulling, credentials, removal of what nobody uses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Images {
    pub(crate) serialize: bool,
    pub(crate) max_parallel: Option<u32>,
    /// 0: any number.
    pub(crate) qps: u32,
    pub(crate) burst: u32,
    pub(crate) verification: Verification,
    pub(crate) gc: ImageGcConfig,
    /// Of the embedded engine.
    pub(crate) registry_config_dir: PathBuf,
    /// Of the embedded engine; of a CRI runtime, how long the next pull waits for one at most.
    pub(crate) progress_within: Duration,
    pub(crate) providers: Option<Providers>,
}

/// Programs that give credentials.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Providers {
    pub(crate) config: PathBuf,
    pub(crate) bin_dir: PathBuf,
}

pub(super) fn decide(flags: &RunFlags, file: &ConfigFile, runtime: &Choice) -> Result<Images, ConfigError> {
    let (serialize, max_parallel) = at_once(
        flags.serialize_image_pulls.or(file.serialize_image_pulls),
        flags.max_parallel_image_pulls.or(file.max_parallel_image_pulls),
    )?;
    let defaults = ImagesConfig::default();
    // Nought bursts means the usual ones, as everywhere.
    let burst = match not_negative(BURST, flags.registry_burst.or(file.registry_burst))? {
        None | Some(0) => defaults.burst,
        Some(burst) => burst,
    };
    Ok(Images {
        serialize,
        max_parallel,
        qps: not_negative(QPS, flags.registry_qps.or(file.registry_pull_qps))?.unwrap_or(defaults.qps),
        burst,
        verification: verification(file)?,
        gc: collection(flags, file)?,
        registry_config_dir: registry_config_dir(flags.registry_config_dir.as_deref(), runtime)?,
        progress_within: progress_within(flags.image_pull_progress_deadline, runtime)?,
        providers: providers(flags)?,
    })
}

/// Whether pulls follow one another, and else how many there may be at once.
fn at_once(serialize: Option<bool>, max: Option<i32>) -> Result<(bool, Option<u32>), ConfigError> {
    let max = match max.map(|max| (max, u32::try_from(max))) {
        None => None,
        Some((_, Ok(max @ 1..))) => Some(max),
        Some((max, _)) => return Err(value_error(PARALLEL, max.to_string(), "must be a positive number")),
    };
    let several = max.is_some_and(|max| max > 1);
    match serialize {
        Some(true) if several => Err(value_error(
            PARALLEL,
            max.unwrap_or_default().to_string(),
            "cannot be larger than 1 unless serializeImagePulls (--serialize-image-pulls) is false",
        )),
        serialize => Ok((serialize.unwrap_or(!several), max)),
    }
}

fn not_negative(name: &'static str, value: Option<i32>) -> Result<Option<u32>, ConfigError> {
    let wrong = |value: i32| value_error(name, value.to_string(), "must not be a negative number");
    value.map(|value| u32::try_from(value).map_err(|_| wrong(value))).transpose()
}

/// Of which images that are here it is asked who may use them.
fn verification(file: &ConfigFile) -> Result<Verification, ConfigError> {
    let listed = &file.preloaded_images_verification_allowlist;
    let policy = file.image_pull_credentials_verification_policy.as_deref().unwrap_or_default();
    let verification = match policy {
        "NeverVerify" => Verification::Never,
        "" | "NeverVerifyPreloadedImages" => Verification::Pulled,
        "NeverVerifyAllowlistedImages" => {
            let read = |text: &String| {
                let wrong = |error| value_error(LISTED, text.clone(), format!("{error}; or NAME/* for all beneath it"));
                Listed::parse(text).map_err(wrong)
            };
            return Ok(Verification::AllBut(listed.iter().map(read).collect::<Result<_, _>>()?));
        }
        "AlwaysVerify" => Verification::Always,
        other => {
            let expected =
                "expected NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify";
            return Err(value_error(VERIFICATION, other, expected));
        }
    };
    match listed.is_empty() {
        true => Ok(verification),
        false => Err(value_error(
            LISTED,
            listed.join(", "),
            format!("has a meaning only where {VERIFICATION} is NeverVerifyAllowlistedImages"),
        )),
    }
}

fn collection(flags: &RunFlags, file: &ConfigFile) -> Result<ImageGcConfig, ConfigError> {
    let defaults = ImageGcConfig::default();
    let high = flags.image_gc_high_threshold.or(file.image_gc_high_threshold_percent);
    let low = flags.image_gc_low_threshold.or(file.image_gc_low_threshold_percent);
    let high_percent = percent(HIGH, high)?.unwrap_or(defaults.high_percent);
    let low_percent = percent(LOW, low)?.unwrap_or(defaults.low_percent);
    if low_percent >= high_percent {
        return Err(value_error(LOW, low_percent.to_string(), format!("must be less than {HIGH} {high_percent}")));
    }
    // Nought means the usual time, and never, as everywhere.
    let given = |flag: Option<Duration>, field: Option<Duration>| flag.or(field).filter(|age| !age.is_zero());
    let min_age = given(flags.minimum_image_ttl_duration, file.image_minimum_gc_age).unwrap_or(defaults.min_age);
    let max_age = given(flags.image_maximum_gc_age, file.image_maximum_gc_age);
    if let Some(max_age) = max_age.filter(|max_age| *max_age <= min_age) {
        let expected = format!("must be greater than imageMinimumGCAge (--minimum-image-ttl-duration) {min_age:?}");
        return Err(value_error(MAX_AGE, format!("{max_age:?}"), expected));
    }
    Ok(ImageGcConfig { high_percent, low_percent, min_age, max_age })
}

fn percent(name: &'static str, value: Option<i32>) -> Result<Option<u8>, ConfigError> {
    let wrong = |value: i32| value_error(name, value.to_string(), "must be between 0 and 100, inclusive");
    let fine = |value: i32| u8::try_from(value).ok().filter(|value| *value <= 100).ok_or_else(|| wrong(value));
    value.map(fine).transpose()
}

/// Only the embedded engine asks registries itself.
fn only_embedded(flag: &'static str, found: impl Into<String>, runtime: &Choice) -> Result<(), ConfigError> {
    match runtime {
        Choice::Embedded => Ok(()),
        Choice::Docker { .. } | Choice::Remote { .. } => Err(value_error(
            flag,
            found,
            "it is for the embedded engine; another runtime pulls by itself and has a configuration of its own for that",
        )),
    }
}

fn registry_config_dir(flag: Option<&Path>, runtime: &Choice) -> Result<PathBuf, ConfigError> {
    const FLAG: &str = "--registry-config-dir";
    let Some(dir) = flag else { return Ok(REGISTRY_CONFIG_DIR.into()) };
    only_embedded(FLAG, dir.to_string_lossy(), runtime)?;
    // Misspelt, it would mean that mirrors and certificates are passed over without a word.
    match dir.is_dir() {
        true => Ok(absolute(dir.to_owned())),
        false => Err(value_error(FLAG, dir.to_string_lossy(), "expected a directory that exists")),
    }
}

fn progress_within(flag: Option<Duration>, runtime: &Choice) -> Result<Duration, ConfigError> {
    const FLAG: &str = "--image-pull-progress-deadline";
    let Some(within) = flag else { return Ok(PROGRESS_DEADLINE) };
    if matches!(runtime, Choice::Docker { .. }) {
        let text = "it is for the embedded engine and for CRI runtimes; Docker's pulls have a limit of their own";
        return Err(value_error(FLAG, format!("{within:?}"), text));
    }
    match within >= Duration::from_secs(1) {
        true => Ok(within),
        false => Err(value_error(FLAG, format!("{within:?}"), "expected 1s or more")),
    }
}

fn providers(flags: &RunFlags) -> Result<Option<Providers>, ConfigError> {
    const CONFIG: &str = "--image-credential-provider-config";
    const BIN_DIR: &str = "--image-credential-provider-bin-dir";
    let given = |flag: &Option<PathBuf>| flag.clone().filter(|path| !path.as_os_str().is_empty()).map(absolute);
    let config = given(&flags.image_credential_provider_config);
    let bin_dir = given(&flags.image_credential_provider_bin_dir);
    let alone = |flag, path: PathBuf, other: &str| {
        value_error(flag, path.to_string_lossy(), format!("it needs {other} beside it"))
    };
    match (config, bin_dir) {
        (None, None) => Ok(None),
        (Some(config), Some(bin_dir)) => Ok(Some(Providers { config, bin_dir })),
        (Some(config), None) => Err(alone(CONFIG, config, BIN_DIR)),
        (None, Some(bin_dir)) => Err(alone(BIN_DIR, bin_dir, CONFIG)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::client::Endpoint;

    type Change = fn(&mut RunFlags);
    const NONE: Change = |_| {};

    fn decided(change: Change, file: &ConfigFile) -> Result<Images, String> {
        let mut flags = RunFlags::default();
        change(&mut flags);
        decide(&flags, file, &Choice::Embedded).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_upstreams() {
        let images = decided(NONE, &ConfigFile::default()).unwrap();
        assert_eq!((images.serialize, images.max_parallel, images.qps, images.burst), (true, None, 5, 10));
        let gc = ImageGcConfig { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_age: None };
        assert_eq!(images.gc, gc);
        assert_eq!(images.registry_config_dir, PathBuf::from("/etc/kubelet/registries"));
        assert_eq!((images.progress_within, images.providers), (Duration::from_secs(60), None));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = ConfigFile {
            serialize_image_pulls: Some(true),
            registry_pull_qps: Some(1),
            registry_burst: Some(0),
            image_gc_high_threshold_percent: Some(50),
            image_gc_low_threshold_percent: Some(40),
            image_minimum_gc_age: Some(Duration::ZERO),
            image_maximum_gc_age: Some(Duration::from_secs(3600)),
            ..ConfigFile::default()
        };
        let images = decided(NONE, &file).unwrap();
        assert_eq!((images.serialize, images.qps, images.burst), (true, 1, 10));
        let gc = ImageGcConfig {
            high_percent: 50,
            low_percent: 40,
            min_age: Duration::from_secs(120),
            max_age: Some(Duration::from_secs(3600)),
        };
        assert_eq!(images.gc, gc);
        let images = decided(
            |flags| {
                flags.serialize_image_pulls = Some(false);
                flags.max_parallel_image_pulls = Some(3);
                flags.registry_qps = Some(0);
                flags.registry_burst = Some(7);
                flags.image_gc_high_threshold = Some(100);
                flags.image_gc_low_threshold = Some(99);
                flags.minimum_image_ttl_duration = Some(Duration::from_secs(1));
                flags.image_maximum_gc_age = Some(Duration::ZERO);
            },
            &file,
        )
        .unwrap();
        assert_eq!((images.serialize, images.max_parallel, images.qps, images.burst), (false, Some(3), 0, 7));
        let gc = ImageGcConfig { high_percent: 100, low_percent: 99, min_age: Duration::from_secs(1), max_age: None };
        assert_eq!(images.gc, gc);
    }

    #[test]
    fn who_may_use_what_is_here_is_decided_by_name() {
        let verification = |policy: &str, listed: &[&str]| {
            let file = ConfigFile {
                image_pull_credentials_verification_policy: (!policy.is_empty()).then(|| policy.to_owned()),
                preloaded_images_verification_allowlist: listed.iter().map(|&text| text.to_owned()).collect(),
                ..ConfigFile::default()
            };
            decided(NONE, &file).map(|images| images.verification)
        };
        for (policy, expected) in [
            ("", Verification::Pulled),
            ("NeverVerifyPreloadedImages", Verification::Pulled),
            ("NeverVerify", Verification::Never),
            ("AlwaysVerify", Verification::Always),
            ("NeverVerifyAllowlistedImages", Verification::AllBut(Vec::new())),
        ] {
            assert_eq!(verification(policy, &[]), Ok(expected), "{policy}");
        }
        let listed = Verification::AllBut(vec![Listed::parse("nginx").unwrap(), Listed::parse("r.example/*").unwrap()]);
        assert_eq!(verification("NeverVerifyAllowlistedImages", &["nginx", "r.example/*"]), Ok(listed));
        for (policy, listed, expected) in [
            ("Never", &[][..], "expected NeverVerify, "),
            ("AlwaysVerify", &["nginx"], "has a meaning only where imagePullCredentialsVerificationPolicy is"),
            ("NeverVerifyAllowlistedImages", &["nginx:1"], "\"nginx:1\": must be a repository without a tag"),
            ("NeverVerifyAllowlistedImages", &["n*"], "preloadedImagesVerificationAllowlist"),
        ] {
            let error = verification(policy, listed).unwrap_err();
            assert!(error.contains(expected), "{policy} {listed:?}: {error}");
        }
    }

    #[test]
    fn pulls_are_serialized_unless_several_are_allowed() {
        for (serialize, max, decided) in [
            (None, None, (true, None)),
            (None, Some(1), (true, Some(1))),
            (None, Some(2), (false, Some(2))),
            (Some(true), Some(1), (true, Some(1))),
            (Some(false), None, (false, None)),
            (Some(false), Some(5), (false, Some(5))),
        ] {
            assert_eq!(at_once(serialize, max).unwrap(), decided);
        }
    }

    #[test]
    fn s_h03_what_does_not_go_together_is_refused_by_name() {
        let cases: [(Change, &str, &str); 13] = [
            (|flags| flags.max_parallel_image_pulls = Some(0), "maxParallelImagePulls", "must be a positive number"),
            (
                |flags| {
                    flags.max_parallel_image_pulls = Some(2);
                    flags.serialize_image_pulls = Some(true);
                },
                "maxParallelImagePulls",
                "cannot be larger than 1 unless serializeImagePulls (--serialize-image-pulls) is false",
            ),
            (|flags| flags.registry_qps = Some(-1), "registryPullQPS", "must not be a negative number"),
            (|flags| flags.registry_burst = Some(-1), "registryBurst", "must not be a negative number"),
            (|flags| flags.image_gc_high_threshold = Some(101), "imageGCHigh", "between 0 and 100, inclusive"),
            (|flags| flags.image_gc_low_threshold = Some(-1), "imageGCLow", "between 0 and 100, inclusive"),
            (|flags| flags.image_gc_low_threshold = Some(85), "imageGCLow", "must be less than imageGCHighThreshold"),
            (
                |flags| flags.image_maximum_gc_age = Some(Duration::from_secs(120)),
                "imageMaximumGCAge",
                "must be greater than imageMinimumGCAge",
            ),
            (
                |flags| flags.registry_config_dir = Some("/nowhere".into()),
                "--registry-config-dir",
                "expected a directory that exists",
            ),
            (
                |flags| flags.image_pull_progress_deadline = Some(Duration::ZERO),
                "--image-pull-progress-deadline",
                "expected 1s or more",
            ),
            (
                |flags| flags.image_credential_provider_config = Some("/c".into()),
                "--image-credential-provider-config",
                "--image-credential-provider-bin-dir",
            ),
            (
                |flags| flags.image_credential_provider_bin_dir = Some("/b".into()),
                "--image-credential-provider-bin-dir",
                "--image-credential-provider-config",
            ),
            (|flags| flags.image_gc_high_threshold = Some(0), "imageGCLow", "must be less than"),
        ];
        for (change, name, expected) in cases {
            let error = decided(change, &ConfigFile::default()).expect_err(expected);
            assert!(error.starts_with(name) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn registries_are_configured_where_they_are_asked() {
        let docker = Choice::Docker { endpoint: "/d.sock".into() };
        let cases: [Change; 2] = [
            |flags| flags.registry_config_dir = Some("/etc".into()),
            |flags| flags.image_pull_progress_deadline = Some(Duration::from_secs(5)),
        ];
        for change in cases {
            let mut flags = RunFlags::default();
            change(&mut flags);
            assert!(decide(&flags, &ConfigFile::default(), &Choice::Embedded).is_ok());
            let error = decide(&flags, &ConfigFile::default(), &docker).unwrap_err().to_string();
            assert!(error.contains("it is for the embedded engine"), "{error}");
        }
        let runtime = Endpoint::parse("/c.sock").unwrap();
        let remote = Choice::Remote { runtime, images: None };
        let mut flags = RunFlags { image_pull_progress_deadline: Some(Duration::from_secs(5)), ..RunFlags::default() };
        let images = decide(&flags, &ConfigFile::default(), &remote).unwrap();
        assert_eq!(images.progress_within, Duration::from_secs(5));
        flags.registry_config_dir = Some("/etc".into());
        assert!(decide(&flags, &ConfigFile::default(), &remote).is_err());
    }
}

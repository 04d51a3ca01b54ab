//! The `KubeletConfiguration` file: strict decoding. Fields that are implemented work; the others are refused by name.

use crate::duration::parse_duration;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// The fields that have an effect.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigFile {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(crate) static_pod_path: Option<PathBuf>,
    #[serde(rename = "staticPodURL")]
    pub(crate) static_pod_url: Option<String>,
    #[serde(rename = "staticPodURLHeader")]
    pub(crate) static_pod_url_header: BTreeMap<String, Vec<String>>,
    #[serde(deserialize_with = "go_duration")]
    pub(crate) file_check_frequency: Option<Duration>,
    #[serde(deserialize_with = "go_duration")]
    pub(crate) http_check_frequency: Option<Duration>,
    pub(crate) pod_logs_dir: Option<PathBuf>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) read_only_port: Option<u16>,
    pub(crate) healthz_port: Option<u16>,
    pub(crate) healthz_bind_address: Option<IpAddr>,
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Option<String>,
    pub(crate) cgroup_root: Option<String>,
    #[serde(rename = "resolvConf")]
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) container_log_max_size: Option<String>,
    pub(crate) container_log_max_files: Option<u32>,
    pub(crate) max_pods: Option<u32>,
    pub(crate) container_runtime_endpoint: Option<String>,
    pub(crate) image_service_endpoint: Option<String>,
    #[serde(deserialize_with = "go_duration")]
    pub(crate) runtime_request_timeout: Option<Duration>,
    pub(crate) cgroup_driver: Option<String>,
    pub(crate) crash_loop_back_off: CrashLoopBackOff,
    pub(crate) serialize_image_pulls: Option<bool>,
    pub(crate) max_parallel_image_pulls: Option<i32>,
    #[serde(rename = "registryPullQPS")]
    pub(crate) registry_pull_qps: Option<i32>,
    pub(crate) registry_burst: Option<i32>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub(crate) image_gc_high_threshold_percent: Option<i32>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub(crate) image_gc_low_threshold_percent: Option<i32>,
    #[serde(rename = "imageMinimumGCAge", deserialize_with = "go_duration")]
    pub(crate) image_minimum_gc_age: Option<Duration>,
    #[serde(rename = "imageMaximumGCAge", deserialize_with = "go_duration")]
    pub(crate) image_maximum_gc_age: Option<Duration>,
    pub(crate) image_pull_credentials_verification_policy: Option<String>,
    pub(crate) preloaded_images_verification_allowlist: Vec<String>,
}

/// How long a container that keeps failing waits.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CrashLoopBackOff {
    #[serde(deserialize_with = "go_duration")]
    pub(crate) max_container_restart_period: Option<Duration>,
}

/// Fields of the v1beta1 format that exist and have no effect here yet.
const NOT_YET: &[&str] = &[
    "allowedUnsafeSysctls",
    "authentication",
    "authorization",
    "cgroupsPerQOS",
    "clusterDNS",
    "clusterDomain",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "contentType",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "cpuManagerPolicy",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "enableContentionProfiling",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    "evictionHard",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "evictionPressureTransitionPeriod",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "hairpinMode",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kernelMemcgNotification",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReserved",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging",
    "makeIPTablesUtilChains",
    "maxOpenFiles",
    "memoryManagerPolicy",
    "memoryReservationPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeLeaseDurationSeconds",
    "nodeStatusMaxImages",
    "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency",
    "oomScoreAdj",
    "podPidsLimit",
    "podsPerCore",
    "port",
    "protectKernelDefaults",
    "providerID",
    "qosReserved",
    "registerNode",
    "registerWithTaints",
    "reservedMemory",
    "reservedSystemCPUs",
    "rotateCertificates",
    "runOnce",
    "seccompDefault",
    "serverTLSBootstrap",
    "showHiddenMetricsForVersion",
    "shutdownGracePeriod",
    "shutdownGracePeriodByPodPriority",
    "shutdownGracePeriodCriticalPods",
    "singleProcessOOMKill",
    "streamingConnectionIdleTimeout",
    "syncFrequency",
    "systemCgroups",
    "systemReserved",
    "systemReservedCgroup",
    "tlsCertFile",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "tlsPrivateKeyFile",
    "topologyManagerPolicy",
    "topologyManagerPolicyOptions",
    "topologyManagerScope",
    "tracing",
    "userNamespaces",
    "volumePluginDir",
    "volumeStatsAggPeriod",
];

impl ConfigFile {
    /// Decodes strictly; relative paths are taken from `base`, the file's directory. The error lists every wrong field.
    pub(crate) fn parse(bytes: &[u8], base: &Path) -> Result<ConfigFile, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))?;
        let value: serde_json::Value =
            serde_saphyr::from_str(text).map_err(|error| format!("is not valid YAML: {error}"))?;
        let mut ignored = Vec::new();
        let tracked = serde_path_to_error::deserialize(serde_ignored_value(value, &mut ignored));
        let mut file: ConfigFile = tracked.map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
        let mut errors: Vec<String> = ignored.iter().map(|field| refusal(field)).collect();
        if file.api_version != API_VERSION {
            errors.push(format!("apiVersion: found {:?}, expected {API_VERSION:?}", file.api_version));
        }
        if file.kind != "KubeletConfiguration" {
            errors.push(format!("kind: found {:?}, expected \"KubeletConfiguration\"", file.kind));
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        for path in [&mut file.static_pod_path, &mut file.pod_logs_dir, &mut file.resolv_conf].into_iter().flatten() {
            // An empty resolvConf means none and must stay empty.
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        }
        Ok(file)
    }
}

/// Takes the fields out that `ConfigFile` does not have, so that what is left decodes with exact paths.
fn serde_ignored_value(value: serde_json::Value, ignored: &mut Vec<String>) -> serde_json::Value {
    let probe: Result<ConfigFile, _> = serde_ignored::deserialize(value.clone(), |path| ignored.push(path.to_string()));
    // A wrong type is reported by the caller's decoding, with its path.
    drop(probe);
    value
}

fn refusal(field: &str) -> String {
    match NOT_YET.contains(&field) {
        true => format!("{field}: not supported yet; remove it"),
        false => format!("{field}: unknown field; check its spelling"),
    }
}

fn go_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_duration(&text).map_err(D::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<ConfigFile, String> {
        let text = format!("apiVersion: {API_VERSION}\nkind: KubeletConfiguration\n{body}");
        ConfigFile::parse(text.as_bytes(), Path::new("/etc/kubelet"))
    }

    #[test]
    fn implemented_fields_are_read() {
        let file = parse("staticPodPath: pods\nfileCheckFrequency: 5s\nreadOnlyPort: 10255\nresolvConf: \"\"\nstaticPodURLHeader: {a: [b, c]}\n").unwrap();
        assert_eq!(file.static_pod_path, Some("/etc/kubelet/pods".into()));
        assert_eq!(file.file_check_frequency, Some(Duration::from_secs(5)));
        assert_eq!(file.read_only_port, Some(10255));
        assert_eq!(file.resolv_conf, Some("".into()));
        assert_eq!(file.static_pod_url_header["a"], ["b", "c"]);
        let file = parse(
            "serializeImagePulls: false\nmaxParallelImagePulls: 4\nregistryPullQPS: 0\nregistryBurst: 7\n\
             imageGCHighThresholdPercent: 90\nimageGCLowThresholdPercent: 70\nimageMinimumGCAge: 1m\nimageMaximumGCAge: 24h\n",
        )
        .unwrap();
        assert_eq!((file.serialize_image_pulls, file.max_parallel_image_pulls), (Some(false), Some(4)));
        assert_eq!((file.registry_pull_qps, file.registry_burst), (Some(0), Some(7)));
        let percents = (file.image_gc_high_threshold_percent, file.image_gc_low_threshold_percent);
        assert_eq!(percents, (Some(90), Some(70)));
        assert_eq!(file.image_minimum_gc_age, Some(Duration::from_secs(60)));
        assert_eq!(file.image_maximum_gc_age, Some(Duration::from_secs(86_400)));
        let file = parse(
            "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: [a/*]\n",
        )
        .unwrap();
        let policy = file.image_pull_credentials_verification_policy.as_deref();
        assert_eq!(
            (policy, &*file.preloaded_images_verification_allowlist),
            (Some("NeverVerifyAllowlistedImages"), &["a/*".to_owned()][..])
        );
    }

    #[test]
    fn s_h03_wrong_fields_are_named() {
        for (body, expected) in [
            ("evictionHard: {memory.available: 1Mi}\n", "evictionHard: not supported yet"),
            ("staticPodPaht: x\n", "staticPodPaht: unknown field"),
            ("imagePullCredentialsVerificationPolicy: 1\n", "imagePullCredentialsVerificationPolicy"),
            ("imageGCHighThresholdPercent: 85%\n", "imageGCHighThresholdPercent"),
            ("imageMinimumGCAge: 5\n", "imageMinimumGCAge"),
            ("readOnlyPort: 70000\n", "readOnlyPort"),
            ("fileCheckFrequency: 20\n", "fileCheckFrequency"),
            ("crashLoopBackOff: {maxContainerRestartPeriod: 5}\n", "crashLoopBackOff.maxContainerRestartPeriod"),
            ("crashLoopBackOff: {maxRestart: 5s}\n", "crashLoopBackOff.maxRestart: unknown field"),
            ("healthzPort: 1\nhealthzPort: 2\n", "duplicate"),
            ("{", "YAML"),
        ] {
            let error = parse(body).expect_err(body);
            assert!(error.contains(expected), "{body}: {error}");
        }
        let error = ConfigFile::parse(b"apiVersion: v2\nkind: KubeletConfiguration\n", Path::new("/")).unwrap_err();
        assert!(error.contains("apiVersion: found \"v2\""), "{error}");
    }
}

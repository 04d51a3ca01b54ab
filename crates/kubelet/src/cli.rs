//! The command line: what may be typed, with its defaults.

use crate::duration::parse_duration;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(
    name = "kubelet",
    version,
    about = "Keeps the pods of a manifest directory running on this machine, with nothing else installed.",
    after_help = "Start it with --config=DIR and drop pod manifests (.yaml, .yml, .json) into DIR.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) run: RunFlags,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Flags of the daemon. An unset one takes the value of the configuration file, or its default.
#[derive(Debug, Args, Default)]
pub(crate) struct RunFlags {
    /// A directory of pod manifests, one manifest file, or a KubeletConfiguration file
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Directory or file of pod manifests (staticPodPath)
    #[arg(long, value_name = "PATH")]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    /// URL to fetch pod manifests from (staticPodURL)
    #[arg(long, value_name = "URL")]
    pub(crate) manifest_url: Option<String>,
    /// Headers for the manifest URL: `name:value`, several separated by commas
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub(crate) manifest_url_header: Vec<String>,
    /// Where images, pods and volumes are kept [default: /var/lib/kubelet]
    #[arg(long, value_name = "DIR")]
    pub(crate) root_dir: Option<PathBuf>,
    /// Where sockets and per-boot state are kept; a tmpfs [default: /run/kubelet]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Where container logs are kept (podLogsDir) [default: /var/log/pods]
    #[arg(long, value_name = "DIR")]
    pub(crate) pod_logs_dir: Option<PathBuf>,
    /// Name of this node instead of the host name
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,
    /// Address of this node in pod statuses instead of the one of the default route
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Time between two full reads of the manifest directory [default: 20s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) file_check_frequency: Option<Duration>,
    /// Time between two requests to the manifest URL [default: 20s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) http_check_frequency: Option<Duration>,
    /// Address the read-only port listens on [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// Read-only port; 0 serves none [default: 10255; 0 with a KubeletConfiguration file]
    #[arg(long, value_name = "PORT")]
    pub(crate) read_only_port: Option<u16>,
    /// Port of /healthz; 0 serves none [default: 10248]
    #[arg(long, value_name = "PORT")]
    pub(crate) healthz_port: Option<u16>,
    /// Address /healthz listens on [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) healthz_bind_address: Option<IpAddr>,
    /// Addresses of the pods [default: 10.83.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<String>,
    /// Name of the bridge that joins the pods [default: kubelet0]
    #[arg(long, value_name = "NAME")]
    pub(crate) pod_bridge: Option<String>,
    /// Control group beneath which `kubepods` is made [default: the root]
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_root: Option<String>,
    /// File that pods take their name servers from; empty for none [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Size at which a container's log file is rotated [default: 10Mi]
    #[arg(long, value_name = "QUANTITY")]
    pub(crate) container_log_max_size: Option<String>,
    /// Log files kept for a container, the current one counted [default: 5]
    #[arg(long, value_name = "N")]
    pub(crate) container_log_max_files: Option<u32>,
    /// Labels of this node, for nodeSelector and node affinity: `key=value`, several separated by commas
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub(crate) node_labels: Vec<String>,
    /// Pods that may run at once (maxPods) [default: 110]
    #[arg(long, value_name = "N")]
    pub(crate) max_pods: Option<u32>,
    /// What runs the containers: embedded, docker, or remote with --container-runtime-endpoint [default: embedded]
    #[arg(long, value_name = "RUNTIME")]
    pub(crate) container_runtime: Option<String>,
    /// Socket of the Docker Engine [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "unix:///SOCKET")]
    pub(crate) docker_endpoint: Option<String>,
    /// Socket of a CRI runtime that runs the containers (containerRuntimeEndpoint)
    #[arg(long, value_name = "unix:///SOCKET")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Socket of the image service, where it is not the runtime's (imageServiceEndpoint)
    #[arg(long, value_name = "unix:///SOCKET")]
    pub(crate) image_service_endpoint: Option<String>,
    /// A call to the runtime that takes longer is given up (runtimeRequestTimeout) [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) runtime_request_timeout: Option<Duration>,
    /// How a runtime names control groups that does not say so itself (cgroupDriver): cgroupfs
    #[arg(long, value_name = "DRIVER")]
    pub(crate) cgroup_driver: Option<String>,
    /// One pull of an image at a time (serializeImagePulls) [default: true, or false with two or more parallel pulls]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) serialize_image_pulls: Option<bool>,
    /// Pulls of images at a time where they are not serialized (maxParallelImagePulls) [default: any number]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_parallel_image_pulls: Option<i32>,
    /// Pulls that may begin each second, 0 for any number (registryPullQPS) [default: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) registry_qps: Option<i32>,
    /// Pulls that may begin at once, within --registry-qps (registryBurst) [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) registry_burst: Option<i32>,
    /// Directory of <registry>/hosts.toml: mirrors, certificates, plain http [default: /etc/kubelet/registries]
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config_dir: Option<PathBuf>,
    /// A pull for which no byte comes for so long is given up; with a CRI runtime, which tells none, the next pull need not wait longer for it [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) image_pull_progress_deadline: Option<Duration>,
    /// CredentialProviderConfig: programs that give credentials for registries; a file, or a directory of them
    #[arg(long, value_name = "PATH")]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// Where the programs of --image-credential-provider-config are
    #[arg(long, value_name = "DIR")]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
    /// Unused images go when their file system is as full as this, 100 for never (imageGCHighThresholdPercent) [default: 85]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub(crate) image_gc_high_threshold: Option<i32>,
    /// They go until it is only as full as this (imageGCLowThresholdPercent) [default: 80]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub(crate) image_gc_low_threshold: Option<i32>,
    /// An unused image stays for so long, however full it is (imageMinimumGCAge) [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) minimum_image_ttl_duration: Option<Duration>,
    /// An image unused for so long goes, however empty it is (imageMaximumGCAge) [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) image_maximum_gc_age: Option<Duration>,
    /// Verbosity of the log, 0 to 10
    #[arg(long = "v", value_name = "LEVEL", default_value_t = 0)]
    pub(crate) verbosity: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List pods and their containers
    Ps(PsArgs),
    /// Show what happened to pods lately
    Events(EventsArgs),
    /// Show everything that is known of a pod
    Describe(DescribeArgs),
    /// Show what pods and the machine use
    Top(TopArgs),
    /// Print a container's log
    Logs(LogsArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Attach to a container's own streams
    Attach(AttachArgs),
    /// Lead ports of this machine to ports of a pod
    PortForward(PortForwardArgs),
    /// Validate manifests without running them
    Check(CheckArgs),
    /// Pull, import, list and remove images
    #[command(subcommand)]
    Image(ImageCommand),
}

/// Where the running kubelet is found.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The kubelet's directory of sockets
    #[arg(long, value_name = "DIR", default_value = crate::config::RUN_DIR)]
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only pods of this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// More columns, or the pods as `/pods` tells them
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Wide,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only of this pod, named with or without the node's name at its end
    pub(crate) pod: Option<String>,
    /// Only of this namespace [default: all; `default` where a pod is named]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Go on as things happen
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only pods of this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Pod name, with or without the node's name at its end
    pub(crate) pod: String,
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

/// A container of a running kubelet.
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Pod name, with or without the node's name at its end
    pub(crate) pod: String,
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Container [default: the one that the annotation kubectl.kubernetes.io/default-container names, or the first]
    #[arg(short, long)]
    pub(crate) container: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) of: ContainerArgs,
    /// Go on as the log grows
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The log of the attempt before this one
    #[arg(short, long)]
    pub(crate) previous: bool,
    /// Begin each line with its time
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Only lines younger than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) since: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) of: ContainerArgs,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    #[command(flatten)]
    pub(crate) of: ContainerArgs,
    /// Pass standard input on, to a container with `stdin: true`
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Lend our terminal to a container with `tty: true`; what we type goes to it with -i
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PortForwardArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Pod name, with or without the node's name at its end
    pub(crate) pod: String,
    /// Ports: REMOTE, LOCAL:REMOTE, or :REMOTE for any port of ours; REMOTE is a number or a name of the pod's
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    pub(crate) ports: Vec<String>,
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Manifest files or directories of them
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image present as its registry has it now
    Pull {
        #[command(flatten)]
        target: Target,
        /// Tell no progress, only the image in the end
        #[arg(short, long)]
        quiet: bool,
        /// A name as in a manifest: busybox, registry.example.com/team/tool:1.2, tool@sha256:…
        #[arg(value_name = "IMAGE")]
        reference: String,
    },
    /// Import an OCI or Docker archive
    Import {
        #[command(flatten)]
        target: Target,
        /// Archives (.tar, .tar.gz, .tar.zst)
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List the images
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Remove images by name or id
    Remove {
        #[command(flatten)]
        target: Target,
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove every image that no container has, no pod wants and nobody pinned
    Prune {
        #[command(flatten)]
        target: Target,
    },
}

/// Arguments with `_` in a flag's name read as `-`, as the field's tools allow (`--cgroup_root`).
pub(crate) fn normalized_args(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut verbatim = false;
    args.map(|arg| {
        verbatim |= arg == "--";
        match arg.strip_prefix("--") {
            Some(flag) if !verbatim && !flag.is_empty() => {
                let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
                let name = name.replace('_', "-");
                value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
            }
            _ => arg,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn underscores_in_flag_names_read_as_dashes() {
        let args = ["kubelet", "--cgroup_root=/a_b", "exec", "p", "--", "--x_y"].map(String::from);
        assert_eq!(normalized_args(args.into_iter()), ["kubelet", "--cgroup-root=/a_b", "exec", "p", "--", "--x_y"]);
    }

    #[test]
    fn run_flags_and_subcommands_do_not_mix() {
        assert!(Cli::try_parse_from(["kubelet", "--config=/m", "ps"]).is_err());
        assert!(Cli::try_parse_from(["kubelet", "frobnicate"]).is_err());
    }

    #[test]
    fn exec_takes_everything_behind_the_dashes() {
        let cli = Cli::try_parse_from(["kubelet", "exec", "-it", "p", "-c", "c", "--", "ls", "-l"]).unwrap();
        let Some(Command::Exec(exec)) = cli.command else { panic!("not exec: {cli:?}") };
        assert!(exec.stdin && exec.tty);
        assert_eq!(exec.command, ["ls", "-l"]);
    }
}

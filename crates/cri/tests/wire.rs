//! The wire format: what a peer built from another copy of the protocol reads. A changed number fails here.

use cri::v1::*;
use prost::Message;

/// The bytes of a field that holds a string of one letter: tag (wire type 2), length, letter.
fn text(number: u32, letter: u8) -> Vec<u8> {
    let mut bytes = tag(number, 2);
    bytes.extend([1, letter]);
    bytes
}

/// The bytes of a field that holds a small number: tag (wire type 0), value.
fn number(field: u32, value: u8) -> Vec<u8> {
    assert!(value < 0x80, "one byte of varint");
    let mut bytes = tag(field, 0);
    bytes.push(value);
    bytes
}

/// The bytes of a field that holds a message.
fn message(field: u32, inner: &[u8]) -> Vec<u8> {
    assert!(inner.len() < 0x80, "one byte of length");
    let mut bytes = tag(field, 2);
    bytes.push(inner.len() as u8);
    bytes.extend(inner);
    bytes
}

/// The bytes of one entry of a map from string to string.
fn entry(field: u32, key: u8, value: u8) -> Vec<u8> {
    message(field, &[text(1, key), text(2, value)].concat())
}

fn tag(field: u32, wire_type: u32) -> Vec<u8> {
    let tag = (field << 3) | wire_type;
    match tag {
        0..0x80 => vec![tag as u8],
        _ => vec![(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8],
    }
}

/// Both directions: the message encodes to these bytes, and they decode to it.
#[track_caller]
fn same<M: Message + Default + PartialEq + std::fmt::Debug>(value: M, fields: &[Vec<u8>]) {
    let bytes = fields.concat();
    assert_eq!(value.encode_to_vec(), bytes, "{value:?}");
    assert_eq!(M::decode(bytes.as_slice()), Ok(value));
}

fn image(name: &str) -> ImageSpec {
    ImageSpec { image: name.into(), ..Default::default() }
}

fn one(key: &str, value: &str) -> std::collections::BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

#[test]
fn mounts() {
    let mapping = IdMapping { host_id: 1, container_id: 2, length: 3 };
    let mapping_bytes = [number(1, 1), number(2, 2), number(3, 3)].concat();
    same(
        Mount {
            container_path: "c".into(),
            host_path: "h".into(),
            readonly: true,
            selinux_relabel: true,
            propagation: MountPropagation::PropagationBidirectional.into(),
            uid_mappings: vec![mapping],
            gid_mappings: vec![mapping],
            recursive_read_only: true,
            image: Some(image("i")),
            image_sub_path: "s".into(),
        },
        &[
            text(1, b'c'),
            text(2, b'h'),
            number(3, 1),
            number(4, 1),
            number(5, 2),
            message(6, &mapping_bytes),
            message(7, &mapping_bytes),
            number(8, 1),
            message(9, &text(1, b'i')),
            text(10, b's'),
        ],
    );
}

#[test]
fn images() {
    same(
        ImageSpec {
            image: "i".into(),
            annotations: one("k", "v"),
            user_specified_image: "u".into(),
            runtime_handler: "h".into(),
            image_ref: "r".into(),
        },
        &[text(1, b'i'), entry(2, b'k', b'v'), text(18, b'u'), text(19, b'h'), text(20, b'r')],
    );
    same(
        Image {
            id: "i".into(),
            repo_tags: vec!["t".into()],
            repo_digests: vec!["d".into()],
            size: 7,
            uid: Some(Int64Value { value: 9 }),
            username: "u".into(),
            spec: Some(image("s")),
            pinned: true,
        },
        &[
            text(1, b'i'),
            text(2, b't'),
            text(3, b'd'),
            number(4, 7),
            message(5, &number(1, 9)),
            text(6, b'u'),
            message(7, &text(1, b's')),
            number(8, 1),
        ],
    );
    same(
        PullImageRequest {
            image: Some(image("i")),
            auth: Some(AuthConfig { registry_token: "t".into(), identity_token: "d".into(), ..Default::default() }),
            sandbox_config: Some(PodSandboxConfig { hostname: "h".into(), ..Default::default() }),
        },
        &[message(1, &text(1, b'i')), message(2, &[text(5, b'd'), text(6, b't')].concat()), message(3, &text(2, b'h'))],
    );
}

#[test]
fn sandboxes() {
    same(
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "n".into(), uid: "u".into(), namespace: "s".into(), attempt: 4 }),
            hostname: "h".into(),
            log_directory: "l".into(),
            dns_config: Some(DnsConfig {
                servers: vec!["1".into()],
                searches: vec!["2".into()],
                options: vec!["3".into()],
            }),
            port_mappings: vec![PortMapping {
                protocol: Protocol::Sctp.into(),
                container_port: 80,
                host_port: 81,
                host_ip: "a".into(),
            }],
            labels: one("k", "v"),
            annotations: one("a", "b"),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: "g".into(),
                sysctls: one("y", "z"),
                ..Default::default()
            }),
            windows: None,
        },
        &[
            message(1, &[text(1, b'n'), text(2, b'u'), text(3, b's'), number(4, 4)].concat()),
            text(2, b'h'),
            text(3, b'l'),
            message(4, &[text(1, b'1'), text(2, b'2'), text(3, b'3')].concat()),
            message(5, &[number(1, 2), number(2, 80), number(3, 81), text(4, b'a')].concat()),
            entry(6, b'k', b'v'),
            entry(7, b'a', b'b'),
            message(8, &[text(1, b'g'), entry(3, b'y', b'z')].concat()),
        ],
    );
    same(
        PodSandboxStatus {
            id: "i".into(),
            metadata: Some(PodSandboxMetadata { name: "n".into(), ..Default::default() }),
            state: PodSandboxState::SandboxNotready.into(),
            created_at: 5,
            network: Some(PodSandboxNetworkStatus { ip: "p".into(), additional_ips: vec![PodIp { ip: "q".into() }] }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: Some(NamespaceOption { pid: NamespaceMode::Target.into(), ..Default::default() }),
                }),
            }),
            labels: one("k", "v"),
            annotations: one("a", "b"),
            runtime_handler: "h".into(),
        },
        &[
            text(1, b'i'),
            message(2, &text(1, b'n')),
            number(3, 1),
            number(4, 5),
            message(5, &[text(1, b'p'), message(2, &text(1, b'q'))].concat()),
            message(6, &message(1, &message(2, &number(2, 3)))),
            entry(7, b'k', b'v'),
            entry(8, b'a', b'b'),
            text(9, b'h'),
        ],
    );
}

#[test]
fn container_configuration() {
    same(
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "n".into(), attempt: 2 }),
            image: Some(image("i")),
            command: vec!["c".into()],
            args: vec!["a".into()],
            working_dir: "w".into(),
            envs: vec![KeyValue { key: "k".into(), value: "v".into() }],
            mounts: vec![Mount { host_path: "h".into(), ..Default::default() }],
            devices: vec![Device { container_path: "x".into(), host_path: "y".into(), permissions: "r".into() }],
            labels: one("l", "m"),
            annotations: one("o", "p"),
            log_path: "g".into(),
            stdin: true,
            stdin_once: true,
            tty: true,
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources {
                    cpu_period: 1,
                    cpu_quota: 2,
                    cpu_shares: 3,
                    memory_limit_in_bytes: 4,
                    oom_score_adj: 5,
                    unified: one("f", "e"),
                    memory_swap_limit_in_bytes: 10,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            windows: None,
            cdi_devices: vec![CdiDevice { name: "d".into() }],
            stop_signal: Signal::Sigterm.into(),
        },
        &[
            message(1, &[text(1, b'n'), number(2, 2)].concat()),
            message(2, &text(1, b'i')),
            text(3, b'c'),
            text(4, b'a'),
            text(5, b'w'),
            message(6, &[text(1, b'k'), text(2, b'v')].concat()),
            message(7, &text(2, b'h')),
            message(8, &[text(1, b'x'), text(2, b'y'), text(3, b'r')].concat()),
            entry(9, b'l', b'm'),
            entry(10, b'o', b'p'),
            text(11, b'g'),
            number(12, 1),
            number(13, 1),
            number(14, 1),
            message(
                15,
                &message(
                    1,
                    &[
                        number(1, 1),
                        number(2, 2),
                        number(3, 3),
                        number(4, 4),
                        number(5, 5),
                        entry(9, b'f', b'e'),
                        number(10, 10),
                    ]
                    .concat(),
                ),
            ),
            message(17, &text(1, b'd')),
            number(18, 23),
        ],
    );
}

#[test]
fn container_security() {
    // The numbers are not in the order of the fields: they were given in the order of history.
    same(
        LinuxContainerSecurityContext {
            capabilities: Some(Capability {
                add_capabilities: vec!["a".into()],
                drop_capabilities: vec!["d".into()],
                add_ambient_capabilities: vec!["m".into()],
            }),
            privileged: true,
            run_as_user: Some(Int64Value { value: 5 }),
            run_as_username: "u".into(),
            readonly_rootfs: true,
            supplemental_groups: vec![8],
            no_new_privs: true,
            run_as_group: Some(Int64Value { value: 12 }),
            masked_paths: vec!["p".into()],
            readonly_paths: vec!["r".into()],
            seccomp: Some(SecurityProfile {
                profile_type: security_profile::ProfileType::Localhost.into(),
                localhost_ref: "s".into(),
            }),
            apparmor: Some(SecurityProfile {
                profile_type: security_profile::ProfileType::Unconfined.into(),
                ..Default::default()
            }),
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict.into(),
            ..Default::default()
        },
        &[
            message(1, &[text(1, b'a'), text(2, b'd'), text(3, b'm')].concat()),
            number(2, 1),
            message(5, &number(1, 5)),
            text(6, b'u'),
            number(7, 1),
            message(8, &[8]),
            number(11, 1),
            message(12, &number(1, 12)),
            text(13, b'p'),
            text(14, b'r'),
            message(15, &[number(1, 2), text(2, b's')].concat()),
            message(16, &number(1, 1)),
            number(17, 1),
        ],
    );
}

#[test]
fn container_status_and_events() {
    let status = ContainerStatus {
        id: "i".into(),
        metadata: Some(ContainerMetadata { name: "n".into(), attempt: 0 }),
        state: ContainerState::ContainerExited.into(),
        created_at: 4,
        started_at: 5,
        finished_at: 6,
        exit_code: 7,
        image: Some(image("m")),
        image_ref: "r".into(),
        reason: "e".into(),
        message: "g".into(),
        labels: one("k", "v"),
        annotations: one("a", "b"),
        mounts: vec![Mount { container_path: "c".into(), ..Default::default() }],
        log_path: "l".into(),
        resources: Some(ContainerResources {
            linux: Some(LinuxContainerResources { cpu_shares: 2, ..Default::default() }),
            windows: None,
        }),
        image_id: "d".into(),
        user: Some(ContainerUser { linux: Some(LinuxContainerUser { uid: 1, gid: 2, supplemental_groups: vec![3] }) }),
        stop_signal: Signal::Sigkill.into(),
    };
    let fields = [
        text(1, b'i'),
        message(2, &text(1, b'n')),
        number(3, 2),
        number(4, 4),
        number(5, 5),
        number(6, 6),
        number(7, 7),
        message(8, &text(1, b'm')),
        text(9, b'r'),
        text(10, b'e'),
        text(11, b'g'),
        entry(12, b'k', b'v'),
        entry(13, b'a', b'b'),
        message(14, &text(1, b'c')),
        text(15, b'l'),
        message(16, &message(1, &number(3, 2))),
        text(17, b'd'),
        message(18, &message(1, &[number(1, 1), number(2, 2), message(3, &[3])].concat())),
        number(19, 13),
    ];
    same(status, &fields);
    same(
        ContainerEventResponse {
            container_id: "c".into(),
            container_event_type: ContainerEventType::ContainerDeletedEvent.into(),
            created_at: 3,
            pod_sandbox_status: Some(PodSandboxStatus { id: "s".into(), ..Default::default() }),
            containers_statuses: vec![ContainerStatus { id: "i".into(), ..Default::default() }],
        },
        &[text(1, b'c'), number(2, 3), number(3, 3), message(4, &text(1, b's')), message(5, &text(1, b'i'))],
    );
}

#[test]
fn exec_and_stop() {
    same(
        ExecSyncRequest { container_id: "i".into(), cmd: vec!["c".into()], timeout: 3 },
        &[text(1, b'i'), text(2, b'c'), number(3, 3)],
    );
    same(
        ExecSyncResponse { stdout: b"o".to_vec(), stderr: b"e".to_vec(), exit_code: 3 },
        &[text(1, b'o'), text(2, b'e'), number(3, 3)],
    );
    same(
        ExecRequest {
            container_id: "i".into(),
            cmd: vec!["c".into()],
            tty: true,
            stdin: true,
            stdout: true,
            stderr: true,
        },
        &[text(1, b'i'), text(2, b'c'), number(3, 1), number(4, 1), number(5, 1), number(6, 1)],
    );
    // Attach orders the same flags differently.
    same(AttachRequest { stdin: true, ..Default::default() }, &[number(2, 1)]);
    same(AttachRequest { tty: true, ..Default::default() }, &[number(3, 1)]);
    same(StopContainerRequest { container_id: "i".into(), timeout: 30 }, &[text(1, b'i'), number(2, 30)]);
}

#[test]
fn usage() {
    let data = PsiData { total: 1, ..Default::default() };
    let psi = PsiStats { full: Some(data), some: Some(data) };
    let psi_bytes = [message(1, &number(1, 1)), message(2, &number(1, 1))].concat();
    let count = |value| Some(UInt64Value { value });
    same(CpuUsage { psi: Some(psi), ..Default::default() }, &[message(4, &psi_bytes)]);
    same(MemoryUsage { psi: Some(psi), ..Default::default() }, &[message(8, &psi_bytes)]);
    same(
        ContainerStats {
            swap: Some(SwapUsage { timestamp: 1, swap_available_bytes: count(2), swap_usage_bytes: count(3) }),
            io: Some(IoUsage { timestamp: 4, psi: Some(psi) }),
            ..Default::default()
        },
        &[
            message(5, &[number(1, 1), message(2, &number(1, 2)), message(3, &number(1, 3))].concat()),
            message(6, &[number(1, 4), message(2, &psi_bytes)].concat()),
        ],
    );
    same(
        LinuxPodSandboxStats { io: Some(IoUsage { timestamp: 4, psi: None }), ..Default::default() },
        &[message(6, &number(1, 4))],
    );
}

#[test]
fn what_newer_versions_added() {
    same(
        UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: "i".into(),
            overhead: Some(LinuxContainerResources { cpu_period: 1, ..Default::default() }),
            resources: Some(LinuxContainerResources { cpu_quota: 2, ..Default::default() }),
        },
        &[text(1, b'i'), message(2, &number(1, 1)), message(3, &number(2, 2))],
    );
    same(
        StatusResponse {
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: true }),
            ..Default::default()
        },
        &[message(4, &[number(1, 1), number(2, 1)].concat())],
    );
    same(
        RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() }),
        },
        &[message(1, &number(1, 1))],
    );
    same(
        StreamImagesResponse { images: vec![Image { id: "i".into(), ..Default::default() }] },
        &[message(1, &text(1, b'i'))],
    );
}

#[test]
fn signals_are_positions_in_the_protocols_list() {
    let table = [
        (Signal::RuntimeDefault, 0),
        (Signal::Sighup, 8),
        (Signal::Sigint, 10),
        (Signal::Sigquit, 18),
        (Signal::Sigusr1, 29),
        (Signal::Sigusr2, 30),
        (Signal::Sigwinch, 32),
        (Signal::Sigrtmin, 35),
        (Signal::Sigrtminplus15, 50),
        (Signal::Sigrtmaxminus14, 51),
        (Signal::Sigrtmax, 65),
    ];
    for (signal, number) in table {
        assert_eq!(i32::from(signal), number, "{}", signal.as_str_name());
    }
}

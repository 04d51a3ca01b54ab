use super::*;

fn bind(container_path: &str) -> v1::Mount {
    v1::Mount { container_path: container_path.into(), host_path: "/srv/data".into(), ..Default::default() }
}

fn with_mounts(paths: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig { mounts: paths.iter().map(|path| bind(path)).collect(), ..Default::default() }
}

#[test]
fn outer_mounts_come_before_inner_ones_and_the_pods_own_before_ours() {
    let config = with_mounts(&["/a/b/c", "/etc/hosts", "/a", "/dev/shm//"]);
    let mounts = mounts(&config, Path::new("/run/s"), Scope::Pod).unwrap();
    let found: Vec<_> = mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Bind { path } => (mount.destination.as_str(), path.to_str().unwrap(), mount.read_only),
            MountSource::Tmpfs { .. } => panic!("no tmpfs was asked for"),
        })
        .collect();
    let expected = [
        ("/a", "/srv/data", false),
        ("/etc/hostname", "/run/s/hostname", true),
        ("/etc/resolv.conf", "/run/s/resolv.conf", true),
        ("/etc/hosts", "/srv/data", false),
        ("/dev/shm", "/srv/data", false),
        ("/a/b/c", "/srv/data", false),
    ];
    assert_eq!(found, expected);
}

#[test]
fn s_l08_what_cannot_be_mounted_is_refused_by_name() {
    for path in ["", "relative", "/", "/.", "/a/../b", "/proc", "/proc/sys/kernel", "/a\0b"] {
        let error = mounts(&with_mounts(&[path]), Path::new("/run/s"), Scope::Pod).unwrap_err().to_string();
        assert!(error.starts_with("mounts: "), "{path:?}: {error}");
    }
    let relative = v1::Mount { host_path: "srv".into(), ..bind("/a") };
    let unknown = v1::Mount { propagation: 9, ..bind("/a") };
    let image = v1::Mount { image: Some(v1::ImageSpec::default()), ..bind("/a") };
    for mount in [relative, unknown, image] {
        let config = v1::ContainerConfig { mounts: vec![mount], ..Default::default() };
        assert!(mounts(&config, Path::new("/run/s"), Scope::Pod).is_err());
    }
    let many = with_mounts(&vec!["/a"; MAX_MOUNTS + 1]);
    assert!(mounts(&many, Path::new("/run/s"), Scope::Pod).is_err());
}

#[test]
fn s_d11_what_a_container_finds_hidden() {
    let (masked, readonly) = hidden_paths(&v1::LinuxContainerSecurityContext::default(), 2);
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/interrupts",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
        "/sys/devices/system/cpu/cpu1/thermal_throttle",
    ] {
        assert!(masked.iter().any(|found| found == path), "{path}");
    }
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        assert!(readonly.iter().any(|found| found == path), "{path}");
    }
    let privileged = v1::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
    assert_eq!(hidden_paths(&privileged, 2), (vec![], vec![]));
}

#[test]
fn s_e03_a_profile_that_would_not_be_in_force_is_refused() {
    use v1::security_profile::ProfileType;
    let profile = |kind: ProfileType| v1::SecurityProfile { profile_type: kind.into(), ..Default::default() };
    assert!(refuse_profile("seccomp", None).is_ok());
    assert!(refuse_profile("seccomp", Some(&profile(ProfileType::Unconfined))).is_ok());
    assert!(refuse_profile("seccomp", Some(&profile(ProfileType::RuntimeDefault))).is_err());
    assert!(refuse_profile("seccomp", Some(&profile(ProfileType::Localhost))).is_err());
}

#[test]
fn limits_are_taken_over_and_zero_means_none() {
    assert_eq!(limits(&v1::ContainerConfig::default()).memory_bytes, None);
    let resources = v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 1 << 20,
        ..Default::default()
    };
    let linux = v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() };
    let found = limits(&v1::ContainerConfig { linux: Some(linux), ..Default::default() });
    let expected = Limits {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_bytes: Some(1 << 20),
        pids: None,
        devices: DevicePolicy::Default(vec![]),
        oom_group: true,
    };
    assert_eq!(found, expected);
}

//! What is asked for is what Docker has, and what the container finds.

use cri::{Code, v1};
use v1::NamespaceMode::{Container, Node, Pod};

use crate::world::World;

fn options(network: v1::NamespaceMode, pid: v1::NamespaceMode, ipc: v1::NamespaceMode) -> v1::NamespaceOption {
    v1::NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), ..Default::default() }
}

fn namespace(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[tokio::test]
async fn containers_of_a_pod_share_what_the_pod_says() {
    for (asked, network, ipc, pid) in [
        (options(Pod, Container, Pod), false, false, "own"),
        (options(Pod, Pod, Pod), false, false, "pod"),
        (options(Node, Container, Pod), true, false, "own"),
        (options(Pod, Container, Node), false, true, "own"),
        (options(Node, Node, Node), true, true, "host"),
    ] {
        let Some(mut world) = World::new() else { return };
        world.sharing(asked.clone());
        if network {
            world.pod.hostname.clear();
        }
        let sandbox = world.run().await.unwrap();
        let a = world.started(&sandbox, "a", "sleep 1000").await;
        let b = world.started(&sandbox, "b", "sleep 1000").await;
        let pid_of = |id: &str| world.daemon.inspect(id)["State"]["Pid"].to_string();
        let (pause, a_pid, b_pid) = (pid_of(&sandbox), pid_of(&a), pid_of(&b));
        for kind in ["net", "ipc"] {
            let machine = if kind == "net" { network } else { ipc };
            let expected = namespace(if machine { "self" } else { &pause }, kind);
            assert_eq!(namespace(&a_pid, kind), expected, "{kind} {asked:?}");
            assert_eq!(namespace(&b_pid, kind), expected, "{kind} {asked:?}");
            assert_eq!(namespace("self", kind) == expected, machine, "{kind} {asked:?}");
        }
        let expected = match pid {
            "own" => namespace(&a_pid, "pid"),
            "pod" => namespace(&pause, "pid"),
            _ => namespace("self", "pid"),
        };
        assert_eq!(namespace(&a_pid, "pid"), expected, "{asked:?}");
        assert_eq!(namespace(&b_pid, "pid") == expected, pid != "own", "{asked:?}");
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let hostname = if network { machine } else { world.pod.hostname.clone() };
        assert_eq!(world.says(&a, "hostname").await, hostname);
        let status = world.sandbox_status(&sandbox).await.unwrap().status.unwrap();
        assert_eq!(status.network.unwrap().ip.is_empty(), network);
        let found = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!((found.network, found.ipc), (asked.network, asked.ipc));
        world.remove_sandbox(&sandbox).await.unwrap();
    }
}

#[tokio::test]
async fn f_c01_the_first_process_of_a_shared_namespace_reaps_and_ends_when_asked() {
    let Some(mut world) = World::new() else { return };
    world.sharing(options(Pod, Pod, Pod));
    let sandbox = world.run().await.unwrap();
    let app = world.started(&sandbox, "app", "sleep 1000").await;
    assert_eq!(world.says(&app, "cat /proc/1/comm").await, "pause");
    // A child whose parent has ended becomes the first process's, and dies.
    world.says(&app, "(true & exec sleep 0.1) & exit 0").await;
    while world.says(&app, "ps -o stat,args | grep -c '^Z' || true").await != "0" {}
    let limits = world.says(&app, "grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/1/status | tr '\\t' ' '").await;
    assert_eq!(limits, "Uid: 65534 65534 65534 65534\nCapEff: 0000000000000000\nNoNewPrivs: 1");
    let ended = crate::daemon::run(world.daemon.client().args(["stop", "--time=60", &sandbox]));
    assert_eq!(ended.trim(), sandbox);
    assert_eq!(world.daemon.inspect(&sandbox)["State"]["ExitCode"], 0, "it was not killed");
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn what_the_security_context_asks_for_is_in_force() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let mut config = world.container("app", "sleep 1000");
    let number = |value| Some(v1::Int64Value { value });
    let own = config.linux.as_mut().unwrap();
    own.security_context = Some(v1::LinuxContainerSecurityContext {
        run_as_user: number(1000),
        run_as_group: number(2000),
        supplemental_groups: vec![3000],
        readonly_rootfs: true,
        no_new_privs: true,
        capabilities: Some(v1::Capability {
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        }),
        masked_paths: vec!["/proc/version".into()],
        readonly_paths: vec!["/proc/sys".into()],
        ..Default::default()
    });
    own.resources = Some(v1::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        ..Default::default()
    });
    config.working_dir = "/tmp".into();
    config.envs = vec![v1::KeyValue { key: "WORD".into(), value: "a=b c".into() }];
    let id = world.create(&sandbox, config).await.unwrap();
    world.start(&id).await.unwrap();
    assert_eq!(world.says(&id, "id -u; id -g; id -G").await, "1000\n2000\n2000 3000");
    assert_eq!(
        world.says(&id, "pwd; echo \"$WORD\"; echo $HOSTNAME").await,
        format!("/tmp\na=b c\n{}", world.pod.hostname)
    );
    assert_eq!(world.says(&id, "wc -c < /proc/version").await, "0");
    assert_ne!(world.exec(&id, "touch /file", 0).await.unwrap().exit_code, 0);
    let flags = world.says(&id, "grep -E '^(CapBnd|NoNewPrivs)' /proc/1/status | tr '\\t' ' '").await;
    assert_eq!(flags, "CapBnd: 0000000000001000\nNoNewPrivs: 1");
    assert_eq!(world.says(&id, "cat /proc/1/oom_score_adj").await, "900");
    let host = &world.daemon.inspect(&id)["HostConfig"];
    for (field, value) in [
        ("CpuShares", 512),
        ("CpuQuota", 50_000),
        ("CpuPeriod", 100_000),
        ("Memory", 64 << 20),
        ("MemorySwap", 64 << 20),
    ] {
        assert_eq!(host[field], value, "{field}");
    }
    assert_eq!(host["CgroupParent"], (world.daemon.cgroup() + "/pod").as_str());
    let found = world.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((found.cpu_shares, found.memory_limit_in_bytes), (512, 64 << 20));
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_score_that_docker_cannot_give_is_raised_to_what_it_can() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let lowest = world.daemon.inspect(&sandbox)["HostConfig"]["OomScoreAdj"].as_i64().unwrap();
    assert!(lowest == -998 || lowest == 0, "{lowest}");
    let mut config = world.container("app", "sleep 1000");
    let resources = v1::LinuxContainerResources { oom_score_adj: -997, ..Default::default() };
    config.linux.as_mut().unwrap().resources = Some(resources);
    let id = world.create(&sandbox, config).await.unwrap();
    world.start(&id).await.unwrap();
    assert_eq!(world.says(&id, "cat /proc/1/oom_score_adj").await, lowest.max(-997).to_string());
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn files_names_and_ports_are_the_pods() {
    let Some(mut world) = World::new() else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.pod.port_mappings = vec![v1::PortMapping {
        container_port: 8080,
        host_port: port.into(),
        host_ip: "127.0.0.1".into(),
        ..Default::default()
    }];
    let dir = world.daemon.dir.join(format!("volume:of {}", world.key().name));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("hosts"), "10.0.0.1 of-the-kubelet\n").unwrap();
    let mount = |container_path: &str, host_path: &std::path::Path, readonly| v1::Mount {
        container_path: container_path.into(),
        host_path: host_path.display().to_string(),
        readonly,
        ..Default::default()
    };
    let sandbox = world.run().await.unwrap();
    let mut config = world.container("app", "httpd -f -p 8080 -h /data");
    config.mounts = vec![mount("/data", &dir, false), mount("/etc/hosts", &dir.join("hosts"), true)];
    let id = world.create(&sandbox, config.clone()).await.unwrap();
    world.start(&id).await.unwrap();
    assert_eq!(world.says(&id, "cat /etc/hosts").await, "10.0.0.1 of-the-kubelet");
    let resolver = "search shop.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5";
    assert_eq!(world.says(&id, "cat /etc/resolv.conf").await, resolver);
    world.says(&id, "echo written > /data/file").await;
    assert_eq!(std::fs::read_to_string(dir.join("file")).unwrap(), "written\n");
    assert_ne!(world.exec(&id, "echo > /etc/hosts", 0).await.unwrap().exit_code, 0);
    let mut found = world.status(&id).await.unwrap().mounts;
    found.sort_by(|a, b| a.container_path.cmp(&b.container_path));
    assert_eq!(found, config.mounts);
    let bound = &world.daemon.inspect(&sandbox)["NetworkSettings"]["Ports"]["8080/tcp"][0];
    assert_eq!((bound["HostIp"].as_str(), bound["HostPort"].as_str()), (Some("127.0.0.1"), Some(&*port.to_string())));
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_granted_is_refused_by_name_and_nothing_is_made() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let plain = world.container("app", "true");
    let mount = v1::Mount { container_path: "/proc/sys".into(), host_path: "/tmp".into(), ..Default::default() };
    let absent = v1::ImageSpec { image: "docker.io/library/none:1".into(), ..Default::default() };
    for (config, code, words) in [
        (v1::ContainerConfig { mounts: vec![mount], ..plain.clone() }, Code::InvalidArgument, "/proc"),
        (v1::ContainerConfig { log_path: "../x".into(), ..plain.clone() }, Code::InvalidArgument, "log_path"),
        (v1::ContainerConfig { working_dir: "x".into(), ..plain.clone() }, Code::InvalidArgument, "working_dir"),
        (v1::ContainerConfig { image: Some(absent), ..plain.clone() }, Code::NotFound, "none:1"),
    ] {
        let error = world.create(&sandbox, config).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    assert!(world.listed().await.1.is_empty());
    world.remove_sandbox(&sandbox).await.unwrap();
}

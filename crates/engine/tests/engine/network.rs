//! The pods' network on the real kernel.

use crate::world::{World, eventually, with_world};
use cri::{Runtime, v1};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn address(world: &World, sandbox: &str) -> String {
    world.sandbox_status(sandbox).await.network.unwrap().ip
}

#[test]
fn pods_reach_each_other_and_the_rule_masquerades_the_rest() {
    with_world(|world| async move {
        let (a, b) = (world.sandbox("a").await, world.sandbox("b").await);
        let script = "echo -n served > /tmp/x; exec busybox httpd -f -p 80 -h /tmp";
        world.run(&a, "server", script).await;
        let client = world.run(&b, "client", "exec sleep 1000").await;
        let url = format!("wget -q -O - http://{}/x", address(&world, &a).await);
        let (out, _) = eventually("the answer", || async {
            let answer = world.exec(&client, &url).await;
            (answer.1 == 0).then_some(answer)
        })
        .await;
        assert_eq!(out, "served");
        let rules = run("nft", &["list", "table", "ip", &world.config.bridge]);
        let cidr = world.config.pod_cidr;
        let rule = format!("ip saddr {cidr} ip daddr != {cidr} masquerade");
        assert!(rules.contains(&rule) && rules.contains("type nat hook postrouting priority srcnat"), "{rules}");
        world
    });
}

#[test]
fn s_i02_nothing_takes_a_route_from_a_router_advertisement() {
    with_world(|world| async move {
        let sandbox = world.sandbox("v6").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let read = |name: &str, key: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/{key}"))
                .map(|value| value.trim().to_owned())
        };
        if read("all", "accept_ra").is_err() {
            println!("skipped: a kernel without IPv6");
            return world;
        }
        for name in [world.config.bridge.clone(), format!("kv{}", &sandbox[..8])] {
            assert_eq!(read(&name, "accept_ra").unwrap(), "0", "{name}");
            assert_eq!(read(&name, "disable_ipv6").unwrap(), "1", "{name}");
        }
        let (out, _) = world
            .exec(&id, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
            .await;
        assert_eq!(out, "0\n1\n");
        world
    });
}

#[test]
fn f_d03_a_flushed_network_is_put_back() {
    with_world(|world| async move {
        let (a, b) = (world.sandbox("a").await, world.sandbox("b").await);
        let client = world.run(&a, "client", "exec sleep 1000").await;
        let bridge = world.config.bridge.clone();
        // The bridge last: it is what is looked for.
        run("nft", &["delete", "table", "ip", &bridge]);
        run("ip", &["link", "delete", &bridge]);
        eventually("the bridge", || async {
            let ports = run("ip", &["-o", "link", "show", "master", &bridge]);
            (ports.lines().filter(|line| line.contains("kv")).count() == 2).then_some(())
        })
        .await;
        assert!(run("nft", &["list", "table", "ip", &bridge]).contains("masquerade"));
        let server = world.run(&b, "server", "echo -n ok > /tmp/x; exec busybox httpd -f -p 80 -h /tmp").await;
        let url = format!("wget -q -O - http://{}/x", address(&world, &b).await);
        eventually("traffic", || async { (world.exec(&client, &url).await.0 == "ok").then_some(()) }).await;

        // A rule alone, without its table, is missed too.
        run("nft", &["flush", "chain", "ip", &bridge, "postrouting"]);
        eventually("the rule", || async {
            run("nft", &["list", "table", "ip", &bridge]).contains("masquerade").then_some(())
        })
        .await;
        world.stop(&server, 0).await.unwrap();
        world
    });
}

/// What is whole of a bridge: its address, that it is up, the masquerade and the guard of the machine's loopback.
fn assert_whole(world: &World) {
    let bridge = &world.config.bridge;
    let address = run("ip", &["-o", "-4", "address", "show", "dev", bridge]);
    assert!(address.contains(&format!("inet {}/", world.config.pod_cidr.gateway())), "{address}");
    let link = run("ip", &["-o", "link", "show", "dev", bridge]);
    assert!(link.contains(",UP"), "{link}");
    let rules = run("nft", &["list", "table", "ip", bridge]);
    assert!(rules.contains("masquerade") && rules.contains("127.0.0.0/8 drop"), "{rules}");
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(forward.trim(), "1");
}

#[test]
fn f_d03_a_bridge_that_was_only_begun_is_completed_for_the_next_pod() {
    with_world(|mut world| async move {
        let bridge = world.config.bridge.clone();
        let begin = || run("ip", &["link", "add", &bridge, "type", "bridge"]);
        // As somebody leaves it who was killed, or failed, after the first step.
        begin();
        let a = world.sandbox("a").await;
        assert_whole(&world);
        // Begun anew by somebody else, and the next pod comes before the repair does.
        run("nft", &["delete", "table", "ip", &bridge]);
        run("ip", &["link", "delete", &bridge]);
        begin();
        let b = world.sandbox("b").await;
        assert_whole(&world);
        // That the bridge is whole does not hide that a pod is not on it.
        world.reopen().await;
        eventually("both pods on the bridge", || async {
            let ports = run("ip", &["-o", "link", "show", "master", &bridge]);
            [&a, &b].iter().all(|sandbox| ports.contains(&format!("kv{}", &sandbox[..8]))).then_some(())
        })
        .await;
        world
    });
}

/// What a web server answers to the machine itself; "" where nobody answers.
fn get(address: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
        let _ = stream.read_to_string(&mut text);
    }
    text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
}

#[test]
fn a_port_of_the_machine_leads_into_the_pod_from_everywhere() {
    with_world(|mut world| async move {
        // Below the ports that the kernel gives to clients: the rules would take other tests' connections away.
        let free = |port: &u16| [*port, port ^ 1].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let first = 20_000 + (std::process::id() % 10_000) as u16;
        let port = (first..).find(free).expect("two free ports");
        let only_local = port ^ 1;
        let mapping = |host_port: u16, host_ip: &str| v1::PortMapping {
            container_port: 80,
            host_port: host_port.into(),
            host_ip: host_ip.into(),
            ..Default::default()
        };
        let mut config = world.sandbox_config("ports");
        config.port_mappings = vec![mapping(port, ""), mapping(only_local, "127.0.0.1")];
        let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let sandbox = world.engine().run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        let server = "echo -n served > /tmp/x; exec busybox httpd -f -p 80 -h /tmp";
        let server = world.run(&sandbox, "server", server).await;
        let other = world.sandbox("other").await;
        let client = world.run(&other, "client", "exec sleep 1000").await;
        world.reopen().await;
        let gateway = world.config.pod_cidr.gateway();
        eventually("the answer", || async { (get(&format!("127.0.0.1:{port}")) == "served").then_some(()) }).await;
        assert_eq!(get(&format!("{gateway}:{port}")), "served");
        assert_eq!(get(&format!("127.0.0.1:{only_local}")), "served");
        assert_eq!(get(&format!("{gateway}:{only_local}")), "");
        // From a neighbour, and from the pod itself.
        for from in [&client, &server] {
            let (out, _) =
                world.exec(from, &format!("busybox timeout 30 wget -q -O - http://{gateway}:{port}/x")).await;
            assert_eq!(out, "served", "{}", if from == &client { "neighbour" } else { "itself" });
        }
        let table = format!("{}-{}", world.config.bridge, &sandbox[..8]);
        run("nft", &["delete", "table", "ip", &table]);
        eventually("the rules", || async { (get(&format!("127.0.0.1:{port}")) == "served").then_some(()) }).await;
        world.remove_sandbox(&sandbox).await;
        assert_eq!(get(&format!("127.0.0.1:{port}")), "");
        assert!(!run("nft", &["list", "tables"]).contains(&table));
        world
    });
}

#[test]
fn s_i01_the_machines_loopback_is_not_reached_through_the_bridge() {
    with_world(|world| async move {
        let mut config = world.sandbox_config("sly");
        // What makes the kernel lead the machine's loopback to the bridge at all.
        config.port_mappings = vec![v1::PortMapping { container_port: 80, host_port: 61_080, ..Default::default() }];
        let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let sandbox = world.engine().run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let security = v1::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        let linux = v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
        let config = v1::ContainerConfig { linux: Some(linux), ..crate::world::shell("app", "exec sleep 1000") };
        let id = world.create(&sandbox, config).await.unwrap();
        world.start(&id).await.unwrap();
        let gateway = world.config.pod_cidr.gateway();
        let script = format!(
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr del 127.0.0.1/8 dev lo; \
             ip route del local 127.0.0.0/8 table local 2>/dev/null; ip route add 127.0.0.0/8 via {gateway}; \
             ip route get 127.0.0.1; busybox timeout 2 wget -q -O - http://127.0.0.1:{port}/"
        );
        let (out, code) = world.exec(&id, &script).await;
        assert!(out.contains(&format!("via {gateway}")), "the packets must go to the bridge: {out}");
        assert_ne!(code, 0);
        assert!(listener.accept().is_err(), "nobody came through");
        // It is the rule that keeps them out, unless it is put back in time.
        eventually("somebody without the rule", || async {
            run("nft", &["flush", "chain", "ip", &world.config.bridge, "guard"]);
            world.exec(&id, &format!("busybox timeout 2 wget -q -O - http://127.0.0.1:{port}/")).await;
            listener.accept().ok()
        })
        .await;
        world
    });
}

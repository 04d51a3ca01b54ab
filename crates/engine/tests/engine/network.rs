//! The pods' network on the real kernel.

use crate::world::{World, eventually, with_world};
use std::process::Command;

fn run(program: &str, args: &[&str]) -> String {
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
        run("ip", &["link", "delete", &bridge]);
        run("nft", &["delete", "table", "ip", &bridge]);
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

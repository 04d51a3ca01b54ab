//! A pod that asks for nearly all that a manifest can say, and what its containers find of it: the same on every runtime.

use crate::differences::{Difference, differs};
use crate::together::sh;
use e2e::Machine;
use e2e::story::{ended, is, status};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What the container tells of itself. No `$(…)`: those are the kubelet's.
const ONE: &str = r#"
echo "arguments: $0 $*"
echo "environment: $GREETING; $NAME $NAMESPACE $NODE $LABEL $NOTE; $CPUS $MEBIBYTES $REQUEST"
echo "addresses: $IP $IPS"
echo "directory: `pwd`"
echo "groups: `id -G | tr ' ' '\n' | sort -n | xargs echo`"
awk '/^(Uid|Gid|CapBnd|CapEff|NoNewPrivs):/ { print $1, $2 }' /proc/self/status
touch /here 2>&1
echo "host name: `hostname`"
cat /etc/resolv.conf /etc/hosts
echo "memory: `cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max`"
echo "processor: `cd /sys/fs/cgroup/cpu 2>/dev/null && cat cpu.cfs_quota_us cpu.cfs_period_us | xargs echo || cat /sys/fs/cgroup/cpu.max`"
awk '$2 == "/quick" { print "quick:", $3, $4 }' /proc/mounts | grep -o 'quick: tmpfs\|size=[^,]*'
dd if=/dev/zero of=/quick/large bs=64k count=17 2>&1 | grep -o 'No space.*'
stat -c '%n %F %a %g' /quick /kept
echo kept > /kept/mine && cat /sealed/mine
touch /sealed/here 2>&1
stat -c '%n %F %a' /host/made /host/file /host/there /host/null
until [ -e /kept/seen ]; do usleep 5000; done
printf 'all of it' > /told/by/me
"#;

/// It may do anything.
const TWO: &str = r#"
awk '/^(CapEff|CapBnd|NoNewPrivs):/ { print $1, $2 }' /proc/self/status
mkdir /here && mount -t tmpfs none /here && echo mounted
"#;

/// It asks for nothing, and sees what runs in the first. The brackets keep it from finding itself.
const THREE: &str = r#"
id -G
awk '/^(CapEff|CapBnd|NoNewPrivs):/ { print $1, $2 }' /proc/self/status
until grep -q 'argument[s]:' /proc/[0-9]*/cmdline 2>/dev/null; do usleep 5000; done
until [ -e /host/there/go ]; do usleep 5000; done
echo seen > /kept/seen
"#;

const TOLD_BY_ONE: &str = include_str!("everything/one.txt");
const TOLD_BY_TWO: &str = "CapEff: <all>\nCapBnd: <all>\nNoNewPrivs: 0\nmounted\n";
/// The capabilities that every runtime gives to whoever asks for none.
const TOLD_BY_THREE: &str = "0 4000 4001\nCapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nNoNewPrivs: 0\n";

fn mount(volume: &str, path: &str) -> Value {
    json!({"name": volume, "mountPath": path})
}

fn one() -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let resource = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    json!({
        "name": "one",
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", ONE, "$(GREETING)"],
        "args": ["$(NAME)", "$$(NAME)", "$(NOBODY)"],
        "workingDir": "/srv/here",
        "env": [
            field("NAME", "metadata.name"),
            field("NAMESPACE", "metadata.namespace"),
            field("NODE", "spec.nodeName"),
            field("LABEL", "metadata.labels['app']"),
            field("NOTE", "metadata.annotations['example.org/note']"),
            field("IP", "status.podIP"),
            field("IPS", "status.podIPs"),
            resource("CPUS", "limits.cpu", "1"),
            resource("MEBIBYTES", "limits.memory", "1Mi"),
            resource("REQUEST", "requests.cpu", "1m"),
            {"name": "GREETING", "value": "hello $(NAME)"},
        ],
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}},
        "securityContext": {
            "runAsUser": 1000,
            "runAsGroup": 2000,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]},
        },
        "terminationMessagePath": "/told/by/me",
        "volumeMounts": [
            mount("quick", "/quick"),
            mount("kept", "/kept"),
            {"name": "kept", "mountPath": "/sealed", "readOnly": true},
            mount("made", "/host/made"),
            mount("file", "/host/file"),
            mount("there", "/host/there"),
            mount("null", "/host/null"),
        ],
    })
}

/// A directory of this machine that is in the pod as well.
fn there(machine: &Machine) -> PathBuf {
    machine.dir.join("there")
}

fn spec(machine: &Machine) -> Value {
    let there = there(machine);
    std::fs::create_dir_all(&there).expect("a directory");
    let host = |name: &str, path: &str, kind: &str| json!({"name": name, "hostPath": {"path": path, "type": kind}});
    let beneath = |path: &str| there.join(path).display().to_string();
    json!({
        "restartPolicy": "Never",
        "hostname": "named",
        "subdomain": "below",
        "shareProcessNamespace": true,
        "securityContext": {"supplementalGroups": [4001, 4000]},
        "dnsPolicy": "None",
        "dnsConfig": {
            "nameservers": ["192.0.2.53", "192.0.2.54"],
            "searches": ["one.example", "two.example"],
            "options": [{"name": "ndots", "value": "3"}, {"name": "edns0"}],
        },
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["alias-1", "alias-2"]}],
        "containers": [
            one(),
            sh("two", TWO, &json!({"securityContext": {"privileged": true}})),
            sh("three", THREE, &json!({"volumeMounts": [mount("kept", "/kept"), mount("there", "/host/there")]})),
        ],
        "volumes": [
            {"name": "quick", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "kept", "emptyDir": {}},
            host("made", &beneath("made"), "DirectoryOrCreate"),
            host("file", &beneath("file"), "FileOrCreate"),
            host("there", &there.display().to_string(), "Directory"),
            host("null", "/dev/null", "CharDevice"),
        ],
    })
}

pub(crate) fn a_pod_gets_all_that_it_asks_for(machine: &Machine) {
    let metadata = json!({
        "name": "everything",
        "labels": {"app": "everything"},
        "annotations": {"example.org/note": "noted"},
    });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec(machine)});
    machine.drop_manifest("everything.yaml", &pod.to_string());
    let address = machine.pod_ip("everything").to_string();
    std::fs::write(there(machine).join("go"), "").expect("the third goes on");
    let all = ["one", "two", "three"];
    let pod = machine.await_pod("everything", |pod| all.iter().all(|name| is(pod, name, "terminated")));
    let told = |name: &str| machine.cli(&["logs", "everything", "-c", name]);
    assert_eq!(told("one").replace(&address, "<address>"), TOLD_BY_ONE, "{:?}", machine.runtime());
    assert_eq!(status(&pod, "one")["state"]["terminated"]["message"], "all of it", "{}", pod["status"]);
    assert_eq!(told("three"), TOLD_BY_THREE);
    let (ours, all) = capabilities();
    if ours != all && differs(machine, Difference::PrivilegedNeedsAll) {
        assert_eq!(ended(&pod, "two"), (128, "StartError".to_owned()), "{}", pod["status"]);
    } else {
        assert_eq!(told("two").replace(&format!("{ours:016x}"), "<all>"), TOLD_BY_TWO);
    }
    machine.await_end("everything");
}

/// What this test may do, as its daemons may, and what there is that one may do.
fn capabilities() -> (u64, u64) {
    let read = |path: &str| std::fs::read_to_string(path).expect("readable");
    let status = read("/proc/self/status");
    let ours = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities").trim();
    let last: u32 = read("/proc/sys/kernel/cap_last_cap").trim().parse().expect("a number");
    (u64::from_str_radix(ours, 16).expect("a mask"), u64::MAX >> (63 - last))
}

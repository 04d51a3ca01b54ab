//! `kubelet attach`: a container's own streams.

use super::session::{self, Ours};
use super::{choose_container, choose_pod, pod_name, pods, tell_default};
use crate::cli::AttachArgs;
use crate::client::{Client, percent_encode};
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use rustix::termios::isatty;

pub(crate) async fn run(args: AttachArgs) -> Result<u8> {
    let client = Client::new(&args.of.target.run_dir);
    let pods = pods(&client).await?;
    let pod = choose_pod(&pods, &args.of.namespace, &args.of.pod)?;
    let container = choose_container(pod, args.of.container.as_deref())?;
    tell_default(pod, container, &args.of);
    if args.tty && !has_terminal(pod, container) {
        bail!("unable to use a TTY: container {container} did not allocate one; it needs `tty: true` in its manifest");
    }
    if args.tty && !isatty(std::io::stdin()) {
        bail!("-t needs a terminal as standard input; leave it out in a pipe or script");
    }
    // What we type would be shown twice, and told apart by lines that the container should see.
    let typing = args.stdin && has_terminal(pod, container) && isatty(std::io::stdin());
    let ours = Ours { stdin: args.stdin, tty: args.tty || typing };
    let path = format!(
        "/attach/{}/{}/{}?{}",
        percent_encode(&args.of.namespace),
        percent_encode(pod_name(pod)),
        percent_encode(container),
        ours.query().join("&")
    );
    let socket = session::open(&client, &path).await?;
    if ours.is_typing() {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    session::run(socket, ours).await
}

fn has_terminal(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.any(|container| container.name == name && container.tty == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_the_containers_own() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "spec": {
            "initContainers": [{"name": "setup", "tty": true}],
            "containers": [{"name": "a", "tty": true}, {"name": "b", "tty": false}, {"name": "c"}]}}))
        .unwrap();
        let having: Vec<&str> =
            ["setup", "a", "b", "c", "none"].into_iter().filter(|n| has_terminal(&pod, n)).collect();
        assert_eq!(having, ["setup", "a"]);
    }
}

//! The manifests of the walk, and small ones.

/// Pod `nginx` with one container.
pub const NGINX: &str = include_str!("../../examples/nginx.yaml");

/// The same pod with a container that empties its access log every ten seconds.
pub const NGINX_WITH_TRUNCATOR: &str = include_str!("../../examples/nginx-with-truncator.yaml");

/// A pod with one busybox container that runs a shell script.
pub fn shell(name: &str, restart_policy: &str, script: &str) -> String {
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: {restart_policy}\n  terminationGracePeriodSeconds: 2\n  \
         containers:\n  - name: main\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    command: [/bin/sh, -c, {script}]\n"
    )
}

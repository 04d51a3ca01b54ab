//! The manifests of the walk, and small ones.

/// Pod `nginx` with one container.
pub const NGINX: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: nginx
spec:
  containers:
  - name: nginx
    image: nginx
    ports:
    - containerPort: 80
";

/// The same pod with a container that empties its access log every ten seconds.
pub const NGINX_WITH_TRUNCATOR: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: nginx
spec:
  containers:
  - name: nginx
    image: nginx
    ports:
    - containerPort: 80
    volumeMounts:
    - mountPath: /var/log/nginx
      name: nginx-logs
  - name: log-truncator
    image: busybox
    command:
    - /bin/sh
    args: [-c, 'while true; do cat /dev/null > /logdir/access.log; sleep 10; done']
    volumeMounts:
    - mountPath: /logdir
      name: nginx-logs
  volumes:
  - name: nginx-logs
    emptyDir: {}
";

/// A pod with one busybox container that runs a shell script.
pub fn shell(name: &str, restart_policy: &str, script: &str) -> String {
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: {restart_policy}\n  terminationGracePeriodSeconds: 2\n  \
         containers:\n  - name: main\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    command: [/bin/sh, -c, {script}]\n"
    )
}

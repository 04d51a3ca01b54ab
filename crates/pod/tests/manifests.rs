//! Whole manifests in, pods or messages out.

use pod::manifest::{self, MAX_BYTES, MAX_ERRORS_PER_DOCUMENT, MAX_PODS, Problem};
use pod::{Manifest, Pod};
use proptest::prelude::*;
use std::fmt::Write;
use std::time::Instant;

fn parse(text: &str) -> Manifest {
    manifest::parse("/m/x.yaml", text.as_bytes())
}

fn good(text: &str) -> Vec<Pod> {
    let manifest = parse(text);
    assert!(manifest.errors.is_empty(), "{}", messages(&manifest).join("\n"));
    manifest.pods.into_iter().map(|parsed| parsed.pod).collect()
}

fn messages(manifest: &Manifest) -> Vec<String> {
    manifest.errors.iter().map(ToString::to_string).collect()
}

fn errors(text: &str) -> Vec<String> {
    let manifest = parse(text);
    assert!(!manifest.errors.is_empty(), "nothing wrong with {text}");
    messages(&manifest)
}

/// A pod with one container, to which lines are added at the level of the container and of the spec.
fn with(container_lines: &str, spec_lines: &str) -> String {
    let indented = |lines: &str, by: &str| lines.lines().fold(String::new(), |text, line| text + by + line + "\n");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: c\n    image: busybox\n{}{}",
        indented(container_lines, "    "),
        indented(spec_lines, "  ")
    )
}

#[test]
fn the_two_pods_of_the_walk() {
    let pods = good(include_str!("data/nginx.yaml"));
    let spec = pods[0].spec.as_ref().unwrap();
    assert_eq!((pod::full_name(&pods[0]).as_str(), pod::image(&spec.containers[0])), ("nginx_default", "nginx"));
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));

    let pods = good(include_str!("data/nginx-log-truncator.yaml"));
    let spec = pods[0].spec.as_ref().unwrap();
    assert_eq!(
        spec.containers[1].args.as_ref().unwrap()[1],
        "while true; do cat /dev/null > /logdir/access.log; sleep 10; done"
    );
    assert!(spec.volumes.as_ref().unwrap()[0].empty_dir.is_some());
}

#[test]
fn lists_documents_and_json() {
    let names = |text: &str| good(text).iter().map(pod::full_name).collect::<Vec<_>>();
    assert_eq!(names(include_str!("data/podlist.yaml")), ["first_default", "second_kube-system"]);
    assert_eq!(names(include_str!("data/list.yaml")), ["only_default"]);
    assert_eq!(names(include_str!("data/documents.yaml")), ["one_default", "two_default", "three_default"]);
    assert_eq!(names(include_str!("data/pod.json")), ["json_default"]);
    let numbers: Vec<_> =
        parse(include_str!("data/documents.yaml")).pods.iter().map(|parsed| parsed.document).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(
        names("{apiVersion: v1, kind: Pod, metadata: {name: flow}, spec: {containers: [{name: c, image: i}]}}"),
        ["flow_default"]
    );
    assert!(good("apiVersion: v1\nkind: PodList\nitems: []\n").is_empty(), "a URL may say: no pods");
}

#[test]
fn all_that_is_supported_is_accepted() {
    let pods = good(include_str!("data/everything.yaml"));
    let requests = pods[0].spec.as_ref().unwrap().containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("0.1", "32000000"));
    assert_eq!(requests["ephemeral-storage"].0, "1G");
    assert_eq!(pod::qos::class(&pods[0]), pod::qos::Qos::Burstable);
}

#[test]
fn what_decides_a_life_is_defaulted_and_told_with_its_line() {
    let pods = good(include_str!("data/life.yaml"));
    let spec = pods[0].spec.as_ref().unwrap();
    let names: Vec<_> = pod::containers_in_order(&pods[0]).map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["prepare", "proxy", "web"]);
    assert_eq!(pod::container(&pods[0], "prepare").unwrap().image_pull_policy.as_deref(), Some("IfNotPresent"));
    let liveness = spec.containers[0].liveness_probe.as_ref().unwrap();
    let numbers = [liveness.timeout_seconds, liveness.period_seconds, liveness.success_threshold];
    assert_eq!((numbers, liveness.failure_threshold), ([Some(1), Some(10), Some(1)], Some(3)));
    let get = liveness.http_get.as_ref().unwrap();
    assert_eq!((get.path.as_deref(), get.scheme.as_deref()), (Some("/"), Some("HTTP")));
    assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].host_port, Some(8080), "hostNetwork publishes it");

    let lines = |from: &str, to: &str| errors(&include_str!("data/life.yaml").replacen(from, to, 1));
    let table = [
        (
            "port: 15021",
            "port: 0",
            "line 24: spec.initContainers[1].startupProbe.grpc.port: found \"0\": must be 1 to 65535",
        ),
        (
            "action: Restart}",
            "action: Retry}",
            "line 37: spec.containers[0].restartPolicyRules[0].action: found \"Retry\": must be one of Restart, RestartAllContainers",
        ),
        (
            "    args: [echo]",
            "    lifecycle: {stopSignal: SIGINT}",
            "line 20: spec.initContainers[0].lifecycle: may not be set for an init container without restartPolicy Always",
        ),
        (
            "{port: web}",
            "{port: wbe}",
            "line 40: spec.containers[0].livenessProbe.httpGet.port: found \"wbe\": no port of this name in the container's ports (there: web)",
        ),
        (
            "seconds: 3}",
            "seconds: 30}",
            "line 44: spec.containers[0].lifecycle.preStop.sleep.seconds: found \"30\": must be 0 to 5 seconds",
        ),
        (
            "- name: prepare",
            "- name: web",
            "spec.containers[0].name: found \"web\": another container has this name: rename one",
        ),
        (
            "initialDelaySeconds: 1",
            "initialDelay: 1",
            "readinessProbe.initialDelay: unknown field; did you mean initialDelaySeconds?",
        ),
    ];
    for (from, to, expected) in table {
        let told = lines(from, to);
        assert!(told.len() == 1 && told[0].contains(expected), "{expected}\n{told:?}");
    }
}

#[test]
fn every_error_of_a_document_is_told_with_its_line() {
    let told = errors(include_str!("data/bad.yaml"));
    let expected = [
        "/m/x.yaml, line 6: metadata.labels.app: found \"true\": expected a string: put it in quotes",
        "/m/x.yaml, line 12: spec.containers[0].port: unknown field; did you mean ports?",
        "/m/x.yaml, line 16: spec.containers[0].securityContext.procMount: found \"Unmasked\": not supported yet: leave it out or set it to Default",
        "/m/x.yaml, line 17: spec.containers[0].livenessProbe.tcpSocket.port: found \"http\": no port of this name in the container's ports (there: none)",
        "/m/x.yaml, line 21: spec.serviceAccountName: static pods may not reference serviceaccounts",
        "/m/x.yaml, line 4: metadata.name: found \"Bad_Name\": must be at most 253 lower-case letters",
        "/m/x.yaml, line 15: spec.containers[0].ports[0].containerPort: found \"99999\": must be 1 to 65535",
        "/m/x.yaml, line 19: spec.containers[0].volumeMounts[0].name: found \"data\": no volume of this name in spec.volumes (there: none)",
        "/m/x.yaml, line 20: spec.containers[0].volumeMounts[0].mountPath: found \"data\": must be an absolute path",
        "/m/x.yaml, line 8: spec.restartPolicy: found \"Sometimes\": must be one of Always, OnFailure, Never",
    ];
    assert_eq!(told.len(), expected.len(), "{}", told.join("\n"));
    for expected in expected {
        assert!(told.iter().any(|line| line.starts_with(expected)), "missing {expected}\nin {}", told.join("\n"));
    }
}

#[test]
fn errors_name_the_document_when_there_are_several() {
    let text = format!("{}---\n{}", include_str!("data/nginx.yaml"), include_str!("data/bad.yaml"));
    let manifest = parse(&text);
    assert_eq!(manifest.pods.len(), 1, "the good document is still read");
    let told = messages(&manifest);
    assert!(told.iter().all(|line| line.starts_with("/m/x.yaml, document 2, line ")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("line 15: metadata.name")), "{told:?}");
    let list = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n  spec: {containers: []}\n";
    assert_eq!(
        errors(list),
        ["/m/x.yaml, line 5: items[0].spec.containers: is required: a pod needs at least one container"]
    );
}

#[test]
fn misspelt_fields_get_a_suggestion() {
    let table = [
        (
            with("imagePulPolicy: Never", ""),
            "spec.containers[0].imagePulPolicy: unknown field; did you mean imagePullPolicy?",
        ),
        (
            with("ports: [{containerport: 80}]", ""),
            "ports[0].containerport: unknown field; did you mean containerPort?",
        ),
        (with("volumemounts: []", ""), "volumemounts: unknown field; did you mean volumeMounts?"),
        (with("", "hostname2: x"), "spec.hostname2: unknown field; did you mean hostname?"),
        (with("env: [{name: A, vlaue: x}]", ""), "env[0].vlaue: unknown field; did you mean value?"),
        (with("env: [{name: A, secret: x}]", ""), "env[0].secret: unknown field; known here: name, value, valueFrom"),
        (with("resources: {limit: {cpu: 1}}", ""), "resources.limit: unknown field; did you mean limits?"),
        (with("", "volumes: [{name: v, emptydir: {}}]"), "volumes[0].emptydir: unknown field; did you mean emptyDir?"),
        (with("livenessProbe: {timeout: 1}", ""), "timeout: unknown field; did you mean timeoutSeconds?"),
        (with("livenessProbe: {http: {}}", ""), "livenessProbe.http: unknown field; did you mean httpGet?"),
        (with("", "zzzzzzzz: 1"), "spec.zzzzzzzz: unknown field"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspecs: {}\n".to_owned(),
            "specs: unknown field; did you mean spec?",
        ),
        ("apiVersion: v1\nkind: List\nitem: []\n".to_owned(), "item: unknown field; a List has"),
    ];
    for (text, expected) in table {
        let told = errors(&text);
        assert!(told.iter().any(|line| line.contains(expected)), "{expected}\n{told:?}");
    }
}

#[test]
fn wrong_types_are_all_told() {
    let table = [
        (with("command: /bin/sh", ""), "spec.containers[0].command: found \"/bin/sh\": expected a list"),
        (with("args: [1]", ""), "spec.containers[0].args[0]: found \"1\": expected a string: put it in quotes"),
        (with("tty: 'true'", ""), "spec.containers[0].tty: found \"true\": expected true or false"),
        (with("ports: [{containerPort: http}]", ""), "containerPort: found \"http\": expected a whole number"),
        (with("ports: [{containerPort: 80.5}]", ""), "containerPort: found \"80.5\": expected a whole number"),
        (
            with("ports: [{containerPort: 4294967296}]", ""),
            "containerPort: found \"4294967296\": expected a whole number",
        ),
        (with("env: {A: b}", ""), "env: found \"{\"A\":\"b\"}\": expected a list"),
        (with("env: [A=b]", ""), "env[0]: found \"A=b\": expected a mapping with the fields of EnvVar"),
        (with("env: [{name: A, value: 5}]", ""), "env[0].value: found \"5\": expected a string: put it in quotes"),
        (with("env: [{name: A, value: yes}]", ""), "env[0].value: found \"true\": expected a string: put it in quotes"),
        (with("resources: {limits: {cpu: true}}", ""), "limits.cpu: found \"true\": expected a quantity"),
        (with("resources: {limits: 5}", ""), "resources.limits: found \"5\": expected a mapping of names to values"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: [p]\n".to_owned(),
            "metadata: found \"[\"p\"]\": expected a mapping with the fields of ObjectMeta",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: no\n".to_owned(),
            "spec: found \"false\": expected a mapping with the fields of PodSpec",
        ),
    ];
    for (text, expected) in table {
        let told = errors(&text);
        assert!(told.iter().any(|line| line.contains(expected)), "{expected}\n{told:?}");
    }
    let told = errors(&with("tty: 1\ncommand: x\nimagePullPolicy: 2", "hostname: 3"));
    assert_eq!(told.len(), 4, "{told:?}");
    let missing_is_not_told_twice = errors("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: x}\n");
    assert_eq!(missing_is_not_told_twice.len(), 1, "{missing_is_not_told_twice:?}");
}

#[test]
fn other_kinds_and_versions_are_refused_by_name() {
    let table = [
        ("apiVersion: v1\nkind: ConfigMap\ndata: {}\n", "kind: kind ConfigMap is not supported yet"),
        ("apiVersion: v1\nkind: SecretList\n", "kind: kind SecretList is not supported yet"),
        (
            "apiVersion: apps/v1\nkind: Deployment\n",
            "kind: kind Deployment is not supported yet: only Pod, Secret, PodList and List are",
        ),
        ("apiVersion: v1beta1\nkind: Pod\n", "apiVersion: found \"v1beta1\": expected v1 for kind Pod"),
        ("kind: Pod\n", "apiVersion: is missing: expected v1"),
        ("apiVersion: v1\n", "kind: is missing: expected Pod, Secret, PodList or List"),
        ("apiVersion: v1\nkind: 5\n", "kind: found \"5\": expected Pod, Secret, PodList or List"),
        ("apiVersion: v1\nkind: pod\n", "kind pod is not supported yet"),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}]\n",
            "items[0].kind: kind Service is not supported yet",
        ),
        ("apiVersion: v1\nkind: List\nitems: [{metadata: {}}]\n", "items[0].kind: is missing"),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List}]\n",
            "items[0].kind: found \"List\": a list in a list",
        ),
        ("apiVersion: v1\nkind: List\nitems: [x]\n", "items[0]: found \"x\": expected a pod"),
        ("apiVersion: v1\nkind: List\nitems: x\n", "items: found \"x\": expected a list of pods"),
        ("- a\n", "(document): found"),
        ("just words\n", "(document): found"),
    ];
    for (text, expected) in table {
        let told = errors(text);
        assert!(told.iter().any(|line| line.contains(expected)), "{expected}\n{told:?}");
    }
    assert_eq!(manifest::kind_of(b"kind: KubeletConfiguration\n"), Some("KubeletConfiguration".into()));
    assert_eq!(manifest::kind_of(b"{\"kind\": \"Pod\"}"), Some("Pod".into()));
    for nothing in [&b""[..], b"a: [", b"- kind: Pod", b"kind: 5"] {
        assert_eq!(manifest::kind_of(nothing), None);
    }
}

#[test]
fn a_file_without_documents_holds_no_pod() {
    for text in ["", "\n\n", "# only a comment\n", "---\n---\n", "\u{feff}", "null\n"] {
        assert_eq!(errors(text).len(), 1);
        assert!(errors(text)[0].contains("holds no pod"), "{:?}", errors(text));
    }
}

#[test]
fn names_within_a_file_are_unique() {
    let pod = |name: &str, meta: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{meta}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
        )
    };
    let twice = format!("{}---\n{}", pod("a", ""), pod("a", ", namespace: default"));
    assert!(
        errors(&twice)[0].contains("document 2, line 8: metadata.name: found \"a\": another pod of this name"),
        "{:?}",
        errors(&twice)
    );
    let uid = format!("{}---\n{}", pod("a", ", uid: u"), pod("b", ", uid: u"));
    assert!(errors(&uid)[0].contains("metadata.uid: found \"u\": another pod has this UID"), "{:?}", errors(&uid));
    assert_eq!(good(&format!("{}---\n{}", pod("a", ""), pod("a", ", namespace: other"))).len(), 2);
}

#[test]
fn errors_and_pods_are_capped() {
    let many: String = (0..100).fold(String::new(), |text, i| text + &format!("zz{i}: 1\n"));
    let told = errors(&with("", &many));
    assert_eq!(told.len(), MAX_ERRORS_PER_DOCUMENT + 1);
    assert!(told.last().unwrap().ends_with("and 80 more errors"), "{:?}", told.last());
    let mut list = "apiVersion: v1\nkind: PodList\nitems:\n".to_owned();
    for i in 0..=MAX_PODS {
        writeln!(list, "- {{metadata: {{name: p{i}}}, spec: {{containers: [{{name: c, image: i}}]}}}}").unwrap();
    }
    let manifest = parse(&list);
    assert!(manifest.pods.is_empty());
    assert_eq!(messages(&manifest), ["/m/x.yaml: holds more than 1000 pods; split the file"]);
    let thousand = list[..list.rfind("- {").unwrap()].to_owned();
    assert_eq!(good(&thousand).len(), MAX_PODS);
}

#[test]
fn byte_order_mark_and_windows_line_ends_work() {
    let plain = good(include_str!("data/nginx-log-truncator.yaml"));
    let crlf = include_str!("data/nginx-log-truncator.yaml").replace('\n', "\r\n");
    assert_eq!(good(&crlf), plain);
    assert_eq!(good(&format!("\u{feff}{crlf}")), plain);
    assert_eq!(good(&format!("\u{feff}{}", include_str!("data/pod.json"))).len(), 1);
}

#[test]
fn anchors_and_merges_of_ordinary_size_work() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - &base {name: a, image: busybox, tty: true}\n  - <<: *base\n    name: b\n";
    let pods = good(text);
    let containers = &pods[0].spec.as_ref().unwrap().containers;
    assert_eq!((containers[1].name.as_str(), containers[1].tty), ("b", Some(true)));
}

/// Each must be refused by the limit that is meant for it, which is what bounds time and memory. How long it took is printed only:
/// a wall clock says nothing on a busy machine.
#[test]
fn s_h01_hostile_manifests_are_refused() {
    let laughs = |width: usize| {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            writeln!(text, "a{i}: &a{i} [{}]", vec![alias.as_str(); width].join(", ")).unwrap();
        }
        text
    };
    let quadratic = format!("a: &a {}\nb: [{}]\n", "x".repeat(20_000), vec!["*a"; 1_500].join(", "));
    let merges = {
        let mut text = "m0: &m0 {k: v}\n".to_owned();
        for i in 1..3000 {
            writeln!(text, "m{i}: &m{i} {{<<: *m{}, k{i}: v}}", i - 1).unwrap();
        }
        text
    };
    let blocks: String = (0..3_000).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n");
    let nodes = format!("a: [{}]\n", "1,".repeat(1_000_000));
    let json_nodes = format!("{{\"a\": [{}1]}}", "[],".repeat(1_000_000));
    let documents = "---\na: 1\n".repeat(50_000);
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("billion laughs", laughs(9).into(), "too complex"),
        ("wide laughs", laughs(40).into(), "too complex"),
        ("quadratic blow-up", quadratic.into(), "too complex"),
        ("merge chain", merges.into(), "too complex"),
        ("self reference", "a: &a [*a]\n".into(), "invalid YAML"),
        ("deep flow sequences", "[".repeat(10_000).into(), "invalid YAML|too complex"),
        ("deep flow mappings", "{a: ".repeat(10_000).into(), "invalid|too complex"),
        ("deep blocks", blocks.into(), "invalid YAML|too complex"),
        ("deep dashes", "- ".repeat(10_000).into(), "invalid YAML|too complex"),
        ("deep JSON", format!("{{\"a\":{}", "[".repeat(10_000)).into(), "too complex|invalid JSON"),
        ("a million nodes", nodes.into(), "too complex"),
        ("a million JSON nodes", json_nodes.into(), "too complex"),
        ("too many documents", documents.into(), "too complex"),
        ("too large", vec![b'a'; MAX_BYTES + 1], "is too large: 10485761 bytes, at most 10485760"),
        ("duplicate keys", "kind: Pod\nkind: Pod\n".into(), "invalid YAML"),
        ("nested duplicate keys", "a:\n  b: {c: 1, c: 2}\n".into(), "line 2"),
        ("duplicate JSON keys", r#"{"a": {"b": 1, "b": 2}}"#.into(), "duplicate key"),
        ("escaped duplicate JSON keys", r#"{"a": 1, "\u0061": 2}"#.into(), "duplicate key"),
        ("tab indentation", "a:\n\tb: 1\n".into(), "invalid YAML"),
        ("binary", vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0], "is not text"),
        ("not UTF-8", vec![b'a', b':', b' ', 0xff, 0xfe], "byte 3 is not UTF-8"),
        ("UTF-16", vec![0xff, 0xfe, b'a', 0], "is not text"),
        ("NUL", b"a: \0\n".to_vec(), "control character U+0000"),
        ("escape sequence", b"a: \x1b[31m\n".to_vec(), "control character U+001B"),
        ("half-written", include_str!("data/pod.json")[..120].into(), "invalid JSON"),
        ("half-written YAML", "apiVersion: v1\nkind: Pod\nmetadata: {name: \"ng".into(), "invalid YAML"),
        ("unknown alias", "a: *nowhere\n".into(), "invalid YAML"),
        ("unknown tag", "a: !!python/object:os.system x\n".into(), "invalid YAML"),
        ("include", "a: !include /etc/shadow\n".into(), "invalid YAML"),
        ("infinite number", "a: .inf\n".into(), "invalid YAML"),
        ("long key", format!("? {}\n: b\n", "k".repeat(100_000)).into(), "kind: is missing"),
        ("many anchors", (0..5000).fold(String::new(), |t, i| t + &format!("k{i}: &a{i} x\n")).into(), "too complex"),
    ];
    assert!(table.len() >= 15);
    for (what, bytes, expected) in table {
        let start = Instant::now();
        let manifest = manifest::parse("/m/bomb.yaml", &bytes);
        let took = start.elapsed();
        assert!(manifest.pods.is_empty() && !manifest.errors.is_empty(), "{what} was accepted");
        let told = messages(&manifest).join("\n");
        assert!(expected.split('|').any(|one| told.contains(one)), "{what}: {told}");
        assert!(told.len() < 5_000 && !told.contains(|c: char| c.is_control() && c != '\n'), "{what}: {told:?}");
        eprintln!("{what}: {took:?}: {}", told.lines().next().unwrap_or_default());
    }
}

#[test]
fn syntax_errors_tell_line_and_column() {
    let manifest = parse("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n bad: x\n");
    let told = messages(&manifest);
    assert!(told[0].starts_with("/m/x.yaml, line 5, column "), "{told:?}");
    assert!(matches!(manifest.errors[0].problem, Problem::Syntax { format: "YAML", .. }));
    let told = errors("{\"apiVersion\": \"v1\",\n \"kind\" \"Pod\"}");
    assert!(told[0].starts_with("/m/x.yaml, line 2, column "), "{told:?}");
}

#[test]
fn s_c11_names_reach_no_terminal_raw() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: \"a\\e[31m\", labels: {\"\\e[2J\": x}}\nspec: {\"\\e]0;x\": 1, containers: [{name: \"c\\n\", image: \"i\\e[0m\"}]}\n";
    let told = manifest::parse("/m/\u{1b}[31m.yaml", text.as_bytes());
    assert!(told.errors.len() >= 5, "{:?}", messages(&told));
    for line in messages(&told) {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

fn word() -> impl Strategy<Value = String> {
    let known = [
        "apiVersion",
        "v1",
        "kind",
        "Pod",
        "PodList",
        "List",
        "items",
        "metadata",
        "name",
        "spec",
        "containers",
        "image",
        "env",
        "value",
        "valueFrom",
        "ports",
        "volumes",
        "emptyDir",
        "hostPath",
        "path",
        "resources",
        "limits",
        "cpu",
        "true",
        "5",
        "null",
        "'",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "  ",
        "---\n",
        "&a ",
        "*a",
        "<<: ",
        "|\n",
        ">-\n",
        "#",
        "!!str ",
        ",",
    ];
    prop_oneof![4 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,4}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parse_never_panics_on_words(words in proptest::collection::vec(word(), 0..60)) {
        let manifest = parse(&words.concat());
        prop_assert!(!manifest.pods.is_empty() || !manifest.errors.is_empty() || words.concat().contains("List"));
    }

    #[test]
    fn parse_never_panics_on_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = manifest::parse("x", &bytes);
    }

    #[test]
    fn parse_never_panics_on_a_damaged_manifest(at in 0_usize..3000, with in "\\PC{0,3}|[\\[\\]{}:&*!|>'\"%@`\n\t -]{0,3}", cut in 0_usize..20) {
        let text = [include_str!("data/everything.yaml"), include_str!("data/life.yaml")][at % 2];
        let floor = |mut i: usize| { i = i.min(text.len()); while !text.is_char_boundary(i) { i -= 1 } i };
        let (from, to) = (floor(at), floor(at + cut));
        let manifest = parse(&format!("{}{with}{}", &text[..from], &text[to..]));
        for error in &manifest.errors {
            let raw = error.to_string().contains(char::is_control);
            prop_assert!(!raw);
        }
        for container in manifest.pods.iter().flat_map(|parsed| pod::containers_in_order(&parsed.pod)) {
            let gets = container.liveness_probe.iter().filter_map(|probe| probe.http_get.as_ref());
            for get in gets {
                prop_assert!(pod::ports::resolve(container, &get.port).is_ok());
            }
        }
    }

    #[test]
    fn s_a14_accepted_names_are_safe_in_paths(name in "[a-z0-9./\\-\\x00A_ ]{0,10}|\\PC{0,6}", uid in "[a-f0-9./\\-_ ]{0,8}") {
        let mut pod: Pod = good(include_str!("data/nginx.yaml")).remove(0);
        pod.metadata.name = Some(name.clone());
        pod.metadata.uid = Some(uid.clone());
        if pod::validate::pod(&pod).is_empty() && !uid.is_empty() {
            let root = std::path::Path::new("/r");
            prop_assert!(pod::paths::pod_dir(root, &pod).unwrap().starts_with("/r/pods"));
            prop_assert!(pod::paths::log_dir(root, &pod).unwrap().starts_with("/r"));
        }
    }
}

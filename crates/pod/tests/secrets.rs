//! Secrets in manifests: what is taken, what is refused, and that nothing of them is shown.

use pod::Manifest;
use pod::manifest::{self, MAX_SECRETS};
use proptest::prelude::*;

/// In clear, in base64, and as the password within base64.
const CANARIES: [&str; 3] = ["canary-7f", "Y2FuYXJ5LTdm", "YTpjYW5hcnktN2Y"];
const CONFIG: &str = r#"{"auths": {"r.example": {"auth": "YTpjYW5hcnktN2Y="}}}"#;
/// The same in base64.
const DATA: &str = "eyJhdXRocyI6IHsici5leGFtcGxlIjogeyJhdXRoIjogIllUcGpZVzVoY25rdE4yWT0ifX19";

/// Whatever is parsed here shows nothing.
fn parse(text: &str) -> Manifest {
    let manifest = manifest::parse("/m/x.yaml", text.as_bytes());
    let shown = format!("{manifest:?} {}", messages(&manifest).join("\n"));
    for canary in CANARIES.into_iter().chain([&DATA[24..48]]) {
        assert!(!shown.contains(canary), "{canary} in {shown}");
    }
    manifest
}

fn messages(manifest: &Manifest) -> Vec<String> {
    manifest.errors.iter().map(ToString::to_string).collect()
}

fn secret(name: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockerconfigjson\nmetadata: {{name: {name}}}\n{rest}\n")
}

fn with_text(config: &str) -> String {
    secret("regcred", &format!("stringData:\n  .dockerconfigjson: '{config}'"))
}

#[test]
fn a_secret_is_taken_from_text_or_base64() {
    let folded = format!("data:\n  .dockerconfigjson: |\n    {}\n    {}", &DATA[..40], &DATA[40..]);
    let both = format!("data: {{.dockerconfigjson: e30=}}\nstringData: {{.dockerconfigjson: '{CONFIG}'}}");
    for rest in [
        format!("data: {{.dockerconfigjson: {DATA}}}"),
        folded,
        both,
        format!("immutable: true\nstringData:\n  .dockerconfigjson: '{CONFIG}'"),
    ] {
        let manifest = parse(&secret("regcred", &rest));
        assert!(manifest.errors.is_empty() && manifest.pods.is_empty(), "{:?}", messages(&manifest));
        let [found] = &manifest.secrets[..] else { panic!("{manifest:?}") };
        assert_eq!(found.key(), ("default", "regcred"));
        let credential = found.config.for_image("r.example/app:1").next().unwrap();
        assert_eq!((credential.username.as_str(), credential.password.as_str()), ("a", CANARIES[0]));
    }
}

#[test]
fn secrets_stand_beside_pods() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  imagePullSecrets: [{name: regcred}]\n  containers: [{name: c, image: r.example/app}]\n";
    let manifest = parse(&format!("{pod}---\n{}", with_text(CONFIG)));
    assert!(manifest.errors.is_empty(), "{:?}", messages(&manifest));
    assert_eq!((manifest.pods.len(), manifest.secrets.len()), (1, 1));

    let item = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "s", "namespace": "team", "annotations": {"copy": CONFIG}},
        "data": {".dockerconfigjson": DATA},
    });
    let list = |kind: &str| serde_json::json!({"apiVersion": "v1", "kind": kind, "items": [item]}).to_string();
    let manifest = parse(&list("List"));
    assert!(manifest.errors.is_empty(), "{:?}", messages(&manifest));
    assert_eq!(manifest.secrets[0].key(), ("team", "s"));
    let refused = messages(&parse(&list("PodList")));
    assert_eq!(
        refused,
        [
            "/m/x.yaml, line 1: items[0].kind: found \"Secret\": expected Pod in a PodList; use kind List for several kinds"
        ]
    );
}

#[test]
fn s_b23_what_is_wrong_with_a_secret_is_named_and_not_shown() {
    let opaque = "apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: s}\ndata: {password: Y2FuYXJ5LTdm}\n";
    let typeless = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: canary-7f}\n";
    let table = [
        (
            opaque.to_owned(),
            "line 3: type: found \"Opaque\": only kubernetes.io/dockerconfigjson, for imagePullSecrets, is supported yet",
        ),
        (typeless.to_owned(), "type: is missing: only kubernetes.io/dockerconfigjson"),
        (
            secret("s", "data: {.dockerconfigjson: '%canary-7f'}"),
            "data[.dockerconfigjson]: is not base64; put plain text under stringData",
        ),
        (secret("s", "data: {.dockerconfigjson: 12}"), "data[.dockerconfigjson]: expected a string"),
        (secret("s", "data: [canary-7f]"), "line 5: data: expected a mapping of names to values"),
        (secret("s", "data: canary-7f"), "data: expected a mapping of names to values"),
        (
            secret("s", "stringData: {.dockerconfigjson: {auths: {r: {auth: canary-7f}}}}"),
            "stringData[.dockerconfigjson]: expected a string: put `|` after the colon",
        ),
        (
            secret("s", "stringData: {.dockerconfigjson: canary-7f}"),
            "stringData[.dockerconfigjson]: is not JSON: line 1, column 1",
        ),
        (
            secret("s", "stringData: {config.json: canary-7f}"),
            "line 5: stringData: expected .dockerconfigjson and no other key; is there a blank after each colon?",
        ),
        (secret("s", &format!("data: {{.dockerconfigjson:{DATA}}}")), "is there a blank after each colon?"),
        (
            secret("s", &format!("data:{{.dockerconfigjson: {DATA}}}")),
            "(document): something in it is wrong: unknown field",
        ),
        (secret(&format!("s, {DATA}: x"), ""), "metadata: something in it is wrong: unknown field"),
        (secret(&format!("s}} \n{DATA}: {{x: y"), ""), "(document): something in it is wrong: unknown field"),
        (secret("s", ""), "data[.dockerconfigjson]: is missing: expected docker's config.json, in base64 here"),
        (
            secret("''", &format!("data: {{.dockerconfigjson: {DATA}}}")),
            "metadata.name: is missing: name is needed for the secret",
        ),
        (
            secret("a_b", &format!("data: {{.dockerconfigjson: {DATA}}}")),
            "metadata.name: found \"a_b\": must be at most 253 lower-case",
        ),
        (secret("s", &format!("dta: {{.dockerconfigjson: {DATA}}}")), "dta: unknown field; did you mean data?"),
        (secret("s", "immutable: canary-7f"), "immutable: expected true or false"),
        (secret("s", "metadate: {creationTimestamp: canary-7f}"), "metadate: unknown field; did you mean metadata?"),
        ("apiVersion: v1\nkind: Secret\ntype: [canary-7f]\n".to_owned(), "type: expected a string"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {creationTimestamp: canary-7f}\n".to_owned(),
            "metadata.creationTimestamp: ",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: canary-7f\n".to_owned(),
            "metadata: expected a mapping with the fields of ObjectMeta",
        ),
        (
            with_text(r#"{"auths": {"r.example": {"auth": "canary-7f"}}}"#),
            "stringData[.dockerconfigjson].auths[r.example].auth: is not the base64 form of user:password",
        ),
        (
            with_text(r#"{"auths": {"r.example": {}}, "credsStore": "canary-7f"}"#),
            "holds no credential: docker left them to a program (credsStore), which is not asked",
        ),
        (
            with_text("{}"),
            "stringData[.dockerconfigjson]: holds no credential: expected auths with at least one registry",
        ),
        // Text that is no manifest at all.
        (with_text(CONFIG).replace("'{", "{"), "invalid YAML: "),
        (format!("{}  x: canary-7f: y\n", with_text(CONFIG)), "invalid YAML: "),
        (format!("stringData: \"canary-7f\n{CONFIG}"), "invalid YAML: "),
        (format!("{{\"kind\": \"Secret\", \"stringData\": \"canary-7f\" x {CONFIG}"), "invalid JSON: "),
        (format!("{{\"kind\": \"Secret\", \"data\": {{\".dockerconfigjson\": \"{DATA}"), "invalid JSON: "),
    ];
    for (text, expected) in table {
        let manifest = parse(&text);
        let told = messages(&manifest);
        assert!(told.iter().any(|line| line.contains(expected)), "expected {expected:?} in {told:#?}\n{text}");
        assert!(manifest.secrets.is_empty(), "{text}");
    }
}

#[test]
fn two_secrets_of_one_name_in_a_file_are_told() {
    let (one, two) = (with_text(CONFIG), with_text(CONFIG));
    let manifest = parse(&format!("{one}---\n{two}"));
    assert_eq!(
        messages(&manifest),
        [
            "/m/x.yaml, document 2, line 11: metadata.name: found \"regcred\": another secret of this name is in namespace \
             default already (document 1); rename one"
        ]
    );
    assert_eq!(manifest.secrets.len(), 1);
}

#[test]
fn s_m01_a_file_has_at_most_so_many_secrets() {
    let data = format!("data: {{.dockerconfigjson: {DATA}}}");
    let text = |count: usize| {
        let documents: Vec<String> = (0..count).map(|n| secret(&format!("s{n}"), &data)).collect();
        documents.join("---\n")
    };
    assert_eq!(parse(&text(MAX_SECRETS)).secrets.len(), MAX_SECRETS);
    let manifest = parse(&text(MAX_SECRETS + 1));
    assert_eq!(messages(&manifest), ["/m/x.yaml: holds more than 1000 secrets; split the file"]);
    assert!(manifest.secrets.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Whatever a slip of an editor makes of a file.
    #[test]
    fn s_b23_a_spoiled_file_shows_no_secret(
        at in 0.0..1.0,
        cut in 0_usize..12,
        put in r#"|[\[\]{}:,'"&*!|>%@`#\t\n -]{1,3}|[ -~]{1,2}|\PC"#,
        base64 in any::<bool>(),
    ) {
        let good = match base64 {
            true => secret("regcred", &format!("data: {{.dockerconfigjson: {DATA}}}")),
            false => with_text(CONFIG),
        };
        let at = (at * good.len() as f64) as usize;
        let end = (at + cut).min(good.len());
        parse(&format!("{}{put}{}", &good[..at], &good[end..]));
    }
}

use std::fs;
use std::path::Path;

use super::*;
use crate::testing::TempDir;

const IMAGE: &str = "r.example/team/app";

/// The shell as a program: nothing has to be written that is then executed.
fn shell(script: &str) -> Plugin {
    Plugin {
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("FROM_CONFIG".to_owned(), "yes".to_owned())],
        api_version: API_VERSIONS[0].to_owned(),
    }
}

/// A good answer, with some of its fields otherwise.
fn answer(changed: Value) -> Value {
    let mut answer = json!({
        "kind": "CredentialProviderResponse", "apiVersion": API_VERSIONS[0], "cacheKeyType": "Registry",
        "cacheDuration": "5m", "auth": { "*.example": { "username": "u", "password": "canary-7f" } },
    });
    answer.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    answer
}

async fn until_gone(pid_file: &Path) {
    let wait = async {
        loop {
            let pid = fs::read_to_string(pid_file).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            // What is killed may stay for a moment, until its new parent has looked.
            if !pid.is_empty() && (stat.is_empty() || stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("what the program started goes with it");
}

#[tokio::test]
async fn a_program_is_asked_on_its_input_and_answers_on_its_output() {
    let dir = TempDir::new();
    let (asked, env) = (dir.path().join("asked"), dir.path().join("env"));
    let script =
        format!("cat > {}; env > {}; echo canary-7f >&2; echo '{}'", asked.display(), env.display(), answer(json!({})));
    let found = shell(&script).ask(IMAGE).await.unwrap();
    let request: Value = serde_json::from_slice(&fs::read(asked).unwrap()).unwrap();
    let expected = json!({ "kind": "CredentialProviderRequest", "apiVersion": API_VERSIONS[0], "image": IMAGE });
    assert_eq!(request, expected);
    assert_eq!((found.key_type, found.keep_for), (KeyType::Registry, Some(Duration::from_secs(300))));
    let credential = found.config.for_image("r.example/team/app:1").next().unwrap();
    assert_eq!((credential.username.as_str(), credential.password.as_str()), ("u", "canary-7f"));
    assert!(!format!("{found:?}").contains("canary"));

    let env = fs::read_to_string(env).unwrap();
    let names: Vec<&str> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // The shell's own.
    let known =
        |name: &&&str| PASSED_ON.contains(*name) || ["FROM_CONFIG", "PWD", "OLDPWD", "SHLVL", "_"].contains(*name);
    assert_eq!(names.iter().find(|name| !known(name)), None, "{env}");
    assert!(env.contains("FROM_CONFIG=yes\n") && env.contains("PWD=/\n"), "{env}");
}

#[tokio::test]
async fn s_b23_what_a_program_writes_is_in_no_error() {
    let canary = answer(json!({})).to_string();
    let endless = "while :; do echo canary-7f-canary-7f-canary-7f-canary-7f-canary-7f-canary-7f; done";
    let table = [
        (format!("echo '{canary}'; echo canary-7f >&2; exit 3"), "/bin/sh: ended with exit status: 3; run it by hand"),
        ("kill -9 $$".to_owned(), "ended with signal: 9 (SIGKILL)"),
        ("echo canary-7f".to_owned(), "its answer is not understood: it is not JSON: line 1, column 1"),
        (String::new(), "it is not JSON: line 1, column 0"),
        (endless.to_owned(), "/bin/sh: wrote more than 1048576 bytes and was killed"),
    ];
    for (script, expected) in table {
        let told = shell(&script).ask(IMAGE).await.unwrap_err().to_string();
        assert!(told.contains(expected) && !told.contains("canary"), "{expected}\n{told}");
    }
    let missing = Plugin { program: "/nowhere/at/all".into(), ..shell("") };
    assert!(missing.ask(IMAGE).await.unwrap_err().to_string().starts_with("/nowhere/at/all: cannot be run: "));
    assert!(!format!("{:?}", shell("canary-7f")).contains("canary"));
}

#[tokio::test]
async fn a_program_need_not_read_what_it_is_asked() {
    let script = format!("exec <&-; echo '{}'", answer(json!({})));
    shell(&script).ask(IMAGE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_program_that_does_not_answer_is_given_up_after_a_minute() {
    // Time runs as fast as it likes where everybody waits.
    let began = tokio::time::Instant::now();
    let told = shell("exec sleep 1000").ask(IMAGE).await.unwrap_err().to_string();
    assert_eq!(told, "/bin/sh: did not answer within 60 s and was killed");
    assert!(began.elapsed() < Duration::from_secs(61));
}

#[tokio::test]
async fn whoever_asks_no_more_ends_the_program_and_what_it_started() {
    let dir = TempDir::new();
    let (leader, child) = (dir.path().join("leader"), dir.path().join("child"));
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 1000 & echo $! > {1}.new; mv {1}.new {1}; wait",
        leader.display(),
        child.display()
    );
    let asking = tokio::spawn(async move { shell(&script).ask(IMAGE).await.is_ok() });
    let begun = async {
        while !child.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), begun).await.unwrap();
    asking.abort();
    asking.await.unwrap_err();
    until_gone(&child).await;
    until_gone(&leader).await;
}

#[test]
fn answers_are_understood_or_refused_by_their_field() {
    let understand = |answer: Value| shell("").understand(answer.to_string().as_bytes());
    for (text, key_type) in [("Image", KeyType::Image), ("Registry", KeyType::Registry), ("Global", KeyType::Global)] {
        assert_eq!(understand(answer(json!({ "cacheKeyType": text }))).unwrap().key_type, key_type);
    }
    for (text, keep_for) in [(json!(null), None), (json!("0s"), Some(0)), (json!("12h"), Some(43_200))] {
        let found = understand(answer(json!({ "cacheDuration": text }))).unwrap().keep_for;
        assert_eq!(found, keep_for.map(Duration::from_secs));
    }
    for auth in [json!(null), json!({}), json!({ "r.example": { "username": "", "password": "" } })] {
        assert!(understand(answer(json!({ "auth": auth, "more": 1 }))).unwrap().config.is_empty());
    }
    let many: serde_json::Map<String, Value> = (0..=MAX_ENTRIES).map(|n| (format!("r{n}"), json!({}))).collect();
    let table = [
        (json!({ "kind": "canary-7f" }), "kind: expected CredentialProviderResponse"),
        (
            json!({ "apiVersion": API_VERSIONS[1] }),
            "apiVersion: expected credentialprovider.kubelet.k8s.io/v1, as it was asked",
        ),
        (json!({ "cacheKeyType": "canary-7f" }), "cacheKeyType: expected Image, Registry or Global"),
        (json!({ "cacheKeyType": null }), "cacheKeyType: expected"),
        (json!({ "cacheDuration": "-1s" }), "cacheDuration: expected a duration"),
        (json!({ "cacheDuration": 5 }), "cacheDuration: expected a duration"),
        (json!({ "auth": "canary-7f" }), "auth: expected a mapping"),
        (json!({ "auth": many }), "auth: at most 1000 registries are allowed"),
        (json!({ "auth": { "/canary-7f": {} } }), "auth: expected images"),
        (json!({ "auth": { "r": { "password": ["canary-7f"] } } }), "auth.password: expected a string"),
        (json!({ "auth": { "r": { "username": "canary-7f\n" } } }), "auth.username: expected a string"),
    ];
    for (changed, expected) in table {
        let told = understand(answer(changed)).unwrap_err();
        assert!(told.starts_with(expected) && !told.contains("canary"), "{expected}\n{told}");
    }
    assert!(shell("").understand("[".repeat(1 << 20).as_bytes()).unwrap_err().starts_with("it is not JSON"));
}

use super::*;
use proptest::prelude::*;

/// A configuration with one credential for `registry`, whose user is named after it.
fn config(registries: &[&str]) -> DockerConfig {
    let auths: Map<String, Value> = registries
        .iter()
        .map(|registry| ((*registry).to_owned(), serde_json::json!({"username": registry, "password": "canary-7f"})))
        .collect();
    let parsed = parse(serde_json::json!({ "auths": auths }).to_string().as_bytes());
    assert_eq!(parsed.problems, []);
    parsed.config
}

fn told(parsed: &Parsed) -> Vec<String> {
    parsed.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn which_images_a_registry_is_for() {
    let table = [
        ("registry.example.com", "registry.example.com/team/app:1", true),
        ("REGISTRY.example.com", "registry.example.com/app", true),
        ("registry.example.com", "registry.example.com:5000/app", false),
        ("registry.example.com:5000", "registry.example.com:5000/app:1", true),
        ("registry.example.com:5000", "registry.example.com/app", false),
        ("registry.example.com:5000", "registry.example.com:500/app", false),
        ("registry.example.com", "other.example.com/app", false),
        ("example.com", "registry.example.com/app", false),
        ("https://registry.example.com", "registry.example.com/app", true),
        ("http://registry.example.com:80/", "registry.example.com:80/app", true),
        ("https://registry.example.com/v1/", "registry.example.com/app", true),
        ("https://registry.example.com/v2", "registry.example.com/app", true),
        ("https://registry.example.com/v2/team", "registry.example.com/team/app", true),
        ("registry.example.com/v3", "registry.example.com/app", false),
        // A path is whole repositories and what is beneath them.
        ("registry.example.com/team", "registry.example.com/team/app", true),
        ("registry.example.com/team/", "registry.example.com/team/app", true),
        ("registry.example.com/team/app", "registry.example.com/team/app:latest", true),
        ("registry.example.com/team/app", "registry.example.com/team/app@sha256:00", true),
        ("registry.example.com/team", "registry.example.com/teams/app", false),
        ("registry.example.com/team/app", "registry.example.com/team", false),
        ("registry.example.com/Team", "registry.example.com/team/app", false),
        // Wildcards stand for parts of one label.
        ("*.example.com", "registry.example.com/app", true),
        ("*.example.com", "a.registry.example.com/app", false),
        ("*.example.com", "example.com/app", false),
        ("*.*.example.com", "a.registry.example.com/app", true),
        ("*", "registry.example.com/app", false),
        ("*", "localhost/app", true),
        ("reg*.example.com", "registry.example.com/app", true),
        ("*try.example.com", "registry.example.com/app", true),
        ("r*s*y.example.com", "registry.example.com/app", true),
        ("r*x*y.example.com", "registry.example.com/app", false),
        ("registr?.example.com", "registry.example.com/app", true),
        ("registry?.example.com", "registry.example.com/app", false),
        ("reg[a-z]stry.example.com", "registry.example.com/app", true),
        ("reg[^i]stry.example.com", "registry.example.com/app", false),
        ("*.dkr.ecr.*.amazonaws.com", "12.dkr.ecr.eu-1.amazonaws.com/app", true),
        ("*.example.com:5000", "registry.example.com:5000/app", true),
        ("*.example.com", "registry.example.com:5000/app", false),
        ("*.example.com/team", "registry.example.com/other/app", false),
        // Docker's registry has many names.
        ("https://index.docker.io/v1/", "docker.io/library/nginx:1", true),
        ("docker.io", "docker.io/library/nginx:1", true),
        ("registry-1.docker.io", "docker.io/team/app", true),
        ("index.docker.io", "registry-1.docker.io/team/app", true),
        ("docker.io/team", "docker.io/team/app", true),
        ("index.docker.io/v1/team", "docker.io/other/app", false),
        ("docker.io", "registry.example.com/docker.io/app", false),
        ("docker.io.example.com", "docker.io/library/nginx", false),
        ("[::1]:5000", "[::1]:5000/app:1", true),
        ("[::1]:5000", "[::2]:5000/app:1", false),
        ("[::1]", "[::1]/app", true),
    ];
    for (registry, image, expected) in table {
        let found = config(&[registry]).for_image(image).count() == 1;
        assert_eq!(found, expected, "{registry} {image}");
    }
}

#[test]
fn what_is_no_registry_is_refused() {
    for bad in [
        "",
        "/team",
        "https://",
        ":5000",
        "host:",
        "ftp://host",
        "user@host",
        "a b",
        "host/\u{1b}[31m",
        "reg[istry.example.com",
        "a.[].com",
        "ho\u{e9}st",
    ] {
        assert_eq!(Pattern::parse(bad), None, "{bad:?}");
    }
    assert_eq!(Pattern::parse(&"a".repeat(2000)), None);
}

#[test]
fn the_most_exact_one_comes_first() {
    let registries = [
        "*.example.com",
        "registry.example.com",
        "registry.example.com/a/b",
        "*.example.com/a",
        "registry.example.com/a",
        "r*.example.com",
    ];
    let config = config(&registries);
    let users: Vec<&str> = config.for_image("registry.example.com/a/b/c:1").map(|c| c.username.as_str()).collect();
    assert_eq!(
        users,
        [
            "registry.example.com/a/b",
            "registry.example.com/a",
            "*.example.com/a",
            "registry.example.com",
            "r*.example.com",
            "*.example.com"
        ]
    );
}

#[test]
fn a_pattern_of_many_stars_takes_no_time() {
    let pattern = Pattern::parse(&format!("{}b", "a*".repeat(500))).unwrap();
    assert!(!pattern.matches(&format!("{}/app", "a".repeat(100_000))));
}

#[test]
fn credentials_in_all_their_forms() {
    // user:pa:ss, padded and not, with the zeroes of old clients, over two lines.
    let basic = Credential { username: "user".into(), password: "pa:ss".into(), ..Credential::default() };
    let table = [
        (r#"{"auth": "dXNlcjpwYTpzcw=="}"#, basic.clone()),
        (r#"{"auth": "dXNlcjpwYTpzcw"}"#, basic.clone()),
        (r#"{"auth": "dXNlcjpw\nYTpzcw==\n"}"#, basic.clone()),
        (r#"{"auth": "dXNlcjpwYTpzcwAA", "email": "a@example.com"}"#, basic.clone()),
        (r#"{"username": "user", "password": "pa:ss", "auth": ""}"#, basic.clone()),
        (r#"{"username": "old", "password": "old", "auth": "dXNlcjpwYTpzcw=="}"#, basic),
        (r#"{"identitytoken": "t"}"#, Credential { identity_token: "t".into(), ..Credential::default() }),
        (r#"{"registrytoken": "t"}"#, Credential { registry_token: "t".into(), ..Credential::default() }),
    ];
    for (entry, expected) in table {
        for (parsed, form) in [
            (parse(format!(r#"{{"auths": {{"r.example": {entry}}}, "detachKeys": "x"}}"#).as_bytes()), "config.json"),
            (parse_legacy(format!(r#"{{"r.example": {entry}}}"#).as_bytes()), ".dockercfg"),
        ] {
            assert_eq!(parsed.problems, [], "{form} {entry}");
            assert_eq!(parsed.config.for_image("r.example/a").collect::<Vec<_>>(), [&expected], "{form} {entry}");
        }
    }
}

#[test]
fn s_l05_what_a_helper_keeps_is_no_credential() {
    let parsed = parse(
        br#"{"auths": {"https://index.docker.io/v1/": {}, "r.example": {"email": "a"}}, "credsStore": "desktop"}"#,
    );
    assert!(parsed.config.is_empty() && parsed.problems.is_empty(), "{parsed:?}");
    assert_eq!(parsed.helpers, ["credsStore"]);
    assert_eq!(parse(br#"{"credHelpers": {"r.example": "x"}, "credsStore": ""}"#).helpers, ["credHelpers"]);
    assert!(parse(br#"{"credHelpers": {}, "credsStore": null}"#).helpers.is_empty());
}

#[test]
fn what_is_wrong_is_named_and_not_shown() {
    let table = [
        ("", "(document): is not JSON: line 1, column 0"),
        ("{\"auths\": {\"r\": {\"auth\": \"canary-7f\",}}}", "(document): is not JSON: line 1, column 38"),
        ("[\"canary-7f\"]", "(document): expected a JSON object as docker writes it"),
        ("{\"auths\": {\"https://u:canary-7f@h\": {}}}", "auths[h]: is not a registry"),
        ("{\"auths\": \"canary-7f\"}", "auths: expected a mapping of registries to credentials"),
        ("{\"auths\": {\"r\": \"canary-7f\"}}", "auths[r]: expected a mapping with auth, or username and password"),
        ("{\"auths\": {\"r\": {\"password\": [\"canary-7f\"]}}}", "auths[r].password: expected a string"),
        ("{\"auths\": {\"r\": {\"auth\": \"canary-7f\"}}}", "auths[r].auth: is not the base64 form of user:password"),
        ("{\"auths\": {\"r\": {\"auth\": \"Y2FuYXJ5\"}}}", "auths[r].auth: is not the base64 form of user:password"),
        ("{\"auths\": {\"r\": {\"username\": \"canary-7f\\r\\nx: y\"}}}", "auths[r]: holds a control character"),
        ("{\"auths\": {\"/r\": {\"auth\": \"dXNlcjpw\"}}}", "auths[/r]: is not a registry: expected a host"),
    ];
    for (text, expected) in table {
        let parsed = parse(text.as_bytes());
        let told = told(&parsed);
        assert!(told.len() == 1 && told[0].starts_with(expected), "{text}: {told:?}");
        assert!(!told[0].contains("canary") && parsed.config.is_empty(), "{text}: {told:?}");
    }
    let twice = r#"{"auths": {"bad": {"auth": "%"}, "good.example": {"auth": "dXNlcjpw"}}}"#;
    let parsed = parse(twice.as_bytes());
    assert_eq!((parsed.problems.len(), parsed.config.for_image("good.example/a").count()), (1, 1));
}

#[test]
fn s_m01_a_configuration_has_limits() {
    let large = format!("{{\"x\": \"{}\"}}", "a".repeat(MAX_BYTES));
    assert!(told(&parse(large.as_bytes()))[0].contains("bytes long, at most 1048576 are allowed"));
    let auths: Map<String, Value> = (0..=MAX_ENTRIES).map(|n| (format!("r{n}"), serde_json::json!({}))).collect();
    let many = serde_json::json!({ "auths": auths }).to_string();
    assert_eq!(told(&parse(many.as_bytes())), ["auths: names 1001 registries, at most 1000 are allowed"]);
    let deep = format!("{{\"auths\": {}", "[".repeat(100_000));
    assert!(told(&parse(deep.as_bytes()))[0].starts_with("(document): is not JSON"));
}

#[test]
fn s_g07_nothing_shows_a_credential() {
    let config = config(&["r.example"]);
    let shown = format!("{config:?} {:?}", config.for_image("r.example/a").collect::<Vec<_>>());
    assert!(!shown.contains("canary"), "{shown}");
}

/// A glob without short cuts, to compare with.
fn plainly_matches(glob: &[char], text: &[char]) -> bool {
    match (glob, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=text.len()).any(|taken| plainly_matches(rest, &text[taken..])),
        (['?', rest @ ..], [_, text @ ..]) => plainly_matches(rest, text),
        ([c, rest @ ..], [first, text @ ..]) => c == first && plainly_matches(rest, text),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn s_m01_no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        parse(&bytes);
        parse_legacy(&bytes);
    }

    #[test]
    fn s_m01_no_entry_panics_or_is_shown(
        registry in r#"[a-z.:/*?@\[\]^-]{0,20}|\PC{0,20}"#,
        field in "auth|username|password|identitytoken|registrytoken|email",
        value in r#"[A-Za-z0-9+/=\n]{0,40}|\PC{0,20}"#,
    ) {
        let secret = format!("{value}canary7f");
        let config = serde_json::json!({ "auths": { &registry: { field: secret } } });
        let parsed = parse(config.to_string().as_bytes());
        let shown = format!("{parsed:?} {}", told(&parsed).join(" "));
        prop_assert!(!shown.contains("canary7f"), "{}", shown);
        prop_assert!(parsed.config.for_image("r.example/team/app:1").count() <= 1);
    }

    #[test]
    fn labels_match_as_globs_do(glob in "[ab*?]{1,8}", text in "[ab]{1,8}") {
        let pattern = Pattern::parse(&format!("{glob}.example")).unwrap();
        let expected = plainly_matches(&glob.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
        prop_assert_eq!(pattern.matches(&format!("{text}.example/app:1")), expected);
    }
}

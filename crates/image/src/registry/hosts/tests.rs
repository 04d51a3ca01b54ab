use super::*;
use std::fs;

const DOMAIN: &str = "reg.example:5000";

fn write(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir.join(name)).unwrap();
    fs::write(dir.join(name).join(FILE), text).unwrap();
}

fn parse(domain: &str, text: &str) -> Result<Vec<Endpoint>, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), domain, text);
    endpoints(Some(dir.path()), domain).map_err(|error| match error {
        RegistryError::Hosts { reason, .. } => reason,
        other => panic!("{other:?}"),
    })
}

fn bases(domain: &str, text: &str) -> Vec<String> {
    let found = parse(domain, text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
    found.iter().map(|endpoint| endpoint.base.to_string()).collect()
}

#[test]
fn a_registry_without_a_file_is_itself() {
    for (domain, base, or_plain) in [
        ("docker.io", "https://registry-1.docker.io/v2", false),
        ("reg.example", "https://reg.example/v2", false),
        ("reg.example:5000", "https://reg.example:5000/v2", false),
        ("localhost", "https://localhost/v2", true),
        ("localhost:5000", "https://localhost:5000/v2", true),
        ("LOCALHOST:5000", "https://localhost:5000/v2", true),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/v2", true),
        ("127.1.2.3:443", "https://127.1.2.3/v2", false),
        ("[::1]:5000", "https://[::1]:5000/v2", true),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2", false),
        ("localhost.example:5000", "https://localhost.example:5000/v2", false),
    ] {
        let none = tempfile::tempdir().unwrap();
        for dir in [None, Some(none.path())] {
            let [own] = &endpoints(dir, domain).unwrap()[..] else { panic!("{domain}: not one") };
            assert_eq!((own.base.as_str(), own.or_plain), (base, or_plain), "{domain}");
            assert!(own.own && own.pull && own.resolve && own.namespace.is_none());
        }
    }
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_registry_last() {
    for (text, expected) in [
        ("", &["https://reg.example:5000/v2"][..]),
        ("server = \"https://other.example\"", &["https://other.example/v2"]),
        ("server = \"http://other.example/\"", &["http://other.example/v2"]),
        ("server = \"other.example:1\"", &["https://other.example:1/v2"]),
        (
            "[host.\"https://z.example\"]\n[host.\"https://a.example\"]\n[host.\"m.example:81\"]",
            &["https://z.example/v2", "https://a.example/v2", "https://m.example:81/v2", "https://reg.example:5000/v2"],
        ),
        ("[host.\"http://a/v2\"]", &["http://a/v2", "https://reg.example:5000/v2"]),
        ("[host.\"http://a/v2/\"]", &["http://a/v2", "https://reg.example:5000/v2"]),
        ("[host.\"http://a/sub\"]", &["http://a/sub/v2", "https://reg.example:5000/v2"]),
        ("[host.\"http://a/x\"]\noverride_path = true", &["http://a/x", "https://reg.example:5000/v2"]),
        ("[host.\"http://a/v2/cache/\"]\noverride_path = true", &["http://a/v2/cache", "https://reg.example:5000/v2"]),
        ("server = \"https://x/y\"\noverride_path = true", &["https://x/y"]),
    ] {
        assert_eq!(bases(DOMAIN, text), expected, "{text}");
    }
}

#[test]
fn a_url_is_built_below_the_base() {
    let endpoint = |text: &str| parse(DOMAIN, text).unwrap().remove(0);
    for (text, url) in [
        ("", "https://reg.example:5000/v2/a/manifests/1"),
        ("[host.\"http://m/x\"]", "http://m/x/v2/a/manifests/1?ns=reg.example%3A5000"),
        ("[host.\"http://m/\"]\noverride_path = true", "http://m/a/manifests/1?ns=reg.example%3A5000"),
    ] {
        assert_eq!(endpoint(text).url("a/manifests/1").as_str(), url, "{text}");
    }
}

#[test]
fn s_b22_who_is_the_registry_itself() {
    // Of each host: whether it is shown the credential, and whether it is told for whom.
    let is = |own, told| (own, told);
    for (domain, text, expected) in [
        (DOMAIN, "[host.\"https://m.example\"]", &[is(false, true), is(true, false)][..]),
        (DOMAIN, "[host.\"http://reg.example:5000\"]", &[is(true, false), is(true, false)]),
        (DOMAIN, "[host.\"http://reg.example\"]", &[is(false, true), is(true, false)]),
        (DOMAIN, "server = \"https://new.example\"", &[is(true, true)]),
        (
            "docker.io",
            "server = \"https://docker.io\"\n[host.\"https://registry-1.docker.io\"]",
            &[is(true, false), is(true, true)],
        ),
    ] {
        let found: Vec<_> =
            parse(domain, text).unwrap().iter().map(|found| (found.own, found.namespace.is_some())).collect();
        assert_eq!(found, expected, "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), DEFAULT_DIR, "server = \"https://cache.example\"");
    let found = endpoints(Some(dir.path()), DOMAIN).unwrap();
    assert!(!found[0].own, "what speaks of every registry sees no credential");
    write(dir.path(), DEFAULT_DIR, "[host.\"https://cache.example\"]");
    let found = endpoints(Some(dir.path()), DOMAIN).unwrap();
    assert!(!found[0].own && found[1].own);
}

#[test]
fn the_file_that_speaks_of_a_registry_most_closely_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let first = || endpoints(Some(dir.path()), DOMAIN).unwrap()[0].base.to_string();
    assert_eq!(first(), "https://reg.example:5000/v2");
    write(dir.path(), DEFAULT_DIR, "server = \"https://default\"");
    assert_eq!(first(), "https://default/v2");
    write(dir.path(), DOMAIN, "server = \"https://named\"");
    assert_eq!(first(), "https://named/v2");
    write(dir.path(), "reg.example_5000_", "server = \"https://portable\"");
    assert_eq!(first(), "https://portable/v2");
}

#[test]
fn what_a_file_says_of_a_host_is_kept() {
    let text = "capabilities = [\"pull\"]\nskip_verify = true\ndial_timeout = \"3s\"\n[header]\nx-a = \"1\"\nx-b = [\"2\", \"3\"]";
    let found = parse(DOMAIN, text).unwrap().remove(0);
    assert!(found.pull && !found.resolve && found.tls.skip_verify);
    assert_eq!(found.tls.connect_within, Some(Duration::from_secs(3)));
    let values: Vec<_> = found.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(values, [("x-a", &b"1"[..]), ("x-b", b"2"), ("x-b", b"3")]);
    assert!(!format!("{:?}", found.headers).contains('1'), "their values are not shown");

    let both = parse(DOMAIN, "skip_verify = true\n[host.\"https://m\"]\ncapabilities = []").unwrap();
    assert!(both[0].pull && both[0].resolve && !both[0].tls.skip_verify && both[1].tls.skip_verify);
}

#[test]
fn a_file_may_be_a_link_and_is_read_as_one_wherever_it_leads() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(DOMAIN)).unwrap();
    fs::write(dir.path().join("kept-elsewhere"), "server = \"https://linked\"").unwrap();
    std::os::unix::fs::symlink("../kept-elsewhere", dir.path().join(DOMAIN).join(FILE)).unwrap();
    assert_eq!(endpoints(Some(dir.path()), DOMAIN).unwrap()[0].base.as_str(), "https://linked/v2");
    fs::remove_file(dir.path().join("kept-elsewhere")).unwrap();
    assert!(endpoints(Some(dir.path()), DOMAIN).unwrap()[0].own, "a link to nothing is no file");
    // Neither is one below what is no directory.
    fs::write(dir.path().join(DEFAULT_DIR), "").unwrap();
    assert!(endpoints(Some(dir.path()), DOMAIN).unwrap()[0].own);
}

#[test]
fn certificates_are_found_beside_the_file() {
    let key = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join(DOMAIN);
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("ca.pem"), key.cert.pem()).unwrap();
    fs::write(at.join("key.pem"), key.signing_key.serialize_pem()).unwrap();
    fs::write(at.join("both.pem"), key.cert.pem() + &key.signing_key.serialize_pem()).unwrap();
    let absolute = at.join("ca.pem");
    for (text, roots, identity) in [
        ("ca = \"ca.pem\"".to_owned(), 1, false),
        ("ca = [\"ca.pem\", \"both.pem\"]".into(), 2, false),
        (format!("ca = {absolute:?}"), 1, false),
        ("client = \"both.pem\"".into(), 0, true),
        ("client = [\"both.pem\"]".into(), 0, true),
        ("client = [[\"ca.pem\", \"key.pem\"]]".into(), 0, true),
        ("client = [[\"both.pem\", \"\"]]".into(), 0, true),
    ] {
        write(dir.path(), DOMAIN, &text);
        let found = endpoints(Some(dir.path()), DOMAIN).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((found[0].tls.roots.len(), found[0].tls.identity.is_some()), (roots, identity), "{text}");
    }
    for (text, part) in [
        ("ca = \"none.pem\"", "none.pem"),
        ("ca = \"key.pem\"", "no PEM certificate"),
        ("ca = \"hosts.toml\"", "no PEM certificate"),
        ("ca = \".\"", "regular file"),
        ("client = \"ca.pem\"", "private key"),
        ("client = [[\"key.pem\", \"key.pem\"]]", "certificate"),
    ] {
        write(dir.path(), DOMAIN, text);
        let error = endpoints(Some(dir.path()), DOMAIN).err().unwrap_or_else(|| panic!("{text} was accepted"));
        let shown = error.to_string();
        assert!(shown.contains(part) && shown.contains(FILE), "{text}: {shown}");
    }
}

#[test]
fn a_wrong_file_is_told_with_its_key() {
    for (text, part) in [
        ("servers = \"x\"", "servers"),
        ("server = 1", "server: expected"),
        ("server = \"\"", "server"),
        ("server = \"ftp://x\"", "scheme"),
        ("server = \"https://u:geheim@x\"", "header"),
        ("server = \"https://x?geheim\"", "query"),
        ("host = 1", "host"),
        ("[host.\"https://x\"]\nserver = \"y\"", "server"),
        ("[host.\"https://x\"]\nskipverify = true", "skipverify"),
        ("[host.\"https://x\"]\nskip_verify = \"yes\"", "host.\"https://x\".skip_verify: expected true or false"),
        ("[host.\"https://x\"]\noverride_path = 1", "host.\"https://x\".override_path: expected true or false"),
        ("[host.\"https://x\".host.\"y\"]", "host"),
        ("[host]\n\"https://x\" = 1", "expected a table"),
        ("capabilities = \"pull\"", "capabilities"),
        ("capabilities = [\"pull\", \"delete\"]", "delete"),
        ("ca = 1", "ca: expected"),
        ("ca = [1]", "ca: expected"),
        ("client = [\"a\", \"b\"]", "client: expected"),
        ("client = [[\"a\"]]", "client: expected"),
        ("header = \"x\"", "header: expected"),
        ("[header]\n\"a b\" = \"geheim\"", "header.a b"),
        ("[header]\nx = \"geheim\\n\"", "header.x"),
        ("[header]\nx = 1", "header.x"),
        ("dial_timeout = \"fast\"", "dial_timeout"),
        ("dial_timeout = \"0s\"", "dial_timeout"),
        ("dial_timeout = \"2h\"", "dial_timeout"),
        ("dial_timeout = \"99999999999999999999s\"", "dial_timeout"),
        ("\n\nserver = geheim", "line 3"),
        ("server = \"a\"\nserver = \"b\"", "line 2"),
    ] {
        let reason = parse(DOMAIN, text).err().unwrap_or_else(|| panic!("{text} was accepted"));
        assert!(reason.contains(part), "{text}: {reason}");
        assert!(!reason.contains("geheim"), "{reason}");
    }
    let hosts: String = (0..=MAX_HOSTS).map(|n| format!("[host.\"https://h{n}\"]\n")).collect();
    assert!(parse(DOMAIN, &hosts).is_err_and(|reason| reason.contains("32")));
    assert!(parse(DOMAIN, &"#".repeat(2 << 20)).is_err());
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(DOMAIN).join(FILE)).unwrap();
    assert!(endpoints(Some(dir.path()), DOMAIN).is_err(), "a directory is no file");
    write(dir.path(), "bytes.example", "");
    fs::write(dir.path().join("bytes.example").join(FILE), b"\xff").unwrap();
    assert!(endpoints(Some(dir.path()), "bytes.example").is_err());
}

use super::*;

fn challenge(values: &[&'static str]) -> Challenge {
    Challenge::of(&values.iter().map(|value| (WWW_AUTHENTICATE, HeaderValue::from_static(value))).collect())
}

fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scopes }
}

#[test]
fn challenges_are_read_as_they_are_written() {
    let full = r#"Bearer realm="https://auth.example/t",service="reg.example",scope="repository:a/b:pull""#;
    for (values, expected) in [
        (&[full][..], bearer("https://auth.example/t", Some("reg.example"), &["repository:a/b:pull"])),
        (&[r#"BEARER Realm="https://a/""#], bearer("https://a/", None, &[])),
        (&[r#"Bearer scope="a b", realm="https://a/""#], bearer("https://a/", None, &["a", "b"])),
        (&[r#"Bearer realm="https://a/\"x""#], bearer("https://a/\"x", None, &[])),
        (&[r#"Basic realm="x""#], Challenge::Basic),
        (&["basic"], Challenge::Basic),
        (&[r#"Basic realm="x", Bearer realm="https://a/""#], bearer("https://a/", None, &[])),
        (&[r#"Basic realm="x""#, r#"Bearer realm="https://a/""#], bearer("https://a/", None, &[])),
        (&["Negotiate", r#"Basic realm="x""#], Challenge::Basic),
        (&[r#"Bearer service="x""#], Challenge::Other),
        (&["Bearer"], Challenge::Other),
        (&["Digest realm=\"x\""], Challenge::Other),
        (&["\"=,;"], Challenge::Other),
        (&[""], Challenge::Other),
        (&[], Challenge::Other),
    ] {
        assert_eq!(challenge(values), expected, "{values:?}");
    }
    let long = format!("Bearer realm=\"https://{}/\"", "a".repeat(5000));
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_str(&long).unwrap())]);
    assert_eq!(Challenge::of(&headers), Challenge::Other, "a parameter has a limit");
}

#[test]
fn s_b23_which_token_servers_are_asked() {
    let https = Url::parse("https://reg.example:5000/v2/").unwrap();
    let http = Url::parse("http://reg.example:5000/v2/").unwrap();
    let local = Url::parse("http://169.254.7.7/v2/").unwrap();
    for (home, realm) in [
        (&https, "https://auth.example/token"),
        (&https, "https://reg.example:5000/token"),
        (&https, "https://reg.example/token?a=b"),
        (&http, "https://auth.example/token"),
        (&http, "http://reg.example:5000/token"),
        (&http, "http://reg.example:5001/token"),
        (&local, "http://169.254.7.7:81/token"),
    ] {
        assert!(trusted_realm(realm, home).is_ok(), "{realm} at {home}");
    }
    for (home, realm) in [
        (&https, "http://169.254.169.254/latest/meta-data"),
        (&https, "https://169.254.169.254/latest/meta-data"),
        (&http, "http://169.254.169.254/latest/meta-data"),
        (&http, "https://2852039166/"),
        (&http, "https://[fe80::1]/"),
        (&http, "https://metadata.google.internal/"),
        (&https, "http://auth.example/token"),
        (&https, "http://reg.example:5000/token"),
        (&http, "http://auth.example/token"),
        (&http, "http://reg.example.evil.example/token"),
        (&https, "file:///etc/shadow"),
        (&https, "gopher://auth.example/"),
        (&https, "javascript:x"),
        (&https, "https://user:geheim@auth.example/token"),
        (&https, "https://geheim@auth.example/token"),
        (&https, "/token"),
        (&https, "auth.example"),
        (&https, ""),
    ] {
        let refused = trusted_realm(realm, home).expect_err(realm);
        assert!(!refused.contains("geheim"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_counts_for_its_life() {
    let key = TokenKey { host: "https://reg.example".into(), path: "x".into(), login: None };
    let mut tokens = Tokens::default();
    tokens.put(key.clone(), &Authorization { value: HeaderValue::from_static("Bearer x"), life: DEFAULT_LIFE });
    tokio::time::advance(DEFAULT_LIFE - Duration::from_millis(1)).await;
    assert!(tokens.get(&key).is_some());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(tokens.get(&key).is_none());
}

#[test]
fn only_the_token_that_was_refused_is_forgotten() {
    let key = TokenKey { host: "https://reg.example".into(), path: "x".into(), login: None };
    let (old, new) = (HeaderValue::from_static("Bearer old"), HeaderValue::from_static("Bearer new"));
    let mut tokens = Tokens::default();
    tokens.put(key.clone(), &Authorization { value: new.clone(), life: MAX_LIFE });
    tokens.forget(&key, &old);
    assert_eq!(tokens.get(&key), Some(new.clone()));
    tokens.forget(&key, &new);
    assert_eq!(tokens.get(&key), None);
}

#[test]
fn remembered_tokens_have_a_limit_and_an_end() {
    let key = |n: usize| TokenKey { host: "https://reg.example".into(), path: n.to_string(), login: None };
    let token = |life| Authorization { value: HeaderValue::from_static("Bearer x"), life };
    let mut tokens = Tokens::default();
    tokens.put(key(0), &token(Duration::ZERO));
    assert_eq!(tokens.get(&key(0)), None);
    tokens.put(key(1), &token(MAX_LIFE));
    assert_eq!(tokens.0.len(), 1, "what has ended is not held until there is no room");
    for n in 0..3 * MAX_TOKENS {
        tokens.put(key(n), &token(MAX_LIFE));
        assert!(tokens.get(&key(n)).is_some() && tokens.0.len() <= MAX_TOKENS);
    }
}

//! Whatever a server sends in a place that is parsed, it is answered.

use crate::registry::auth::{Challenge, trusted_realm};
use crate::registry::blob::parse_range;
use crate::registry::body::{Secrets, said};
use crate::registry::endpoint::{is_metadata, redirected};
use proptest::prelude::*;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use url::Url;

proptest! {
    #[test]
    fn challenges(text in r#"(Bearer|Basic|x)?( |,|=|"|\\\\|realm|scope|service|[a-z:/.]|[ -~]){0,40}"#) {
        let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_str(&text).unwrap())]);
        let _ = Challenge::of(&headers);
    }

    #[test]
    fn s_b22_redirects(text in "(https?:)?(//)?([a-z0-9.:@\\[\\]/?#%-]|[ -~]){0,40}") {
        let from = Url::parse("https://reg.example/v2/x").unwrap();
        if let Ok(to) = redirected(&from, &text) {
            prop_assert_eq!(to.scheme(), "https");
            prop_assert!(to.has_host() && to.username().is_empty() && to.password().is_none());
            prop_assert!(!is_metadata(&to) && to.fragment().is_none());
        }
    }

    #[test]
    fn s_b23_realms(text in "(https?:|file:)?(//)?([a-z0-9.:@\\[\\]/?#%-]|[ -~]){0,40}") {
        let home = Url::parse("https://reg.example/v2/x").unwrap();
        if let Ok(realm) = trusted_realm(&text, &home) {
            prop_assert!(realm.scheme() == "https" && realm.has_host() && realm.username().is_empty());
        }
    }

    #[test]
    fn ranges(first: u64, last: u64, total: u64, text in "(bytes )?[0-9*/ -]{0,60}") {
        let _ = parse_range(&text);
        let range = format!("bytes {first}-{last}/{total}");
        prop_assert_eq!(parse_range(&range), Some((first, last, Some(total))));
    }

    #[test]
    fn words_of_errors(bytes: Vec<u8>, code in ".{0,20}", message in ".{0,400}") {
        let secrets = Secrets::default();
        let _ = said(&bytes, &secrets);
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        let shown = said(body.to_string().as_bytes(), &secrets);
        prop_assert!(shown.chars().count() <= 410 && !shown.contains(char::is_control));
    }
}

//! What comes with a pull request to say who asks.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cri::{Error, v1};
use image::Login;

/// Docker's own registry and the names under which its credentials have been filed over the years.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The credential in `auth` for the registry of a reference ([`image::Reference::domain`]). `None` where there is none, or
/// one for another registry, which is not told of it.
///
/// # Errors
/// [`cri::Code::InvalidArgument`] when `auth.auth` is not the base64 form of `user:password`; it is not shown.
pub fn login(auth: Option<&v1::AuthConfig>, registry: &str) -> Result<Option<Login>, Error> {
    let Some(auth) = auth.filter(|auth| is_for(&auth.server_address, registry)) else { return Ok(None) };
    if !auth.registry_token.is_empty() {
        return Ok(Some(Login::Bearer { token: auth.registry_token.clone() }));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Login::Refresh { token: auth.identity_token.clone() }));
    }
    if !auth.username.is_empty() {
        return Ok(Some(Login::Basic { username: auth.username.clone(), password: auth.password.clone() }));
    }
    if auth.auth.is_empty() { Ok(None) } else { decode(&auth.auth).map(Some) }
}

/// An address is a host, or a URL as docker writes it: `https://index.docker.io/v1/`.
fn is_for(address: &str, registry: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let is_hub = |host: &str| DOCKER_HUB.iter().any(|name| name.eq_ignore_ascii_case(host));
    address.is_empty() || host.eq_ignore_ascii_case(registry) || (is_hub(host) && is_hub(registry))
}

fn decode(auth: &str) -> Result<Login, Error> {
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, padding).decode(auth.trim()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    // Some clients pad the password with NULs.
    match text.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':')) {
        Some((username, password)) => Ok(Login::Basic { username: username.into(), password: password.into() }),
        None => Err(Error::invalid_argument("auth: expected the base64 form of user:password")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Option<Login> {
        Some(Login::Basic { username: username.into(), password: password.into() })
    }

    #[test]
    fn each_form_of_a_credential_is_understood() {
        let auth = v1::AuthConfig::default;
        let encoded = |text: &str| v1::AuthConfig { auth: text.into(), ..auth() };
        let bearer = v1::AuthConfig { registry_token: "r".into(), identity_token: "i".into(), ..auth() };
        let refresh = v1::AuthConfig { identity_token: "i".into(), username: "u".into(), ..auth() };
        for (given, expected) in [
            (auth(), None),
            (v1::AuthConfig { username: "u".into(), password: "p".into(), ..auth() }, basic("u", "p")),
            (v1::AuthConfig { username: "u".into(), auth: "bad".into(), ..auth() }, basic("u", "")),
            (bearer, Some(Login::Bearer { token: "r".into() })),
            (refresh, Some(Login::Refresh { token: "i".into() })),
            (encoded("dTpwOnE="), basic("u", "p:q")),
            (encoded("dTpwOnE"), basic("u", "p:q")),
            (encoded(" dTpwAAA=\n"), basic("u", "p")),
        ] {
            assert!(login(Some(&given), "a.example").unwrap() == expected, "{given:?}");
        }
        assert!(login(None, "a.example").unwrap().is_none());
        for bad in ["geheim!", "Z2VoZWlt", "/w=="] {
            let error = login(Some(&encoded(bad)), "a.example").unwrap_err();
            assert!(error.code == cri::Code::InvalidArgument && !error.message.contains(bad), "{error}");
        }
    }

    #[test]
    fn s_b22_a_credential_is_only_for_the_registry_that_it_names() {
        for (address, registry, is_for) in [
            ("", "a.example", true),
            ("a.example", "a.example", true),
            ("A.example", "a.example", true),
            ("https://a.example/v2/", "a.example", true),
            ("a.example:5000", "a.example:5000", true),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("registry-1.docker.io", "docker.io", true),
            ("a.example", "a.example:5000", false),
            ("a.example", "b.example", false),
            ("a.example", "docker.io", false),
            ("docker.io", "docker.io.example", false),
            ("https://a.example@b.example/", "a.example", false),
        ] {
            let auth =
                v1::AuthConfig { username: "u".into(), server_address: address.into(), ..v1::AuthConfig::default() };
            assert_eq!(login(Some(&auth), registry).unwrap().is_some(), is_for, "{address} {registry}");
        }
    }
}

//! `Debug` for the messages that carry secrets.

use std::fmt;

use crate::v1::AuthConfig;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .finish()
    }
}

/// Whether there is a secret is worth knowing when a pull is refused; what it is, never.
fn shown(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { "<redacted>" }
}

#[cfg(test)]
mod tests {
    use crate::v1::{AuthConfig, PullImageRequest};

    #[test]
    fn debug_shows_no_credential() {
        let auth = AuthConfig {
            username: "ada".into(),
            password: "pw-1".into(),
            auth: "basic-2".into(),
            server_address: "registry.example".into(),
            identity_token: "id-3".into(),
            registry_token: "bearer-4".into(),
        };
        let text = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        for secret in ["pw-1", "basic-2", "id-3", "bearer-4"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("ada") && text.contains("registry.example"), "{text}");
    }
}

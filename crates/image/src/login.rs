//! Who one is to a registry.

use std::fmt;

/// A credential for one registry. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Login {
    /// A name and a password, shown to the registry or to its token server.
    Basic { username: String, password: String },
    /// An identity token, which the registry's token server exchanges for another.
    Refresh { token: String },
    /// A token that the registry itself takes.
    Bearer { token: String },
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::Refresh { .. } => "Refresh(…)",
            Self::Bearer { .. } => "Bearer(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_shows_no_secret() {
        let logins = [
            Login::Basic { username: "name".into(), password: "geheim".into() },
            Login::Refresh { token: "geheim".into() },
            Login::Bearer { token: "geheim".into() },
        ];
        for login in logins {
            assert!(!format!("{login:?}").contains("geheim"));
        }
    }
}

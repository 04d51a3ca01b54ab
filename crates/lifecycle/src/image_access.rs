//! Which pods may use an image that is on the machine already.
//!
//! A registry may have given it to one pod's Secret only. What the kubelet remembers of its pulls says who was let in;
//! whoever is not among them has to be let in by the registry first, which costs no download.

use pod::image_name::{self, ImageNameError};

/// Secrets remembered of one image in one repository; the oldest goes for a new one.
pub const BEARERS_MAX: usize = 100;

/// Of which images it is asked who may use them (`imagePullCredentialsVerificationPolicy`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verification {
    /// Of none: what is here is everybody's.
    Never,
    /// Of those that the kubelet pulled.
    #[default]
    Pulled,
    /// Of those that the kubelet pulled, and of others except these.
    AllBut(Vec<Listed>),
    Always,
}

/// A repository, or all beneath a path, that others bring to the machine for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Full, without tag and digest.
    path: String,
    beneath: bool,
}

impl Listed {
    /// Reads `nginx`, `registry.example/team/app` or `registry.example/team/*`.
    ///
    /// # Errors
    /// It is neither, or has a tag or a digest.
    pub fn parse(text: &str) -> Result<Self, ImageNameError> {
        let Some(above) = text.strip_suffix("/*") else {
            return image_name::repository_alone(text).map(|path| Self { path, beneath: false });
        };
        // A registry alone is no image's name, and with one beneath it is.
        let path = image_name::repository_alone(&format!("{above}/any"))?;
        let path = path.strip_suffix("/any").unwrap_or(&path).to_owned();
        Ok(Self { path, beneath: true })
    }

    fn holds(&self, repository: &str) -> bool {
        match (repository.strip_prefix(&self.path), self.beneath) {
            (Some(rest), true) => rest.starts_with('/'),
            (Some(rest), false) => rest.is_empty(),
            (None, _) => false,
        }
    }
}

/// One Secret with a credential for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub namespace: String,
    pub name: String,
    /// Empty for a Secret of a manifest that has none.
    pub uid: String,
    /// Of the credential; tells nothing of it.
    pub hash: String,
}

impl Bearer {
    fn is_same_secret(&self, other: &Self) -> bool {
        (&self.namespace, &self.name, &self.uid) == (&other.namespace, &other.name, &other.uid)
    }
}

/// Whom a registry gave an image of one of its repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nobody in particular, or the node itself: any pod may use it.
    Everyone,
    /// Those with one of these, the oldest first.
    Bearers(Vec<Bearer>),
}

impl Access {
    /// Adds those who were let in as well.
    pub fn and(self, other: Access) -> Access {
        match (self, other) {
            (Access::Bearers(mut known), Access::Bearers(new)) => {
                for bearer in new {
                    known.retain(|old| !old.is_same_secret(&bearer));
                    known.push(bearer);
                }
                let surplus = known.len().saturating_sub(BEARERS_MAX);
                known.drain(..surplus);
                Access::Bearers(known)
            }
            (Access::Everyone, _) | (_, Access::Everyone) => Access::Everyone,
        }
    }
}

/// What is known of how an image came.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Not by this kubelet.
    Elsewhere,
    /// This kubelet pulled it; whom its registry let in, if it came from this repository.
    Pulled(Option<&'a Access>),
}

/// Whether a pod may use an image as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    Granted,
    /// And this one's credential is to be remembered.
    GrantedTo(&'a Bearer),
    /// If the registry says so.
    Ask,
}

/// Whether a pod with these credentials of its own may use an image of this repository (full, without tag and digest).
pub fn judge<'a>(verification: &Verification, repository: &str, origin: Origin<'_>, own: &'a [Bearer]) -> Verdict<'a> {
    let access = match (verification, origin) {
        (Verification::Never, _) | (Verification::Pulled, Origin::Elsewhere) => return Verdict::Granted,
        (Verification::AllBut(listed), Origin::Elsewhere) if listed.iter().any(|listed| listed.holds(repository)) => {
            return Verdict::Granted;
        }
        (_, Origin::Elsewhere) => None,
        (_, Origin::Pulled(access)) => access,
    };
    match access {
        None => Verdict::Ask,
        Some(Access::Everyone) => Verdict::Granted,
        Some(Access::Bearers(known)) => among(known, own),
    }
}

fn among<'a>(known: &[Bearer], own: &'a [Bearer]) -> Verdict<'a> {
    for bearer in own {
        if known.contains(bearer) {
            return Verdict::Granted;
        }
        // The same credential in another Secret, or another one in the same: who may write that Secret was let in.
        if known.iter().any(|known| known.hash == bearer.hash || known.is_same_secret(bearer)) {
            return Verdict::GrantedTo(bearer);
        }
    }
    Verdict::Ask
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "registry.example/team/app";

    fn bearer(name: &str, hash: &str) -> Bearer {
        Bearer { namespace: "default".into(), name: name.into(), uid: String::new(), hash: hash.into() }
    }

    fn listed(texts: &[&str]) -> Verification {
        Verification::AllBut(texts.iter().map(|text| Listed::parse(text).unwrap()).collect())
    }

    #[test]
    fn of_which_images_it_is_asked() {
        let (everyone, nobody) = (Access::Everyone, Access::Bearers(Vec::new()));
        let (pulled, private) = (Origin::Pulled(Some(&everyone)), Origin::Pulled(Some(&nobody)));
        let (granted, ask) = (Verdict::Granted, Verdict::Ask);
        for (verification, expected) in [
            (Verification::Never, [granted, granted, granted, granted]),
            (Verification::Pulled, [granted, ask, granted, ask]),
            (listed(&[APP]), [granted, ask, granted, ask]),
            (listed(&["registry.example/team/*"]), [granted, ask, granted, ask]),
            (listed(&["registry.example/*"]), [granted, ask, granted, ask]),
            (listed(&["registry.example/team"]), [ask, ask, granted, ask]),
            (listed(&["registry.example/team/ap/*", "nginx"]), [ask, ask, granted, ask]),
            (Verification::Always, [ask, ask, granted, ask]),
        ] {
            let origins = [Origin::Elsewhere, Origin::Pulled(None), pulled, private];
            let verdicts = origins.map(|origin| judge(&verification, APP, origin, &[]));
            assert_eq!(verdicts, expected, "{verification:?}");
        }
        let short = listed(&["nginx", "docker.io/team/*"]);
        for (repository, expected) in
            [("docker.io/library/nginx", granted), ("docker.io/team/x", granted), ("docker.io/teams/x", ask)]
        {
            assert_eq!(judge(&short, repository, Origin::Elsewhere, &[]), expected, "{repository}");
        }
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for text in ["nginx:1", "", "*", "registry.example/*/app", "registry.example/team*", "Team/app", "/*", "a//*"] {
            assert!(Listed::parse(text).is_err(), "{text}");
        }
        let digest = format!("nginx@sha256:{}", "0".repeat(64));
        assert!(Listed::parse(&digest).is_err());
    }

    #[test]
    fn s_b23_a_pod_with_another_credential_is_not_let_in() {
        let known = Access::Bearers(vec![bearer("one", "h1"), bearer("two", "h2")]);
        let origin = Origin::Pulled(Some(&known));
        let rotated = bearer("one", "h3");
        let copied = bearer("three", "h2");
        for (own, expected) in [
            (vec![bearer("one", "h1")], Verdict::Granted),
            (vec![bearer("zero", "h0"), bearer("two", "h2")], Verdict::Granted),
            (vec![rotated.clone()], Verdict::GrantedTo(&rotated)),
            (vec![copied.clone()], Verdict::GrantedTo(&copied)),
            (vec![bearer("zero", "h0")], Verdict::Ask),
            (vec![Bearer { namespace: "other".into(), ..rotated.clone() }], Verdict::Ask),
            (vec![Bearer { uid: "u".into(), ..rotated.clone() }], Verdict::Ask),
            (vec![], Verdict::Ask),
        ] {
            let verdict = judge(&Verification::default(), APP, origin, &own);
            assert_eq!(verdict, expected, "{own:?}");
        }
    }

    #[test]
    fn who_was_let_in_is_remembered_each_once_and_not_without_end() {
        let one = Access::Bearers(vec![bearer("a", "1")]);
        let both =
            one.clone().and(Access::Bearers(vec![bearer("b", "2")])).and(Access::Bearers(vec![bearer("a", "3")]));
        assert_eq!(both, Access::Bearers(vec![bearer("b", "2"), bearer("a", "3")]));
        assert_eq!(both.and(Access::Everyone), Access::Everyone);
        assert_eq!(Access::Everyone.and(one.clone()), Access::Everyone);
        let many =
            (0..BEARERS_MAX).fold(one, |known, n| known.and(Access::Bearers(vec![bearer(&format!("n{n}"), "h")])));
        let Access::Bearers(known) = many else { panic!() };
        assert_eq!((known.len(), known[0].name.as_str()), (BEARERS_MAX, "n0"), "the oldest went");
    }
}

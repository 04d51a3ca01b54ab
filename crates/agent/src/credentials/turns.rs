//! One credential after the other, for one image.

use std::collections::BTreeSet;

use cri::{Code, v1};

/// What the client of a runtime behind a socket puts before every message of a pull.
const CALL: &str = "pull_image: ";

/// What registries say of a credential that is not good enough, where the runtime does not say it by a code.
const REFUSALS: [&str; 5] = ["unauthorized", "authorization failed", "authentication required", "denied", "forbidden"];

/// A pull with one credential that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFailure {
    pub message: String,
    /// Whether it was the credential, or may have been.
    pub another_may_help: bool,
}

/// With the runtime's own words.
impl From<cri::Error> for PullFailure {
    fn from(error: cri::Error) -> Self {
        let another_may_help = another_may_help(&error);
        let message = error.message.strip_prefix(CALL).unwrap_or(&error.message).to_owned();
        Self { message, another_may_help }
    }
}

/// Asks with one credential after the other until one is good or no other could be; without any where none is known.
///
/// # Errors
/// What was said to each, once, and nothing of the credentials.
pub async fn with_each<T, F>(
    credentials: Vec<v1::AuthConfig>,
    ask: impl Fn(Option<v1::AuthConfig>) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<T, PullFailure>>,
{
    let credentials = if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
    let mut messages = Vec::new();
    for credential in credentials {
        let failure = match ask(credential.clone()).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        messages.push(without(credential.as_ref(), failure.message));
        if !failure.another_may_help {
            break;
        }
    }
    Err(together(messages))
}

/// Whether another credential could change the answer. A registry does not tell strangers what it has: what is not there
/// may be there for another.
fn another_may_help(error: &cri::Error) -> bool {
    match error.code {
        Code::NotFound | Code::Unauthenticated | Code::PermissionDenied => true,
        Code::Unknown | Code::Internal | Code::FailedPrecondition => {
            let message = error.message.to_lowercase();
            REFUSALS.iter().any(|refusal| message.contains(refusal))
        }
        _ => false,
    }
}

/// The message without what nobody is to read, should somebody repeat what he was given.
fn without(credential: Option<&v1::AuthConfig>, message: String) -> String {
    let Some(credential) = credential else { return message };
    let secrets = [&credential.password, &credential.auth, &credential.identity_token, &credential.registry_token];
    let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
    secrets.fold(message, |message, secret| message.replace(secret.as_str(), "<redacted>"))
}

/// Several errors as people know them: each once, in brackets if there are several.
fn together(messages: Vec<String>) -> String {
    let mut known = BTreeSet::new();
    let mut messages: Vec<String> = messages.into_iter().filter(|message| known.insert(message.clone())).collect();
    match messages.len() {
        1 => messages.remove(0),
        _ => format!("[{}]", messages.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::Error;
    use std::cell::RefCell;

    /// What comes of asking a registry that repeats what it was given, and who asked.
    async fn ask_with(known: &[(&str, &str)], good: &str) -> (Result<String, String>, Vec<String>) {
        let credential = |(user, password): &(&str, &str)| v1::AuthConfig {
            username: (*user).to_owned(),
            password: (*password).to_owned(),
            ..Default::default()
        };
        let asked = RefCell::new(Vec::new());
        let outcome = with_each(known.iter().map(credential).collect(), |auth| {
            let auth = auth.unwrap_or_default();
            asked.borrow_mut().push(auth.username.clone());
            async move {
                match auth.username.as_str() {
                    name if name == good => Ok(auth.username),
                    "full" => Err(Error::internal("pull_image: the disk is full").into()),
                    _ => Err(Error::new(Code::Unauthenticated, format!("{:?} is wrong", auth.password)).into()),
                }
            }
        });
        let outcome = outcome.await;
        (outcome, asked.into_inner())
    }

    #[tokio::test]
    async fn each_is_asked_until_one_is_good_or_none_could_be() {
        let (outcome, asked) = ask_with(&[("eve", "x1"), ("ada", "x2"), ("bob", "x3")], "ada").await;
        assert_eq!((outcome.as_deref(), asked.join(" ")), (Ok("ada"), "eve ada".into()));
        let (outcome, asked) = ask_with(&[("full", "x1"), ("ada", "x2")], "ada").await;
        assert_eq!((outcome, asked.len()), (Err("the disk is full".into()), 1), "another credential empties no disk");
        let (outcome, asked) = ask_with(&[], "ada").await;
        assert_eq!((outcome, asked), (Err("\"\" is wrong".into()), vec![String::new()]), "without any");
    }

    #[tokio::test]
    async fn s_b23_what_was_said_is_told_without_the_passwords() {
        let (outcome, _) = ask_with(&[("eve", "canary-1"), ("mal", "canary-2"), ("full", "canary-3")], "ada").await;
        assert_eq!(outcome, Err("[\"<redacted>\" is wrong, the disk is full]".into()));
        let all = v1::AuthConfig {
            auth: "canary-a".into(),
            identity_token: "canary-i".into(),
            registry_token: "canary-r".into(),
            ..Default::default()
        };
        let told = without(Some(&all), "canary-a, canary-i, canary-r".into());
        assert_eq!(told, "<redacted>, <redacted>, <redacted>");
    }

    #[test]
    fn only_a_refusal_leads_to_the_next_credential() {
        let table = [
            (Error::not_found("x"), true),
            (Error::new(Code::Unauthenticated, "x"), true),
            (Error::new(Code::PermissionDenied, "x"), true),
            (Error::new(Code::Unknown, "pull access denied, repository does not exist"), true),
            (Error::new(Code::Unknown, "unexpected status: 401 Unauthorized"), true),
            (Error::internal("no space left on device"), false),
            (Error::unavailable("connection refused"), false),
            (Error::deadline_exceeded("denied"), false),
        ];
        for (error, expected) in table {
            assert_eq!(another_may_help(&error), expected, "{error:?}");
        }
        assert_eq!(together(["a".into(), "b".into(), "a".into()].into()), "[a, b]");
    }
}

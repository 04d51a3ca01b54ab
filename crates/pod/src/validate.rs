//! The API's rules for a pod that is about to run. They are the outermost wall: what passes is safe to make paths, host names
//! and system calls of.

mod containers;
mod metadata;
mod node;
mod ports;
mod probes;
mod resources;
mod restart;
mod spec;

use crate::field::FieldError;
use k8s_openapi::api::core::v1::Pod;
use std::fmt::Display;

/// Everything wrong with a defaulted pod.
pub fn pod(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(&pod.metadata, &mut errors);
    match &pod.spec {
        Some(spec) => {
            spec::check(spec, &mut errors);
            resources::check_pod(pod, &mut errors);
        }
        None => errors.missing("spec", "a pod needs a spec with at least one container"),
    }
    errors.list
}

/// Collects what is wrong.
#[derive(Default)]
struct Errors {
    list: Vec<FieldError>,
}

impl Errors {
    fn invalid(&mut self, path: impl Into<String>, found: impl Display, message: impl Into<String>) {
        self.list.push(FieldError::with_found(path, found, message));
    }

    fn missing(&mut self, path: impl Into<String>, message: impl Display) {
        self.list.push(FieldError::new(path, format!("is required: {message}")));
    }

    fn forbidden(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.list.push(FieldError::new(path, message));
    }

    /// A name that is required and must keep a rule.
    fn name(&mut self, path: &str, name: &str, rule: (fn(&str) -> bool, &str)) {
        if name.is_empty() {
            self.missing(path, rule.1);
        } else if !rule.0(name) {
            self.invalid(path, name, rule.1);
        }
    }

    /// One of a few words, which has to be there.
    fn required_one_of(&mut self, path: &str, found: &str, allowed: &[&str]) {
        if found.is_empty() {
            self.missing(path, format!("one of {}", allowed.join(", ")));
        } else {
            self.one_of(path, Some(found), allowed);
        }
    }

    /// One of a few words; absent is fine, an empty word counts as absent.
    fn one_of(&mut self, path: &str, found: Option<&str>, allowed: &[&str]) {
        let Some(found) = found.filter(|found| !found.is_empty()) else { return };
        if !allowed.contains(&found) {
            self.invalid(path, found, format!("must be one of {}", allowed.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests;

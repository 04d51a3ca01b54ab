//! Names, labels, annotations.

use super::Errors;
use crate::names::{self, LABEL_RULE, LABEL_VALUE_RULE, QUALIFIED_RULE, SUBDOMAIN_RULE, UID_RULE};
use crate::support::push_key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Keys and values of all annotations together, bytes.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

pub(super) fn check(metadata: &ObjectMeta, errors: &mut Errors) {
    match metadata.name.as_deref() {
        None | Some("") => errors.missing("metadata.name", "name is needed for the pod"),
        Some(name) => errors.name("metadata.name", name, (names::is_subdomain, SUBDOMAIN_RULE)),
    }
    if let Some(namespace) = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        errors.name("metadata.namespace", namespace, (names::is_label, LABEL_RULE));
    }
    if let Some(uid) = metadata.uid.as_deref().filter(|uid| !uid.is_empty()) {
        errors.name("metadata.uid", uid, (names::is_uid, UID_RULE));
    }
    for (key, value) in metadata.labels.iter().flatten() {
        let mut path = "metadata.labels".to_owned();
        push_key(&mut path, key);
        if !names::is_qualified(key) {
            errors.invalid(path, key, format!("a label's key {QUALIFIED_RULE}"));
        } else if !names::is_label_value(value) {
            errors.invalid(path, value, format!("a label's value {LABEL_VALUE_RULE}"));
        }
    }
    let mut size = 0;
    for (key, value) in metadata.annotations.iter().flatten() {
        size += key.len() + value.len();
        if !names::is_qualified(&key.to_lowercase()) {
            let mut path = "metadata.annotations".to_owned();
            push_key(&mut path, key);
            errors.invalid(path, key, format!("an annotation's key {QUALIFIED_RULE}"));
        }
    }
    if size > ANNOTATIONS_MAX_BYTES {
        let message = format!("all annotations together may have at most {ANNOTATIONS_MAX_BYTES} bytes");
        errors.invalid("metadata.annotations", format!("{size} bytes"), message);
    }
}

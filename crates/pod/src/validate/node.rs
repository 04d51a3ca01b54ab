//! What a pod asks of the node it runs on.

use super::Errors;
use crate::names::{self, LABEL_VALUE_RULE, QUALIFIED_RULE, SUBDOMAIN_RULE};
use crate::support::push_key;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
/// The one field of a node that a term may ask for.
const NAME_FIELD: &str = "metadata.name";

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    if let Some(os) = &spec.os {
        errors.required_one_of("spec.os.name", &os.name, &["linux", "windows"]);
    }
    for (key, value) in spec.node_selector.iter().flatten() {
        let mut path = "spec.nodeSelector".to_owned();
        push_key(&mut path, key);
        if !names::is_qualified(key) {
            errors.invalid(path, key, format!("a label's key {QUALIFIED_RULE}"));
        } else if !names::is_label_value(value) {
            errors.invalid(path, value, format!("a label's value {LABEL_VALUE_RULE}"));
        }
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return };
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    if required.node_selector_terms.is_empty() {
        errors.missing(path, "at least one term, or else no node would do");
    }
    for (index, term) in required.node_selector_terms.iter().enumerate() {
        check_term(&format!("{path}[{index}]"), term, errors);
    }
}

fn check_term(path: &str, term: &NodeSelectorTerm, errors: &mut Errors) {
    for (index, expression) in term.match_expressions.iter().flatten().enumerate() {
        check_expression(&format!("{path}.matchExpressions[{index}]"), expression, errors);
    }
    for (index, field) in term.match_fields.iter().flatten().enumerate() {
        check_field(&format!("{path}.matchFields[{index}]"), field, errors);
    }
}

fn check_expression(path: &str, asked: &NodeSelectorRequirement, errors: &mut Errors) {
    errors.name(&format!("{path}.key"), &asked.key, (names::is_qualified, QUALIFIED_RULE));
    errors.required_one_of(&format!("{path}.operator"), &asked.operator, &OPERATORS);
    let values = asked.values.as_deref().unwrap_or_default();
    let path = format!("{path}.values");
    match (asked.operator.as_str(), values) {
        ("In" | "NotIn", []) => errors.missing(path, "one value or more for In and NotIn"),
        ("In" | "NotIn", _) => {
            for (index, value) in values.iter().enumerate().filter(|(_, value)| !names::is_label_value(value)) {
                errors.invalid(format!("{path}[{index}]"), value, LABEL_VALUE_RULE);
            }
        }
        ("Exists" | "DoesNotExist", [first, ..]) => {
            errors.invalid(path, first, "must be left out for Exists and DoesNotExist");
        }
        ("Gt" | "Lt", [one]) if one.parse::<i64>().is_err() => {
            errors.invalid(format!("{path}[0]"), one, "must be a whole number for Gt and Lt");
        }
        ("Gt" | "Lt", [_]) => {}
        ("Gt" | "Lt", _) => errors.invalid(path, values.join(", "), "must be exactly one value for Gt and Lt"),
        _ => {}
    }
}

fn check_field(path: &str, asked: &NodeSelectorRequirement, errors: &mut Errors) {
    errors.required_one_of(&format!("{path}.key"), &asked.key, &[NAME_FIELD]);
    errors.required_one_of(&format!("{path}.operator"), &asked.operator, &["In", "NotIn"]);
    match asked.values.as_deref().unwrap_or_default() {
        [one] => errors.name(&format!("{path}.values[0]"), one, (names::is_subdomain, SUBDOMAIN_RULE)),
        values => errors.invalid(format!("{path}.values"), values.join(", "), "must be exactly one name of a node"),
    }
}

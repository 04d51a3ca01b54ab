//! Restart policies and rules of single containers.

use super::Errors;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;

pub(super) fn check(path: &str, container: &Container, errors: &mut Errors) {
    let policy = container.restart_policy.as_deref();
    errors.one_of(&format!("{path}.restartPolicy"), policy, &["Always", "OnFailure", "Never"]);
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if !rules.is_empty() && policy.unwrap_or_default().is_empty() {
        let message = "restartPolicyRules need one to fall back to: Always, OnFailure or Never";
        errors.missing(format!("{path}.restartPolicy"), message);
    }
    let path = format!("{path}.restartPolicyRules");
    if rules.len() > RULES_MAX {
        return errors.invalid(path, format!("{} rules", rules.len()), format!("at most {RULES_MAX} are allowed"));
    }
    for (index, rule) in rules.iter().enumerate() {
        check_rule(&format!("{path}[{index}]"), rule, errors);
    }
}

fn check_rule(path: &str, rule: &ContainerRestartRule, errors: &mut Errors) {
    errors.required_one_of(&format!("{path}.action"), &rule.action, &["Restart", "RestartAllContainers"]);
    let path = format!("{path}.exitCodes");
    let Some(on_exit) = &rule.exit_codes else {
        return errors.missing(path, "the exit codes at which the rule acts: operator and values");
    };
    errors.required_one_of(&format!("{path}.operator"), &on_exit.operator, &["In", "NotIn"]);
    match on_exit.values.as_deref().unwrap_or_default().len() {
        0 => errors.missing(format!("{path}.values"), "one exit code or more"),
        1..=CODES_MAX => {}
        count => {
            let message = format!("at most {CODES_MAX} are allowed");
            errors.invalid(format!("{path}.values"), format!("{count} values"), message);
        }
    }
}

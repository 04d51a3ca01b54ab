//! Signals by which a container may ask to be stopped.

/// Those of Linux without the real-time ones.
const PLAIN: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
pub const SIGNAL_RULE: &str =
    "must be a signal's full name, as in SIGTERM, SIGUSR1, SIGRTMIN+1 (up to +15) or SIGRTMAX-1 (up to -14)";

/// Whether it is the full name of a signal, spelt as the API spells it.
pub fn is_signal(name: &str) -> bool {
    let within = |steps: &str, max: u8| (1..=max).any(|step| step.to_string() == steps);
    PLAIN.contains(&name)
        || matches!(name, "SIGRTMIN" | "SIGRTMAX")
        || name.strip_prefix("SIGRTMIN+").is_some_and(|steps| within(steps, 15))
        || name.strip_prefix("SIGRTMAX-").is_some_and(|steps| within(steps, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_signals() {
        for good in ["SIGTERM", "SIGUSR1", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "TERM", "15", "sigterm", "SIGRTMIN+0", "SIGRTMIN+16", "SIGRTMIN+01", "SIGRTMAX-15", "SIGNOT"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}

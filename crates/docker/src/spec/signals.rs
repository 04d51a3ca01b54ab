//! Names of signals, as the CRI has them and as images and Docker do.

use cri::v1;

/// By their numbers, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The signal a pod wishes for, as Docker writes it; `None` leaves it to the image.
pub(crate) fn docker_name(asked: i32) -> Option<String> {
    let asked = v1::Signal::try_from(asked).ok().filter(|signal| *signal != v1::Signal::RuntimeDefault)?;
    // Docker knows one name for each number.
    let name = match asked {
        v1::Signal::Sigcld => "SIGCHLD",
        v1::Signal::Sigiot => "SIGABRT",
        v1::Signal::Sigpoll => "SIGIO",
        other => other.as_str_name(),
    };
    Some(name.replace("PLUS", "+").replace("MINUS", "-"))
}

/// The signal that Docker will send; SIGTERM where it has none, or one that it passes over.
pub(crate) fn protocol_name(configured: Option<&str>) -> v1::Signal {
    let upper = configured.unwrap_or_default().to_ascii_uppercase();
    let name = match upper.parse::<usize>() {
        Ok(number) => number.checked_sub(1).and_then(|index| NAMES.get(index)).copied().unwrap_or_default(),
        Err(_) => upper.strip_prefix("SIG").unwrap_or(&upper),
    };
    let name = format!("SIG{}", name.replace('+', "PLUS").replace('-', "MINUS"));
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::Sigterm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_protocol_is_told_and_read_again() {
        assert_eq!(docker_name(0), None);
        assert_eq!(docker_name(9_999), None);
        for number in 1..=65 {
            let Ok(signal) = v1::Signal::try_from(number) else { continue };
            let name = docker_name(number).unwrap();
            assert_eq!(docker_name(protocol_name(Some(&name)).into()).unwrap(), name, "{signal:?}");
        }
    }

    #[test]
    fn s_c10_what_an_image_says_is_read_in_every_form() {
        for (text, signal) in [
            (None, v1::Signal::Sigterm),
            (Some(""), v1::Signal::Sigterm),
            (Some("SIGQUIT"), v1::Signal::Sigquit),
            (Some("quit"), v1::Signal::Sigquit),
            (Some("3"), v1::Signal::Sigquit),
            (Some("31"), v1::Signal::Sigsys),
            (Some("SIGRTMIN+3"), v1::Signal::Sigrtminplus3),
            (Some("SIGFOO"), v1::Signal::Sigterm),
            (Some("0"), v1::Signal::Sigterm),
            (Some("9999"), v1::Signal::Sigterm),
        ] {
            assert_eq!(protocol_name(text), signal, "{text:?}");
        }
    }
}

//! Names and numbers of signals.

use cri::v1;

const SIGTERM: i32 = 15;
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// Linux' numbers on the architectures in use; names of one number that has two come twice.
const NUMBERS: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`; as an image's `STOPSIGNAL` has it.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits.parse::<i32>().ok(),
        None => rest.is_empty().then_some(0),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        SIGRTMIN.checked_add(real_time(rest, '+')?)?
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        SIGRTMAX.checked_sub(real_time(rest, '-')?)?
    } else {
        return NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    };
    (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number)
}

/// The signal that asks a container to end: the pod's wish, else the image's, else SIGTERM. An image's that is no
/// signal is passed over, as other runtimes do.
pub(crate) fn stop_signal(asked: i32, image: Option<&str>) -> i32 {
    let asked = v1::Signal::try_from(asked).ok().filter(|signal| *signal != v1::Signal::RuntimeDefault);
    let by_name = |signal: v1::Signal| parse(&signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-"));
    asked.and_then(by_name).or_else(|| image.and_then(parse)).unwrap_or(SIGTERM)
}

/// The protocol's name for a signal, for statuses.
pub(crate) fn protocol_name(number: i32) -> v1::Signal {
    let named = NUMBERS.iter().find(|(_, known)| *known == number).map(|(name, _)| format!("SIG{name}"));
    let real_time = || match number {
        SIGRTMIN => Some("SIGRTMIN".to_owned()),
        SIGRTMAX => Some("SIGRTMAX".to_owned()),
        35..=49 => Some(format!("SIGRTMINPLUS{}", number - SIGRTMIN)),
        50..=63 => Some(format!("SIGRTMAXMINUS{}", SIGRTMAX - number)),
        _ => None,
    };
    named.or_else(real_time).and_then(|name| v1::Signal::from_str_name(&name)).unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_c10_signals_are_read_in_every_form_and_nothing_else_is() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGQUIT", Some(3)),
            ("SIGFOO", None),
            ("9999", None),
            ("-1", None),
            ("0", None),
            ("", None),
            ("SIGRTMIN+40", None),
            ("SIGRTMIN-1", None),
            ("RTMAX-99999999999", None),
        ] {
            assert_eq!(parse(text), number, "{text:?}");
        }
    }

    #[test]
    fn s_c10_the_pods_wish_comes_before_the_images_and_sigterm_is_the_last_resort() {
        let int = v1::Signal::Sigint.into();
        assert_eq!(stop_signal(int, Some("SIGQUIT")), 2);
        assert_eq!(stop_signal(0, Some("SIGQUIT")), 3);
        assert_eq!(stop_signal(0, Some("SIGFOO")), 15);
        assert_eq!(stop_signal(0, None), 15);
        assert_eq!(stop_signal(9_999, None), 15);
    }

    #[test]
    fn every_signal_of_the_protocol_is_understood_and_named_again() {
        for number in 1..=66 {
            let Ok(signal) = v1::Signal::try_from(number) else { continue };
            let linux = stop_signal(number, None);
            assert_eq!(stop_signal(protocol_name(linux).into(), None), linux, "{signal:?}");
            assert!(linux != 15 || signal == v1::Signal::Sigterm, "{signal:?}");
        }
    }
}

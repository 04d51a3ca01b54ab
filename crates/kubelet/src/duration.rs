//! Durations as the field writes them: `300ms`, `20s`, `1m30s`, `2h45m`.

use std::time::Duration;

/// Parses a duration; the error says what is allowed. Negative ones are refused.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: expected numbers with units, such as 300ms, 20s or 1m30s");
    pod::duration::parse(text).ok_or_else(wrong)
}

/// The time since something, the way `kubectl get` shows it: two units at most.
pub(crate) fn human_age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |whole: i64, unit: &str, part: i64, small: &str| match part {
        0 => format!("{whole}{unit}"),
        part => format!("{whole}{unit}{part}{small}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_duration_is_told() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        let wrong = parse_duration("-1s").unwrap_err();
        assert_eq!(wrong, "\"-1s\" is not a duration: expected numbers with units, such as 300ms, 20s or 1m30s");
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (150, "2m30s"),
            (3600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
            (900_000, "10d"),
        ] {
            assert_eq!(human_age(seconds), text);
        }
    }
}

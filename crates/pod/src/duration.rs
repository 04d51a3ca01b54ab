//! Durations as the API writes them: `300ms`, `20s`, `1m30s`, `2h45m`.

use std::time::Duration;

const UNITS: [(&str, f64); 7] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// None where it is no duration; negative ones are none either.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total_ns) = (text, 0.0_f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, ns) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        total_ns += number * ns;
        rest = &rest[end..];
    }
    let is_one = !text.is_empty() && total_ns <= u64::MAX as f64;
    is_one.then(|| Duration::from_nanos(total_ns as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [("0", 0), ("300ms", 300), ("20s", 20_000), ("1m30s", 90_000), ("1.5h", 5_400_000)] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "20", "s", "-1s", "1 s", "1x", "1e3s", "99999999999h", ".s", "1.2.3s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

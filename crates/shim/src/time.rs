//! Clocks, and the one form in which a time is written.

use rustix::time::{ClockId, clock_gettime};

const NS: i64 = 1_000_000_000;

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(NS).saturating_add(now.tv_nsec)
}

/// Milliseconds since boot, suspended time included: a grace period must not grow by a nap of the machine.
pub(crate) fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// `2016-10-06T00:17:09.669794202Z`
pub(crate) fn rfc3339(ns: i64) -> [u8; 30] {
    let (days, seconds) = (ns.div_euclid(86_400 * NS), ns.div_euclid(NS).rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    for (at, width, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, seconds / 3600),
        (14, 2, seconds / 60 % 60),
        (17, 2, seconds % 60),
        (20, 9, ns.rem_euclid(NS)),
    ] {
        put_digits(&mut text[at..at + width], value);
    }
    text
}

/// `20161006-001709`
pub(crate) fn compact(ns: i64) -> String {
    let text = rfc3339(ns);
    let digits = |range: std::ops::Range<usize>| text[range].iter().copied().filter(u8::is_ascii_digit).map(char::from);
    digits(0..10).chain(['-']).chain(digits(11..19)).collect()
}

fn put_digits(place: &mut [u8], mut value: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day since the epoch in the proleptic Gregorian calendar, counted in 400-year eras that
/// begin on a first of March, so that the leap day is the last of its year. An i64 of nanoseconds spans 1677 to 2262.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_format_asks() {
        for (ns, text, short) in [
            (0, "1970-01-01T00:00:00.000000000Z", "19700101-000000"),
            (1_475_713_029_669_794_202, "2016-10-06T00:17:09.669794202Z", "20161006-001709"),
            (951_782_400 * NS, "2000-02-29T00:00:00.000000000Z", "20000229-000000"),
            (4_107_542_399 * NS + 1, "2100-02-28T23:59:59.000000001Z", "21000228-235959"),
            (-1, "1969-12-31T23:59:59.999999999Z", "19691231-235959"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z", "22620411-234716"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z", "16770921-001243"),
        ] {
            assert_eq!(std::str::from_utf8(&rfc3339(ns)).unwrap(), text);
            assert_eq!(compact(ns), short);
        }
    }
}

//! Kubernetes quantities, exactly: `100m`, `1.5Gi`, `2e3`. No floating point; what does not divide is rounded up.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::num::IntErrorKind;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
/// No quantity is above 2^63−1 units.
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;
/// Significant digits kept: 10^20 · 2^60 still fits an `i128`. More integer digits overflow anyway; more decimals round up.
const MAX_DIGITS: usize = 20;
/// Bytes of text that are looked at; nobody writes longer numbers.
const MAX_TEXT_BYTES: usize = 128;

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("is not a quantity: expected a number and a suffix, as in 500m, 2, 1.5Gi, 100M or 1e6")]
    Malformed,
    #[error("is too large: a quantity may not exceed 2^63-1")]
    Overflow,
}

/// An exact amount in billionths of a unit (a core, a byte).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i128);

impl Amount {
    pub const ZERO: Amount = Amount(0);

    /// Parses a quantity. More precision than billionths is rounded up, away from zero.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(QuantityError::Malformed);
        }
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, suffix) = unsigned.split_at(end);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && decimals.is_empty() || decimals.contains('.') {
            return Err(QuantityError::Malformed);
        }
        let nanos = scale(digits(whole, decimals)?, suffix_factor(suffix)?).ok_or(QuantityError::Overflow)?;
        if nanos > MAX_NANOS {
            return Err(QuantityError::Overflow);
        }
        Ok(Self(if negative { -nanos } else { nanos }))
    }

    /// Whole units (bytes), rounded up.
    pub fn units(self) -> i64 {
        clamp(ceil_div(self.0, NANOS_PER_UNIT))
    }

    /// Thousandths (milli-cores), rounded up, at most `i64::MAX`.
    pub fn millis(self) -> i64 {
        clamp(ceil_div(self.0, NANOS_PER_MILLI))
    }

    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether nothing is left below one unit.
    pub fn is_whole_units(self) -> bool {
        self.0 % NANOS_PER_UNIT == 0
    }

    /// The sum; stays at the largest amount rather than wrapping.
    pub fn saturating_add(self, other: Self) -> Self {
        Self((self.0 + other.0).min(MAX_NANOS))
    }
}

/// Bytes in a text such as `10Mi`, rounded up to whole ones.
pub fn bytes(text: &str) -> Result<i64, QuantityError> {
    Amount::parse(text).map(Amount::units)
}

impl TryFrom<&Quantity> for Amount {
    type Error = QuantityError;

    fn try_from(quantity: &Quantity) -> Result<Self, QuantityError> {
        Amount::parse(&quantity.0)
    }
}

/// `digits · 10^exp10`, still unscaled by the suffix.
struct Digits {
    value: i128,
    exp10: i32,
}

/// `2^exp2 · 10^exp10`.
struct Factor {
    exp2: u32,
    exp10: i32,
}

fn digits(whole: &str, decimals: &str) -> Result<Digits, QuantityError> {
    let decimals = decimals.trim_end_matches('0');
    let mut text = format!("{whole}{decimals}");
    let mut exp10 = -(decimals.len() as i32);
    let leading_zeros = text.bytes().take_while(|b| *b == b'0').count();
    text.drain(..leading_zeros);
    let mut rounded_up = 0;
    while text.len() > MAX_DIGITS {
        // Only decimals may be dropped; so many integer digits are too large whatever the suffix.
        if exp10 >= 0 {
            return Err(QuantityError::Overflow);
        }
        text.pop();
        exp10 += 1;
        rounded_up = 1;
    }
    let value: i128 = if text.is_empty() { 0 } else { text.parse().map_err(|_| QuantityError::Malformed)? };
    Ok(Digits { value: value + rounded_up, exp10 })
}

fn suffix_factor(suffix: &str) -> Result<Factor, QuantityError> {
    let (exp2, exp10) = match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => return exponent_factor(suffix),
    };
    Ok(Factor { exp2, exp10 })
}

/// `e3`, `E-2`. Exponents beyond an `i32` behave like the largest one.
fn exponent_factor(suffix: &str) -> Result<Factor, QuantityError> {
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
    let exp10 = match exponent.parse::<i32>() {
        Ok(value) => value.clamp(-1000, 1000),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => 1000,
        Err(error) if *error.kind() == IntErrorKind::NegOverflow => -1000,
        Err(_) => return Err(QuantityError::Malformed),
    };
    Ok(Factor { exp2: 0, exp10 })
}

/// In nanos, rounded up; none on overflow.
fn scale(digits: Digits, factor: Factor) -> Option<i128> {
    if digits.value == 0 {
        return Some(0);
    }
    let scaled = digits.value.checked_mul(1_i128.checked_shl(factor.exp2)?)?;
    let exp10 = digits.exp10 + factor.exp10 + 9;
    let power = 10_i128.checked_pow(exp10.unsigned_abs());
    match (exp10 >= 0, power) {
        (true, power) => scaled.checked_mul(power?),
        (false, Some(power)) => Some(ceil_div(scaled, power)),
        (false, None) => Some(1),
    }
}

/// Rounds away from zero.
fn ceil_div(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn millis_and_units_are_exact_or_rounded_up() {
        let table = [
            ("0", 0, 0),
            ("100m", 100, 1),
            ("0.1", 100, 1),
            (".5", 500, 1),
            ("5.", 5000, 5),
            ("+2", 2000, 2),
            ("-1", -1000, -1),
            ("-1500m", -1500, -2),
            ("1.0001", 1001, 2),
            ("1u", 1, 1),
            ("1n", 1, 1),
            ("0.0000000001", 1, 1),
            ("1k", 1_000_000, 1000),
            ("1Ki", 1_024_000, 1024),
            ("0.1Ki", 102_400, 103),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("128974848", 128_974_848_000, 128_974_848),
            ("129e6", 129_000_000_000, 129_000_000),
            ("129M", 129_000_000_000, 129_000_000),
            ("128974848000m", 128_974_848_000, 128_974_848),
            ("123Mi", 128_974_848_000, 128_974_848),
            ("1E3", 1_000_000, 1000),
            ("1E", i64::MAX, 1_000_000_000_000_000_000),
            ("1e-3", 1, 1),
            ("1e-99999999999", 1, 1),
            ("0e99999999999", 0, 0),
            ("9223372036854775807", i64::MAX, i64::MAX),
            ("000000000000000000000000000001", 1000, 1),
        ];
        for (text, millis, units) in table {
            let amount = Amount::parse(text).unwrap();
            assert_eq!((amount.millis(), amount.units()), (millis, units), "{text}");
        }
    }

    #[test]
    fn malformed() {
        for text in
            ["", "m", ".", "-", "1.2.3", "1 Gi", "1gi", "1KB", "1e", "1e1.5", "0x10", "١", "1e+", "--1", "1Gi ", "inf"]
        {
            assert_eq!(Amount::parse(text), Err(QuantityError::Malformed), "{text:?}");
        }
        assert_eq!(Amount::parse(&"1".repeat(200)), Err(QuantityError::Malformed));
    }

    #[test]
    fn overflow() {
        let rounds_up_to_8_ei = "7.9999999999999999999999999Ei";
        let many = "9".repeat(40);
        for text in ["9223372036854775808", "8Ei", "10E", "1e19", "1e99999999999", &many, rounds_up_to_8_ei] {
            assert_eq!(Amount::parse(text), Err(QuantityError::Overflow), "{text}");
        }
    }

    #[test]
    fn bytes_of_a_text() {
        assert_eq!(bytes("10Mi"), Ok(10 << 20));
        assert_eq!(bytes("0.5"), Ok(1));
        assert_eq!(bytes("ten"), Err(QuantityError::Malformed));
    }

    #[test]
    fn order_is_that_of_numbers() {
        assert!(Amount::parse("1000m").unwrap() == Amount::parse("1").unwrap());
        assert!(Amount::parse("1G").unwrap() < Amount::parse("1Gi").unwrap());
    }
}

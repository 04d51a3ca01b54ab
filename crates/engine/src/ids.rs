use std::fmt::Write;

/// A new random id: 32 hexadecimal digits.
pub(crate) fn new_id() -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    // 16 bytes are below the 256 that getrandom(2) never cuts short.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

/// Whether a name found on disk can be one of ours.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_hexadecimal_digits_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert!(is_id(&a) && is_id(&b), "{a} {b}");
        assert_ne!(a, b);
        for other in ["", "..", "0123456789abcdef0123456789abcdeF", "0123456789abcdef0123456789abcde/"] {
            assert!(!is_id(other), "{other}");
        }
    }
}

//! Compression of layers and archives, told by the first bytes and not by what a media type claims.

use crate::error::LayerError;
use std::io::{self, BufRead, BufReader, Read};

/// log2 of the largest window that a zstd stream may ask for: 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const MAGIC_LEN: usize = 6;
const BUFFER_BYTES: usize = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

fn detect(magic: &[u8]) -> Result<Compression, LayerError> {
    let other = |format| Err(LayerError::Compression { format });
    match magic {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        // A skippable frame, with which some zstd writers begin.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => other("xz"),
        [b'B', b'Z', b'h', ..] => other("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => other("lz4"),
        [0x5d, 0, 0, ..] => other("lzma"),
        _ => Ok(Compression::Plain),
    }
}

/// Looks at the first bytes of `reader` and gives back its plain content.
pub(crate) fn decoder<'a>(mut reader: impl Read + 'a) -> Result<(Compression, Box<dyn Read + 'a>), LayerError> {
    let mut magic = Vec::with_capacity(MAGIC_LEN);
    reader.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut magic).map_err(LayerError::from_read)?;
    let compression = detect(&magic)?;
    let whole = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(magic).chain(reader));
    let plain: Box<dyn Read + 'a> = match compression {
        Compression::Plain => Box::new(whole),
        Compression::Gzip => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(whole)))
        }
        Compression::Zstd => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd_decoder(whole).map_err(LayerError::from_read)?))
        }
    };
    Ok((compression, plain))
}

fn zstd_decoder<'a>(reader: impl BufRead + 'a) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::Decoder::with_buffer(reader)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (_, mut reader) = decoder(bytes).map_err(io::Error::other)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out).map(|_| out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_three_forms_are_read() {
        let text = b"some text".repeat(10_000);
        assert_eq!(plain(&text).unwrap(), text);
        assert_eq!(plain(&gzip(&text)).unwrap(), text);
        assert_eq!(plain(&[gzip(b"one, "), gzip(b"two")].concat()).unwrap(), b"one, two", "several members");
        assert_eq!(plain(&zstd::encode_all(&text[..], 1).unwrap()).unwrap(), text);
        let skippable = [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..], &zstd::encode_all(&b"x"[..], 1).unwrap()].concat();
        assert_eq!(plain(&skippable).unwrap(), b"x");
    }

    #[test]
    fn s_b04_other_compressions_are_refused_by_name() {
        for (magic, name) in [(&b"\xfd7zXZ\0rest"[..], "xz"), (b"BZh91AY", "bzip2"), (b"\x04\x22\x4d\x18....", "lz4")] {
            match decoder(magic) {
                Err(LayerError::Compression { format }) => assert_eq!(format, name),
                other => panic!("{:?}", other.map(|(c, _)| c)),
            }
        }
    }

    #[test]
    fn s_b09_damaged_streams_and_huge_windows_are_refused() {
        let good = gzip(&b"0123456789".repeat(1_000));
        assert!(plain(&good[..good.len() - 9]).is_err(), "cut off");
        let mut wrong = good.clone();
        let crc = wrong.len() - 8;
        wrong[crc] ^= 1;
        assert!(plain(&wrong).is_err(), "wrong checksum");
        assert!(plain(&[&good[..], b"junk"].concat()).is_err(), "junk after the end");

        let with_window = |log: u32| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(b"small").unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(plain(&with_window(27)).unwrap(), b"small");
        assert!(plain(&with_window(30)).is_err());
    }
}

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn data(stream: u32, payload: &'static [u8], last: bool) -> Frame {
    Frame::Data { stream, payload: Bytes::from_static(payload), last }
}

fn some_frames() -> Vec<Frame> {
    vec![
        Frame::Open { stream: 1, headers: headers(&[(STREAM_TYPE, "error")]) },
        Frame::Open { stream: 3, headers: headers(&[(STREAM_TYPE, "stdin"), ("port", "80")]) },
        Frame::Accept { stream: 1 },
        Frame::Accept { stream: 3 },
        data(3, b"hello", false),
        data(3, b"", true),
        Frame::Ping { id: 7 },
        Frame::Reset { stream: 3, status: 5 },
        Frame::GoAway,
    ]
}

fn written(frames: &[Frame]) -> BytesMut {
    let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
    for frame in frames {
        encoder.encode(frame, &mut bytes).unwrap();
    }
    bytes
}

fn read(mut bytes: BytesMut) -> Result<Vec<Frame>, FrameError> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    while let Some(frame) = decoder.decode(&mut bytes)? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn frames_are_read_back_however_they_are_cut() {
    let frames = some_frames();
    let bytes = written(&frames);
    assert_eq!(read(bytes.clone()), Ok(frames.clone()));
    let (mut decoder, mut buffer, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
    for byte in bytes {
        buffer.put_u8(byte);
        while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
            found.push(frame);
        }
    }
    assert_eq!(found, frames);
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    assert_eq!(&written(&[data(5, b"ab", true)])[..], b"\0\0\0\x05\x01\0\0\x02ab");
    assert_eq!(&written(&[Frame::Ping { id: 9 }])[..], b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x09");
    let open = written(&some_frames()[..1]);
    assert_eq!(open[..4], *b"\x80\x03\0\x01");
    assert_eq!(open[8..18], *b"\0\0\0\x01\0\0\0\0\0\0", "stream, associated stream, priority and slot");
    assert_eq!(open[20..24], *b"\xe3\xc6\xa7\xc2", "the dictionary's checksum");
}

#[test]
fn what_means_nothing_here_is_passed_over() {
    let mut bytes =
        BytesMut::from(&b"\x80\x03\0\x04\0\0\0\x04\0\0\0\0\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\0\0\0\x01"[..]);
    bytes.extend_from_slice(&written(&[Frame::Ping { id: 1 }]));
    assert_eq!(read(bytes), Ok(vec![Frame::Ping { id: 1 }]));
}

#[test]
fn s_f04_lengths_versions_and_headers_have_limits() {
    let cases: [(&[u8], FrameError); 5] = [
        (b"\x80\x03\0\x01\0\xff\xff\xff", FrameError::TooLong { bytes: 0xff_ffff, limit: CONTROL_MAX_BYTES }),
        (b"\0\0\0\x01\0\xff\xff\xff", FrameError::TooLong { bytes: 0xff_ffff, limit: DATA_MAX_BYTES }),
        (b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01", FrameError::Version { version: 2 }),
        (b"\x80\x03\0\x01\0\0\0\x04\0\0\0\x01", FrameError::Short { kind: SYN_STREAM }),
        (b"\x80\x03\0\x02\0\0\0\x08\0\0\0\x01abcd", FrameError::Headers),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read(BytesMut::from(bytes)), Err(expected), "{bytes:?}");
    }
}

#[test]
fn s_f04_a_header_block_that_swells_is_cut() {
    let mut deflate = Compress::new(Compression::best(), true);
    deflate.set_dictionary(&DICTIONARY).unwrap();
    let mut bomb = Vec::with_capacity(CONTROL_MAX_BYTES);
    deflate.compress_vec(&vec![0; 16 << 20], &mut bomb, FlushCompress::Sync).unwrap();
    let mut bytes = BytesMut::from(&b"\x80\x03\0\x02"[..]);
    bytes.put_u32(4 + bomb.len() as u32);
    bytes.put_u32(1);
    bytes.put_slice(&bomb);
    assert_eq!(read(bytes), Err(FrameError::Headers));
}

#[test]
fn s_m01_damaged_frames_never_panic() {
    let bytes = written(&some_frames());
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            // Whatever it says, it says so.
            let _answer = read(damaged);
        }
        let mut cut = bytes.clone();
        cut.truncate(at);
        let _answer = read(cut);
    }
}

//! SPDY/3.1 framing, as far as the field's streaming endpoints speak it. Both ends of a session use this module.
//!
//! Streams are opened with headers, carry data both ways, and are closed one way at a time: that is why they are still
//! spoken where WebSocket's older subprotocols are, which cannot end a command's input. There is no flow control:
//! the peers here do none.

mod dictionary;

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use dictionary::DICTIONARY;

/// What the HTTP upgrade is called.
pub const UPGRADE: &str = "SPDY/3.1";
/// The protocol on top, whose streams end with a `metav1.Status`; sent in `X-Stream-Protocol-Version`.
pub const PROTOCOL: &str = "v4.channel.k8s.io";
/// The protocol of forwarded ports: two streams for each connection.
pub const PORT_FORWARD: &str = "portforward.k8s.io";
/// The header of a stream that says what it carries.
pub const STREAM_TYPE: &str = "streamtype";

/// Data in one frame; the peers send 32 KiB.
const DATA_MAX_BYTES: usize = 1 << 20;
/// Any other frame.
const CONTROL_MAX_BYTES: usize = 64 << 10;
/// A header block after decompression.
const HEADERS_MAX_BYTES: usize = 64 << 10;
const HEADERS_MAX: u32 = 100;
const HEAD_BYTES: usize = 8;

const CONTROL: u16 = 0x8000;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const STREAM_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Names of headers in lower case, and their values.
pub type HeaderMap = BTreeMap<String, String>;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The sender of a stream whose number it chose: odd for clients.
    Open { stream: u32, headers: HeaderMap },
    /// The stream is welcome.
    Accept { stream: u32 },
    /// With `last`, the sender sends no more in this stream.
    Data { stream: u32, payload: Bytes, last: bool },
    /// The stream is given up in both directions.
    Reset { stream: u32, status: u32 },
    /// To be sent back as it is.
    Ping { id: u32 },
    /// No more streams are taken.
    GoAway,
}

/// Why a peer is not understood. There is nothing left to do with the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {bytes} bytes, more than the {limit} allowed")]
    TooLong { bytes: usize, limit: usize },
    #[error("a frame of version {version}, expected 3")]
    Version { version: u16 },
    #[error("a frame of type {kind} that ends too soon")]
    Short { kind: u16 },
    #[error("headers that are damaged or larger than {HEADERS_MAX_BYTES} bytes")]
    Headers,
}

/// Writes frames. All header blocks of a connection are one compressed stream, so there is one of these for each.
#[derive(Debug)]
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // It fails only after the first byte was compressed.
        let _accepted = deflate.set_dictionary(&DICTIONARY);
        Self { deflate }
    }
}

impl Encoder {
    /// Appends the frame to `out`. Data must not exceed what [`Decoder`] takes, 1 MiB.
    ///
    /// # Errors
    /// The frame is too long for the other end.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::Open { stream, headers } => {
                let mut body = BytesMut::new();
                body.put_u32(stream & STREAM_MASK);
                // No associated stream, no priority, no slot.
                body.put_bytes(0, 6);
                self.headers(headers, &mut body)?;
                control(SYN_STREAM, &body, out)
            }
            Frame::Accept { stream } => {
                let mut body = BytesMut::new();
                body.put_u32(stream & STREAM_MASK);
                self.headers(&HeaderMap::new(), &mut body)?;
                control(SYN_REPLY, &body, out)
            }
            Frame::Data { stream, payload, last } => {
                let length = checked(payload.len(), DATA_MAX_BYTES)?;
                out.put_u32(stream & STREAM_MASK);
                out.put_u32(u32::from(if *last { FIN } else { 0 }) << 24 | length);
                out.put_slice(payload);
                Ok(())
            }
            Frame::Reset { stream, status } => control(RST_STREAM, &words([stream & STREAM_MASK, *status]), out),
            Frame::Ping { id } => control(PING, &id.to_be_bytes(), out),
            Frame::GoAway => control(GO_AWAY, &words([0, 0]), out),
        }
    }

    fn headers(&mut self, headers: &HeaderMap, body: &mut BytesMut) -> Result<(), FrameError> {
        let mut plain = BytesMut::new();
        let count = u32::try_from(headers.len()).map_err(|_| FrameError::Headers)?;
        plain.put_u32(count);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(checked(text.len(), HEADERS_MAX_BYTES)?);
            plain.put_slice(text.as_bytes());
        }
        // What deflate cannot make smaller it makes a little larger.
        let mut packed = Vec::with_capacity(plain.len() + 256);
        self.deflate.compress_vec(&plain, &mut packed, FlushCompress::Sync).map_err(|_| FrameError::Headers)?;
        body.put_slice(&packed);
        Ok(())
    }
}

fn words(words: [u32; 2]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&words[0].to_be_bytes());
    bytes[4..].copy_from_slice(&words[1].to_be_bytes());
    bytes
}

fn control(kind: u16, body: &[u8], out: &mut BytesMut) -> Result<(), FrameError> {
    let length = checked(body.len(), CONTROL_MAX_BYTES)?;
    out.put_u16(CONTROL | VERSION);
    out.put_u16(kind);
    out.put_u32(length);
    out.put_slice(body);
    Ok(())
}

fn checked(bytes: usize, limit: usize) -> Result<u32, FrameError> {
    match u32::try_from(bytes) {
        Ok(length) if bytes <= limit => Ok(length),
        _ => Err(FrameError::TooLong { bytes, limit }),
    }
}

/// Reads frames; one for each connection, as with [`Encoder`].
#[derive(Debug)]
pub struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes the next frame off the front of `bytes`; none while it is not all there. Frames that mean nothing here
    /// (settings, windows) are passed over.
    ///
    /// # Errors
    /// The peer is not understood, or asks for more memory than it is given.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        while bytes.len() >= HEAD_BYTES {
            let mut head = &bytes[..HEAD_BYTES];
            let (first, second) = (head.get_u32(), head.get_u32());
            let is_control = first >> 31 == 1;
            let length = (second & 0x00ff_ffff) as usize;
            checked(length, if is_control { CONTROL_MAX_BYTES } else { DATA_MAX_BYTES })?;
            if bytes.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            bytes.advance(HEAD_BYTES);
            let body = bytes.split_to(length).freeze();
            let last = (second >> 24) as u8 & FIN != 0;
            if !is_control {
                return Ok(Some(Frame::Data { stream: first & STREAM_MASK, payload: body, last }));
            }
            let version = (first >> 16) as u16 & !CONTROL;
            if version != VERSION {
                return Err(FrameError::Version { version });
            }
            if let Some(frame) = self.control(first as u16, body, last)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    fn control(&mut self, kind: u16, mut body: Bytes, last: bool) -> Result<Option<Frame>, FrameError> {
        let least = match kind {
            SYN_STREAM => 10,
            RST_STREAM => 8,
            SYN_REPLY | PING | HEADERS => 4,
            GO_AWAY => return Ok(Some(Frame::GoAway)),
            _ => return Ok(None),
        };
        if body.len() < least {
            return Err(FrameError::Short { kind });
        }
        let stream = body.get_u32();
        let frame = match kind {
            SYN_STREAM => {
                body.advance(6);
                Frame::Open { stream: stream & STREAM_MASK, headers: self.headers(&body)? }
            }
            SYN_REPLY => {
                self.headers(&body)?;
                Frame::Accept { stream: stream & STREAM_MASK }
            }
            HEADERS => {
                // They belong to the compressed stream, whatever they say.
                self.headers(&body)?;
                return Ok(None);
            }
            RST_STREAM => Frame::Reset { stream: stream & STREAM_MASK, status: body.get_u32() },
            _ => Frame::Ping { id: stream },
        };
        // Headers may close a stream as data may.
        match (last, frame) {
            (true, Frame::Accept { stream }) => Ok(Some(Frame::Data { stream, payload: Bytes::new(), last: true })),
            (_, frame) => Ok(Some(frame)),
        }
    }

    fn headers(&mut self, packed: &[u8]) -> Result<HeaderMap, FrameError> {
        let mut plain = Vec::with_capacity(HEADERS_MAX_BYTES);
        let began = self.inflate.total_in();
        loop {
            let used = usize::try_from(self.inflate.total_in() - began).map_err(|_| FrameError::Headers)?;
            match self.inflate.decompress_vec(&packed[used..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(FrameError::Headers),
                Ok(_) => break,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Headers)?;
                }
                Err(_) => return Err(FrameError::Headers),
            }
        }
        let all = usize::try_from(self.inflate.total_in() - began).is_ok_and(|used| used == packed.len());
        if !all || plain.len() == HEADERS_MAX_BYTES {
            return Err(FrameError::Headers);
        }
        parse_headers(&plain).ok_or(FrameError::Headers)
    }
}

fn parse_headers(mut plain: &[u8]) -> Option<HeaderMap> {
    let text = |plain: &mut &[u8]| {
        let length = usize::try_from(plain.try_get_u32().ok()?).ok()?;
        let (text, rest) = plain.split_at_checked(length)?;
        *plain = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let count = plain.try_get_u32().ok().filter(|count| *count <= HEADERS_MAX)?;
    (0..count).map(|_| Some((text(&mut plain)?.to_ascii_lowercase(), text(&mut plain)?))).collect()
}

#[cfg(test)]
mod tests;

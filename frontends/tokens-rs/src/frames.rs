//! Length-prefixed frames: four bytes, little-endian, then that many bytes of msgpack.

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use std::fmt;

/// Bytes. Far above any message of a sane size; keeps a broken or hostile peer from claiming our memory.
pub const MAX_FRAME: usize = 64 << 20;
/// Bytes a peer may send in one frame before it has proved that it knows the launch secret.
pub const MAX_UNPROVEN_FRAME: usize = 1024;

const HEADER: usize = 4;
const READ_SIZE: usize = 1 << 16;

/// The peer broke the framing, or sent what does not decode; the connection is of no more use.
#[derive(Debug)]
pub struct FrameError(pub String);

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FrameError {}

/// Append one frame, header included. A message that no receiver would take is an error and appends nothing.
pub fn append<M: Serialize + ?Sized>(out: &mut Vec<u8>, message: &M) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let written = rmp_serde::encode::write(out, message);
    let length = out.len() - start - HEADER;
    let problem = match written {
        Err(error) => error.to_string(),
        Ok(()) if length > MAX_FRAME => format!("a message of {length} bytes is over the frame limit of {MAX_FRAME}"),
        Ok(()) => {
            out[start..start + HEADER].copy_from_slice(&(length as u32).to_le_bytes());
            return Ok(());
        }
    };
    out.truncate(start);
    Err(FrameError(problem))
}

/// Cuts a byte stream into frame bodies.
pub struct FrameReader {
    pub limit: usize,
    buffer: BytesMut,
}

impl FrameReader {
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: BytesMut::new() }
    }

    /// Where the next bytes go; has room for some.
    pub fn space(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_SIZE);
        &mut self.buffer
    }

    /// The next whole body; None until more bytes come.
    pub fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = self.buffer.get(..HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes(header.try_into().expect("four bytes")) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(FrameError(format!("the peer announced a frame of {length} bytes; the limit is {limit}")));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Blob;

    fn read(reader: &mut FrameReader, bytes: &[u8]) {
        reader.space().extend_from_slice(bytes);
    }

    #[test]
    fn a_frame_is_its_length_in_little_endian_and_its_body() {
        let mut out = vec![7];
        append(&mut out, &(40, "a")).unwrap();
        assert_eq!(out, [7, 4, 0, 0, 0, 0x92, 40, 0xa1, b'a']);
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let mut stream = Vec::new();
        for number in 0..3u8 {
            append(&mut stream, &vec![number; 300]).unwrap();
        }
        let mut reader = FrameReader::new(MAX_FRAME);
        let mut bodies = Vec::new();
        for piece in stream.chunks(7) {
            read(&mut reader, piece);
            while let Some(body) = reader.take().unwrap() {
                bodies.push(body);
            }
        }
        assert_eq!(bodies.len(), 3);
        for (number, body) in bodies.iter().enumerate() {
            assert_eq!(rmp_serde::from_slice::<Vec<u8>>(body).unwrap(), vec![number as u8; 300]);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_from_its_header_alone() {
        let mut reader = FrameReader::new(MAX_UNPROVEN_FRAME);
        read(&mut reader, &1025u32.to_le_bytes());
        assert!(reader.take().unwrap_err().0.contains("1025 bytes"));
    }

    #[test]
    fn a_message_that_no_receiver_takes_is_not_sent() {
        let mut out = vec![1];
        assert!(append(&mut out, &Blob(vec![0; MAX_FRAME])).is_err());
        assert_eq!(out, [1]);
    }
}

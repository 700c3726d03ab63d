//! Inputs in LZ4: all frames of a file. The library reads one.

use std::io::{Chain, Cursor, Error, ErrorKind, Read, Result};

use lz4_flex::frame::FrameDecoder;

/// The shortest beginning of a frame, in bytes.
const HEAD: usize = 7;

type Frame<R> = FrameDecoder<Chain<Cursor<[u8; HEAD]>, Inside<R>>>;

/// The bytes of a frame. The library reads none after it, and takes an end within a frame for the end of the input, so that is an
/// error here.
pub(super) struct Inside<R>(R);

impl<R: Read> Read for Inside<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(cut()),
            count => Ok(count),
        }
    }
}

fn cut() -> Error {
    // The library swallows errors of the kind `UnexpectedEof`.
    Error::new(ErrorKind::InvalidData, "an LZ4 frame is cut")
}

/// The contents of all frames of a reader, one after the other.
pub(super) enum Frames<R: Read> {
    /// Before a frame.
    Between(R),
    /// In a frame.
    Within(Box<Frame<R>>),
    /// After the last one, or after an error.
    Ended,
}

impl<R: Read> Frames<R> {
    pub(super) fn of(reader: R) -> Self {
        Self::Between(reader)
    }

    /// Begins the next frame, or ends if there is none.
    ///
    /// # Errors
    ///
    /// When the reader ends within the first bytes of a frame, which the library takes for the end of the input.
    fn begin(&mut self) -> Result<()> {
        let Self::Between(mut reader) = std::mem::replace(self, Self::Ended) else { return Ok(()) };
        let (mut head, mut filled) = ([0; HEAD], 0);
        while filled < HEAD {
            match reader.read(&mut head[filled..]) {
                Ok(0) if filled == 0 => return Ok(()),
                Ok(0) => return Err(cut()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let bytes = Cursor::new(head).chain(Inside(reader));
        *self = Self::Within(Box::new(FrameDecoder::new(bytes)));
        Ok(())
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self {
                Self::Between(_) => self.begin()?,
                Self::Ended => return Ok(0),
                Self::Within(frame) => match frame.read(buffer)? {
                    0 => {
                        let Self::Within(frame) = std::mem::replace(self, Self::Ended) else {
                            return Ok(0);
                        };
                        // Its first bytes are read.
                        let (_, Inside(reader)) = frame.into_inner().into_inner();
                        *self = Self::Between(reader);
                    }
                    count => return Ok(count),
                },
            }
        }
    }
}

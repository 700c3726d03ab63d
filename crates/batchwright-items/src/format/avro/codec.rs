//! Compressed blocks, <https://avro.apache.org/docs/1.12.0/specification/#required-codecs>.

use std::borrow::Cow;
use std::io::{Cursor, Read, Write as _};

use batchwright::ItemError;

use crate::transport::Compression;

/// Maximum size of a block, as it is in the file and decompressed, in bytes.
pub(super) const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the checksum after the content of a block.
const CHECKSUM_BYTES: usize = 4;

/// The compression of the blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Deflate,
    Snappy,
    /// One whose blocks are members as in files of their own.
    Member(Compression),
}

impl Codec {
    /// Returns the codec called `name`.
    pub(super) fn of(name: &[u8]) -> Result<Self, String> {
        Ok(match name {
            b"null" => Self::None,
            b"deflate" => Self::Deflate,
            b"snappy" => Self::Snappy,
            b"zstandard" => Self::Member(Compression::Zstd),
            b"bzip2" => Self::Member(Compression::Bzip2),
            b"xz" => Self::Member(Compression::Xz),
            other => {
                return Err(format!("its codec `{}` is not known", String::from_utf8_lossy(other)));
            }
        })
    }

    /// Returns the content of the block `bytes`.
    pub(super) fn decompress(self, bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Self::None => Ok(Cow::Borrowed(bytes)),
            Self::Deflate => bounded(flate2::read::DeflateDecoder::new(bytes)).map(Cow::Owned),
            Self::Snappy => snappy(bytes).map(Cow::Owned),
            Self::Member(compression) => {
                let content = compression.decompressed(Box::new(Cursor::new(bytes.to_vec())));
                let content = content.map_err(|error| error.to_string())?;
                let absent =
                    || compression.check().err().map_or_else(String::new, |e| e.to_string());
                bounded(content.ok_or_else(absent)?).map(Cow::Owned)
            }
        }
    }
}

/// Reads all of `content`, which has no more bytes than a block may have.
fn bounded(content: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = content.take(BLOCK_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("it cannot be decompressed: {error}"))?;
    match bytes.len() <= BLOCK_BYTES_MAX {
        true => Ok(bytes),
        false => Err(format!("it has more than {BLOCK_BYTES_MAX} bytes when it is decompressed")),
    }
}

fn snappy(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (content, checksum) =
        bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it has no checksum")?;
    let failed = |error: snap::Error| format!("it cannot be decompressed: {error}");
    if snap::raw::decompress_len(content).map_err(failed)? > BLOCK_BYTES_MAX {
        return Err(format!("it has more than {BLOCK_BYTES_MAX} bytes when it is decompressed"));
    }
    let content = snap::raw::Decoder::new().decompress_vec(content).map_err(failed)?;
    let mut crc = flate2::Crc::new();
    crc.update(&content);
    match crc.sum().to_be_bytes() == *checksum {
        true => Ok(content),
        false => Err("its checksum is another".to_owned()),
    }
}

/// Returns `content`, compressed by deflate.
pub(super) fn deflate(content: &[u8]) -> Result<Vec<u8>, ItemError> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_expands_is_refused_before_it_takes_the_memory() {
        let large = vec![0; BLOCK_BYTES_MAX + 1];
        let deflated = deflate(&large).unwrap();
        let mut snappy = snap::raw::Encoder::new().compress_vec(&large).unwrap();
        snappy.extend([0; CHECKSUM_BYTES]);
        for (codec, bytes) in [(Codec::Deflate, deflated), (Codec::Snappy, snappy)] {
            let refused = codec.decompress(&bytes).unwrap_err();
            assert!(refused.contains("when it is decompressed"), "{refused}");
        }
    }

    #[test]
    fn a_block_that_is_damaged_is_refused() {
        let mut bytes = snap::raw::Encoder::new().compress_vec(b"content").unwrap();
        bytes.extend([0; CHECKSUM_BYTES]);
        assert_eq!(Codec::Snappy.decompress(&bytes).unwrap_err(), "its checksum is another");
        for codec in [Codec::Deflate, Codec::Snappy, Codec::Member(Compression::Zstd)] {
            codec.decompress(b"\xff\xff\xff\xff\xff").unwrap_err();
        }
        assert!(Codec::of(b"lzma").unwrap_err().contains("codec `lzma`"));
    }
}

//! Compressed inputs and outputs, recognized by the extension of their names.

#[cfg(feature = "lz4")]
mod lz4;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;

use super::source::{ByteSource, OpenSource};

/// A compression of files: each name is also its extension.
///
/// An output is a series of members, one for each chunk, so that a restart can cut it back to its last checkpoint and
/// continue it. Every tool reads such a series as one content. An input may have one member or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, `.gz`; feature `gzip`.
    Gzip,
    /// Zstandard, `.zst`; feature `zstd`.
    Zstd,
    /// bzip2, `.bz2`; feature `bzip2`.
    Bzip2,
    /// xz, `.xz`; feature `xz`.
    Xz,
    /// The frame format of LZ4, `.lz4`; feature `lz4`.
    Lz4,
}

/// Extensions, compressions, and the features that contain them.
const KNOWN: [(&str, Compression, &str); 5] = [
    ("gz", Compression::Gzip, "gzip"),
    ("zst", Compression::Zstd, "zstd"),
    ("bz2", Compression::Bzip2, "bzip2"),
    ("xz", Compression::Xz, "xz"),
    ("lz4", Compression::Lz4, "lz4"),
];

impl Compression {
    /// Returns the compression that the extension of `path` names, in any case of letters.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        let found = KNOWN.iter().find(|(known, ..)| known.eq_ignore_ascii_case(extension));
        found.map(|(_, compression, _)| *compression)
    }

    /// Returns a reader of the content of `bytes`.
    fn decompressed(self, bytes: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, ItemError> {
        Ok(match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            #[cfg(feature = "zstd")]
            Self::Zstd => Box::new(zstd::Decoder::new(bytes)?),
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(bytes)),
            #[cfg(feature = "xz")]
            Self::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(bytes)),
            #[cfg(feature = "lz4")]
            Self::Lz4 => Box::new(lz4::Frames::of(bytes)),
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            absent => return Err(absent.absent()),
        })
    }

    /// Appends `content`, compressed as one member, to `bytes`.
    pub(super) fn compress(self, content: &[u8], bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        use std::io::Write as _;
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => {
                let mut member =
                    flate2::write::GzEncoder::new(bytes, flate2::Compression::default());
                member.write_all(content)?;
                member.finish()?;
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => {
                let mut member = zstd::Encoder::new(bytes, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                member.include_checksum(true)?;
                member.write_all(content)?;
                member.finish()?;
            }
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => {
                let mut member = bzip2::write::BzEncoder::new(bytes, bzip2::Compression::default());
                member.write_all(content)?;
                member.finish()?;
            }
            #[cfg(feature = "xz")]
            Self::Xz => {
                let mut member = liblzma::write::XzEncoder::new(bytes, 6);
                member.write_all(content)?;
                member.finish()?;
            }
            #[cfg(feature = "lz4")]
            Self::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
                let mut member = lz4_flex::frame::FrameEncoder::with_frame_info(info, bytes);
                member.write_all(content)?;
                member.finish().map_err(std::io::Error::from)?;
            }
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            absent => return Err(absent.absent()),
        }
        Ok(())
    }

    /// Whether this program contains the compression.
    ///
    /// # Errors
    ///
    /// When its feature is not enabled.
    pub(super) fn check(self) -> Result<(), ItemError> {
        let is_there = match self {
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Zstd => cfg!(feature = "zstd"),
            Self::Bzip2 => cfg!(feature = "bzip2"),
            Self::Xz => cfg!(feature = "xz"),
            Self::Lz4 => cfg!(feature = "lz4"),
        };
        if is_there { Ok(()) } else { Err(self.absent()) }
    }

    fn absent(self) -> ItemError {
        let known = KNOWN.iter().find(|(_, compression, _)| *compression == self);
        let (extension, _, feature) = known.expect("each compression is known");
        ItemError::fatal(format!(
            "this program was built without the compression of `.{extension}`; enable the feature `{feature}`"
        ))
    }
}

/// The content of a compressed source. A restart decompresses it again up to its position.
pub(super) struct Decompressed {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) compression: Compression,
}

impl ByteSource for Decompressed {
    fn shown(&self) -> String {
        self.source.shown()
    }

    fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError> {
        let OpenSource { bytes, identity, held, .. } = self.source.open_at(0)?;
        let mut content = self.compression.decompressed(bytes)?;
        let passed = std::io::copy(&mut (&mut content).take(byte), &mut std::io::sink());
        let passed = passed.map_err(|error| {
            let what = format!("cannot read `{}`", self.shown());
            ItemError::wrap(ErrorKind::IO, what, error)
        })?;
        if passed < byte {
            return Err(ItemError::new(
                ErrorKind::INPUT_CHANGED,
                format!(
                    "cannot continue `{}`: it has only {passed} bytes when decompressed, and the position is byte {byte}",
                    self.shown()
                ),
            ));
        }
        Ok(OpenSource { bytes: content, identity, length: None, held })
    }
}

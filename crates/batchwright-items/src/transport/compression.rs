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

/// Maximum memory for reading a file in xz, in bytes: enough for its highest preset.
#[cfg(feature = "xz")]
const XZ_MEMORY_MAX: u64 = 128 * 1024 * 1024;
/// The smallest dictionary of xz, and that of its preset 6, in bytes.
#[cfg(feature = "xz")]
const XZ_DICTIONARY_MIN: u32 = 4096;
#[cfg(feature = "xz")]
const XZ_DICTIONARY_MAX: u32 = 8 * 1024 * 1024;

/// The content of a file, decompressed.
type Decoder = Box<dyn Read + Send>;

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

    /// Returns a reader of the content of `bytes`; `None` if this program does not contain the compression.
    #[allow(unreachable_code, reason = "without any feature nothing is decompressed")]
    pub(crate) fn decompressed(
        self,
        bytes: Box<dyn Read + Send>,
    ) -> std::io::Result<Option<Decoder>> {
        Ok(Some(match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            #[cfg(feature = "zstd")]
            Self::Zstd => Box::new(zstd::Decoder::new(bytes)?),
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(bytes)),
            #[cfg(feature = "xz")]
            Self::Xz => {
                use liblzma::stream::{CONCATENATED, Stream};
                let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED)?;
                Box::new(liblzma::read::XzDecoder::new_stream(bytes, stream))
            }
            #[cfg(feature = "lz4")]
            Self::Lz4 => Box::new(lz4::Frames::of(bytes)),
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            _ => {
                drop(bytes);
                return Ok(None);
            }
        }))
    }

    /// Appends `content`, compressed as one member, to `bytes`.
    pub(crate) fn compress(self, content: &[u8], bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip => {
                let mut member =
                    flate2::write::GzEncoder::new(bytes, flate2::Compression::default());
                std::io::Write::write_all(&mut member, content)?;
                member.finish()?;
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => {
                let mut member = zstd::Encoder::new(bytes, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                member.include_checksum(true)?;
                std::io::Write::write_all(&mut member, content)?;
                member.finish()?;
            }
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => {
                let mut member = bzip2::write::BzEncoder::new(bytes, bzip2::Compression::default());
                std::io::Write::write_all(&mut member, content)?;
                member.finish()?;
            }
            #[cfg(feature = "xz")]
            Self::Xz => {
                use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
                // A dictionary larger than the content takes memory for nothing.
                let mut options = LzmaOptions::new_preset(6).map_err(std::io::Error::from)?;
                let most = u32::try_from(content.len()).unwrap_or(u32::MAX).max(XZ_DICTIONARY_MIN);
                options.dict_size(most.min(XZ_DICTIONARY_MAX));
                let mut filters = Filters::new();
                let stream = Stream::new_stream_encoder(filters.lzma2(&options), Check::Crc64)
                    .map_err(std::io::Error::from)?;
                let mut member = liblzma::write::XzEncoder::new_stream(bytes, stream);
                std::io::Write::write_all(&mut member, content)?;
                member.finish()?;
            }
            #[cfg(feature = "lz4")]
            Self::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
                let mut member = lz4_flex::frame::FrameEncoder::with_frame_info(info, bytes);
                std::io::Write::write_all(&mut member, content)?;
                member.finish().map_err(std::io::Error::from)?;
            }
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            absent => {
                let _ = (content, bytes);
                return Err(absent.absent());
            }
        }
        #[allow(unreachable_code, reason = "without any feature nothing is compressed")]
        Ok(())
    }

    /// Whether this program contains the compression.
    ///
    /// # Errors
    ///
    /// When its feature is not enabled.
    pub(crate) fn check(self) -> Result<(), ItemError> {
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
        let failed = |error| {
            let what = format!("cannot decompress `{}`", self.shown());
            ItemError::wrap(ErrorKind::IO, what, error)
        };
        let OpenSource { bytes, identity, held, .. } = self.source.open_at(0)?;
        let decoder = self.compression.decompressed(bytes).map_err(failed)?;
        let mut content =
            Lasting { inner: decoder.ok_or_else(|| self.compression.absent())?, failure: None };
        let passed = std::io::copy(&mut (&mut content).take(byte), &mut std::io::sink());
        let passed = passed.map_err(failed)?;
        if passed < byte {
            return Err(ItemError::new(
                ErrorKind::INPUT_CHANGED,
                format!(
                    "cannot continue `{}`: it has only {passed} bytes when decompressed, and the position is byte {byte}",
                    self.shown()
                ),
            ));
        }
        Ok(OpenSource { bytes: Box::new(content), identity, length: None, held })
    }
}

/// A decoder whose first failure remains: some of them end after it, as if the content were complete.
struct Lasting {
    inner: Decoder,
    failure: Option<(std::io::ErrorKind, String)>,
}

impl Read for Lasting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some((kind, message)) = &self.failure {
            return Err(std::io::Error::new(*kind, message.clone()));
        }
        self.inner.read(buffer).inspect_err(|error| {
            if error.kind() != std::io::ErrorKind::Interrupted {
                self.failure = Some((error.kind(), error.to_string()));
            }
        })
    }
}

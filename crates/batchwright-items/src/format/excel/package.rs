//! The package of a workbook: a ZIP archive whose last member, the sheet, grows with every chunk.
//!
//! The compressed bytes of a chunk end on a byte of their own (a full flush, RFC 1951 3.2.3 and zlib's manual), so those of all
//! chunks one after the other are one compressed member, and a restart cuts the archive back to the end of a chunk. The size
//! and the checksum of the member are not known before its end; they follow it, as APPNOTE.TXT 4.3.9 describes.

use std::io::{self, BufRead, BufReader, Read};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use flate2::bufread::DeflateDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// A member of the archive.
struct Member<'a> {
    name: &'a str,
    /// General purpose flags; bit 3 says that size and checksum follow the content.
    flags: u16,
    method: u16,
    checksum: u32,
    compressed: u32,
    size: u32,
    at: u32,
}

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Size and checksum follow the content.
const FOLLOWED: u16 = 1 << 3;
/// 1980-01-01, so that equal sheets are equal files.
const DAY: u16 = 0x21;
/// Version 2.0 of the format.
const VERSION: u16 = 20;

/// The beginning of an archive: members that are complete, and the header of the one that grows.
pub(super) struct Begin<'a> {
    pub(super) bytes: Vec<u8>,
    /// Number of bytes before the content of the growing member.
    pub(super) header_bytes: usize,
    members: Vec<Member<'a>>,
}

impl<'a> Begin<'a> {
    /// Returns the beginning of the archive with `parts`, by their names, and the member `growing`.
    pub(super) fn new(parts: &'a [(&'static str, String)], growing: &'a str) -> Self {
        let mut begin = Self { bytes: Vec::new(), header_bytes: 0, members: Vec::new() };
        for (name, content) in parts {
            let mut checksum = Crc::new();
            checksum.update(content.as_bytes());
            let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
            begin.member(name, (0, STORED), checksum.sum(), size);
            begin.bytes.extend_from_slice(content.as_bytes());
        }
        begin.member(growing, (FOLLOWED, DEFLATED), 0, 0);
        begin.header_bytes = begin.bytes.len();
        begin
    }

    fn member(&mut self, name: &'a str, (flags, method): (u16, u16), checksum: u32, size: u32) {
        let at = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let member = Member { name, flags, method, checksum, compressed: size, size, at };
        self.bytes.extend_from_slice(&0x0403_4b50_u32.to_le_bytes());
        member.describe(&mut self.bytes);
        self.bytes.extend_from_slice(&0_u16.to_le_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.members.push(member);
    }

    /// Appends the end of the archive to `bytes`: the rest of the growing member, `content`, and the list of all members.
    /// `written` are its compressed bytes so far. Returns the number of rows in the member.
    ///
    /// # Errors
    ///
    /// When `written` cannot be read or is no part of such a member, or a size exceeds 4 GiB.
    pub(super) fn end(
        mut self,
        written: impl Read,
        content: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<u64, ItemError> {
        let mut end = Vec::new();
        compress(content, FlushCompress::Finish, &mut end)?;
        let whole = measure(written.chain(&end[..])).map_err(|error| {
            let what = "cannot read what was written of a workbook";
            ItemError::wrap(ErrorKind::IO, what, error)
        })?;
        let large = |_| ItemError::fatal("cannot end a workbook: it would be larger than 4 GiB");
        if let Some(growing) = self.members.last_mut() {
            growing.checksum = whole.checksum;
            growing.size = u32::try_from(whole.size).map_err(large)?;
            growing.compressed = u32::try_from(whole.compressed).map_err(large)?;
            end.extend_from_slice(&0x0807_4b50_u32.to_le_bytes());
            for number in [growing.checksum, growing.compressed, growing.size] {
                end.extend_from_slice(&number.to_le_bytes());
            }
        }
        let described = 4 * 4;
        let list_at = self.header_bytes as u64 + whole.compressed + described;
        let list_at = u32::try_from(list_at).map_err(large)?;
        let before = end.len();
        for member in &self.members {
            end.extend_from_slice(&0x0201_4b50_u32.to_le_bytes());
            end.extend_from_slice(&VERSION.to_le_bytes());
            member.describe(&mut end);
            // No further fields, no comment, the first disk, no attributes.
            end.extend_from_slice(&[0; 12]);
            end.extend_from_slice(&member.at.to_le_bytes());
            end.extend_from_slice(member.name.as_bytes());
        }
        let count = u16::try_from(self.members.len()).unwrap_or(u16::MAX);
        let list = u32::try_from(end.len() - before).unwrap_or(u32::MAX);
        end.extend_from_slice(&0x0605_4b50_u32.to_le_bytes());
        end.extend_from_slice(&[0; 4]);
        end.extend_from_slice(&count.to_le_bytes());
        end.extend_from_slice(&count.to_le_bytes());
        end.extend_from_slice(&list.to_le_bytes());
        end.extend_from_slice(&list_at.to_le_bytes());
        end.extend_from_slice(&[0; 2]);
        bytes.append(&mut end);
        Ok(whole.rows)
    }
}

impl Member<'_> {
    /// Appends what the header of the member and its entry in the list have in common.
    fn describe(&self, bytes: &mut Vec<u8>) {
        for number in [VERSION, self.flags, self.method, 0, DAY] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.checksum, self.compressed, self.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let length = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
    }
}

/// Appends the compressed form of `content` to `bytes`; it ends on a byte of its own, and `end` is the flush at its end.
pub(super) fn compress(
    content: &[u8],
    end: FlushCompress,
    bytes: &mut Vec<u8>,
) -> Result<(), ItemError> {
    let mut compress = Compress::new(Compression::default(), false);
    loop {
        bytes.reserve(content.len() / 4 + 1_024);
        let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        let status = compress.compress_vec(&content[read..], bytes, end);
        let status =
            status.map_err(|error| ItemError::fatal(format!("cannot compress: {error}")))?;
        let is_read = compress.total_in() == content.len() as u64;
        // With room left there is nothing that a further call would append.
        if status == Status::StreamEnd || (is_read && bytes.len() < bytes.capacity()) {
            return Ok(());
        }
    }
}

/// What is known of a member once it is complete.
struct Measures {
    checksum: u32,
    compressed: u64,
    size: u64,
    rows: u64,
}

fn measure(compressed: impl Read) -> io::Result<Measures> {
    const ROW: &[u8] = b"<row>";
    let mut content = DeflateDecoder::new(BufReader::new(compressed));
    let mut buffer = vec![0; 64 * 1024];
    let (mut checksum, mut rows, mut matched) = (Crc::new(), 0, 0);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            let (compressed, size) = (content.total_in(), content.total_out());
            return match content.into_inner().fill_buf()?.is_empty() {
                true => Ok(Measures { checksum: checksum.sum(), compressed, size, rows }),
                false => Err(io::Error::other("it has an end in its middle")),
            };
        }
        checksum.update(&buffer[..count]);
        for byte in &buffer[..count] {
            matched = match *byte {
                byte if byte == ROW[matched] => matched + 1,
                b'<' => 1,
                _ => 0,
            };
            if matched == ROW.len() {
                (rows, matched) = (rows + 1, 0);
            }
        }
    }
}

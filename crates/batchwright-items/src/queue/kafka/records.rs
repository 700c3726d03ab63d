//! The messages of an answer, <https://kafka.apache.org/documentation/#recordbatch>.

use std::collections::HashSet;
use std::io::{Cursor, Read};
use std::ops::Range;

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::AbortedTransaction;
use kafka_protocol::records::{Compression as Codec, Record, RecordBatchDecoder};

use crate::transport::Compression;

/// Maximum size of a batch when it is decompressed, in bytes.
const BATCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Maximum number of messages of a batch.
const BATCH_RECORDS_MAX: i32 = 1_000_000;
/// No further batch is decoded after this many bytes, so that many small ones that expand do not take the memory together.
const DECODED_BYTES: usize = 64 * 1024 * 1024;
/// Number of bytes before what the length of a batch counts, and places in it.
const HEAD_BYTES: usize = 12;
const LENGTH: Range<usize> = 8..12;
const ATTRIBUTES: Range<usize> = 21..23;
const LAST_OFFSET: Range<usize> = 23..27;
const LAST_TIME: Range<usize> = 35..43;
const COUNT: Range<usize> = 57..61;
/// The bit of the attributes that says that all messages have the time at which the broker stored them.
const IS_STORED_TIME: i16 = 1 << 3;
/// The first bytes of a batch in the form of Snappy that Java's library writes, and the number of bytes before its blocks.
const JAVA_SNAPPY: &[u8] = b"\x82SNAPPY\0";
const JAVA_SNAPPY_HEAD: usize = 16;

/// Messages, and the offset after the batches that they are from.
pub(super) struct Decoded {
    pub(super) records: Vec<Record>,
    pub(super) next: i64,
}

/// Decodes the batches in `bytes`; the last one may be incomplete. Messages before the offset `from`, and those of `aborted`
/// transactions, are left out.
pub(super) fn decode(
    mut bytes: Bytes,
    from: i64,
    aborted: &[AbortedTransaction],
) -> Result<Decoded, String> {
    let mut decoded = Decoded { records: Vec::new(), next: from };
    let mut aborted = Aborted::of(aborted);
    let mut size = 0;
    while let Some(length) = length_of_batch(&bytes)? {
        let mut batch = bytes.split_to(length);
        let first = i64::from_be_bytes(array(&batch, 0..8));
        let last = first.saturating_add(i32::from_be_bytes(array(&batch, LAST_OFFSET)).into());
        let count = i32::from_be_bytes(array(&batch, COUNT));
        if !(0..=BATCH_RECORDS_MAX).contains(&count) {
            return Err(format!("the batch at offset {first} says it has {count} messages"));
        }
        let attributes = i16::from_be_bytes(array(&batch, ATTRIBUTES));
        let stored_time = (attributes & IS_STORED_TIME != 0)
            .then(|| i64::from_be_bytes(array(&batch, LAST_TIME)));
        let records = RecordBatchDecoder::decode_with_custom_compression(
            &mut batch,
            Some(|content: &mut Bytes, codec| {
                decompressed(content, codec).map_err(|what| std::io::Error::other(what).into())
            }),
        );
        let records = records.map_err(|error| format!("the batch at offset {first}: {error}"))?;
        for mut record in records.records {
            size += size_of(&record);
            record.timestamp = stored_time.unwrap_or(record.timestamp);
            if aborted.passes(&record) && record.offset >= from {
                decoded.records.push(record);
            }
        }
        decoded.next = decoded.next.max(last.saturating_add(1));
        if size > DECODED_BYTES {
            break;
        }
    }
    Ok(decoded)
}

/// Returns the length of the first batch in `bytes`; `None` if it is not complete.
fn length_of_batch(bytes: &[u8]) -> Result<Option<usize>, String> {
    if bytes.len() < COUNT.end {
        return Ok(None);
    }
    let length = i32::from_be_bytes(array(bytes, LENGTH));
    let length = usize::try_from(length).ok().and_then(|length| length.checked_add(HEAD_BYTES));
    let length = length.filter(|length| *length >= COUNT.end);
    let length = length.ok_or("the length of a batch is wrong")?;
    Ok((length <= bytes.len()).then_some(length))
}

/// Returns the bytes at `place`, which are there.
fn array<const N: usize>(bytes: &[u8], place: Range<usize>) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[place]);
    array
}

/// Returns the memory that `record` takes, in bytes.
fn size_of(record: &Record) -> usize {
    let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + bytes(value) + 64);
    size_of_val(record) + bytes(&record.key) + bytes(&record.value) + headers.sum::<usize>()
}

/// The transactions of an answer that were aborted.
struct Aborted {
    /// The producers of those that have not begun, and the offsets at which they begin; the last one begins first.
    coming: Vec<(i64, i64)>,
    /// The producers of those that have begun and not ended.
    open: HashSet<i64>,
}

impl Aborted {
    fn of(aborted: &[AbortedTransaction]) -> Self {
        let mut coming: Vec<(i64, i64)> =
            aborted.iter().map(|one| (one.first_offset, one.producer_id.0)).collect();
        coming.sort_unstable_by(|one, other| other.cmp(one));
        Self { coming, open: HashSet::new() }
    }

    /// Whether `record`, which follows those before, is a message that is committed.
    fn passes(&mut self, record: &Record) -> bool {
        while let Some((first, producer)) = self.coming.last().copied()
            && first <= record.offset
        {
            self.coming.pop();
            self.open.insert(producer);
        }
        if record.control {
            // Its key has a version of 16 bits, and 0 for an abort.
            let is_abort = record.key.as_ref().is_some_and(|key| key.get(2..4) == Some(&[0, 0]));
            if is_abort {
                self.open.remove(&record.producer_id);
            }
            return false;
        }
        !(record.transactional && self.open.contains(&record.producer_id))
    }
}

/// Returns the `content` of a batch.
fn decompressed(content: &Bytes, codec: Codec) -> Result<Bytes, String> {
    let member = match codec {
        Codec::None => return Ok(content.clone()),
        Codec::Snappy => return snappy(content).map(Bytes::from),
        Codec::Gzip => Compression::Gzip,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    };
    let reader = member.decompressed(Box::new(Cursor::new(content.clone())));
    let reader = reader.map_err(|error| error.to_string())?;
    let reader = reader.ok_or_else(|| format!("{codec:?} is not known"))?;
    let mut bytes = Vec::new();
    let read = reader.take(BATCH_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    match bytes.len() as u64 <= BATCH_BYTES_MAX {
        true => Ok(bytes.into()),
        false => Err(format!("it has more than {BATCH_BYTES_MAX} bytes when it is decompressed")),
    }
}

fn snappy(content: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut add = |block: &[u8]| {
        let failed = |error: snap::Error| error.to_string();
        let length = snap::raw::decompress_len(block).map_err(failed)?;
        if (bytes.len() + length) as u64 > BATCH_BYTES_MAX {
            return Err(format!(
                "it has more than {BATCH_BYTES_MAX} bytes when it is decompressed"
            ));
        }
        bytes.extend(snap::raw::Decoder::new().decompress_vec(block).map_err(failed)?);
        Ok(())
    };
    if !content.starts_with(JAVA_SNAPPY) {
        add(content)?;
        return Ok(bytes);
    }
    let mut rest = content.get(JAVA_SNAPPY_HEAD..).ok_or("it is cut")?;
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|e| e.to_string())?;
        let (block, after) = after.split_at_checked(length).ok_or("it is cut")?;
        add(block)?;
        rest = after;
    }
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::ProducerId;
    use kafka_protocol::records::{
        NO_PARTITION_LEADER_EPOCH, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    };

    use super::*;

    pub(crate) fn record(offset: i64, producer_id: i64) -> Record {
        Record {
            transactional: producer_id >= 0,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id,
            producer_epoch: 0,
            timestamp_type: TimestampType::Creation,
            offset,
            sequence: i32::try_from(offset).unwrap(),
            timestamp: 0,
            key: None,
            value: Some(Bytes::from(offset.to_string())),
            headers: Default::default(),
        }
    }

    /// The mark of the end of a transaction.
    pub(crate) fn end(offset: i64, producer_id: i64, is_commit: bool) -> Record {
        let key = Bytes::copy_from_slice(&[0, 0, 0, u8::from(is_commit)]);
        Record { control: true, key: Some(key), ..record(offset, producer_id) }
    }

    pub(crate) fn encoded(batches: &[Vec<Record>]) -> Bytes {
        let mut bytes = BytesMut::new();
        for batch in batches {
            let options = RecordEncodeOptions { version: 2, compression: Codec::None };
            RecordBatchEncoder::encode(&mut bytes, batch, &options).unwrap();
        }
        bytes.freeze()
    }

    fn offsets(decoded: &Decoded) -> Vec<i64> {
        decoded.records.iter().map(|record| record.offset).collect()
    }

    fn aborted(producer_id: i64, first_offset: i64) -> AbortedTransaction {
        AbortedTransaction::default()
            .with_producer_id(ProducerId(producer_id))
            .with_first_offset(first_offset)
    }

    #[test]
    fn the_messages_of_an_aborted_transaction_are_none() {
        // Producer 7 aborts, then commits; producer 8 commits meanwhile; 9 writes without a transaction.
        let bytes = encoded(&[
            vec![record(0, 7), record(1, 7)],
            vec![record(2, 8)],
            vec![record(3, -1)],
            vec![end(4, 7, false)],
            vec![record(5, 7)],
            vec![end(6, 8, true)],
            vec![end(7, 7, true)],
        ]);
        let decoded = decode(bytes.clone(), 0, &[aborted(7, 0)]).unwrap();
        assert_eq!((offsets(&decoded), decoded.next), (vec![2, 3, 5], 8));
        let decoded = decode(bytes.clone(), 0, &[]).unwrap();
        assert_eq!(offsets(&decoded), [0, 1, 2, 3, 5]);
        let decoded = decode(bytes, 0, &[aborted(7, 5), aborted(7, 0)]).unwrap();
        assert_eq!(offsets(&decoded), [2, 3]);
    }

    #[test]
    fn a_position_within_a_batch_and_a_batch_that_is_cut_lose_and_repeat_nothing() {
        let whole = encoded(&[vec![record(3, -1), record(4, -1)], vec![record(5, -1)]]);
        let decoded = decode(whole.clone(), 4, &[]).unwrap();
        assert_eq!((offsets(&decoded), decoded.next), (vec![4, 5], 6));
        for length in 0..whole.len() {
            let decoded = decode(whole.slice(..length), 3, &[]).unwrap();
            let (expected, next) = match length < whole.len() && decoded.records.is_empty() {
                true => (vec![], 3),
                false => (vec![3, 4], 5),
            };
            assert_eq!((offsets(&decoded), decoded.next), (expected, next), "{length}");
        }
    }

    /// Compaction removes messages and keeps the last offset of their batch.
    #[test]
    fn a_batch_whose_last_messages_were_compacted_away_is_passed() {
        let batch = encoded(&[vec![record(3, -1), record(4, -1)]]);
        let bytes = changed(&batch, LAST_OFFSET, &6_i32.to_be_bytes());
        let decoded = decode(bytes.into(), 5, &[]).unwrap();
        assert_eq!((offsets(&decoded), decoded.next), (vec![], 10));
    }

    /// Sets bytes of a batch, and its checksum.
    fn changed(batch: &[u8], place: Range<usize>, value: &[u8]) -> Vec<u8> {
        let mut bytes = batch.to_vec();
        bytes[place].copy_from_slice(value);
        let sum = crc(&bytes[21..]);
        bytes[17..21].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn messages_have_the_time_at_which_the_broker_stored_them_if_the_topic_says_so() {
        let batch = encoded(&[vec![record(3, -1)]]);
        let bytes = changed(&batch, LAST_TIME, &77_i64.to_be_bytes());
        assert_eq!(decode(bytes.clone().into(), 3, &[]).unwrap().records[0].timestamp, 0);
        let bytes = changed(&bytes, ATTRIBUTES, &IS_STORED_TIME.to_be_bytes());
        assert_eq!(decode(bytes.into(), 3, &[]).unwrap().records[0].timestamp, 77);
    }

    #[test]
    fn a_batch_that_says_it_has_more_messages_than_memory_holds_is_refused() {
        let batch = encoded(&[vec![record(3, -1)]]);
        for count in [-1, i32::MAX] {
            let bytes = changed(&batch, COUNT, &count.to_be_bytes());
            let failed = decode(bytes.into(), 3, &[]).err().unwrap();
            assert!(failed.contains("says it has"), "{failed}");
        }
    }

    /// The checksum of a batch: CRC-32C.
    fn crc(bytes: &[u8]) -> u32 {
        let bit = |sum: u32| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| bit(sum)))
    }

    #[test]
    fn a_damaged_batch_is_an_error() {
        let mut bytes = encoded(&[vec![record(3, -1)]]).to_vec();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        let failed = decode(bytes.clone().into(), 3, &[]).err().unwrap();
        assert!(failed.contains("offset 3"), "{failed}");
        bytes[LENGTH].copy_from_slice(&(-1_i32).to_be_bytes());
        assert!(decode(bytes.into(), 3, &[]).is_err());
    }

    #[test]
    fn the_forms_of_snappy_are_read_and_none_takes_the_memory() {
        let block = snap::raw::Encoder::new().compress_vec(b"content").unwrap();
        assert_eq!(snappy(&block).unwrap(), b"content");
        let mut java = [JAVA_SNAPPY, &[0; 8]].concat();
        for _ in 0..2 {
            java.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
            java.extend(&block);
        }
        assert_eq!(snappy(&java).unwrap(), b"contentcontent");
        assert!(snappy(&java[..java.len() - 1]).is_err());
        // A length of 4 GiB, and nothing else.
        let refused = snappy(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err();
        assert!(refused.contains("when it is decompressed"), "{refused}");
    }
}

//! The messages of an answer, <https://kafka.apache.org/documentation/#recordbatch>.

use std::collections::HashSet;
use std::io::{Cursor, Read};
use std::ops::Range;

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::AbortedTransaction;

use crate::transport::Compression;
use crate::varint;

/// Maximum size of a batch when it is decompressed, in bytes.
const BATCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Maximum number of messages of a batch.
const BATCH_MESSAGES_MAX: i32 = 1_000_000;
/// No further batch is decoded after this many bytes, so that many small ones that expand do not take the memory together.
const DECODED_BYTES: usize = 64 * 1024 * 1024;
/// Number of bytes before what the length of a batch counts, and places in it.
const HEAD_BYTES: usize = 12;
const FIRST_OFFSET: Range<usize> = 0..8;
const LENGTH: Range<usize> = 8..12;
const FORMAT: usize = 16;
const CHECKSUM: Range<usize> = 17..21;
const ATTRIBUTES: Range<usize> = 21..23;
const LAST_OFFSET: Range<usize> = 23..27;
const FIRST_TIME: Range<usize> = 27..35;
const LAST_TIME: Range<usize> = 35..43;
const PRODUCER: Range<usize> = 43..51;
const COUNT: Range<usize> = 57..61;
/// The format of batches since version 0.11 of Kafka.
const FORMAT_OF_BATCHES: u8 = 2;
/// Bits of the attributes: all messages have the time at which the broker stored them; they are of a transaction; they are marks of
/// transactions.
const IS_STORED_TIME: i16 = 1 << 3;
const IS_TRANSACTIONAL: i16 = 1 << 4;
const IS_CONTROL: i16 = 1 << 5;
/// The key of a mark that aborts a transaction, after its version.
const ABORT: &[u8] = &[0, 0];
/// The first bytes of a batch in the form of Snappy that Java's library writes, and the number of bytes before its blocks.
const JAVA_SNAPPY: &[u8] = b"\x82SNAPPY\0";
const JAVA_SNAPPY_HEAD: usize = 16;

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) offset: i64,
    /// In milliseconds since 1970; -1 without a time.
    pub(super) time: i64,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
}

/// Messages, and the offset after the batches that they are from.
pub(super) struct Decoded {
    pub(super) messages: Vec<Message>,
    pub(super) next: i64,
}

/// Decodes the batches in `bytes`; the last one may be incomplete. Messages before the offset `from`, and those of `aborted`
/// transactions, are left out.
pub(super) fn decode(
    mut bytes: Bytes,
    from: i64,
    aborted: &[AbortedTransaction],
) -> Result<Decoded, String> {
    let mut decoded = Decoded { messages: Vec::new(), next: from };
    let mut aborted = Aborted::of(aborted);
    let mut size = 0;
    while let Some(length) = length_of_batch(&bytes)? {
        let batch = Batch(bytes.split_to(length));
        let first = batch.number(FIRST_OFFSET);
        let failed = |what: String| format!("the batch at offset {first}: {what}");
        let messages = batch.messages().map_err(failed)?;
        if aborted.passes(&batch, messages.first()) {
            for message in messages.into_iter().filter(|message| message.offset >= from) {
                size += message.size();
                decoded.messages.push(message);
            }
        }
        let last = first.saturating_add(i32::from_be_bytes(array(&batch.0, LAST_OFFSET)).into());
        decoded.next = decoded.next.max(last.saturating_add(1));
        if size > DECODED_BYTES {
            break;
        }
    }
    Ok(decoded)
}

impl Message {
    /// Returns the memory that it takes, in bytes.
    fn size(&self) -> usize {
        let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        size_of::<Self>() + bytes(&self.key) + bytes(&self.value)
    }
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

/// The bytes of a batch, which has at least its header.
struct Batch(Bytes);

impl Batch {
    fn number(&self, place: Range<usize>) -> i64 {
        i64::from_be_bytes(array(&self.0, place))
    }

    fn attributes(&self) -> i16 {
        i16::from_be_bytes(array(&self.0, ATTRIBUTES))
    }

    fn has(&self, attribute: i16) -> bool {
        self.attributes() & attribute != 0
    }

    fn messages(&self) -> Result<Vec<Message>, String> {
        if self.0[FORMAT] != FORMAT_OF_BATCHES {
            return Err("it has a format of Kafka before 0.11".to_owned());
        }
        if crc32c::crc32c(&self.0[CHECKSUM.end..]) != u32::from_be_bytes(array(&self.0, CHECKSUM)) {
            return Err("its checksum is another".to_owned());
        }
        let count = i32::from_be_bytes(array(&self.0, COUNT));
        if !(0..=BATCH_MESSAGES_MAX).contains(&count) {
            return Err(format!("it says it has {count} messages"));
        }
        let mut rest = decompressed(self.0.slice(COUNT.end..), self.attributes() & 7)?;
        let mut messages = Vec::new();
        for _ in 0..count {
            let length = length(&mut rest)?.ok_or("a message has no length")?;
            let message = taken(&mut rest, length)?;
            messages.push(self.message(message)?);
        }
        match rest.is_empty() {
            true => Ok(messages),
            false => Err(format!("{} bytes follow its messages", rest.len())),
        }
    }

    /// Decodes a message. Its headers are not read.
    fn message(&self, mut bytes: Bytes) -> Result<Message, String> {
        // Its attributes have no meaning.
        taken(&mut bytes, 1)?;
        let since = number(&mut bytes)?;
        let time = match self.has(IS_STORED_TIME) {
            true => self.number(LAST_TIME),
            false => self.number(FIRST_TIME).saturating_add(since),
        };
        let offset = self.number(FIRST_OFFSET).saturating_add(number(&mut bytes)?);
        let mut part = || length(&mut bytes)?.map(|count| taken(&mut bytes, count)).transpose();
        Ok(Message { offset, time, key: part()?, value: part()? })
    }
}

const ENDS: &str = "a message ends too early";

fn number(bytes: &mut Bytes) -> Result<i64, String> {
    let (number, length) = varint::number(bytes)?.ok_or(ENDS)?;
    taken(bytes, length)?;
    Ok(number)
}

/// Decodes a length; `None` for what is not there.
fn length(bytes: &mut Bytes) -> Result<Option<usize>, String> {
    match number(bytes)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| format!("{length} is no length")),
    }
}

fn taken(bytes: &mut Bytes, count: usize) -> Result<Bytes, String> {
    match count <= bytes.len() {
        true => Ok(bytes.split_to(count)),
        false => Err(ENDS.to_owned()),
    }
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

    /// Whether `batch`, which follows those before and begins with the message `first`, is one of committed messages.
    fn passes(&mut self, batch: &Batch, first: Option<&Message>) -> bool {
        while let Some((begin, producer)) = self.coming.last().copied()
            && begin <= batch.number(FIRST_OFFSET)
        {
            self.coming.pop();
            self.open.insert(producer);
        }
        let producer = batch.number(PRODUCER);
        if batch.has(IS_CONTROL) {
            // The key has a version of 16 bits before the kind of the mark.
            let key = first.and_then(|message| message.key.as_ref());
            if key.is_some_and(|key| key.get(2..4) == Some(ABORT)) {
                self.open.remove(&producer);
            }
            return false;
        }
        !(batch.has(IS_TRANSACTIONAL) && self.open.contains(&producer))
    }
}

/// Returns the `content` of a batch.
fn decompressed(content: Bytes, codec: i16) -> Result<Bytes, String> {
    let unknown = || format!("its compression {codec} is not known");
    let member = match codec {
        0 => return Ok(content),
        1 => Compression::Gzip,
        2 => return snappy(&content).map(Bytes::from),
        3 => Compression::Lz4,
        4 => Compression::Zstd,
        _ => return Err(unknown()),
    };
    let reader = member.decompressed(Box::new(Cursor::new(content)));
    let reader = reader.map_err(|error| error.to_string())?.ok_or_else(unknown)?;
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
    use batchwright_testkit::fuzz::run;
    use bytes::BytesMut;
    use kafka_protocol::messages::ProducerId;
    use kafka_protocol::records::{
        Compression as Codec, NO_PARTITION_LEADER_EPOCH, Record, RecordBatchEncoder,
        RecordEncodeOptions, TimestampType,
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
        decoded.messages.iter().map(|message| message.offset).collect()
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
            let (expected, next) = match length < whole.len() && decoded.messages.is_empty() {
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
        let sum = crc32c::crc32c(&bytes[CHECKSUM.end..]);
        bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn messages_have_the_time_at_which_the_broker_stored_them_if_the_topic_says_so() {
        let batch = encoded(&[vec![record(3, -1)]]);
        let bytes = changed(&batch, LAST_TIME, &77_i64.to_be_bytes());
        assert_eq!(decode(bytes.clone().into(), 3, &[]).unwrap().messages[0].time, 0);
        let bytes = changed(&bytes, ATTRIBUTES, &IS_STORED_TIME.to_be_bytes());
        assert_eq!(decode(bytes.into(), 3, &[]).unwrap().messages[0].time, 77);
    }

    #[test]
    fn a_batch_that_says_what_is_not_true_is_an_error() {
        let batch = encoded(&[vec![record(3, -1)]]);
        for (place, value, expected) in [
            (COUNT, &i32::MAX.to_be_bytes()[..], "says it has 2147483647"),
            (COUNT, &(-1_i32).to_be_bytes(), "says it has -1"),
            (COUNT, &0_i32.to_be_bytes(), "follow its messages"),
            (COUNT, &2_i32.to_be_bytes(), "ends too early"),
            (FORMAT..FORMAT + 1, &[1], "before 0.11"),
            (ATTRIBUTES, &[0, 7], "compression 7"),
            // The length of the message.
            (COUNT.end..COUNT.end + 1, &[0x7f], "is no length"),
            (COUNT.end..COUNT.end + 1, &[0x7e], "ends too early"),
        ] {
            let bytes = changed(&batch, place.clone(), value);
            let failed = decode(bytes.into(), 3, &[]).err().unwrap();
            assert!(
                failed.contains(expected) && failed.contains("offset 3"),
                "{place:?}: {failed}"
            );
        }
    }

    #[test]
    fn fuzz_of_batches() {
        let whole = encoded(&[vec![record(3, 7), record(4, 7)], vec![end(5, 7, false)]]).to_vec();
        run("batches of Kafka", 20_000, |rng| {
            let mut bytes = whole.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.below(256) as u8;
            }
            let length = rng.below(bytes.len() + 1);
            // With the checksum that belongs to it, so that more than the checksum is tried.
            let bytes = match rng.below(2) {
                0 => changed(&bytes, 0..0, &[]),
                _ => bytes[..length].to_vec(),
            };
            if let Ok(decoded) = decode(bytes.into(), 3, &[aborted(7, 3)]) {
                assert!(decoded.next >= 3);
            }
        });
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

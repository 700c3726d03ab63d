//! What sends messages to a topic.

use std::collections::BTreeMap;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use bytes::{Bytes, BytesMut};
use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::cluster::Cluster;
use crate::sent::{Outgoing, Sender};

const PRODUCE_VERSION: i16 = 7;
/// All copies of a message must be stored.
const ALL_COPIES: i16 = -1;
/// Maximum size of a batch, in bytes: below what brokers accept without settings, a mebibyte.
const BATCH_BYTES: usize = 512 * 1024;
/// The header with the key of a message.
pub(super) const ID_HEADER: &str = "batchwright-id";

/// A connection that sends.
pub(super) struct TopicSender {
    pub(super) cluster: Cluster,
    /// The field whose value is the key of a message.
    pub(super) key_field: Option<String>,
    /// How long a broker waits for all copies, in milliseconds.
    pub(super) store_wait_ms: i32,
    /// Number of batches without keys.
    pub(super) batches: usize,
}

/// A message for a partition.
struct Prepared {
    key: Option<Bytes>,
    value: Bytes,
    id: String,
}

impl Prepared {
    fn size(&self) -> usize {
        self.value.len() + self.id.len() + self.key.as_ref().map_or(0, Bytes::len)
    }
}

impl TopicSender {
    /// Sends `batch`, or its halves if it is too large together.
    fn send_batch(&mut self, partition: i32, batch: &[Prepared]) -> Result<(), ItemError> {
        match self.sent(partition, batch) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let (one, other) = batch.split_at(batch.len() / 2);
                self.send_batch(partition, one)?;
                self.send_batch(partition, other)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends `batch`; returns `false` if it is too large, and its messages may not be.
    fn sent(&mut self, partition: i32, batch: &[Prepared]) -> Result<bool, ItemError> {
        let action = format!("send to the topic `{}`", self.cluster.topic);
        let now = SystemClock::default().now().as_millisecond();
        let records: Vec<Record> =
            batch.iter().zip(0..).map(|(message, offset)| record(message, offset, now)).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut bytes = BytesMut::new();
        RecordBatchEncoder::encode(&mut bytes, &records, &options)
            .map_err(|error| ItemError::fatal(format!("cannot {action}: {error}")))?;
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(bytes.freeze()));
        let topic = TopicProduceData::default()
            .with_name(self.cluster.name())
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(ALL_COPIES)
            .with_timeout_ms(self.store_wait_ms)
            .with_topic_data(vec![topic]);
        self.cluster.at_leader(&action, partition, |connection| {
            let answer = connection.call(&action, PRODUCE_VERSION, &request)?;
            let stored = answer.responses.into_iter().flat_map(|topic| topic.partition_responses);
            let stored = stored.into_iter().next();
            let stored =
                stored.ok_or_else(|| ItemError::fatal(format!("cannot {action}: none")))?;
            match stored.error_code.err() {
                None => Ok(Ok(true)),
                Some(error) if is_too_large(&error) && batch.len() > 1 => Ok(Ok(false)),
                Some(error) if is_too_large(&error) || is_of_messages(&error) => {
                    Err(ItemError::data(format!("cannot {action}: {error}")))
                }
                Some(_) => Ok(Err(stored.error_code)),
            }
        })
    }
}

/// Whether a broker refuses the messages of a batch, and would accept others.
fn is_of_messages(error: &ResponseError) -> bool {
    matches!(error, ResponseError::InvalidRecord | ResponseError::InvalidTimestamp)
}

fn is_too_large(error: &ResponseError) -> bool {
    matches!(error, ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge)
}

fn record(message: &Prepared, offset: i32, now: i64) -> Record {
    let id = Bytes::from(message.id.clone());
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: offset.into(),
        // The library makes one batch of messages whose sequences follow each other, and a broker accepts one batch.
        sequence: NO_SEQUENCE + offset,
        timestamp: now,
        key: message.key.clone(),
        value: Some(message.value.clone()),
        headers: [(StrBytes::from_static_str(ID_HEADER), Some(id))].into_iter().collect(),
    }
}

impl Sender for TopicSender {
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let partitions = self.cluster.partitions();
        let of_key = |key: &[u8]| {
            let number = (murmur2(key) & 0x7fff_ffff) as usize;
            partitions.get(number % partitions.len().max(1)).copied()
        };
        // Messages without keys go to one partition after another, a chunk each.
        let of_batch = partitions.get(self.batches % partitions.len().max(1)).copied();
        self.batches += 1;
        let mut prepared: BTreeMap<i32, Vec<Prepared>> = BTreeMap::new();
        for Outgoing { key: id, body, record } in messages {
            let key = match &self.key_field {
                None => None,
                Some(field) => {
                    let value = record.required("as the key of a message", field)?;
                    let is_there = !matches!(value, crate::value::Value::Null);
                    is_there.then(|| Bytes::from(value.to_string()))
                }
            };
            let partition = key.as_deref().map_or(of_batch, of_key);
            let partition =
                partition.ok_or_else(|| ItemError::fatal("the topic has no partition"))?;
            prepared.entry(partition).or_default().push(Prepared { key, value: body.into(), id });
        }
        for (partition, messages) in prepared {
            let mut rest = &messages[..];
            while !rest.is_empty() {
                let mut bytes = 0;
                let fitting = rest.iter().take_while(|message| {
                    bytes += message.size();
                    bytes <= BATCH_BYTES
                });
                let (batch, after) = rest.split_at(fitting.count().max(1));
                self.send_batch(partition, batch)?;
                rest = after;
            }
        }
        Ok(())
    }
}

/// The hash by which Kafka's own clients choose the partition of a key: MurmurHash2 with their seed.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut number = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        number = number.wrapping_mul(FACTOR);
        number ^= number >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ number.wrapping_mul(FACTOR);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the tests of Kafka's own client.
    #[test]
    fn a_key_has_the_partition_that_other_clients_choose() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }
}
